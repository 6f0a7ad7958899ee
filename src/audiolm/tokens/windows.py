"""Windows: stretches of an utterance that are whole in both token streams, and how they are drawn."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from audiolm.tokens.store import TokenStore


@dataclass(frozen=True)
class Window:
    """A stretch of one utterance, counted in blocks of `TokenSpec.aligned_samples` (40 ms in the paper).

    A block holds a whole number of units and of frames, so the two streams stay aligned wherever a window begins.
    """

    row: int
    first_block: int
    blocks: int


@dataclass(frozen=True)
class WindowTokens:
    """What stands in a window: units (T_S,) with repeats, codes (levels, T_A), and whether the utterance truly ends here."""

    units: Tensor
    codes: Tensor
    true_end: bool


class Windows:
    """Draws and reads windows of one split of a store.

    Args:
        store: a sealed store.
        split: "train", "validation" or "test".
        seconds: length of a window; a shorter utterance is one window of its own length.

    Raises:
        ValueError: if `seconds` is shorter than one aligned block.
    """

    def __init__(self, store: TokenStore, *, split: str, seconds: float) -> None:
        spec = store.spec
        self.store = store
        self.window_blocks = int(round(seconds * spec.sample_rate_hz) // spec.aligned_samples)
        if self.window_blocks < 1:
            raise ValueError(
                f"A window of {seconds} s is shorter than one aligned stretch of units and frames "
                f"({spec.aligned_samples / spec.sample_rate_hz} s)."
            )
        self.frames_per_block = spec.aligned_samples // spec.hop_samples
        self.units_per_block = spec.aligned_samples // spec.semantic_hop_samples
        self.rows = store.rows(split)
        self.blocks = -(-store.index["frames"][self.rows].astype(np.int64) // self.frames_per_block)
        self._ends = np.cumsum(self.blocks)

    def draw(self, generator: np.random.Generator, count: int) -> list[Window]:
        """`count` random windows: every moment of the split is equally likely to be hit by a draw.

        An utterance is drawn in proportion to its length; the window then lies anywhere in it.
        """
        picks = np.searchsorted(self._ends, generator.integers(0, self._ends[-1], count), side="right")
        blocks = np.minimum(self.blocks[picks], self.window_blocks)
        firsts = generator.integers(0, self.blocks[picks] - blocks + 1)
        return [
            Window(int(self.rows[pick]), int(first), int(length))
            for pick, first, length in zip(picks, firsts, blocks, strict=True)
        ]

    def all(self) -> list[Window]:
        """The whole split as windows side by side; the last one of an utterance may be shorter."""
        return [
            Window(int(row), first, int(min(self.window_blocks, total - first)))
            for row, total in zip(self.rows, self.blocks, strict=True)
            for first in range(0, int(total), self.window_blocks)
        ]

    def read(self, window: Window) -> WindowTokens:
        """Read a window's tokens, and nothing else, from the store."""
        first, last = window.first_block, window.first_block + window.blocks
        codes = self.store.codes(window.row, first * self.frames_per_block, last * self.frames_per_block)
        return WindowTokens(self.units(window), codes, self.true_end(window))

    def units(self, window: Window) -> Tensor:
        """The window's units (T_S,) with repeats, alone."""
        first, last = window.first_block, window.first_block + window.blocks
        return self.store.units(window.row, first * self.units_per_block, last * self.units_per_block)

    def frames(self, window: Window) -> int:
        """Code frames of the window, from the index alone."""
        first, last = window.first_block, window.first_block + window.blocks
        whole = int(self.store.index["frames"][window.row])
        return min(last * self.frames_per_block, whole) - first * self.frames_per_block

    def true_end(self, window: Window) -> bool:
        """Whether the utterance truly ends where the window does."""
        entry = self.store.index[window.row]
        last = window.first_block + window.blocks
        return bool(entry["true_end"]) and last * self.frames_per_block >= int(entry["frames"])
