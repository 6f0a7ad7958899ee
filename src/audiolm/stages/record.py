"""The record of a stage: `<root>/<stage>/done.json`, written when it has finished. Make and the report read it."""

import platform
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from audiolm.checksums import sealed_path
from audiolm.files import write_json


def keeps_last(trainer: L.Trainer) -> bool:
    """Whether a stage's `best.ckpt` is to hold the last weights, because no measure says which are best."""
    best = trainer.checkpoint_callback
    return isinstance(best, ModelCheckpoint) and best.filename == "best" and best.monitor is None


class StageRecord(L.Callback):
    """Counts the seconds a stage has trained over all its restarts, and says so when it is done."""

    def __init__(self) -> None:
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        """Seconds trained so far."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._seconds_before = state_dict["seconds"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There are steps left to do."""
        self._trained = True

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Where the last weights are wanted and not the best: keep the very last, even if no validation came after them."""
        if keeps_last(trainer) and not trainer.interrupted:
            trainer.save_checkpoint(pl_module.folder / "best.ckpt", weights_only=False)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the record. A run that was killed between its last step and its end had nothing left to do."""
        if not trainer.is_global_zero or trainer.interrupted:
            return
        if not self._trained and keeps_last(trainer) and trainer.ckpt_path:
            last = Path(trainer.ckpt_path)
            with sealed_path(pl_module.folder / "best.ckpt") as temporary:
                (shutil.copytree if last.is_dir() else shutil.copyfile)(last, temporary)
        self._write(trainer, pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Write the record of a prediction; its own hooks run after the module has sealed what it wrote."""
        if stage == "predict" and trainer.is_global_zero and pl_module.sealed:
            self._write(trainer, pl_module)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        best = trainer.checkpoint_callback
        score = getattr(best, "best_model_score", None)
        if score is None:  # the codec keeps its last weights, not those of the least loss
            score = trainer.callback_metrics.get("validation/loss")
        device = trainer.strategy.root_device
        write_json(
            pl_module.folder / "done.json",
            {
                "stage": pl_module.name,
                "steps": trainer.global_step,
                "seconds": round(self._seconds(), 1),
                "parameters": sum(parameter.numel() for parameter in pl_module.model.parameters())
                if hasattr(pl_module, "model")
                else 0,
                "validation_loss": None if score is None else float(score),
                "precision": str(trainer.precision),
                "processes": trainer.world_size,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
                "threads": torch.get_num_threads(),
                "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            },
        )
