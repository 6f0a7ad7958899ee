"""Tensors from files that a stranger may have written: no code of theirs runs, and memory is bounded by the file's size."""

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiolm.errors import is_out_of_memory
from audiolm.files import parse_json, require_regular_file

MOST_HEADER_BYTES = 4 * 2**20  # of a safetensors file; 40,000 tensors, the largest model here has a thousand
MOST_PICKLE_BYTES = 64 * 2**20  # of a torch file: names, shapes and plain values; the tensors stand elsewhere
MOST_RECORDS = 2**18
MOST_NODES = 2**20  # lists, dicts and values of a torch file; a pickle of a few bytes can mean any number of them
MOST_DEPTH = 64
MOST_SHARING = 4  # a weight may be listed twice and stand there once


def read_torch(path: Path | str) -> Any:
    """Read what `torch.save` wrote: tensors and plain values, nothing else.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: in a few words, without the remedy: if it is damaged, compressed, of torch before 1.6, would run code, or
            claims more than the file has bytes.
    """
    size = require_regular_file(path)
    require_plain_zip(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what stands in the file decides what goes wrong in there
        if is_out_of_memory(error):
            raise
        raise ValueError(_first_line(error)) from error
    held = 0
    for tensor in _tensors(content):
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"it holds a tensor of layout {tensor.layout} on {tensor.device}, not plain numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} stands in {tensor.untyped_storage().nbytes()} bytes"
            )
        held += tensor.numel() * tensor.element_size()
    if held > MOST_SHARING * size:
        raise ValueError(f"its tensors have {held} bytes, the file {size}: many stand in one place")
    return content


def require_plain_zip(path: Path | str) -> None:
    """Check the outside of what `torch.save` wrote: else a few kilobytes could ask for any amount of memory.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: in a few words, if a record is compressed, or claims more than the file has bytes.
    """
    size = require_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:
        raise ValueError(f"not a file of torch.save ({_first_line(error)})") from error
    if len(records) > MOST_RECORDS:
        raise ValueError(f"it has {len(records)} records, at most {MOST_RECORDS} are read")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise ValueError(f"its record {record.filename[:80]!r} is compressed, which torch.save never does")
        if record.filename.endswith(".pkl") and record.file_size > MOST_PICKLE_BYTES:
            raise ValueError(
                f"{record.filename[:80]!r} has {record.file_size} bytes, at most {MOST_PICKLE_BYTES} are read"
            )
    claimed = sum(record.file_size for record in records)
    if claimed > size:
        raise ValueError(f"its records claim {claimed} bytes, the file has {size}")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists and dicts.

    Raises:
        ValueError: for more values, or deeper ones, than a file should have; also where a list holds itself.
    """
    left, nodes = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        nodes += 1
        if nodes > MOST_NODES or depth > MOST_DEPTH:
            raise ValueError(f"it holds more than {MOST_NODES} values, or nests them deeper than {MOST_DEPTH}")
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            left += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, (list, tuple, set)):
            left += [(item, depth + 1) for item in value]


def read_npy(path: Path | str) -> NDArray[Any]:
    """Map an array that `numpy.save` wrote, read-only: nothing is read before it is used.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: in a few words, if it is damaged, cut off, holds objects, or is not one array.
    """
    size = require_regular_file(path)
    if not size:
        raise ValueError("it is empty")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy's parser of the header raises what it meets
        raise ValueError(_first_line(error)) from error


Shapes = dict[str, tuple[tuple[int, ...], str]]


def safetensors_shapes(path: Path | str) -> Shapes:
    """Shape and type ("F32", …) of every tensor of a safetensors file, by name. No tensor is read.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: in a few words, if the header is too large or damaged. What it says of the data, `safetensors` checks.
    """
    size = require_regular_file(path)
    with open(path, "rb") as file:
        first = file.read(8)
        header_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= header_bytes <= min(MOST_HEADER_BYTES, size - 8):
            raise ValueError(f"its header claims {header_bytes} bytes of {size}, at most {MOST_HEADER_BYTES} are read")
        header = parse_json(file.read(header_bytes))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    return {name: (_shape(name, entry), str(entry["dtype"])) for name, entry in header.items()}


def _shape(name: str, entry: Any) -> tuple[int, ...]:
    sizes = entry.get("shape") if isinstance(entry, dict) and "dtype" in entry else None
    if not isinstance(sizes, list) or not all(type(value) is int and 0 <= value < 2**48 for value in sizes):
        raise ValueError(f"its header says nothing sensible of {name[:80]!r}")
    return tuple(sizes)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
