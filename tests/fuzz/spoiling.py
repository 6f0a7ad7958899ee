"""Mutations that know a format: what is spoilt is wrapped up again so that the reader gets as far as it can."""

import hashlib
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.mutations import BYTES, INTERESTING, change_json, change_value

WORDS = (
    b"1e999999999",
    b"nan",
    b"inf",
    b"-0",
    b"1/3",
    b"1_0",
    b"-1",
    b"9" * 400,
    b"../..",
    b"",
    b"0x10",
    b"1e-99",
    b"\xff",
    b"\0",
)


class Payload:
    """Pickled, it asks for a folder to be made when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def resign(path: Path) -> None:
    """Give a manifest's header the digest and the count of what stands below it, if it is still a header."""
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(header, dict):
        header |= {"digest": hashlib.sha256(body).hexdigest(), "utterances": len(body.splitlines())}
        path.write_bytes(json.dumps(header).encode() + b"\n" + body)


def change_safetensors(path: Path, rng: random.Random) -> None:
    """Spoil the header's values, or the number that says how long it is."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.2:
        path.write_bytes(struct.pack("<Q", rng.choice(INTERESTING)) + header + data)
        return
    header = change_json(header, rng)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def change_checkpoint(path: Path, rng: random.Random, *, payload: Path) -> str:
    """Spoil what a torch file holds: its pickle, a tensor, its configuration, its compression; or put a payload in it."""
    how = rng.choice(
        ("pickle", "pickle", "record", "values", "values", "values", "tensor", "payload", "deflated", "laughs")
    )
    if how in ("pickle", "record", "deflated"):
        _rewrite(path, rng, how)
        return how
    content = torch.load(path, weights_only=True)
    if how == "payload":
        content = rng.choice((Payload(payload), {"state_dict": Payload(payload)}, [content, Payload(payload)]))
    elif how == "laughs":
        content = _laughs(content, rng)
    elif not isinstance(content, dict):
        content = (
            change_value([1], rng) if how == "values" else content.new_zeros(1, 1, 1, 1).expand(10**5, 10**5, 2, 1)
        )
    elif how == "values":
        plain = {key: value for key, value in content.items() if key != "state_dict"}
        changed = change_value(plain, rng)
        content = {**changed, "state_dict": content["state_dict"]} if isinstance(changed, dict) else changed
    else:
        content["state_dict"] = _with_strange_tensor(content["state_dict"], rng)
    try:
        torch.save(content, path)
    except Exception:  # torch cannot write every value; then it cannot come from a file either
        path.write_bytes(b"")
    return how


def _rewrite(path: Path, rng: random.Random, how: str) -> None:
    """Write the archive again, checksums and all, with one record spoilt or everything compressed."""
    content, buffer = zipfile.ZipFile(io.BytesIO(path.read_bytes())), io.BytesIO()
    records = content.infolist()
    pickles = [record.filename for record in records if record.filename.endswith("data.pkl")]
    spoilt = pickles[0] if how == "pickle" else rng.choice(records).filename
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED) as archive:
        for record in records:
            data = content.read(record)
            if record.filename == spoilt and how != "deflated":
                data = rng.choice(BYTES)(data, rng)
            archive.writestr(record.filename, data)
    path.write_bytes(buffer.getvalue())


def _with_strange_tensor(weights: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    name = rng.choice(list(weights))
    strange = (
        torch.zeros(1).expand(10**9),  # eight gigabytes in four bytes
        torch.zeros(10**5, device="meta"),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(0),
        torch.full((2, 2), float("nan")),
        "text",
        None,
        torch.nn.Parameter(torch.zeros(2)),
    )
    return {**weights, name: rng.choice(strange)}


def _laughs(content: Any, rng: random.Random) -> Any:
    """A few bytes that mean very many values, or one that holds itself."""
    value: list[Any] = ["ha"]
    for _ in range(40):
        value = [value] * 8
    if rng.random() < 0.5:
        value = []
        value.append(value)
    if not isinstance(content, dict):
        return value
    return {**content, "audiolm": {**content["audiolm"], "config": {"kind": value}}}


def change_words(content: bytes, rng: random.Random) -> bytes:
    """Replace words of a table."""
    lines = [line.split(b"\t") if b"\t" in line else line.split(b" ") for line in content.split(b"\n")]
    separator = b"\t" if b"\t" in content else b" "
    for _ in range(rng.choice((1, 1, 2, 5))):
        line = rng.choice(lines)
        line[rng.randrange(len(line))] = rng.choice(WORDS)
    return b"\n".join(separator.join(line) for line in lines)


def resign_columns(folder: Path) -> None:
    """Make the digests in columns.json those of the arrays, if it still is what it was."""
    try:
        said = json.loads((folder / "columns.json").read_text())
        said["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in said["sha256"]}
        (folder / "columns.json").write_text(json.dumps(said))
    except (ValueError, TypeError, KeyError, OSError):
        return
