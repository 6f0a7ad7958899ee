"""How long a training step waits for its batch: logged, and said where it is too long."""

import time
import warnings
from typing import Any

import lightning as L

MOST = 0.05  # share of the time of a step
LONG_STRETCH_STEPS = 200  # over which the share must be above `MOST` before anybody is warned
MEMORY_STEPS = 50  # the logged share is an average that forgets in so many steps


class DataWait(L.Callback):
    """Logs `train/data_wait`: the share of a step's time in which the trainer waited for the next batch.

    It is the time from the end of one batch to the start of the next: the data is read, or waited for where workers read it, and
    moved to the device; now and then a line of the log is written. Steps between which there was a validation or a checkpoint
    do not count, and neither does the first batch of a run, for which workers start. A share above 5 % over 200 steps is
    warned of once.
    """

    def __init__(self) -> None:
        self._waits: list[float] = []  # of the steps since the last look
        self._times: list[float] = []
        self._batch_started: float | None = None
        self._batch_ended: float | None = None
        self._wait_average = self._time_average = 0.0
        self._warned = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here."""
        now = time.perf_counter()
        if self._batch_ended is not None and self._batch_started is not None:
            self._add(now - self._batch_ended, now - self._batch_started)
            share = self._wait_average / self._time_average
            pl_module.log("train/data_wait", share, on_step=True, on_epoch=False, rank_zero_only=True)
            self._look(getattr(trainer.datamodule, "workers", None))  # type: ignore[attr-defined]
        self._batch_started = now

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """The next batch will be asked for."""
        self._batch_ended = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What comes now is no waiting."""
        self._batch_ended = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Nor is this."""
        self._batch_ended = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run begins."""
        self._batch_started = self._batch_ended = None

    def _add(self, wait: float, whole: float) -> None:
        self._waits.append(wait)
        self._times.append(whole)
        new = 1 / MEMORY_STEPS if self._time_average else 1.0
        self._wait_average += new * (wait - self._wait_average)
        self._time_average += new * (whole - self._time_average)

    def _look(self, workers: int | None) -> None:
        if len(self._times) < LONG_STRETCH_STEPS:
            return
        share = sum(self._waits) / sum(self._times)
        self._waits.clear()
        self._times.clear()
        if share > MOST and not self._warned:
            self._warned = True
            warnings.warn(
                f"{share:.0%} of the last {LONG_STRETCH_STEPS} steps' time was spent waiting for data. Let more processes read "
                f"ahead: data.init_args.workers ({workers} now), as many as there are cores to spare; or put the "
                "corpus and the tokens on a faster disk.",
                stacklevel=2,
            )
