"""Checkpoints to go on from: when they are written, how many are kept, and that a run asked to stop leaves one."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from audiolm.checksums import DamagedError, discard, publish, remove_leftovers, verify
from audiolm.stages.agreement import Agreement
from audiolm.stages.interruption import Interrupted, StopRequest, is_launched_child, requeue_slurm_job, say

FOLDER = "resume"  # inside a stage's
FRUITLESS_RESTARTS = 3  # of a job that its time limit ends before anything can be saved
NEWEST = "newest-valid"  # stands for the path of the checkpoint that `--ckpt_path last` goes on from


class ResumeCheckpoints(Checkpoint):
    """Writes `<root>/<stage>/resume/step-00000500.ckpt`, whole, synced and with a checksum, and keeps the newest.

    What is written is always the state between two steps, after the validation that belongs to the step, so a run that goes
    on from it is bit for bit (on a CPU) the run that never stopped. Time is the first process's, and all processes save at
    the same step. A run that SIGTERM, SIGUSR1 or Ctrl-C ask to stop finishes its step (and a validation under way), saves
    and ends, with exit status 128 + the signal's number; in a SLURM job SIGUSR1 (time limit) puts the job back in the queue.

    Args:
        dirpath: where to write; by default `<root>/<stage>/resume`.
        every_n_train_steps: optimizer steps from one checkpoint to the next; null: by time only.
        every_minutes: minutes from one checkpoint to the next, whichever comes first; null: by steps only.
        keep: how many are kept; of two, one remains if the newest is damaged.
        save_on_exception: one process that fails between two steps (a file that cannot be read) saves before it ends. Of
            several none does: the others may be inside a step.
        requeue: whether SIGUSR1 requeues a SLURM job.

    Raises:
        ValueError: for numbers out of range, or neither steps nor minutes.
    """

    def __init__(
        self,
        *,
        dirpath: str | None = None,
        every_n_train_steps: int | None = 500,
        every_minutes: float | None = 10.0,
        keep: int = 2,
        save_on_exception: bool = True,
        requeue: bool = True,
    ) -> None:
        super().__init__()
        if every_n_train_steps is None and every_minutes is None:
            raise ValueError("resume: give every_n_train_steps or every_minutes; without either nothing would be saved")
        steps, minutes = (1 if given is None else given for given in (every_n_train_steps, every_minutes))
        if steps < 1 or minutes <= 0 or keep < 1:
            raise ValueError(
                "resume: every_n_train_steps and keep must be at least 1 and every_minutes positive, got "
                f"{every_n_train_steps}, {keep} and {every_minutes}"
            )
        self.dirpath, self.keep, self.requeue = Path(dirpath or FOLDER), keep, requeue
        self.every_n_train_steps, self.every_minutes = every_n_train_steps, every_minutes
        self.save_on_exception = save_on_exception
        self.timeout = timedelta(minutes=30)
        self.stop = StopRequest()
        self._saved_step, self._saved_time = 0, time.monotonic()
        self._stopping = 0  # the signal that all processes agreed to stop for
        self._pending = False  # a validation comes first
        self._between_steps = False
        self._flush = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove what a killed writer left half-written."""
        if stage == "fit":
            self._agreement = Agreement(2, timeout=self.timeout)
            if trainer.is_global_zero:
                for folder in (self.dirpath, cast(Any, pl_module).folder):
                    remove_leftovers(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over from Lightning, which would save inside the handler and wait for the others there."""
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()
        self.stop.watch(ctrl_c=True)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over."""
        self.stop.watch(ctrl_c=True)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Between two steps: the row that belongs to a checkpoint is in the log now; and here a run stops."""
        self._between_steps = False
        if self._flush:
            self._flush = False
            _flush(trainer)
        if self._stopping:
            if trainer.is_global_zero:
                self._tell(
                    f"saved at step {self._saved_step}" if self._saved_step else "it has saved nothing yet",
                    saved=self._saved_step > 0,
                )
            trainer.strategy.barrier(
                "told"
            )  # srun ends all when one process has ended, and the job must be queued by then
            raise Interrupted(self._stopping)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Decide, all processes alike, whether to save or stop; save, or leave it to the end of a validation."""
        if getattr(trainer, "fast_dev_run", False) or trainer.fit_loop._should_accumulate():
            return
        said = [self.stop.signal_number, int(self._minutes_are_over(trainer))]
        self._stopping, minutes = self._agreement.result(said)
        step = trainer.global_step
        wanted = minutes or self._stopping or step == trainer.max_steps
        if self.every_n_train_steps and step % self.every_n_train_steps == 0:
            wanted = True
        loop = trainer.fit_loop.epoch_loop
        validation_follows = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        if wanted and step > self._saved_step:
            self._saved_time = time.monotonic()
            self._pending = validation_follows
            if not validation_follows:
                self._save(trainer)
        self._agreement.tell([self.stop.signal_number, int(self._minutes_are_over(trainer))])
        self._between_steps = not validation_follows

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what waited for the validation, its measures and the best checkpoint included."""
        if self._pending and not trainer.sanity_checking:
            self._pending = False
            self._save(trainer)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """What is finished is on the disk already: stop here."""
        if self.stop.signal_number:
            self._stopping = self.stop.signal_number
            if not is_launched_child():  # each for itself: they are not in step, and where one has ended srun ends all
                self._tell("everything finished is kept", saved=True)
            raise Interrupted(self._stopping)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the work of one process that fails between two steps."""
        if not self.save_on_exception or not self._between_steps or isinstance(exception, Interrupted):
            return
        if trainer.world_size == 1 and trainer.global_step > self._saved_step:
            self._between_steps = False
            self._save(trainer)
            say(f"Saved at step {self._saved_step}, before this went wrong.")

    def _minutes_are_over(self, trainer: L.Trainer) -> bool:
        seconds = None if self.every_minutes is None else 60 * self.every_minutes
        return trainer.is_global_zero and seconds is not None and time.monotonic() - self._saved_time >= seconds

    def _save(self, trainer: L.Trainer) -> None:
        _flush(trainer)
        step = trainer.global_step
        path = self.dirpath / f"step-{step:08}.ckpt"
        temporary = path.with_name(f".{path.name}.part")
        trainer.save_checkpoint(
            temporary, weights_only=False
        )  # by all processes; a file or a folder, as the strategy likes
        if trainer.is_global_zero:
            publish(temporary, path)
            self._prune(step)
        trainer.strategy.barrier("resume checkpoint")
        self._saved_step, self._flush = step, True

    def _prune(self, step: int) -> None:
        """Keep the newest up to this step; later ones are damaged, or of a run that was taken up again further back."""
        until_now = [path for path in resume_checkpoints(self.dirpath) if step_of(path) <= step]
        kept = until_now[-self.keep :]
        for path in resume_checkpoints(self.dirpath):
            if path not in kept:
                discard(path)

    def _tell(self, state: str, *, saved: bool) -> None:
        requeued = ""
        if saved or int(os.environ.get("SLURM_RESTART_COUNT", "0")) < FRUITLESS_RESTARTS:
            requeued = requeue_slurm_job(self._stopping) if self.requeue else ""
        else:
            requeued = "Not queued again: no start has saved anything. It needs more time at once (TIME=)."
        say(f"Stopped by a signal: {state}; the same command goes on from there. {requeued}".rstrip())


def resume_checkpoints(folder: Path) -> list[Path]:
    """Those in a stage's `resume` folder, oldest first, damaged ones too."""
    return sorted((path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdigit()), key=step_of)


def step_of(path: Path) -> int:
    """The step at which a resume checkpoint was written, by its name."""
    return int(path.stem.removeprefix("step-"))


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint that is what was written; damaged newer ones are named on the screen. None: there is none at all.

    Raises:
        DamagedError: if there are some and all are damaged. Nothing is deleted.
    """
    troubles = []
    for path in reversed(resume_checkpoints(folder)):
        try:
            verify(path)
        except (DamagedError, OSError) as error:
            troubles.append(str(error))
            say(f"{error} The checkpoint before it is tried.")
        else:
            return path
    if troubles:
        raise DamagedError(
            f"None of the {len(troubles)} checkpoints in {folder} can be used: {' '.join(troubles)} Nothing was deleted. Put "
            f"one back from a copy; or, to train this stage from its beginning, move {folder.parent} away."
        )
    if (earlier := folder.parent / "last.ckpt").exists():
        raise DamagedError(
            f"{earlier} is of an earlier version, which shared batches otherwise: this one cannot go on from it, and would "
            f"write over what it has learned. Move {folder.parent} away to train this stage from its beginning."
        )
    return None


def goes_on_from_newest(trainer: L.Trainer, folder: Path) -> None:
    """Let the trainer take the path NEWEST for `newest_valid(folder)`; the first process looks, and tells all.

    The looking comes when the processes are connected, just before the checkpoint is read.
    """
    connector: Any = trainer._checkpoint_connector
    resume_start = connector.resume_start

    def resume_from_newest(path: Any = None, weights_only: bool | None = None) -> None:
        if path == NEWEST:
            found: tuple[str, str] = ("", "")
            if trainer.is_global_zero:
                try:
                    found = (str(newest_valid(folder) or ""), "")
                except DamagedError as error:
                    found = ("", str(error))
            path, trouble = trainer.strategy.broadcast(found)
            if trouble:
                raise DamagedError(trouble)
        resume_start(path or None, weights_only=weights_only)

    connector.resume_start = resume_from_newest


def _flush(trainer: L.Trainer) -> None:
    for logger in trainer.loggers:
        logger.save()
