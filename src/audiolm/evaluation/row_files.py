"""Folders of measurements: whose they are, and rows that survive a kill, a file of the evaluation at a time."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from audiolm.files import atomic_path, parse_json, read_json, write_json


def claim(out: Path, about: Mapping[str, Any], *, verb: str, files: Sequence[str] = ("files.csv",)) -> None:
    """Make `out` the folder of these measurements, or stop if it is that of others.

    Args:
        about: everything the numbers depend on, as plain JSON values.
        verb: of `audiolm evaluate`, for the message.
        files: what a folder of measurements holds; where none is there, the folder is free.

    Raises:
        ValueError: naming the settings that differ.
    """
    require_claimable(out, about, verb=verb, files=files)
    if not (out / "settings.json").exists():
        write_json(out / "settings.json", dict(about))


def require_claimable(out: Path, about: Mapping[str, Any], *, verb: str, files: Sequence[str] = ("files.csv",)) -> None:
    """Stop where `claim` would, and write nothing: to be asked before audio is made for hours.

    Args:
        about: of what `claim` is going to be told, as much as is known by now. The others are `claim`'s.

    Raises:
        ValueError: naming the settings that differ.
    """
    path = out / "settings.json"
    if not path.exists() and not any((out / name).exists() for name in files):
        return
    theirs = read_json(path, made_by=f"`audiolm evaluate {verb}`")
    differing = [name for name in about if not isinstance(theirs, dict) or theirs.get(name) != about[name]]
    if differing:
        raise ValueError(
            f"{out} holds measurements of other things: {', '.join(differing)} differ (see {path}). Numbers of different "
            "models, audio or settings are not mixed: give another folder with --out, or remove this one."
        )


def start_rows(path: Path, rows: Iterable[Any], *, kind: type) -> None:
    """Write the header of a dataclass and the rows that are there already; the file appears whole or not at all."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(asdict(row).values() for row in rows)


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Add rows, dataclasses, and see them to the disk.

    Raises:
        OSError: if the disk cannot take them.
    """
    with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(asdict(row).values() for row in rows)
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines below the header, each with its number; none without a file; half a line that a killed run left is dropped."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        whole, _, _ = file.read().rpartition("\n")
    yield from enumerate(csv.DictReader(io.StringIO(whole, newline="")), start=2)


def whole_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """What each line of a file of JSON lines holds, with its number; none without a file; half a line is dropped.

    Raises:
        ValueError: naming the line, if it is no JSON.
    """
    if not path.exists():
        return
    whole, _, _ = path.read_text(encoding="utf-8", errors="surrogateescape").rpartition("\n")
    for number, line in enumerate(whole.split("\n") if whole else [], start=1):
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise unreadable(path, number) from error


def unreadable(path: Path, number: int) -> ValueError:
    """The error for a line that no run of ours wrote."""
    return ValueError(
        f"line {number} of {path} cannot be read: it was edited or damaged. Remove the file and measure again."
    )
