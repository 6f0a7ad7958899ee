"""Checkpoints that are there whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from audiolm.files import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, on the same disk, and renames it: a kill in between leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` as `path`.

        Raises:
            OSError: if the disk is full, in words; the checkpoint before stays.
        """
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)
