"""A uniform sample of an endless stream of feature frames, in bounded memory."""

import numpy as np
import torch
from torch import Tensor


class FeatureReservoir:
    """Keeps at most `capacity` frames, every frame seen so far with equal probability.

    Source: Vitter, "Random sampling with a reservoir" (1985), algorithm R, on whole blocks of frames.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity, self.seen = capacity, 0
        self._random = np.random.default_rng(seed)
        self._frames: Tensor | None = None
        self._blocks: list[Tensor] = []

    def add(self, frames: Tensor) -> None:
        """Offer frames (count, dim)."""
        room = self.capacity - self.seen
        if room > 0:
            self._blocks.append(frames[:room].clone())
            self.seen += min(room, len(frames))
            frames = frames[room:]
        if len(frames):
            kept = self._merged()
            places = self._random.integers(0, self.seen + 1 + np.arange(len(frames)))
            for source in np.flatnonzero(places < self.capacity):  # in order: a later frame may replace an earlier one
                kept[places[source]] = frames[source]
            self.seen += len(frames)

    def sample(self) -> Tensor:
        """(frames, dim): what is kept.

        Raises:
            ValueError: if nothing was ever added.
        """
        if not self.seen:
            raise ValueError("No features were collected: the train split gave no audio.")
        return self._merged()

    def _merged(self) -> Tensor:
        if self._blocks:
            self._frames = torch.cat(([] if self._frames is None else [self._frames]) + self._blocks)
            self._blocks = []
        assert self._frames is not None, "frames were added before"
        return self._frames
