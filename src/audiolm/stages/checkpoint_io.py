"""Checkpoints that are there whole or not at all, carry a checksum, and run no code when they are read."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from audiolm.checksums import discard, sealed_path, verify
from audiolm.files import disk_full


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
        except RuntimeError as error:  # how torch's writer says that a write failed
            if "PytorchStreamWriter" not in str(error) and "file write failed" not in str(error):
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
        verify(path)
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its checksum."""
        if Path(path).exists():
            discard(Path(path))
