"""Checkpoints that are there whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from audiolm.files import atomic_path
from audiolm.sharded_files import is_sharded
from audiolm.stages import sharded_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, on the same disk, and renames it: a kill in between leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` as `path`.

        Raises:
            OSError: if the disk is full, in words; the checkpoint before stays.
        """
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Load a file, or the folder of a run under FSDP, running no code from it.

        Raises:
            ValueError: if a part of the folder is missing or damaged.
        """
        if is_sharded(Path(path)):
            return sharded_checkpoint.read(Path(path))
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)
