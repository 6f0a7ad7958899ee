"""What runs inside the processes of `test_processes.py`."""

from pathlib import Path
from typing import Any

import lightning as L
import torch


class RankWeights(L.Callback):
    """Saves the pure module of every rank at the end."""

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        weights = {name: value.detach().cpu() for name, value in pl_module.model.state_dict().items()}
        Path(pl_module.folder).mkdir(parents=True, exist_ok=True)
        torch.save(weights, pl_module.folder / f"rank{trainer.global_rank}.pt")
