"""A uniform sample of an endless stream of feature frames, in bounded memory: the same however the stream is divided."""

import math

import numpy as np
import torch
from torch import Tensor

MARGIN = 6  # standard deviations of room: a draw that a reservoir cannot serve comes once in a thousand million
IMBALANCE = 1.125  # how much more than its share of the frames a process may have seen
EVERY_KEY = 2**63  # keys lie below


class FeatureReservoir:
    """Keeps the `capacity` frames with the smallest keys: random numbers that only (seed, example, place in it) decide.

    So the sample does not depend on the order of examples, nor on which process has seen which: the smallest keys of several
    reservoirs are those of one that has seen everything. Frames stay in the order in which they came. An eighth more than
    `capacity` is held for a while, so that frames are thrown away in large numbers. Memory is asked for once, when the first
    frames come; what is not filled yet costs nothing on Linux.

    Args:
        capacity: frames to keep.
        seed: of the keys; the same for all that are merged.

    Source: Cohen and Kaplan, "Summarizing data using bottom-k sketches" (2007).
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity, self.seed, self.seen = capacity, seed, 0
        self.bound = EVERY_KEY  # every frame seen with a key below it is kept
        self._spare = capacity // 8 + 1024
        self._filled = 0
        self._keys = np.empty(0, dtype=np.int64)
        self._examples = np.empty(0, dtype=np.int64)
        self._frames: Tensor | None = None

    def add(self, frames: Tensor, *, example: int) -> None:
        """Offer all frames (count, dim) of an example, whose number no other has."""
        if self._frames is None:
            room = self.capacity + self._spare
            self._keys, self._examples = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
            self._frames = torch.empty(room, frames.shape[1])
        keys = np.random.default_rng([self.seed, example]).integers(EVERY_KEY, size=len(frames), dtype=np.int64)
        self.seen += len(frames)
        wanted = np.flatnonzero(keys < self.bound)
        for start in range(0, len(wanted), self._spare):
            places = wanted[start : start + self._spare]
            if self._filled + len(places) > len(self._keys):
                self._throw_away()
            filled = slice(self._filled, self._filled + len(places))
            self._keys[filled], self._examples[filled] = keys[places], example
            self._frames[filled] = frames[torch.from_numpy(places).to(frames.device)].to(self._frames)
            self._filled = filled.stop

    @property
    def kept(self) -> int:
        """Frames in the sample."""
        return min(self.capacity, self.seen)

    def keys(self) -> Tensor:
        """(kept, 2) int64: key and example of every frame of `sample`."""
        self._throw_away()
        both = np.stack([self._keys[: self._filled], self._examples[: self._filled]], axis=1)
        return torch.from_numpy(both)

    def sample(self) -> Tensor:
        """(kept, dim), in the order in which they came, not copied.

        Raises:
            ValueError: if nothing was ever added.
        """
        if self._frames is None or not self.seen:
            raise ValueError("No features were collected: the train split gave no audio.")
        self._throw_away()
        return self._frames[: self._filled]

    def _throw_away(self) -> None:
        """Keep the smallest `capacity` keys, moving frames to the front piece by piece."""
        if self._filled <= self.capacity or self._frames is None:
            return
        self.bound = int(np.partition(self._keys[: self._filled], self.capacity)[self.capacity])
        places = np.flatnonzero(self._keys[: self._filled] < self.bound)
        for start in range(0, len(places), self._spare):  # never onto a frame that has yet to move
            part = places[start : start + self._spare]
            self._frames[start : start + len(part)] = self._frames[torch.from_numpy(part)]
        self._filled = len(places)
        self._keys[: self._filled], self._examples[: self._filled] = self._keys[places], self._examples[places]


def capacity_of_each(frames: int, *, streams: int) -> int:
    """How much each of several reservoirs must hold so that the smallest `frames` keys of all are among what they hold.

    One stream's share varies by the root of its mean; the result solves capacity - MARGIN * root(capacity) = share.
    """
    if streams == 1:
        return frames
    share = IMBALANCE * frames / streams
    return min(frames, math.ceil((MARGIN / 2 + math.sqrt(MARGIN**2 / 4 + share)) ** 2))
