"""Checkpoints that are there whole or not at all."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from audiolm.files import atomic_path
from audiolm.untrusted.tensor_files import read_torch


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, on the same disk, and renames it: a kill in between leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` as `path`.

        Raises:
            OSError: if the disk is full, in words; the checkpoint before stays.
        """
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint from a file, running no code from it whatever `weights_only` says; Lightning would unpickle what
        stands behind a web address.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it is a web address, damaged, or holds more than tensors and plain values.
        """
        if "://" in str(path):
            raise ValueError(f"{path} is an address, not a file: download the checkpoint and name the file")
        try:
            return cast(dict[str, Any], read_torch(path))
        except ValueError as error:
            raise ValueError(
                f"{path} cannot be read as a checkpoint ({error}): it is damaged, or not of this project"
            ) from error
