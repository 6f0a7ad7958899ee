"""The coarse stage of a generator: it speaks the planned units, window by window, or in pieces of a window."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.generator.speech_plan import spoken_units, units_for
from audiolm.generator.units import UnitWriter
from audiolm.lm.decoding import Decoder
from audiolm.tokens.layout import remove_repeats


@dataclass(frozen=True)
class _Window:
    """One row's next stretch: the codes it keeps, the units heard in them, the units to speak, and how many frames."""

    row: Row
    context: Tensor  # (coarse levels, frames)
    behind: Tensor
    ahead: Tensor
    frames: int


class CoarseWriter:
    """Completes the coarse codes of rows. What is written does not depend on the size of the pieces.

    Utterances that fit the model's window see all of their units. Longer ones slide by half a window: `speech_plan` says
    which units a window sees then.

    Args:
        stage: the coarse stage.
        rows: their plans may still be growing.
        units: writes the plans, where they are not complete.
        hear: units (T_S,) with repeats in the audio of some coarse codes (coarse levels, frames).
    """

    def __init__(
        self,
        stage: LanguageModel,
        rows: list[Row],
        *,
        units: UnitWriter | None,
        units_per_second: float,
        hear: Callable[[Tensor], Tensor],
        draws: Draws,
    ) -> None:
        self.stage, self.rows, self.units, self.hear, self.draws = stage, rows, units, hear, draws
        self.units_per_second = units_per_second
        self.spec = stage.layout.spec
        self._block = self.spec.aligned_samples // self.spec.hop_samples
        frames = round(stage.window_seconds * self.spec.frame_rate_hz)
        self._window = max(2 * self._block, frames // self._block * self._block)
        self._streams = {row.id: draws.stream(row, "coarse") for row in rows}
        self._spoken = {row.id: row.prompt_units for row in rows}

    def write(self) -> None:
        """Write all rows to their ends, side by side."""
        for _ in self.pieces():
            pass

    def pieces(self, frames: int | None = None) -> Iterator[None]:
        """The same, handing over after every window; or, with `frames`, whenever a multiple of them is new in the rows."""
        while todo := [row for row in self.rows if row.coarse.shape[1] < row.frames]:
            batches: dict[int, list[_Window]] = defaultdict(list)
            for window in map(self._next, todo):
                batches[window.frames].append(window)
            for count, windows in sorted(batches.items()):
                new = windows[0].row.coarse.shape[1] - windows[0].row.prompt_frames
                yield from self._speak(windows, _cuts(count, first=-new % frames, size=frames) if frames else [count])

    def _next(self, row: Row) -> _Window:
        done = row.coarse.shape[1]
        if row.frames <= self._window:  # everything fits: the window of the paper's protocol
            self._plan(row, None)
            behind, ahead = row.plan[: row.prompt_units], row.plan[row.prompt_units :]
            return _Window(row, row.coarse, behind, ahead, row.frames - done)
        kept = self._window // 2 // self._block * self._block
        context = row.coarse if done <= self._window // 2 else row.coarse[:, -kept:]
        frames = min(self._window - context.shape[1], row.frames - done)
        behind = remove_repeats(self.hear(context)) if context.shape[1] else row.plan[:0]
        count = units_for(frames / self.spec.frame_rate_hz, units_per_second=self.units_per_second)
        self._plan(row, self._spoken[row.id] + count)
        ahead = row.plan[min(self._spoken[row.id], len(row.plan) - 1) :][:count]
        return _Window(row, context, behind, ahead, frames)

    def _plan(self, row: Row, units: int | None) -> None:
        if self.units is not None:
            self.units.ensure(row, units)

    def _speak(self, windows: list[_Window], pieces: list[int]) -> Iterator[None]:
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
                self._spoken[window.row.id] += self._count_spoken(window)

    def _count_spoken(self, window: _Window) -> int:
        """How many of a window's planned units its new audio holds."""
        heard = self.hear(window.row.coarse[:, -(window.context.shape[1] + window.frames) :])
        new = self.spec.semantic_frames(window.frames * self.spec.hop_samples)
        return spoken_units(window.ahead, remove_repeats(heard[-new:]))


def _cuts(count: int, *, first: int, size: int) -> list[int]:
    """Cut `count` into `first` (if any), then sizes of `size`, then the rest."""
    pieces = []
    while count:
        piece = min(first or size, count)
        pieces.append(piece)
        count, first = count - piece, 0
    return pieces
