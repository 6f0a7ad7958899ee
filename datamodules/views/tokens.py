"""Aligned windows of the token store."""

from audiolm.tokens.windows import Windows
from datamodules.token_windows import TrainingWindows, ValidationWindows
from datamodules.views.view import View


class TokensView(View):
    """`TokenBatch`es of windows of `window_seconds`, flattened by the stage's layout. The stage names the store's digest."""

    name = "tokens"

    def check(self) -> None:
        """Open the store."""
        _ = self.data.store

    def training(self) -> TrainingWindows:
        """Random windows of the training split."""
        data = self.data
        return TrainingWindows(
            self._windows("train"), data.stage.layout, batch_size=data.batch_size, seed=data.seed, share=data.share
        )

    def validation(self) -> ValidationWindows:
        """The validation split as windows side by side."""
        data, windows = self.data, self._windows("validation")
        return ValidationWindows(windows, data.stage.layout, batch_size=data.batch_size, share=data.share)

    def windows(self) -> int:
        """Windows of the training split, side by side."""
        return len(self._windows("train").all())

    def _windows(self, split: str) -> Windows:
        return Windows(self.data.store, split=split, seconds=self.data.window_seconds)
