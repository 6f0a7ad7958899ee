"""What stands in a sealed store's small files, checked before anything is read where they point to."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiolm.files import MOST_JSON_BYTES, parse_json, require_regular_file
from audiolm.untrusted.tensor_files import read_npy

ROWS_AT_ONCE = 2**18  # of the index, which may be larger than memory


class StoreError(ValueError):
    """A token store that cannot be used as asked."""


@dataclass(frozen=True)
class Sealed:
    """What `sealed.json` says: digest, number of utterances, names of parts and their (units, codes) bytes."""

    digest: str
    utterances: int
    parts: list[str]
    part_bytes: dict[str, list[int]]


def checked_sealed(found: Any, path: Path) -> Sealed:
    """Check the content of `sealed.json`.

    Raises:
        StoreError: naming what is missing or of another kind; a part's name that leads out of the store is.
    """
    names = ("digest", "utterances", "parts", "bytes")
    values = [found.get(name) for name in names] if isinstance(found, dict) else [None] * len(names)
    digest, utterances, parts, part_bytes = values
    sound = {
        "digest": isinstance(digest, str),
        "utterances": is_count(utterances),
        "parts": isinstance(parts, list) and all(isinstance(p, str) and re.fullmatch(r"[\w-]+", p) for p in parts),
        "bytes": isinstance(part_bytes, dict)
        and all(
            isinstance(sizes, list) and len(sizes) == 2 and all(map(is_count, sizes)) for sizes in part_bytes.values()
        ),
    }
    wrong = [name for name, is_sound in sound.items() if not is_sound]
    if not wrong and (set(parts) != set(part_bytes) or len(set(parts)) != len(parts)):  # type: ignore[arg-type]
        wrong = ["parts", "bytes"]
    if wrong:
        raise StoreError(
            f"{path} is damaged: its {', '.join(wrong)} cannot be what sealing wrote. Make the tokens again."
        )
    return Sealed(digest, utterances, parts, part_bytes)  # type: ignore[arg-type]


def checked_index(path: Path, sealed: Sealed, *, dtype: np.dtype[Any], levels: int, splits: int) -> NDArray[Any]:
    """Map `index.npy` and check that every row lies inside its part.

    Args:
        dtype: of a row.
        levels: codes per frame.
        splits: how many there are.

    Returns:
        (utterances,) rows, read-only.

    Raises:
        FileNotFoundError: if it is not there.
        StoreError: naming the first row that points elsewhere, if the index is another than the one that was sealed.
    """
    try:
        index = read_npy(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there: the store was copied in part. Copy it again.") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}). Copy the store again, or make the tokens again.") from error
    if index.dtype != dtype or index.ndim != 1 or len(index) != sealed.utterances:
        raise StoreError(f"{path} is not the index that was sealed. Make the tokens again.")
    bytes_of = np.array([sealed.part_bytes[part] for part in sealed.parts], np.uint64).reshape(-1, 2)
    units_of, frames_of = bytes_of[:, 0] // np.uint64(2), bytes_of[:, 1] // np.uint64(2 * levels)
    for first in range(0, len(index), ROWS_AT_ONCE):
        rows = index[first : first + ROWS_AT_ONCE]
        inside = rows["part"] < len(sealed.parts)
        part = np.where(inside, rows["part"], 0)
        for at, count, there in (("units_at", "units", units_of), ("frames_at", "frames", frames_of)):
            inside &= (rows[at] <= there[part]) & (rows[count] > 0)
            inside &= rows[count] <= there[part] - np.minimum(rows[at], there[part])  # no sum that could overflow
        inside &= (rows["split"] < splits) & (rows["true_end"] <= 1)
        if not inside.all():
            row = first + int(np.argmin(inside))
            raise StoreError(
                f"row {row} of {path} ({index[row]}) points outside of its part, or to a split that is none. The index is "
                "damaged: copy the store again, or make the tokens again."
            )
    return index


def checked_names(path: Path, *, count: int | None, least: int = 0) -> list[str]:
    """Read a file of one JSON text per line.

    Args:
        count: how many there must be; None if only `least` is known.

    Raises:
        StoreError: if it is missing, damaged, or holds another number of lines.
    """
    try:
        require_regular_file(path)
        names = [parse_json(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except (ValueError, OSError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Copy the store again, or make the tokens again.") from error
    if not all(isinstance(name, str) for name in names) or (
        len(names) != count if count is not None else len(names) < least
    ):
        raise StoreError(
            f"{path} holds {len(names)} lines, where {count or least} texts are needed: it is not the one that was sealed."
        )
    return names


def require_in_vocabulary(tokens: NDArray[np.integer[Any]], *, limit: int, what: str) -> None:
    """Check ids read from a part, which no digest covers.

    Raises:
        StoreError: if an id is `limit` or more.
    """
    if tokens.size and int(tokens.max()) >= limit:
        raise StoreError(
            f"{what} hold the id {int(tokens.max())}, the store's spec allows 0 to {limit - 1}: the part is damaged. Copy the "
            "store again, or make the tokens again."
        )


def checked_line(line: bytes, *, texts: Sequence[str], counts: Sequence[str], path: Path) -> dict[str, Any]:
    """Parse a line of a part's list of utterances.

    Args:
        texts, counts: the names of its texts and of its whole numbers; `true_end` is a bool besides.

    Raises:
        StoreError: naming the file, if it is another kind of line.
    """
    try:
        entry = json.loads(line) if len(line) <= MOST_JSON_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(entry, dict) or set(entry) != {*texts, *counts, "true_end"}:
        raise _damaged(path, "a line is no utterance")
    sound = all(isinstance(entry[name], str) for name in texts) and all(is_count(entry[name]) for name in counts)
    if not sound or not isinstance(entry["true_end"], bool):
        raise _damaged(path, "a line holds values of another kind")
    return entry


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is damaged ({why}). Remove its three files; tokenizing redoes them.")


def is_count(value: Any) -> bool:
    """Whether something is a whole number in [0, 2**62)."""
    return type(value) is int and 0 <= value < 2**62
