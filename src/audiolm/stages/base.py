"""What every stage has in common: where it writes, what it was made from, and steps that can be repeated exactly."""

import abc
import os
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from audiolm import checkpoint


class StageModule(L.LightningModule, abc.ABC):
    """One stage of the chain: a pure module in `self.model`, a name, and a folder `<root>/<stage>`.

    Its checkpoints carry a header (stage, configuration, sources), so that `audiolm.checkpoint` can rebuild the pure module
    without Lightning, and so that a run never continues from a checkpoint that was made differently.

    Args:
        root: the folder of the chain. Earlier stages' results are found there and this stage's are written there.
    """

    stage: ClassVar[str]
    model: nn.Module

    def __init__(self, *, root: str = "checkpoints") -> None:
        super().__init__()
        self.root = Path(root)

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
        """Refuse to continue from a checkpoint of another stage, configuration or source.

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
        best = self.trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.dirpath:
            follow_folder(checkpoint_.get("callbacks", {}), str(best.dirpath))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make a step's randomness (dropout, quantizer dropout) a function of seed, step and rank, and of nothing else."""
        accumulated = batch_idx % self.trainer.accumulate_grad_batches
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        torch.manual_seed(hash((seed, self.trainer.global_step, accumulated, self.global_rank)) % 2**63)


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
