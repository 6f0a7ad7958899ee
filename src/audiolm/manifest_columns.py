"""A manifest's columns beside its text: what makes four million utterances readable in a second."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from audiolm.files import atomic_path, read_json, write_json
from audiolm.utterances import Columns

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
        paths = sorted(folder / name for name in said["sha256"])
        with ThreadPoolExecutor(4) as threads:  # hashing lets other threads run
            found = dict(zip([path.name for path in paths], threads.map(file_digest, paths), strict=True))
        if found != said["sha256"]:
            raise ColumnsError("they were changed or cut off since they were written")
        return Columns.from_arrays({path.stem: np.load(path, mmap_mode="r") for path in paths})
    except FileNotFoundError:
        if (folder / "columns.json").exists():
            raise ColumnsError("a file of them is missing") from None
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise error if isinstance(error, ColumnsError) else ColumnsError(f"they cannot be read: {error}") from error
