"""Checkpoints that can be told from damaged ones: sha256 beside a file, or inside a folder, in the format of `sha256sum`."""

import contextlib
import errno
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from audiolm.files import atomic_path, remove
from audiolm.untrusted.tensor_files import require_plain_zip

FOLDER_LIST = "SHA256SUMS"  # inside a folder: one line for each of its files
CHUNK_BYTES = 1 << 22


class DamagedError(ValueError):
    """A checkpoint is not what was written: truncated, altered, or a part of it is missing. The message says which."""


def sidecar(path: Path) -> Path:
    """Where the checksum of the file `path` stands."""
    return path.with_name(f"{path.name}.sha256")


@contextlib.contextmanager
def sealed_path(path: Path | str) -> Iterator[Path]:
    """`atomic_path` for what must survive a power cut and be told from damaged: synced to the disk and given a checksum.

    Raises:
        OSError: the block's own error; a full disk is said in words, with the path.
    """
    with atomic_path(path, publish=publish) as temporary:
        yield temporary


def publish(temporary: Path, path: Path) -> None:
    """Give what stands whole under `temporary` its final name on the same disk, with checksums, replacing what is there.

    The old checksum goes before the old file does and the new one comes after the new file, so that a kill at any instant
    leaves a whole file with its own checksum or with none, which `verify` accepts. A folder carries its checksums inside.
    """
    digest = None
    if temporary.is_dir():
        _write_list(temporary)
    else:
        digest = _synced_digest(temporary)
    sidecar(path).unlink(missing_ok=True)
    outgoing = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.is_dir() or (path.exists() and temporary.is_dir()):
        os.rename(path, outgoing)
    os.replace(temporary, path)
    _sync(path.parent)
    if digest is not None:
        with atomic_path(sidecar(path)) as written:
            written.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
            _sync(written)
        _sync(path.parent)
    remove(outgoing)


def discard(path: Path) -> None:
    """Remove a checkpoint with its checksum. A kill in between leaves nothing that could be taken for a checkpoint."""
    if path.is_dir():
        outgoing = path.with_name(f".{path.name}.{os.getpid()}.part")
        os.rename(path, outgoing)
        path = outgoing
    remove(path)
    sidecar(path).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Clear what killed writers left in a folder: half-written things, and checksums without their file. Whole folders that
    `publish` was about to replace get their names back. Hidden files that others named are left alone."""
    for left in folder.glob(".*"):
        if whole := re.fullmatch(r"\.(.+)\.\d+\.old", left.name):
            path = folder / whole[1]
            if path.exists():
                remove(left)
            else:
                os.rename(left, path)
        elif re.fullmatch(r"\..+\.(ckpt|\d+)\.part", left.name):
            remove(left)
    for sums in folder.glob("*.ckpt.sha256"):
        if not sums.with_suffix("").exists():
            sums.unlink()


def verify(path: Path | str) -> bool:
    """Read a checkpoint once and compare it with its checksums.

    Returns:
        Whether there was a checksum. A file without one (from elsewhere, or its writer was killed before the checksum came)
        is accepted if torch's own sums over its parts hold.

    Raises:
        FileNotFoundError: if it is not there.
        DamagedError: naming the file, and whether it is truncated, altered or missing.
    """
    path = Path(path)
    if path.is_dir():
        _verify_folder(path)
        return True
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    if not sidecar(path).exists():
        _verify_archive(path)
        return False
    expected = sidecar(path).read_text(encoding="utf-8", errors="replace").split()
    if not expected or len(expected[0]) != 64:
        raise DamagedError(f"{sidecar(path)} holds no sha256. Remove it if you trust {path.name}.")
    if _digest(path) != expected[0]:
        raise DamagedError(
            f"{path} is damaged: its {path.stat().st_size} bytes are not those that {sidecar(path).name} was made of "
            "(truncated or altered). If you replaced it on purpose, remove that file."
        )
    return True


def _verify_folder(folder: Path) -> None:
    if not (folder / FOLDER_LIST).is_file():
        raise DamagedError(f"{folder} is incomplete: it has no {FOLDER_LIST}, which is written last.")
    listed = {}
    for line in (folder / FOLDER_LIST).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present = {str(file.relative_to(folder)) for file in _files(folder)}
    if missing := sorted(listed.keys() - present):
        raise DamagedError(f"{folder} is incomplete: {', '.join(missing)} is missing.")
    for name, digest in listed.items():
        if _digest(folder / name) != digest:
            raise DamagedError(f"{folder / name} is damaged: its bytes are not those that {FOLDER_LIST} was made of.")


def _verify_archive(path: Path) -> None:
    try:
        require_plain_zip(path)  # nothing that unpacks to more than it is
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise DamagedError(f"{path} cannot be read as a checkpoint: {error}. It is damaged, or truncated.") from error
    if damaged is not None:
        raise DamagedError(f"{path} is damaged: its part {damaged} is not what was written.")


def _write_list(folder: Path) -> None:
    lines = [f"{_synced_digest(file)}  {file.relative_to(folder)}\n" for file in _files(folder)]
    (folder / FOLDER_LIST).write_text("".join(lines), encoding="utf-8")
    _sync(folder / FOLDER_LIST)
    _sync(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != FOLDER_LIST)


def _synced_digest(path: Path) -> str:
    _sync(path)
    return _digest(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network disks cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
