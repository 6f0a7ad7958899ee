"""Windows: stretches of an utterance that are whole in both token streams, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
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

    16 bytes for every utterance of the split are kept; windows are made as they are asked for.

    Args:
        store: a sealed store.
        split: "train", "validation" or "test".
        seconds: length of a window; a shorter utterance is one window of its own length.

    Raises:
        ValueError: if `seconds` is shorter than one aligned block.
    """

    def __init__(self, store: TokenStore, *, split: str, seconds: float) -> None:
        spec = store.spec
        self.store, self.split, self.seconds = store, split, seconds
        self.window_blocks = int(round(seconds * spec.sample_rate_hz) // spec.aligned_samples)
        if self.window_blocks < 1:
            raise ValueError(
                f"A window of {seconds} s is shorter than one aligned stretch of units and frames "
                f"({spec.aligned_samples / spec.sample_rate_hz} s)."
            )
        self.frames_per_block = spec.aligned_samples // spec.hop_samples
        self.units_per_block = spec.aligned_samples // spec.semantic_hop_samples
        self.rows = store.rows(split).astype(np.uint32)
        self.blocks = -(-store.index["frames"][self.rows].astype(np.int32) // self.frames_per_block)
        self._ends = np.cumsum(self.blocks, dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return _windows, (self.store, self.split, self.seconds)

    def draw(self, generator: np.random.Generator, count: int) -> list[Window]:
        """`count` random windows: every moment of the split is equally likely to be hit by a draw.

        An utterance is drawn in proportion to its length; the window then lies anywhere in it.
        """
        picks = np.searchsorted(self._ends, generator.integers(0, self._ends[-1], count), side="right")
        totals = self.blocks[picks].astype(np.int64)
        blocks = np.minimum(totals, self.window_blocks)
        return _made(self.rows[picks], generator.integers(0, totals - blocks + 1), blocks)

    def all(self) -> "SideBySide":
        """The whole split as windows side by side; the last one of an utterance may be shorter."""
        return SideBySide(self)

    def read(self, window: Window) -> WindowTokens:
        """Read a window's tokens, and nothing else, from the store."""
        return WindowTokens(self.units(window), self.codes(window), self.truly_ends(window))

    def units(self, window: Window) -> Tensor:
        """A window's units (T_S,) alone: an eleventh of what `read` reads, or less."""
        first, last = window.first_block, window.first_block + window.blocks
        return self.store.units(window.row, first * self.units_per_block, last * self.units_per_block)

    def codes(self, window: Window) -> Tensor:
        """A window's codes (levels, T_A) alone."""
        first, last = window.first_block, window.first_block + window.blocks
        return self.store.codes(window.row, first * self.frames_per_block, last * self.frames_per_block)

    def frames(self, window: Window) -> int:
        """Code frames (T_A) of a window; reads the index only."""
        first, last = window.first_block, window.first_block + window.blocks
        whole = int(self.store.index["frames"][window.row])
        return min(last * self.frames_per_block, whole) - first * self.frames_per_block

    def truly_ends(self, window: Window) -> bool:
        """Whether the utterance ends in this window, and is not cut there; reads the index only."""
        entry = self.store.index[window.row]
        reaches_end = (window.first_block + window.blocks) * self.frames_per_block >= int(entry["frames"])
        return bool(entry["true_end"]) and reaches_end


class SideBySide(Sequence[Window]):
    """All windows of a split, or some of them in another order, each made when it is asked for.

    Args:
        order: positions among all windows, by default each one in the order of the store.
    """

    def __init__(self, windows: Windows, order: NDArray[np.integer[Any]] | None = None) -> None:
        self._windows, self._order = windows, order
        self._ends = np.cumsum(-(-windows.blocks // windows.window_blocks), dtype=np.int64)

    def in_order(self, order: NDArray[np.integer[Any]]) -> "SideBySide":
        """The windows at these positions of the split."""
        return SideBySide(self._windows, order)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._order is None else len(self._order)

    @overload
    def __getitem__(self, position: int) -> Window: ...
    @overload
    def __getitem__(self, position: slice) -> list[Window]: ...

    def __getitem__(self, position: int | slice) -> Window | list[Window]:
        chosen = range(len(self))[position]  # refuses what is out of range
        if isinstance(chosen, int):
            return self._at(np.array([chosen]))[0]
        return self._at(np.arange(chosen.start, chosen.stop, chosen.step))

    def _at(self, positions: NDArray[np.integer[Any]]) -> list[Window]:
        windows, numbers = self._windows, positions if self._order is None else self._order[positions]
        picks = np.searchsorted(self._ends, numbers, side="right")
        totals = windows.blocks[picks].astype(np.int64)
        in_utterance = numbers - (self._ends[picks] - -(-totals // windows.window_blocks))
        firsts = in_utterance * windows.window_blocks
        return _made(windows.rows[picks], firsts, np.minimum(windows.window_blocks, totals - firsts))


def _windows(store: TokenStore, split: str, seconds: float) -> Windows:
    return Windows(store, split=split, seconds=seconds)


def _made(*columns: NDArray[np.integer[Any]]) -> list[Window]:
    return [Window(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
