"""The list of utterances that every stage reads: where each is, who speaks, and which split it belongs to."""

import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from audiolm import manifest_columns
from audiolm.files import atomic_path, remove, require_inside, require_regular_file
from audiolm.manifest_columns import (
    ColumnsError,
    columns_folder,
    file_digest,
    read_columns,
    text_is_the_same,
    write_columns,
)
from audiolm.strings import CHUNK
from audiolm.utterances import SPLITS, Columns, Split, Utterance, Utterances

__all__ = ["SPLITS", "Manifest", "ManifestError", "Split", "Utterance", "Utterances", "read_manifest", "write_manifest"]

_FORMAT = "audiolm-manifest"
_VERSION = 1
_FIELDS = ("id", "path", "speaker", "split", "start", "samples", "sample_rate_hz", "true_end", "dc_offset")
_LONGEST_HEADER = 2**20  # bytes


class ManifestError(ValueError):
    """A manifest that cannot be read or used. The message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class Manifest:
    """All utterances of a corpus, in the order of the file.

    Attributes:
        root: absolute; utterance paths are relative to it.
        utterances: any sequence is taken, and kept in columns: objects are made when they are asked for.
    """

    root: Path
    utterances: Utterances

    def __init__(self, root: Path, utterances: Sequence[Utterance]) -> None:
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "utterances", Utterances.of(utterances))

    def split(self, name: Split) -> Utterances:
        """The utterances of one split."""
        return self.utterances.split(name)

    def hours(self, name: Split | None = None) -> float:
        """Hours of audio in one split, or in all."""
        return float((self.utterances if name is None else self.split(name)).seconds.sum()) / 3600

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) of the utterances; the root is not part of it, so a corpus may move.

        It is that of the text, line by line; a manifest that was read has it from the file, whose text was compared with it.
        """
        digest = hashlib.sha256()
        for utterance in self.utterances:
            digest.update(_line(utterance))
        return digest.hexdigest()


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write JSON lines: a header with root and digest, then one utterance a line. The file appears whole or not at all.

    From `manifest_columns.FROM_UTTERANCES` on, the same is written as columns, to the folder `<path without suffix>.columns`:
    they are read in a second and shared by the processes of a machine. The text is what counts: columns say which text they
    belong to, and others are not read.

    Raises:
        ManifestError: if two utterances share an id.
        OSError: if the disk cannot take it.
    """
    require_unique_ids(manifest.utterances)
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(manifest, digest="0" * 2 * digest.digest_size))
        for utterance in manifest.utterances:
            file.write(line := _line(utterance))
            digest.update(line)
        file.seek(0)
        file.write(_header(manifest, digest=digest.hexdigest()))
    if len(manifest.utterances) < max(1, manifest_columns.FROM_UTTERANCES):
        remove(columns_folder(path))
    else:
        columns = manifest.utterances.compact().columns
        write_columns(columns_folder(path), columns, manifest=Path(path), manifest_digest=digest.hexdigest())


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines of ASCII (JSON); the file appears whole or not at all.

    Raises:
        OSError: if the disk cannot take it.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def read_manifest(path: str | Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Where its columns stand beside it they are compared with their digests and mapped. The text is compared with its digest, a
    block at a time, unless its size and time say that it is the one the columns were written with (`text_is_the_same`).
    Where there are no columns, or others than this text's, the text is parsed.

    Raises:
        ManifestError: if there is no such file (run `audiolm prepare`), it is of another version, or it was changed or
            cut off since it was written.
    """
    path, again = Path(path), "Run `audiolm prepare` again to rebuild it."
    try:
        require_regular_file(path)
        with open(path, "rb") as file:
            first = file.readline(_LONGEST_HEADER)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ManifestError(f"there is no manifest at {path}: run `audiolm prepare` on your recordings first") from None
    except ValueError as error:
        raise ManifestError(f"{error}: run `audiolm prepare` on your recordings first") from error
    header = _parsed(first)
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ManifestError(f"{path} is not a manifest of this package: its first line is no manifest header. {again}")
    if header.get("version") != _VERSION:
        raise ManifestError(f"{path} has manifest version {header.get('version')}, this code reads {_VERSION}. {again}")
    digest = header.get("digest") if text_is_the_same(path) else file_digest(path, first_byte=len(first))
    if not isinstance(digest, str) or digest != header.get("digest"):
        raise ManifestError(f"{_what_is_wrong(path, header)} {again}")
    try:
        columns = _columns_beside(path, digest) or Columns.of(_utterances_of_text(path))
        utterances = Utterances(columns)
    except ManifestError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ManifestError(f"{_what_is_wrong(path, header)} ({error}) {again}") from error
    if len(utterances) != header.get("utterances") or not _is_root(header.get("root")):
        raise ManifestError(f"the header of {path} does not fit its {len(utterances)} utterances. {again}")
    manifest = Manifest(root=Path(header["root"]), utterances=utterances)
    vars(manifest)["digest"] = digest  # the cached property: it need not be made again from the columns
    return manifest


def _columns_beside(path: Path, digest: str) -> Columns | None:
    try:
        return read_columns(columns_folder(path), manifest_digest=digest)
    except FileNotFoundError:
        return None  # a small manifest has none
    except ColumnsError as error:
        warnings.warn(
            f"the columns of {path} are of no use ({error}): its text is read instead, which takes longer. `audiolm prepare` "
            f"writes them anew; removing {columns_folder(path)} ends this warning.",
            stacklevel=3,
        )
        return None


