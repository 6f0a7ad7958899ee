"""The list of utterances that every stage reads: where each is, who speaks, and which split it belongs to."""

import functools
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from audiolm.files import atomic_path, require_inside, require_regular_file

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_FORMAT = "audiolm-manifest"
_VERSION = 1
_FIELDS = ("id", "path", "speaker", "split", "start", "samples", "sample_rate_hz", "true_end", "dc_offset")


class ManifestError(ValueError):
    """A manifest that cannot be read or used. The message names the file, the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of one audio file."""

    id: str  # unique in the manifest: path without suffix, and @start if the recording was cut
    path: str  # relative to the corpus root, with /
    speaker: str
    split: Split
    start: int  # first sample, at the file's own rate
    samples: int  # at the file's own rate
    sample_rate_hz: int  # the file's own
    true_end: bool  # False where a long recording was cut at no pause: nobody stopped speaking there
    dc_offset: float  # constant to subtract from every sample

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate_hz


@dataclass(frozen=True)
class Manifest:
    """All utterances of a corpus, in the order of the file."""

    root: Path  # absolute; utterance paths are relative to it
    utterances: tuple[Utterance, ...]

    def split(self, name: Split) -> tuple[Utterance, ...]:
        """The utterances of one split."""
        return tuple(utterance for utterance in self.utterances if utterance.split == name)

    def hours(self, name: Split | None = None) -> float:
        """Hours of audio in one split, or in all."""
        return sum(u.seconds for u in self.utterances if name in (None, u.split)) / 3600

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) of the utterances; the root is not part of it, so a corpus may move."""
        return _digest("".join(_line(utterance) + "\n" for utterance in self.utterances).encode("ascii"))


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write JSON lines: a header with root and digest, then one utterance a line. The file appears whole or not at all.

    Raises:
        ManifestError: if two utterances share an id.
        OSError: if the disk cannot take it.
    """
    require_unique_ids(manifest.utterances)
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "root": str(manifest.root),
        "digest": manifest.digest,
        "utterances": len(manifest.utterances),
    }
    write_lines(path, (json.dumps(header), *map(_line, manifest.utterances)))


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines of ASCII (JSON); the file appears whole or not at all.

    Raises:
        OSError: if the disk cannot take it.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def read_manifest(path: str | Path) -> Manifest:
    """Read what `write_manifest` wrote; about 1 second for 200,000 utterances.

    Raises:
        ManifestError: if there is no such file (run `audiolm prepare`), it is of another version, or it was changed or
            cut off since it was written.
    """
    try:
        require_regular_file(path)
        content = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"there is no manifest at {path}: run `audiolm prepare` on your recordings first") from None
    except ValueError as error:
        raise ManifestError(f"{error}: run `audiolm prepare` on your recordings first") from error
    first, _, body = content.partition(b"\n")
    again = "Run `audiolm prepare` again to rebuild it."
    header = _parsed(first)
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ManifestError(f"{path} is not a manifest of this package: its first line is no manifest header. {again}")
    if header.get("version") != _VERSION:
        raise ManifestError(f"{path} has manifest version {header.get('version')}, this code reads {_VERSION}. {again}")
    if _digest(body) != header.get("digest"):
        raise ManifestError(f"{_what_is_wrong(path, body, header)} {again}")
    rows = _rows(body, path)
    intern = sys.intern  # a few thousand speakers and files name hundreds of thousands of utterances
    utterances = tuple(
        Utterance(id_, intern(file), intern(speaker), intern(split), start, samples, rate, true_end, dc)  # type: ignore[arg-type]
        for id_, file, speaker, split, start, samples, rate, true_end, dc in map(_checked_values, rows)
    )
    if len(utterances) != header.get("utterances") or not _is_root(header.get("root")):
        raise ManifestError(f"the header of {path} does not fit its {len(utterances)} utterances. {again}")
    require_unique_ids(utterances)
    return Manifest(root=Path(header["root"]), utterances=utterances)


def _rows(body: bytes, path: str | Path) -> list[Any]:
    try:
        rows = json.loads(
            b"[" + body.rstrip(b"\n").replace(b"\n", b",") + b"]"
        )  # one parse: three times faster than a loop
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not JSON lines ({str(error)[:200]}). Run `audiolm prepare` again.") from error
    return rows


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


def require_unique_ids(utterances: Iterable[Utterance]) -> None:
    """Stop where two utterances share an id.

    Raises:
        ManifestError: naming the id and both files.
    """
    paths: dict[str, str] = {}
    for utterance in utterances:
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


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _line(utterance: Utterance) -> str:
    return json.dumps({name: getattr(utterance, name) for name in _FIELDS})


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _what_is_wrong(path: str | Path, body: bytes, header: dict) -> str:
    lines = body.splitlines()
    for number, line in enumerate(lines, start=2):
        row = _parsed(line)
        if not isinstance(row, dict) or tuple(row) != _FIELDS:
            return f"line {number} of {path} is not an utterance: {line[:80]!r}."
    if len(lines) != header.get("utterances"):
        return (
            f"{path} announces {header.get('utterances')} utterances but holds {len(lines)}: it was cut off or edited."
        )
    return f"{path} was edited since it was written: its digest does not fit its lines."
