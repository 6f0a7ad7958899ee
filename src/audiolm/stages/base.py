"""What every stage has in common: where it writes, what it was made from, and steps that can be repeated exactly."""

import abc
import os
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from audiolm import checkpoint
from audiolm.stages.global_batch import recount_batches
from datamodules.sharing import data_parallel


class StageModule(L.LightningModule, abc.ABC):
    """One stage of the chain: a pure module in `self.model`, a name, and a folder `<root>/<stage>`.

    Its checkpoints carry a header (stage, configuration, sources), so that `audiolm.checkpoint` can rebuild the pure module
    without Lightning, and so that a run never continues from a checkpoint that was made differently.

    Args:
        root: the folder of the chain. Earlier stages' results are found there and this stage's are written there.
    """

    stage: ClassVar[str]
    draws_alike: ClassVar[bool] = False  # whether torch's generator stands alike on all processes at every step
    shards: ClassVar[bool] = False  # whether FSDP can divide it among processes
    takes_pieces: ClassVar[bool] = (
        True  # whether a process may read its share of a step in pieces, and add up gradients
    )
    model: nn.Module

    def __init__(self, *, root: str = "checkpoints") -> None:
        super().__init__()
        self.root = Path(root)
        self._divided = False

    @property
    def name(self) -> str:
        """The stage's name and that of its folder."""
        return self.stage

    @property
    def folder(self) -> Path:
        """Where this stage writes."""
        return self.root / self.name

    @property
    def sealed(self) -> bool:
        """Whether what a prediction writes is complete."""
        return (self.folder / "sealed.json").exists()

    def configure_model(self) -> None:
        """Under FSDP, divide the weights among processes, once."""
        if self.device_mesh is not None and not self._divided:
            self._divided = True
            self.divide(self.device_mesh)

    def divide(self, mesh: DeviceMesh) -> None:
        """Divide the weights over a mesh of (data_parallel, tensor_parallel) processes; see `audiolm.stages.sharded.shard`."""
        raise ValueError(f"The {self.name} stage cannot be divided among processes: --trainer.strategy ddp")

    @abc.abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts that rebuild `self.model`."""

    def sources(self) -> dict[str, str]:
        """Digests of what this stage was made from, by name."""
        return {}

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        """Add the header that `audiolm.checkpoint` reads."""
        checkpoint_[checkpoint.HEADER] = checkpoint.header(self.name, self.config_dict(), self.sources())

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        """Refuse to continue from a checkpoint of another stage, configuration or source, or from one that holds NaN; count
        batches as this run does.

        Raises:
            ValueError: naming what differs.
        """
        ours = checkpoint.header(self.name, self.config_dict(), self.sources())
        theirs = checkpoint_.get(checkpoint.HEADER, {})
        differing = sorted(key for key in ours if ours[key] != theirs.get(key))
        if differing:
            details = "; ".join(f"{key}: {theirs.get(key)} in the checkpoint, {ours[key]} now" for key in differing)
            raise ValueError(
                f"This run of the {self.name} stage cannot continue from that checkpoint: {details}. Train afresh "
                f"(move {self.folder} away), or restore the configuration it was made with."
            )
        checkpoint.require_finite(
            checkpoint_.get("state_dict") or {}, source=f"The checkpoint of the {self.name} stage"
        )
        recount_batches(checkpoint_, self.trainer.accumulate_grad_batches)
        best = self.trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.dirpath:
            follow_folder(checkpoint_.get("callbacks", {}), str(best.dirpath))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make a step's randomness (dropout, quantizer dropout) a function of seed, step and rank, and of nothing else.

        Of seed and step alone where it is drawn for the global batch (`draws_alike`).
        """
        accumulated = batch_idx % self.trainer.accumulate_grad_batches
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "view", None) in ("waveform", "labelled"):
            self.log("train/unreadable", float(len(data.unreadable)))  # files, of all processes
        rank = 0 if self.draws_alike else data_parallel(self.trainer)[0]
        torch.manual_seed(hash((self.run_seed, self.trainer.global_step, accumulated, rank)) % 2**63)

    @property
    def run_seed(self) -> int:
        """The run's seed."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def examples(self, batch_idx: int, *, rows: int) -> range:
        """Numbers in the global batch of the rows of this process's `batch_idx`-th batch: the pieces of a step take turns."""
        (rank, ranks), pieces = data_parallel(self.trainer), self.trainer.accumulate_grad_batches
        return range(batch_idx % pieces * ranks + rank, rows * pieces * ranks, pieces * ranks)

    def examples_of_run(self, batch_idx: int, *, rows: int) -> range:
        """As `examples`, counted from the run's first batch on."""
        here = self.examples(batch_idx, rows=rows)
        before = batch_idx // self.trainer.accumulate_grad_batches * rows * here.step
        return range(before + here.start, before + here.stop, here.step)


def follow_folder(callbacks: dict[str, Any], folder: str) -> None:
    """Let what a checkpoint remembers of the best one follow a folder that was moved, or is mounted elsewhere.

    Without this Lightning forgets the best score, and takes the next validation's for it.

    Args:
        callbacks: the states of a checkpoint's callbacks, changed in place.
        folder: where the best checkpoint is kept now.
    """
    for state in callbacks.values():
        if isinstance(state, dict) and "best_k_models" in state and state["dirpath"] not in (None, folder):
            before, state["dirpath"] = state["dirpath"], folder

            def moved(path: str, *, before: str = before) -> str:
                return folder + path.removeprefix(before) if path.startswith(before) else path

            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = moved(state[name])
            state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