def _utterances_of_text(path: Path) -> Iterator[Utterance]:
    with open(path, "rb") as file:
        next(file)
        while lines := list(islice(file, CHUNK)):
            rows = json.loads(b"[" + b",".join(lines) + b"]")  # one parse: three times faster than a loop
            yield from (Utterance(*_checked_values(row)) for row in rows)


def _checked_values(row: Any) -> tuple[Any, ...]:
    """The values of a line in the order of `_FIELDS`, which the digest does not vouch for: anyone can compute one."""
    if type(row) is not dict or tuple(row) != _FIELDS:
        raise ManifestError(
            f"a line of the manifest is not an utterance: {str(row)[:80]}. Run `audiolm prepare` again."
        )
    values = id_, path, speaker, split, start, samples, rate, true_end, dc = tuple(row.values())
    sound = (
        type(id_) is type(path) is type(speaker) is str
        and split in SPLITS
        and type(start) is type(samples) is type(rate) is int
        and 0 <= start < 2**48
        and 0 < samples < 2**48
        and 0 < rate < 2**31
        and type(true_end) is bool
        and type(dc) in (int, float)
        and -10 <= dc <= 10
    )
    if not sound:
        raise ManifestError(
            f"the utterance {str(id_)[:80]!r} has values that none can have. Run `audiolm prepare` again."
        )
    try:
        require_inside(path, what=f"the path of {id_[:80]!r}")
        require_inside(id_, what="an utterance's id, which names files,")
    except ValueError as error:
        raise ManifestError(f"{error}. Run `audiolm prepare` again.") from error
    return values


def _is_root(root: Any) -> bool:
    return isinstance(root, str) and root.startswith("/") and "\0" not in root


def require_unique_ids(utterances: Utterances) -> None:
    """Stop where two utterances share an id.

    Raises:
        ManifestError: naming the id and both files.
    """
    hashes = np.fromiter(map(hash, utterances.ids()), np.int64, len(utterances))  # of millions of ids, 8 bytes each
    in_order = np.sort(hashes)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    paths: dict[str, str] = {}
    for row in np.flatnonzero(np.isin(hashes, repeated)).tolist() if len(repeated) else []:
        utterance = utterances[row]
        if utterance.id in paths:
            raise ManifestError(
                f"two utterances have the id {utterance.id!r}: one of {paths[utterance.id]}, one of {utterance.path}. "
                "Rename or remove one of the files."
            )
        paths[utterance.id] = utterance.path


def split_speakers(speakers: Iterable[str], *, validation: float = 0.05, test: float = 0.05) -> dict[str, Split]:
    """Assign every speaker to a split by a stable hash, so that nobody is in two and the same person never moves.

    From 20 speakers on, the hash in [0, 1) alone decides: below `test` is test, the next `validation` is validation.
    Where that leaves a split empty, or with fewer speakers, the k lowest hashes are test and the next k validation,
    with k = max(1, round(share * speakers)) but never so many that nobody is left for training.

    Raises:
        ValueError: with fewer than 3 speakers, or shares that are not positive or leave nothing to train on.
    """
    if validation <= 0 or test <= 0 or validation + test >= 1:
        raise ValueError(f"validation ({validation}) and test ({test}) shares must be positive and sum to less than 1")
    position = {speaker: _hash(speaker) for speaker in speakers}
    if len(position) < 3:
        raise ValueError(f"three splits need at least 3 speakers, got {len(position)}")
    if len(position) >= 20:
        by_threshold: dict[str, Split] = {
            speaker: "test" if at < test else "validation" if at < test + validation else "train"
            for speaker, at in position.items()
        }
        if set(by_threshold.values()) == set(SPLITS):
            return by_threshold
    most = (len(position) - 1) // 2  # two such splits leave at least one speaker
    tests, validations = (min(most, max(1, round(share * len(position)))) for share in (test, validation))
    ranked = sorted(position, key=lambda speaker: (position[speaker], speaker))
    rank = {speaker: index for index, speaker in enumerate(ranked)}
    return {
        speaker: "test" if rank[speaker] < tests else "validation" if rank[speaker] < tests + validations else "train"
        for speaker in position
    }


def _hash(name: str) -> float:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _header(manifest: Manifest, *, digest: str) -> bytes:
    header = {"format": _FORMAT, "version": _VERSION, "root": str(manifest.root), "digest": digest}
    return (json.dumps({**header, "utterances": len(manifest.utterances)}) + "\n").encode("ascii")


def _line(utterance: Utterance) -> bytes:
    return (json.dumps({name: getattr(utterance, name) for name in _FIELDS}) + "\n").encode("ascii")


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _what_is_wrong(path: Path, header: dict) -> str:
    number = 1
    with open(path, "rb") as lines:
        next(lines)
        for number, line in enumerate(lines, start=2):
            row = _parsed(line)
            if not isinstance(row, dict) or tuple(row) != _FIELDS:
                return f"line {number} of {path} is not an utterance: {line[:80]!r}."
    if number - 1 != header.get("utterances"):
        return (
            f"{path} announces {header.get('utterances')} utterances but holds {number - 1}: it was cut off or edited."
        )
    return f"{path} was edited since it was written: its digest does not fit its lines."
