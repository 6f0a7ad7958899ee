"""A checkpoint that many processes wrote, each its part: a folder of safetensors and one file of plain values.

    best.ckpt/
      shard-*.safetensors     tensors, whole or in pieces, each with its place in the whole
      values.pt               everything else: numbers, strings, lists and dicts

Nothing in it is a pickle that could run code.
"""

from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from audiolm.untrusted.tensor_files import read_torch, safetensors_shapes

VALUES = "values.pt"
WEIGHTS = "state_dict"


def is_sharded(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return (path / VALUES).is_file()


def flatten(state: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names joined by "/"; everything that is not a dict, or an empty one, is a leaf."""
    if not isinstance(state, dict) or not state:
        return {prefix: state}
    flat: dict[str, Any] = {}
    for key, value in state.items():
        flat |= flatten(value, f"{prefix}/{key}" if prefix else str(key))
    return flat


def read_values(folder: Path) -> dict[str, Any]:
    """What is no tensor of the model or the optimizers."""
    return cast(dict[str, Any], read_torch(folder / VALUES))


def read_tensors(folder: Path, *, prefix: str) -> dict[str, Tensor]:
    """The whole tensors whose names begin with `prefix`, put together from their pieces; names keep the prefix.

    Raises:
        ValueError: if a file is damaged, or pieces claim more than the files hold.
    """
    try:
        for file in folder.glob("*.safetensors"):
            safetensors_shapes(file)  # an oversized header is refused before anything else reads it
        reader = HuggingFaceStorageReader(str(folder))
        found = cast(dict[str, TensorStorageMetadata], reader.read_metadata().state_dict_metadata)
        wanted = {name: meta for name, meta in found.items() if name.startswith(prefix)}
        claimed = sum(meta.size.numel() * meta.properties.dtype.itemsize for meta in wanted.values())
        there = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if claimed > there:
            raise ValueError(
                f"{folder} claims {claimed:,} bytes of tensors and holds {there:,}: a part of it is missing."
            )
        tensors = {name: torch.empty(meta.size, dtype=meta.properties.dtype) for name, meta in wanted.items()}
        if tensors:
            dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (
        SafetensorError,
        CheckpointException,
        KeyError,
        AssertionError,
        ArithmeticError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{folder} cannot be read as a checkpoint of many processes ({str(error).splitlines()[0][:200]}): it is damaged, or "
            "a part of it is missing. Remove it and go on from an earlier one."
        ) from error
    return tensors
