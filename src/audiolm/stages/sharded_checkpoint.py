"""Trainer's checkpoints of many processes: each writes its part; any number of processes, with FSDP or without, reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from audiolm.checksums import DamagedError, publish, verify
from audiolm.files import disk_full, found_no_room, remove
from audiolm.sharded_files import VALUES, WEIGHTS, flatten, is_sharded, read_tensors, read_values

OPTIMIZERS = "optimizer_states"


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a trainer's checkpoint, whose tensors are spread over all processes, as the folder `path`. Collective.

    The folder appears under its name when all processes have written their part; until then the old one stays. A hidden
    name is its caller's to publish.

    Raises:
        OSError: if the disk is full, in words, or a process could not write its part; what was half-written is removed.
    """
    first, hidden = dist.get_rank() == 0, path.name.startswith(".")
    temporary = path if hidden else path.with_name(f".{path.name}.part")
    if first:
        remove(temporary)
        temporary.mkdir(parents=True)
    dist.barrier()
    values = dict(checkpoint)
    states = values.pop(OPTIMIZERS, [])
    flat = flatten({WEIGHTS: values.pop(WEIGHTS)})
    for number, state in enumerate(states):
        flat |= flatten({f"{OPTIMIZERS}/{number}": state["state"]})
    # safetensors wants plain tensors whole in memory; parts of sharded ones are
    flat = {name: leaf.contiguous() if type(leaf) is Tensor else leaf for name, leaf in flat.items()}
    try:
        dcp.save(flat, storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        if first:
            values[OPTIMIZERS] = [state["param_groups"] for state in states]
            torch.save(values, temporary / VALUES)
            if not hidden:
                publish(temporary, path)
    except (CheckpointException, RuntimeError, OSError) as error:  # the first of them, torch's, is no Exception
        full = found_no_room(error, folder=path.parent)
        if first:
            remove(temporary)
        if full:
            raise disk_full(path) from error
        if isinstance(error, CheckpointException):
            raise OSError(f"{path} could not be written by all processes: {_words(error)}") from error
        raise
    dist.barrier()


def _words(error: CheckpointException) -> str:
    """Which processes failed with their part, and why: torch's own words are their tracebacks."""
    said = [f"process {rank}: {reason}" for rank, (reason, _) in sorted(error.failures.items())]
    return "; ".join(said)[:500] or str(error)


def read(folder: Path) -> dict[str, Any]:
    """The checkpoint of `write`, whole, as a run without FSDP saves it: optimizer states by number."""
    checkpoint = read_values(folder)
    prefix = f"{WEIGHTS}/"
    checkpoint[WEIGHTS] = {name.removeprefix(prefix): t for name, t in read_tensors(folder, prefix=prefix).items()}
    groups_of_all = checkpoint.pop(OPTIMIZERS)
    checkpoint[OPTIMIZERS] = [
        _numbered(read_tensors(folder, prefix=f"{OPTIMIZERS}/{number}/"), groups, prefix=f"{OPTIMIZERS}/{number}/")
        for number, groups in enumerate(groups_of_all)
    ]
    return checkpoint


def _numbered(tensors: dict[str, Tensor], groups: list[dict[str, Any]], *, prefix: str) -> dict[str, Any]:
    """An optimizer's state with numbers for the names of parameters."""
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, quantity = key.removeprefix(prefix).rpartition("/")
        state.setdefault(numbers[name], {})[quantity] = tensor
    return {
        "state": state,
        "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups],
    }


def read_into(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Read the folder of `write`, or the file of a run without FSDP, into a sharded model and its optimizers. Collective.

    Returns:
        The checkpoint without weights and optimizer states.

    Raises:
        ValueError: on all processes: if it is not what was written, weights or states are missing, of another size, or not
            finite.
    """
    _require_undamaged(path)
    checkpoint = (_read_folder_into if is_sharded(path) else _read_file_into)(path, model, optimizers)
    _require_finite(model, path)
    return {**checkpoint, WEIGHTS: {}, OPTIMIZERS: []}


def _require_undamaged(path: Path) -> None:
    """The first process reads it once, and tells all."""
    said = [""]
    if dist.get_rank() == 0:
        try:
            verify(path)
        except (DamagedError, OSError) as error:
            said = [str(error)]
    dist.broadcast_object_list(said)
    if said[0]:
        raise DamagedError(said[0])


def _require_finite(model: nn.Module, path: Path) -> None:
    """Every process looks at its part, and all say the same."""
    local = ((name, p.to_local() if isinstance(p, DTensor) else p) for name, p in model.named_parameters())
    ours = next((name for name, part in local if not part.isfinite().all()), "")
    of_all: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(of_all, ours)
    if broken := next(filter(None, of_all), ""):
        raise ValueError(
            f"{path} holds NaN or infinite weights, such as {broken}: training went wrong before it was saved. Remove it; an "
            "earlier checkpoint, or a new start with a lower learning rate, helps."
        )


def _read_folder_into(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    checkpoint = read_values(path)
    weights = get_model_state_dict(model)
    flat = flatten({WEIGHTS: weights})
    states = [get_optimizer_state_dict(model, optimizer) for optimizer in optimizers]
    groups = checkpoint.pop(OPTIMIZERS)[: len(states)]  # a run that only validates has none
    for number, state in enumerate(states):
        flat |= flatten({f"{OPTIMIZERS}/{number}": state["state"]})
    try:
        dcp.load(flat, storage_reader=HuggingFaceStorageReader(str(path)))
    except CheckpointException as error:
        raise ValueError(f"{path} does not fit this stage, or a part of it is missing: {_words(error)}") from error
    set_model_state_dict(model, weights)
    for optimizer, state, saved in zip(optimizers, states, groups, strict=True):
        set_optimizer_state_dict(model, optimizer, {"state": state["state"], "param_groups": saved})
    return checkpoint


def _read_file_into(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    whole = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, checkpoint.pop(WEIGHTS), options=whole)
    states = checkpoint.pop(OPTIMIZERS)[: len(optimizers)]  # a run that only validates has none
    for optimizer, state in zip(optimizers, states, strict=True):
        ours = cast(Any, get_optimizer_state_dict(model, optimizer)["param_groups"])
        names = [name for group in ours for name in group["params"]]
        named: Any = {
            "state": {names[number]: values for number, values in state["state"].items()},
            "param_groups": [
                {**saved, "params": group["params"]} for saved, group in zip(state["param_groups"], ours, strict=True)
            ],
        }
        set_optimizer_state_dict(model, optimizer, named, options=whole)
    return checkpoint
