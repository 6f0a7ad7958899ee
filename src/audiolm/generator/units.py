"""The semantic stage of a generator: it plans units, window by window, as far as they are asked for."""

from collections import defaultdict

import torch
from torch import Tensor

from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.generator.speech_plan import units_for
from audiolm.lm.decoding import decode


class UnitWriter:
    """Adds the units of so many seconds to the plans of rows.

    A plan that does not fit the model's window is written in several: when the window is full, it begins anew with the later
    half of it. What is written does not depend on when it is asked for.

    Args:
        stage: the semantic stage.
        rows: their plans hold the prompts' units.
        seconds: how much each row will say.
        units_per_second: without repeats, of the training corpus.
    """

    def __init__(
        self, stage: LanguageModel, rows: list[Row], *, seconds: float, units_per_second: float, draws: Draws
    ) -> None:
        self.stage, self.rows, self.draws = stage, rows, draws
        self._window = max(4, units_for(stage.window_seconds, units_per_second=units_per_second))
        wanted = units_for(seconds, units_per_second=units_per_second)
        self._totals = {row.id: len(row.plan) + wanted for row in rows}
        self._streams = {row.id: draws.stream(row, "semantic") for row in rows}

    def write(self) -> None:
        """Write the plans of all rows to their ends, side by side."""
        while todo := [row for row in self.rows if not self._done(row)]:
            self._window_of_each(todo)

    def ensure(self, row: Row, units: int | None = None) -> None:
        """Write one row's plan until it has so many units, or to its end (None: always to its end)."""
        while not self._done(row) and (units is None or len(row.plan) < units):
            self._window_of_each([row])

    def _done(self, row: Row) -> bool:
        return row.ended or len(row.plan) >= self._totals[row.id]

    def _window_of_each(self, rows: list[Row]) -> None:
        batches: dict[int, list[tuple[Row, Tensor]]] = defaultdict(list)
        for row in rows:
            remaining = self._totals[row.id] - len(row.plan)
            fits = len(row.plan) + remaining <= self._window
            context = row.plan if fits else row.plan[-(self._window // 2) :]
            batches[min(remaining, self._window - len(context))].append((row, context))
        for steps, batch in sorted(batches.items()):
            new = decode(
                self.stage.model,
                self.stage.layout,
                [self.stage.layout.prefix(context if len(context) else None) for _, context in batch],
                steps=steps,
                sampling=self.draws.sampling.semantic,
                uniforms=torch.stack([self._streams[row.id].draw(steps) for row, _ in batch]),
                stop_at_end=self.draws.stop_at_end,
            )
            for (row, _), targets in zip(batch, new, strict=True):
                row.ended = len(targets) > 0 and int(targets[-1]) == self.stage.layout.end_id
                row.plan = torch.cat([row.plan, targets[: len(targets) - row.ended]])
