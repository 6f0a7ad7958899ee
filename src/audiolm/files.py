"""Writing files so that nothing half-written ever stands under its final name, and reading those that others wrote."""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # a full disk, a used-up quota
# A file system takes names of 255 bytes; the temporary name of `atomic_path` is the longest, with a process id up to 2**22.
LONGEST_NAME_BYTES = 255 - len(f"..{2**22}.part")


@contextlib.contextmanager
def atomic_path(path: Path | str, *, publish: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; rename it to `path` if the block succeeds, remove it if not.

    Works for files and for folders: whatever stands under the temporary name at the end is renamed. An existing folder is
    first moved out of the way, so a reader sees the old one, for an instant none, or the new one, never a mixture.

    Args:
        publish: gives what stands under the temporary name (its first argument) the final one, by default by renaming.

    Raises:
        OSError: the block's own error; a full disk is said in words, with the path, whatever the block made of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove(temporary)
    try:
        yield temporary
        (publish or _rename)(temporary, path)
    except Exception as error:
        if found_no_room(error, folder=path.parent):
            raise disk_full(path) from error
        raise
    finally:
        remove(temporary)


def _rename(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        outgoing = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.rename(path, outgoing)
        os.rename(temporary, path)
        remove(outgoing)
    else:
        os.replace(temporary, path)


def remove_leftovers(path: Path | str) -> None:
    """Remove what processes of this machine that were killed inside `atomic_path(path)` left beside it."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        found = re.fullmatch(r"(\d+)\.(part|old)", left.name.removeprefix(f".{path.name}."))
        if found and not _runs(int(found[1])):
            remove(left)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def found_no_room(error: BaseException, *, folder: Path) -> bool:
    """Whether a write failed because the disk is full or a quota used up.

    Not every library says so: torch and numpy report that fewer bytes were written, so then the disk itself is asked. To be
    called while what was half-written still stands.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return True
        if any(os.strerror(number) in str(cause) for number in NO_ROOM):  # safetensors has no error number
            return True
        cause = cause.__cause__ or cause.__context__
    without_number = isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)
    disk = os.statvfs(folder)
    return without_number and disk.f_bavail * disk.f_frsize < 2**16  # files are written by less than 64 KiB at a time


def disk_full(path: Path | str) -> OSError:
    """The error to raise where a write found no room: names the path and the remedy, keeps the error number."""
    return OSError(
        errno.ENOSPC,
        "The disk is full, or your quota used up. Everything finished before is kept: free some space (or point RUN= at another "
        "disk) and run the same command again",
        str(path),
    )


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


MOST_JSON_BYTES = 16 * 2**20  # parsed, JSON takes up to twenty times as much memory


def read_json(path: Path | str, *, made_by: str) -> Any:
    """Read a JSON file that one of our own commands wrote.

    Args:
        made_by: the command that writes this file, for the error message.

    Raises:
        FileNotFoundError: if it is not there, naming `made_by`.
        ValueError: if it is not JSON, or larger than any that our commands write.
    """
    path = Path(path)
    try:
        size = require_regular_file(path)
        if size > MOST_JSON_BYTES:
            raise ValueError(f"it has {size} bytes, at most {MOST_JSON_BYTES} are read")
        return parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is not there. {made_by} writes it.") from None
    except ValueError as error:  # bytes that are no UTF-8, too
        raise ValueError(f"{path} is not valid JSON ({error}). Remove it and run {made_by} again.") from error


def parse_json(text: bytes | str) -> Any:
    """Parse JSON as our own commands write it.

    Raises:
        ValueError: if it is not JSON, nested too deeply, or holds NaN, an infinity or a number of thousands of digits.
    """
    try:
        return json.loads(text, parse_constant=_refused_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refused_constant(constant: str) -> Any:
    raise ValueError(f"it holds {constant}, which is not JSON")


def require_regular_file(path: Path | str) -> int:
    """The size in bytes of an ordinary file. Anything else could keep a reader waiting for ever, or never end.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it is a folder, a pipe, a socket or a device.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no ordinary file (a folder, pipe or device): name a file")
    return found.st_size


def require_inside(name: str, *, what: str) -> str:
    """Check that a relative path leads nowhere but below the folder that it will be joined to; links are not looked at.

    Args:
        what: what the name is and where it stands, for the message.

    Returns:
        The name.

    Raises:
        ValueError: for an empty or absolute path, one with a part `..`, or one that no file can have.
    """
    if not isinstance(name, str) or not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"{what} is {str(name)[:200]!r}: it must be a relative path without `..`, below its folder")
    return name


def set_aside(path: Path) -> Path:
    """Move a file or folder out of the way, to `<name>.before-1` or the next free number; returns where it is now."""
    number = 1
    while (target := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    os.rename(path, target)
    return target
