"""MFCC features: what needs no weights at all, and what HuBERT's first iteration clusters."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torchaudio.functional import compute_deltas
from torchaudio.transforms import MFCC

from audiolm.semantic.encoder import Encoder
from audiolm.untrusted.values import MOST_SAMPLE_RATE_HZ, require_whole

MEL_BINS = 40
FINE_RATE_HZ = 100  # cepstra are computed every 10 ms and averaged over each feature frame


class MfccEncoder(Encoder):
    """Thirteen mel cepstra with first and second differences, averaged over each feature frame: 39 numbers.

    Args:
        rate_hz: feature frames per second; must divide 100.

    Raises:
        ValueError: if `rate_hz` does not divide 100, or a number is out of range.

    Source: HuBERT (arXiv 2106.07447), section IV-B: 39-dimensional MFCC for the first iteration's k-means. There at 100 Hz;
    here averaged to the semantic rate.
    """

    dim = 39

    def __init__(self, *, sample_rate_hz: int = 16000, rate_hz: int = 25, cepstra: int = 13) -> None:
        super().__init__()
        require_whole(sample_rate_hz, low=FINE_RATE_HZ, high=MOST_SAMPLE_RATE_HZ, what="sample_rate_hz of MFCC")
        require_whole(rate_hz, low=1, high=FINE_RATE_HZ, what="rate_hz of MFCC")
        require_whole(cepstra, low=1, high=MEL_BINS, what="cepstra")
        if FINE_RATE_HZ % rate_hz or sample_rate_hz % FINE_RATE_HZ:
            raise ValueError(f"MFCC frames come every 10 ms: rate_hz must divide 100, got {rate_hz}")
        self.sample_rate_hz, self.rate_hz, self.cepstra = sample_rate_hz, rate_hz, cepstra
        self.dim = 3 * cepstra
        self.window = sample_rate_hz // 40  # 25 ms
        with torch.device("cpu"):  # small, and computed: it looks at its filters, which have no values on `meta`
            self.mfcc = MFCC(
                sample_rate=sample_rate_hz,
                n_mfcc=cepstra,
                log_mels=True,
                melkwargs={
                    "n_fft": 1 << (self.window - 1).bit_length(),
                    "win_length": self.window,
                    "hop_length": sample_rate_hz // FINE_RATE_HZ,
                    "n_mels": MEL_BINS,
                    "f_min": 60.0,  # below lies hum and offset, no speech
                    "center": False,
                },
            )

    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """A frame looks 30 ms beyond its own edges; what lies outside the audio is silence."""
        frames, hop = self.frames(audio.shape[1]), self.sample_rate_hz // FINE_RATE_HZ
        per_frame = FINE_RATE_HZ // self.rate_hz
        spectrum_window = self.mfcc.MelSpectrogram.n_fft
        left = (spectrum_window - hop) // 2  # centres each 10 ms step in its window
        total = (frames * per_frame - 1) * hop + spectrum_window
        ends = -(-samples // self.hop_samples) * per_frame
        with torch.autocast(audio.device.type, enabled=False):
            cepstra = self.mfcc(F.pad(audio.float(), (left, max(0, total - left - audio.shape[1]))))
            cepstra = _held(cepstra[..., : frames * per_frame], ends)
            first = _held(compute_deltas(cepstra), ends)
            features = torch.cat([cepstra, first, compute_deltas(first)], dim=1)
            mean = rearrange(features, "batch dim (frames steps) -> batch frames dim steps", steps=per_frame).mean(-1)
        return [mean] * len(layers)

    def config_dict(self) -> dict[str, Any]:
        """See `Encoder.config_dict`."""
        return {
            "kind": "mfcc",
            "sample_rate_hz": self.sample_rate_hz,
            "rate_hz": self.rate_hz,
            "cepstra": self.cepstra,
        }


def _held(steps: Tensor, ends: Tensor) -> Tensor:
    """(batch, dim, steps) with each row's last own step held to the end: differences there are as if it were alone."""
    place = torch.arange(steps.shape[-1], device=steps.device).minimum(ends[:, None] - 1)
    return steps.gather(2, place[:, None].expand_as(steps))
