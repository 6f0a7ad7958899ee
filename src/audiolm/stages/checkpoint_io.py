"""Checkpoints that are there whole or not at all, carry a checksum, and run no code when they are read."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from audiolm.checksums import discard, sealed_path, verify
from audiolm.files import disk_full, found_no_room, remove
from audiolm.sharded_files import is_sharded
from audiolm.stages import sharded_checkpoint
from audiolm.untrusted.tensor_files import read_torch


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, on the same disk, and renames it: a kill in between leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` as `path`, with its checksum; a hidden name is temporary, and whoever chose it publishes it.

        Raises:
            OSError: if the disk is full, in words; the checkpoint before stays.
        """
        path = Path(path)
        try:
            if path.name.startswith("."):
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(checkpoint, path)
                return
            with sealed_path(path) as temporary:
                torch.save(checkpoint, temporary)
        except (RuntimeError, OSError) as error:  # torch's writer does not say why it could not write
            full = found_no_room(error, folder=path.parent)
            if path.name.startswith("."):
                remove(path)  # what was half-written takes the room that is lacking
            if not full:
                raise
            raise disk_full(path) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint: plain tensors, numbers and strings only, whatever `weights_only` says.

        Raises:
            FileNotFoundError: if it is not there.
            DamagedError: if it is not what was written.
        """
        if "://" in str(path):
            raise ValueError(f"{path} is an address, not a file: download the checkpoint and name the file")
        verify(path)
        if is_sharded(Path(path)):
            return sharded_checkpoint.read(Path(path))
        try:
            return cast(dict[str, Any], read_torch(path))
        except ValueError as error:
            raise ValueError(
                f"{path} cannot be read as a checkpoint ({error}): it is damaged, or not of this project"
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its checksum."""
        if Path(path).exists():
            discard(Path(path))
