"""The coarse stage of a generator: it speaks the planned units."""

from collections.abc import Callable

from torch import Tensor

from audiolm.generator.codes import CodeWriter, Window
from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.generator.speech_plan import spoken_units, units_for
from audiolm.generator.units import UnitWriter
from audiolm.tokens.layout import remove_repeats


class CoarseWriter(CodeWriter):
    """Completes the coarse codes of rows, given their units.

    Utterances that fit the model's window see all of their units. Of longer ones, `speech_plan` says which units a window sees.

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
        super().__init__(stage, rows, draws=draws)
        self.units, self.hear, self.units_per_second = units, hear, units_per_second
        self._spoken = {row.id: row.prompt_units for row in rows}

    def _units(self, row: Row, context: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        if self._fits(row):
            self._plan(row, None)
            return row.plan[: row.prompt_units], row.plan[row.prompt_units :]
        behind = remove_repeats(self.hear(context)) if context.shape[1] else row.plan[:0]
        count = units_for(frames / self.spec.frame_rate_hz, units_per_second=self.units_per_second)
        self._plan(row, self._spoken[row.id] + count)
        return behind, row.plan[min(self._spoken[row.id], len(row.plan) - 1) :][:count]

    def _plan(self, row: Row, units: int | None) -> None:
        if self.units is not None:
            self.units.ensure(row, units)

    def _spoke(self, window: Window) -> None:
        """Count how many of a window's planned units its new audio holds."""
        heard = self.hear(window.row.coarse[:, -(window.context.shape[1] + window.frames) :])
        new = self.spec.semantic_frames(window.frames * self.spec.hop_samples)
        self._spoken[window.row.id] += spoken_units(window.ahead, remove_repeats(heard[-new:]))
