"""How units are used: clusters in use, entropy, perplexity, bitrate."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class UnitUse:
    """How one level's units are used over some frames."""

    frames: int
    clusters: int
    used: int  # clusters that occur
    entropy_bits: float  # per frame, repeats included; log2(clusters) if all are equally frequent
    rate_hz: int

    @property
    def used_share(self) -> float:
        """Share of the clusters that occur."""
        return self.used / self.clusters

    @property
    def perplexity(self) -> float:
        """How many equally frequent units would have the same entropy."""
        return float(2**self.entropy_bits)

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of an ideal code of single units; the nominal bitrate is log2(clusters) times the rate."""
        return self.entropy_bits * self.rate_hz

    @property
    def nominal_bitrate_bps(self) -> float:
        """Bits per second if every unit took as many bits."""
        return math.log2(self.clusters) * self.rate_hz


def unit_use(counts: Tensor, *, rate_hz: int) -> UnitUse:
    """Measure use from how often each unit occurs.

    Args:
        counts: (clusters,) whole numbers.
        rate_hz: units per second.
    """
    frames = int(counts.sum())
    shares = counts[counts > 0].double() / max(1, frames)
    entropy = float(-(shares * shares.log2()).sum()) + 0.0  # not -0
    return UnitUse(frames, len(counts), int((counts > 0).sum()), entropy, rate_hz)
