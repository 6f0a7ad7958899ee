"""The sign of life of a stage: `<root>/<stage>/heartbeat.json`, which `audiolm status` reads."""

import contextlib
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import lightning as L

from audiolm.files import read_json, write_json
from audiolm.stages.progress import steps_done, steps_in_all

SECONDS_BETWEEN = 10.0


class Heartbeat(L.Callback):
    """The first process notes every ten seconds how far a stage is, what it costs, and in the end how it ended.

    Hours are added to those that the file already holds, so they include what was lost to kills (up to the last note). A file
    that cannot be written never stops a stage.

    Args:
        seconds_between: at least so long between two notes.
    """

    def __init__(self, seconds_between: float = SECONDS_BETWEEN) -> None:
        self._seconds_between = seconds_between
        self._started = self._stepping_since = self._noted = time.monotonic()
        self._seconds_before = 0.0
        self._first_step = 0
        self._beating = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A stage starts: add to the hours of its starts before."""
        self._start(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The first step of this start, from which its speed is reckoned."""
        self._first_step, self._stepping_since = steps_done(trainer), time.monotonic()
        self._note(trainer, pl_module, "running")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As at the start of training."""
        self._start(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note, now and then."""
        self._now_and_then(trainer, pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note, now and then."""
        self._now_and_then(trainer, pl_module)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note, now and then."""
        self._now_and_then(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that it is done, or was told to stop."""
        self._note(trainer, pl_module, "stopped" if trainer.interrupted else "done")

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Note that a prediction is done; its own hooks run after the module has sealed what it wrote."""
        if stage == "predict" and self._beating and pl_module.sealed:
            self._note(trainer, pl_module, "done")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Note what ended it: an error, or a signal."""
        failed = isinstance(exception, Exception)
        words = str(exception).strip().partition("\n")[0]
        self._note(
            trainer,
            pl_module,
            "failed" if failed else "stopped",
            error=f"{type(exception).__name__}: {words}" if failed else None,
        )

    def _start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._beating = trainer.is_global_zero and hasattr(pl_module, "folder")
        if not self._beating:
            return
        before = _before(_path(pl_module))
        self._seconds_before = before.get("process_seconds", 0.0)
        self._first_step, self._started = steps_done(trainer), time.monotonic()
        self._stepping_since = self._started
        self._note(trainer, pl_module, "running")

    def _now_and_then(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if time.monotonic() - self._noted >= self._seconds_between:
            self._note(trainer, pl_module, "running")

    def _note(self, trainer: L.Trainer, pl_module: Any, state: str, *, error: str | None = None) -> None:
        if not self._beating:
            return
        self._noted = time.monotonic()
        with contextlib.suppress(OSError):
            write_json(_path(pl_module), {**self._facts(trainer, pl_module), "state": state, "error": error})

    def _facts(self, trainer: L.Trainer, pl_module: Any) -> dict[str, Any]:
        step, of = steps_done(trainer), steps_in_all(trainer)
        loss = trainer.callback_metrics.get("train/loss", trainer.callback_metrics.get("validation/loss"))
        seconds = self._noted - self._started
        return {
            "stage": pl_module.name,
            "step": step,
            "of": of,
            "loss": float(loss) if loss is not None and math.isfinite(float(loss)) else None,
            "seconds_left": self._seconds_left(step, of),
            "time": time.time(),
            "processes": trainer.world_size,
            "process_seconds": round(self._seconds_before + seconds * trainer.world_size, 1),
            "device": trainer.strategy.root_device.type,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "start": int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1,
        }

    def _seconds_left(self, step: int, of: int | None) -> float | None:
        if of is None or step <= self._first_step:
            return None
        return round((self._noted - self._stepping_since) / (step - self._first_step) * (of - step), 1)


def _path(pl_module: Any) -> Path:
    return Path(pl_module.folder) / "heartbeat.json"


def _before(path: Path) -> dict[str, Any]:
    """The last note of the start before; none if there is none, or if it cannot be read."""
    try:
        return read_json(path, made_by="a stage")
    except (OSError, ValueError):
        return {}
