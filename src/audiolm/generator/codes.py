"""Coarse codes of a generator, window by window, or in pieces of a window: of themselves alone, without units."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.lm.decoding import Decoder


@dataclass(frozen=True)
class Window:
    """One row's next stretch: the codes it keeps, how many frames to write, and the units to speak, where there are any."""

    row: Row
    context: Tensor  # (coarse levels, frames)
    frames: int
    behind: Tensor  # units heard in the codes it keeps
    ahead: Tensor


class CodeWriter:
    """Completes the coarse codes of rows. What is written does not depend on the size of the pieces.

    Utterances that do not fit the model's window slide by half a window. This is the writer of the acoustic-only baseline;
    `CoarseWriter` adds the units.

    Args:
        stage: what predicts coarse codes: the acoustic stage, or the coarse one.
    """

    def __init__(self, stage: LanguageModel, rows: list[Row], *, draws: Draws) -> None:
        self.stage, self.rows, self.draws = stage, rows, draws
        self.spec = stage.layout.spec
        self._block = self.spec.aligned_samples // self.spec.hop_samples
        frames = round(stage.window_seconds * self.spec.frame_rate_hz)
        self._window = max(2 * self._block, frames // self._block * self._block)
        self._streams = {row.id: draws.stream(row, stage.layout.stage) for row in rows}

    def write(self) -> None:
        """Write all rows to their ends, side by side."""
        for _ in self.pieces():
            pass

    def pieces(self, frames: int | None = None) -> Iterator[None]:
        """The same, handing over after every window; or, with `frames`, whenever a multiple of them is new in the rows."""
        while todo := [row for row in self.rows if row.coarse.shape[1] < row.frames]:
            batches: dict[int, list[Window]] = defaultdict(list)
            for window in map(self._next, todo):
                batches[window.frames].append(window)
            for count, windows in sorted(batches.items()):
                new = windows[0].row.coarse.shape[1] - windows[0].row.prompt_frames
                yield from self._speak(windows, _cuts(count, first=-new % frames, size=frames) if frames else [count])

    def _fits(self, row: Row) -> bool:
        """Whether one window holds all of a row: that of the paper's protocol does."""
        return row.frames <= self._window

    def _next(self, row: Row) -> Window:
        done, context = row.coarse.shape[1], row.coarse
        frames = row.frames - done
        if not self._fits(row):
            kept = self._window // 2 // self._block * self._block
            context = context if done <= self._window // 2 else context[:, -kept:]
            frames = min(self._window - context.shape[1], frames)
        return Window(row, context, frames, *self._units(row, context, frames))

    def _units(self, row: Row, context: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """The units of the codes that a window keeps, and those it is to speak."""
        return row.plan[:0], row.plan[:0]

    def _speak(self, windows: list[Window], pieces: list[int]) -> Iterator[None]:
        layout, rows = self.stage.layout, [window.row for window in windows]
        decoder = Decoder(
            self.stage.model,
            layout,
            [layout.prefix(torch.cat([w.behind, w.ahead]), w.context) for w in windows],
            steps=sum(pieces) * layout.phases,
            sampling=self.draws.sampling.coarse,
            stop_at_end=self.draws.stop_at_end,
        )
        for frames in pieces:
            steps = frames * layout.phases
            drawn = decoder.draw(torch.stack([self._streams[row.id].draw(steps) for row in rows]))
            for row, targets in zip(rows, drawn, strict=True):
                codes, has_ended = layout.parse(targets)
                row.coarse = torch.cat([row.coarse, codes], dim=1)
                if has_ended:
                    row.frames = row.coarse.shape[1]
                    row.samples = min(row.samples, row.frames * self.spec.hop_samples)
            yield
        for window in windows:
            if window.row.coarse.shape[1] < window.row.frames:
                self._spoke(window)

    def _spoke(self, window: Window) -> None:
        """A window is written, and its row is not complete."""


def _cuts(count: int, *, first: int, size: int) -> list[int]:
    """Cut `count` into `first` (if any), then sizes of `size`, then the rest."""
    pieces = []
    while count:
        piece = min(first or size, count)
        pieces.append(piece)
        count, first = count - piece, 0
    return pieces
