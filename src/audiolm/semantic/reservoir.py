"""A uniform sample of an endless stream of feature frames, in bounded memory; and of several streams together."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MARGIN = 6  # standard deviations of room: a draw that a reservoir cannot serve comes once in a thousand million


class FeatureReservoir:
    """Keeps at most `capacity` frames, every frame seen so far with equal probability.

    Memory is asked for once, when the first frames come; what is not filled yet costs nothing on Linux.

    Source: Vitter, "Random sampling with a reservoir" (1985), algorithm R, on whole blocks of frames.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity, self.seen = capacity, 0
        self._random = np.random.default_rng(seed)
        self._frames: Tensor | None = None

    @property
    def kept(self) -> int:
        """Frames kept now."""
        return min(self.capacity, self.seen)

    def add(self, frames: Tensor) -> None:
        """Offer frames (count, dim)."""
        if self._frames is None:
            self._frames = torch.empty(self.capacity, frames.shape[1])
        first = frames[: max(0, self.capacity - self.seen)]
        self._frames[self.seen : self.seen + len(first)] = first
        self.seen += len(first)
        frames = frames[len(first) :]
        if len(frames):
            places = self._random.integers(0, self.seen + 1 + np.arange(len(frames)))
            for source in np.flatnonzero(places < self.capacity):  # in order: a later frame may replace an earlier one
                self._frames[places[source]] = frames[source]
            self.seen += len(frames)

    def sample(self) -> Tensor:
        """(frames, dim): what is kept, not copied.

        Raises:
            ValueError: if nothing was ever added.
        """
        if self._frames is None or not self.seen:
            raise ValueError("No features were collected: the train split gave no audio.")
        return self._frames[: self.kept]

    def choose(self, count: int) -> Tensor:
        """Places (count,) in `sample` of a uniform choice without repeats: `sample` itself is in no random order."""
        return torch.from_numpy(self._random.permutation(self.kept)[:count])


def capacity_of_each(frames: int, *, streams: int) -> int:
    """How much each of several reservoirs must hold so that `merge_counts` can sample `frames` of streams alike in length.

    One stream's share varies by the root of its mean; the result solves capacity - MARGIN * root(capacity) = share.
    """
    if streams == 1:
        return frames
    share = math.ceil(frames / streams)
    return min(frames, math.ceil((MARGIN / 2 + math.sqrt(MARGIN**2 / 4 + share)) ** 2))


def merge_counts(seen: Sequence[int], kept: Sequence[int], *, frames: int, seed: int = 0) -> list[int]:
    """How many frames to take of each reservoir for one uniform sample of everything that all of them have seen.

    Args:
        seen: frames each has seen.
        kept: frames each has kept.
        frames: how many to take in all. Fewer are taken where a stream was so much longer than the others that its
            reservoir holds less than its share of `frames`.

    Source: a sample without replacement holds a multivariate hypergeometric number of each stream's frames.
    """
    everything = sum(seen)
    total = min(frames, everything)
    for saw, has in zip(seen, kept, strict=True):
        if has < min(saw, frames):
            total = min(total, max(1, int((has - MARGIN * math.sqrt(has)) * everything / saw)))
    random = np.random.default_rng(seed)
    while True:
        counts = _hypergeometric(seen, total, random)
        if all(count <= has for count, has in zip(counts, kept, strict=True)):
            return counts


def _hypergeometric(seen: Sequence[int], total: int, random: np.random.Generator) -> list[int]:
    """One stream after the other, because numpy's multivariate form stops at 10^9 frames; as does each half of this one."""
    counts, later = [], sum(seen)
    for saw in seen:
        later -= saw
        counts.append(int(random.hypergeometric(saw, later, total)) if saw and later and total else min(saw, total))
        total -= counts[-1]
    return counts
