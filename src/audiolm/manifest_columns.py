"""A manifest's columns beside its text: what makes four million utterances readable in a second."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from audiolm.files import atomic_path, read_json, require_inside, write_json
from audiolm.strings import Strings
from audiolm.untrusted.tensor_files import read_npy
from audiolm.utterances import SPLITS, Columns

FORMAT = 1
RACY_SECONDS = 2.0  # a text edited so shortly after it was written may bear the same time on a coarse file system
FROM_UTTERANCES = 50_000  # a smaller manifest is read as quickly from its text
BLOCK = 2**22  # bytes


class ColumnsError(ValueError):
    """Columns that are not those of the manifest beside them, or not whole."""


def columns_folder(manifest: Path | str) -> Path:
    """Where the columns of a manifest lie."""
    return Path(manifest).with_suffix(".columns")


def file_digest(path: Path, *, first_byte: int = 0) -> str:
    """sha256 (hex) of a file from a byte on; no more than `BLOCK` of it is in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(first_byte)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_columns(folder: Path, columns: Columns, *, manifest: Path, manifest_digest: str) -> None:
    """Write a `.npy` file for each array and `columns.json`, which says what they belong to; all appear at once.

    Args:
        manifest: the text, as it stands on the disk.
        manifest_digest: that of its utterances.

    Raises:
        OSError: if the disk cannot take it.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, array in columns.arrays().items():
            np.save(temporary / f"{name}.npy", array)
        digests = {path.name: file_digest(path) for path in sorted(temporary.glob("*.npy"))}
        said = {"format": FORMAT, "manifest": manifest_digest, "text": _size_and_time(manifest), "sha256": digests}
        write_json(temporary / "columns.json", said)


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def text_is_the_same(manifest: Path) -> bool:
    """Whether size and time alone say that a manifest's text is the one that its columns were written beside.

    They do if they are unchanged and the columns were finished so much later that any edit since must bear another time. Else
    the text has to be compared with its digest, which takes a second for a gigabyte.
    """
    try:
        path = columns_folder(manifest) / "columns.json"
        said = read_json(path, made_by="`audiolm prepare`")
        size_and_time = _size_and_time(manifest)
        return said["text"] == size_and_time and path.stat().st_mtime_ns - size_and_time[1] > RACY_SECONDS * 1e9
    except (KeyError, TypeError, ValueError, OSError):
        return False


def read_columns(folder: Path, *, manifest_digest: str) -> Columns:
    """Map what `write_columns` wrote. Every byte is compared with its digest, but only what is used stays in memory.

    Raises:
        FileNotFoundError: if there are none.
        ColumnsError: if they belong to another manifest, or are damaged or not whole.
    """
    try:
        said = read_json(folder / "columns.json", made_by="`audiolm prepare`")
        if said["format"] != FORMAT or said["manifest"] != manifest_digest:
            raise ColumnsError("they were written for another manifest")
        paths = sorted(folder / require_inside(name, what="a column's file") for name in said["sha256"])
        with ThreadPoolExecutor(4) as threads:  # hashing lets other threads run
            found = dict(zip([path.name for path in paths], threads.map(file_digest, paths), strict=True))
        if found != said["sha256"]:
            raise ColumnsError("they were changed or cut off since they were written")
        columns = Columns.from_arrays({path.stem: read_npy(path) for path in paths})
        _require_sound(columns)
        return columns
    except FileNotFoundError:
        if (folder / "columns.json").exists():
            raise ColumnsError("a file of them is missing") from None
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise error if isinstance(error, ColumnsError) else ColumnsError(f"they cannot be read: {error}") from error


def _require_sound(columns: Columns) -> None:
    """Check what a digest does not vouch for, because anyone can compute one: that all that is read lies inside.

    Raises:
        ColumnsError: naming the column.
    """
    numbers, count = columns.numbers, len(columns.ids)
    most = {"path": len(columns.names["path"]), "speaker": len(columns.names["speaker"]), "split": len(SPLITS)}
    ranges = {name: (0, limit - 1) for name, limit in most.items()}
    ranges |= {"start": (0, 2**48), "samples": (1, 2**48), "sample_rate_hz": (1, 2**31), "dc_offset": (-10, 10)}
    for name, column in numbers.items():
        low, high = ranges.get(name, (0, 1))
        if column.shape != (count,) or (count and not (low <= column.min() and column.max() <= high)):
            raise ColumnsError(f"{name} holds values that none can have")
    for name, strings in (("id", columns.ids), ("path", columns.names["path"]), ("speaker", columns.names["speaker"])):
        ends = strings.ends
        if len(ends) and (ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] > len(strings.bytes)):
            raise ColumnsError(f"{name} has strings that end outside of its bytes")
        if name != "speaker":
            _require_names_inside(name, strings)


def _require_names_inside(name: str, strings: Strings) -> None:
    """Names lead nowhere but below the corpus; only those that could lead elsewhere are looked at one by one."""
    content, ends = strings.bytes, strings.ends
    dots = np.flatnonzero((content[:-1] == ord(".")) & (content[1:] == ord(".")))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    first = content[np.minimum(starts, max(0, len(content) - 1))] if len(content) else content
    absolute = np.flatnonzero((starts == ends) | (first == ord("/"))) if len(ends) else starts[:0]
    nothing = np.searchsorted(ends, np.flatnonzero(content == 0), side="right")
    for row in {*np.searchsorted(ends, dots, side="right").tolist(), *absolute.tolist(), *nothing.tolist()}:
        require_inside(strings[row], what=f"{name} of a column")
