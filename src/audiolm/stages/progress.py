"""One line of progress: stage, step, loss, time left. A bar on a terminal, a line now and then in a log file."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks.progress import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_LINES = 10  # lines per stage where there is no terminal


def steps_done(trainer: L.Trainer) -> int:
    """Optimizer steps so far where a stage counts those; else batches of this pass."""
    if trainer.state.fn == "predict":
        return trainer.predict_loop.batch_progress.current.ready
    return trainer.global_step if trainer.max_steps > 0 else trainer.fit_loop.epoch_loop.batch_progress.current.ready


def steps_in_all(trainer: L.Trainer) -> int | None:
    """How many `steps_done` there will be; None as long as the data is not counted."""
    if trainer.state.fn == "predict":
        return int(sum(trainer.num_predict_batches))
    steps = trainer.max_steps if trainer.max_steps > 0 else trainer.num_training_batches
    return int(steps) if math.isfinite(steps) else None


class StageProgress(ProgressBar):
    """Progress of a stage on the first process's screen."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console()
        self._progress: Progress | None = None
        self._started, self._first_step, self._printed = time.monotonic(), 0, 0

    @property
    def is_enabled(self) -> bool:
        """Whether this process shows anything."""
        return not self._console.quiet

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all processes but the first."""
        self._console.quiet = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self._console.print(*args)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._open(pl_module, total=steps_in_all(trainer) or 1, done=steps_done(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Move the bar."""
        self._show(steps_done(trainer), self._losses(trainer, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._open(pl_module, total=int(sum(trainer.num_predict_batches)), done=0)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        """Move the bar."""
        batch_idx = arguments[2]
        self._show(batch_idx + 1, "")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it is."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean for the error."""
        self._close()

    def _losses(self, trainer: L.Trainer, pl_module: L.LightningModule) -> str:
        shown = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        return "  ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
        )

    def _open(self, pl_module: Any, *, total: int, done: int) -> None:
        self._name, self._total = pl_module.name, max(1, total)
        self._started, self._first_step, self._printed = time.monotonic(), done, done * LOG_LINES // self._total
        if self._console.is_terminal and not self._console.quiet:
            self._progress = Progress(
                TextColumn(f"[bold]{self._name:<9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(self._name, total=self._total, completed=done, losses="")
            self._progress.start()

    def _show(self, done: int, losses: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, losses=losses)
        elif done * LOG_LINES // self._total > self._printed:
            self._printed = done * LOG_LINES // self._total
            elapsed = time.monotonic() - self._started
            left = elapsed / max(1, done - self._first_step) * (self._total - done)
            self._console.print(
                f"{self._name:<9} step {done}/{self._total}  {losses}  {left:.0f} s left", highlight=False
            )

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
