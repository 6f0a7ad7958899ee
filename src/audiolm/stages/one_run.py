"""What surrounds a run: its lock, its signals, how its processes are launched and how they end."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from audiolm.lock import only_one
from audiolm.stages.failure import NAME, with_first_cause
from audiolm.stages.launcher import StageLauncher
from audiolm.stages.resume import ResumeCheckpoints, goes_on_from_newest

WRITING_VERBS = ("fit", "predict")


def slurm_without_requeue() -> list[Any]:
    """Lightning's own SLURM environment where there is one, without its signal handlers: they save in the middle of a step."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []


def prepared(trainer: L.Trainer, model: Any, *, minutes: float) -> L.Trainer:
    """A trainer that goes on from the newest checkpoint that is whole, and whose processes do not outlive each other.

    Args:
        minutes: how long its processes wait for one that stays away.
    """
    if minutes <= 0:
        raise ValueError(f"collective_timeout_minutes must be positive, got {minutes}")
    resume, strategy = _resume(trainer), trainer.strategy
    resume.timeout = timedelta(minutes=minutes)
    if hasattr(strategy, "_timeout"):
        strategy._timeout = resume.timeout
    if isinstance(strategy.launcher, _SubprocessScriptLauncher):
        strategy._launcher = StageLauncher(strategy.launcher, model.folder, resume.stop)
    goes_on_from_newest(trainer, resume.dirpath)
    return trainer


@contextlib.contextmanager
def one_run(trainer: L.Trainer, model: Any, *, verb: str) -> Iterator[None]:
    """Hold the stage's lock, listen to signals, and put the first cause on top of what is raised.

    Raises:
        FolderInUseError: if another run has the lock.
    """
    stop = _resume(trainer).stop
    with contextlib.ExitStack() as stack:
        if trainer.global_rank == 0:
            stack.enter_context(only_one(model.folder, what=f"lightning {verb}, {model.name} stage"))
            (model.folder / NAME).unlink(missing_ok=True)
        stop.watch(ctrl_c=False)
        try:
            yield
        except Exception as error:
            told = with_first_cause(error, model.folder, rank=trainer.global_rank) if trainer.world_size > 1 else error
            if told is error:
                raise
            raise told from error
        finally:
            stop.release()


def _resume(trainer: L.Trainer) -> ResumeCheckpoints:
    return next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ResumeCheckpoints))
