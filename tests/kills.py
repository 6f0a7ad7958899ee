"""Runs that are killed with SIGKILL, which asks nobody, at a chosen moment of a chosen step; and what is left of them."""

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from audiolm.evaluation.curves import read_curves
from audiolm.stages.checkpoint_io import AtomicCheckpointIO
from audiolm.stages.resume import newest_valid


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives SIGKILL")


class Kill(L.Callback):
    """Kills its process.

    Args:
        moment: "forward": inside the network, before the backward pass; "between": when the generator has stepped and the
            discriminators have not; "stepped": after the optimizer's step, before anything was saved; "validation": in its
            first batch; "write": when half of the checkpoint (of its
            part, where many processes write one) is on the disk; "renamed": when it has its name but not yet its
            checksum.
        step: the step it happens in; of "validation" and later moments, the first from this step on.
        rank: which process.
    """

    def __init__(self, moment: str, step: int, rank: int = 0) -> None:
        self.moment, self.step, self.rank = moment, step, rank

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._trainer = trainer
        if trainer.global_rank != self.rank:
            self.moment = "never"
        if self.moment == "write":
            self._save, torch.save = torch.save, self._half
            self._write = HuggingFaceStorageWriter.write_data
            HuggingFaceStorageWriter.write_data = lambda *arguments: self._half_a_part(*arguments)
        if self.moment == "renamed":
            self._replace, os.replace = os.replace, self._and_die
        if self.moment == "between":
            from audiolm.stages import adversarial

            self._average, adversarial.update_average = adversarial.update_average, self._between

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment == "forward" and trainer.global_step + 1 == self.step:
            torch.nn.modules.module.register_module_forward_hook(lambda *_: die())

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment == "stepped" and trainer.global_step == self.step:
            die()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment == "validation" and trainer.global_step >= self.step:
            die()

    def _between(self, *arguments: Any, **options: Any) -> None:
        if self._trainer.global_step == self.step:
            die()
        self._average(*arguments, **options)

    def _half(self, content: Any, path: Any) -> None:
        self._save(content, path)
        if self._trainer.global_step >= self.step and "step-" in Path(path).name:
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def _half_a_part(self, writer: Any, *arguments: Any) -> Any:
        written = self._write(writer, *arguments)
        if self._trainer.global_step >= self.step and "step-" in Path(writer.path).name:
            (part,) = Path(writer.path).glob(f"shard-{self.rank + 1:05}-*.safetensors")
            os.truncate(part, os.path.getsize(part) // 2)
            die()
        return written

    def _and_die(self, source: Any, target: Any) -> None:
        self._replace(source, target)
        if self._trainer.global_step >= self.step and Path(target).name.startswith("step-"):
            die()


def kill_options(moment: str, step: int, *, rank: int = 0) -> list[str]:
    """What to add to the command line."""
    return [
        *("--trainer.callbacks+=kills.Kill", f"--trainer.callbacks.moment={moment}"),
        *(f"--trainer.callbacks.step={step}", f"--trainer.callbacks.rank={rank}"),
    ]


def in_a_child(work: Callable[[], Any]) -> int:
    """Do `work` in a forked process and wait for it; its exit status, negative for a signal."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def last_state(folder: Path) -> dict[str, Any]:
    """Everything the newest resume checkpoint of a stage's folder holds, less what tells of clocks and places."""
    path = newest_valid(folder / "resume")
    assert path is not None, f"{folder} has no resume checkpoint"
    content = AtomicCheckpointIO().load_checkpoint(path)
    content["callbacks"].pop("StageRecord")
    for state in content["callbacks"].values():
        for name in ("best_model_path", "dirpath", "best_k_models", "kth_best_model_path", "last_model_path"):
            state.pop(name, None)
        state.pop("current_score", None)  # Lightning writes it and never reads it; best_model_score says what was best
    return content


def differences(one: Any, two: Any, *, at: str = "") -> list[str]:
    """Where two nested states differ, bit by bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        equal = one.dtype == two.dtype and torch.equal(one, two)
        return [] if equal or (one.isnan().all() and two.isnan().all()) else [at]
    if isinstance(one, dict) and isinstance(two, dict):
        missing = [f"{at}.{key} (in one only)" for key in one.keys() ^ two.keys()]
        return missing + [
            d for key in one.keys() & two.keys() for d in differences(one[key], two[key], at=f"{at}.{key}")
        ]
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)) and len(one) == len(two):
        return [d for i, (a, b) in enumerate(zip(one, two, strict=True)) for d in differences(a, b, at=f"{at}[{i}]")]
    return [] if one == two else [f"{at}: {one} and {two}"]


def logged(folder: Path, *, but: tuple[str, ...] = ("train/padding", "train/data_wait")) -> dict[str, dict[int, float]]:
    """Every logged value by name and step; padding is counted from each start on, as its docstring says, waiting is timed."""
    return {
        name: dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        for name, curve in read_curves(folder / "log").items()
        if name not in but
    }
