"""TokenStore: units and codes of a whole corpus, memory-mapped; append-only while written, immutable once sealed.

    tokens/
      spec.json               what the tokens are and what made them
      parts/<writer>.units    uint16, one utterance after the other
      parts/<writer>.codes    uint16, (frames, levels) of one utterance after the other
      parts/<writer>.jsonl    one line per utterance that stands whole in the two files above
      index.npy ids.txt speakers.txt sealed.json        written when every utterance is there

A line of the index is written after its tokens, so a killed writer leaves whole utterances or nothing. A writer never
appends to another's files: a continued run opens files of its own.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiolm.files import atomic_path, disk_full, found_no_room, read_json, write_json
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store_checks import (
    StoreError,
    checked_index,
    checked_line,
    checked_names,
    checked_sealed,
    require_in_vocabulary,
)

FORMAT = 1
SPLITS = ("train", "validation", "test")
MADE_BY = "The tokenize stage (`make tokens`, or `lightning predict -c stages/tokenize.yaml`)"

INDEX_TYPE = np.dtype(
    [
        ("part", "<u4"),
        ("units_at", "<u8"),
        ("units", "<u4"),
        ("frames_at", "<u8"),
        ("frames", "<u4"),
        ("speaker", "<u4"),
        ("split", "u1"),
        ("true_end", "u1"),
    ]
)
_INDEX_ROW = struct.Struct("<IQIQIIBB")  # the same, packed
TEXTS, COUNTS = ("id", "speaker", "split"), ("units_at", "units", "frames_at", "frames")  # of an Entry
OPEN_FILES = 512  # of a reader at most: two a part, and a process may usually open 1024


@dataclass(frozen=True)
class Entry:
    """One utterance of a part: where its tokens stand. Counts are units and frames, not bytes."""

    id: str
    speaker: str
    split: str
    true_end: bool
    units_at: int
    units: int
    frames_at: int
    frames: int


def create_store(folder: Path | str, spec: TokenSpec, made_by: dict[str, Any]) -> None:
    """Start a store, or check that the one that stands there was made the same way.

    Args:
        made_by: plain values that say what made the tokens (checkpoint digests, the manifest's digest).

    Raises:
        StoreError: if the folder holds a store of another spec or other makers.
    """
    folder = Path(folder)
    description = {"format": FORMAT, "spec": spec.as_dict(), "made_by": made_by}
    if (folder / "spec.json").exists():
        found = read_json(folder / "spec.json", made_by=MADE_BY)
        if found != description:
            theirs = found if isinstance(found, dict) else {}
            differing = sorted(key for key in description if theirs.get(key) != description[key])
            raise StoreError(
                f"{folder} holds tokens made otherwise ({', '.join(differing)} differ: {found} there, {description} now). "
                f"Move it away to make the tokens again, or choose another folder."
            )
        return
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    write_json(folder / "spec.json", description)


class TokenStoreWriter:
    """Appends utterances to files of its own inside a store. Use as a context manager.

    Any number of writers may work at once, in one process or in many.

    Args:
        folder: a store that `create_store` started.
        name: what the files of this writer begin with, such as `rank0`.

    Raises:
        StoreError: if the store is sealed already.
    """

    def __init__(self, folder: Path | str, *, name: str = "rank0") -> None:
        self.folder = Path(folder)
        self.spec = store_description(self.folder)[0]
        if (self.folder / "sealed.json").exists():
            raise StoreError(f"{self.folder} is sealed: nothing can be added. Choose another folder for more tokens.")
        if not re.fullmatch(r"[\w-]+", name):
            raise StoreError(f"A writer's name may hold letters, digits, - and _ only, got {name!r}")
        self._lines = _open_new(self.folder / "parts", name)
        path = Path(self._lines.name)
        self._units = open(path.with_suffix(".units"), "xb")  # noqa: SIM115 (closed by `close`)
        self._codes = open(path.with_suffix(".codes"), "xb")  # noqa: SIM115
        self._units_at = self._frames_at = 0

    def append(self, *, id: str, speaker: str, split: str, true_end: bool, units: Tensor, codes: Tensor) -> None:
        """Add one utterance; when this returns it will survive the process being killed.

        Args:
            id: unique in the store.
            units: (semantic frames,) in [0, clusters), repeats included.
            codes: (levels, frames) in [0, codebook_size).

        Raises:
            StoreError: for shapes, lengths or values that the store's spec does not allow.
            OSError: if the disk is full; what was written before stays valid.
        """
        self._check(id, split, units, codes)
        entry = Entry(id, speaker, split, true_end, self._units_at, len(units), self._frames_at, codes.shape[1])
        try:
            self._units.write(units.cpu().numpy().astype("<u2").tobytes())
            self._codes.write(codes.t().contiguous().cpu().numpy().astype("<u2").tobytes())
            self._units.flush()
            self._codes.flush()
            self._lines.write((json.dumps(entry.__dict__, ensure_ascii=False) + "\n").encode())
            self._lines.flush()
        except OSError as error:
            raise disk_full(self.folder) if found_no_room(error, folder=self.folder) else error from None
        self._units_at += entry.units
        self._frames_at += entry.frames

    def _check(self, id: str, split: str, units: Tensor, codes: Tensor) -> None:
        spec = self.spec
        if split not in SPLITS:
            raise StoreError(f"{id}: a split is one of {', '.join(SPLITS)}, got {split!r}")
        if units.ndim != 1 or codes.ndim != 2 or codes.shape[0] != spec.levels or not len(units) or not codes.shape[1]:
            raise StoreError(
                f"{id}: units must be (frames,) and codes ({spec.levels}, frames), neither empty; got {tuple(units.shape)} "
                f"and {tuple(codes.shape)}"
            )
        for name, tokens, limit in (("units", units, spec.clusters), ("codes", codes, spec.codebook_size)):
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= limit:
                raise StoreError(f"{id}: {name} must lie in [0, {limit}), found {low} to {high}. Another tokenizer's?")
        unit_seconds = len(units) / spec.semantic_rate_hz
        code_seconds = codes.shape[1] / spec.frame_rate_hz
        longest_frame = max(spec.hop_samples, spec.semantic_hop_samples) / spec.sample_rate_hz
        if abs(unit_seconds - code_seconds) >= longest_frame + 1e-9:
            raise StoreError(
                f"{id}: {len(units)} units last {unit_seconds:.3f} s but {codes.shape[1]} frames {code_seconds:.3f} s: "
                "the two tokenizers did not see the same audio, or the spec's rates are wrong."
            )

    def close(self) -> None:
        """Flush everything to the disk and close the files."""
        for file in (self._units, self._codes, self._lines):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_new(folder: Path, name: str) -> BinaryIO:
    for number in range(10**6):
        try:
            return open(folder / f"{name}-{number:04d}.jsonl", "xb")
        except FileExistsError:
            continue
    raise StoreError(f"{folder} holds a million parts of {name}: something keeps restarting. Seal or remove the store.")


def written_ids(folder: Path | str) -> set[str]:
    """Ids of the utterances that stand whole in an unsealed store: what a continued run leaves out."""
    return {entry.id for _, entry in _entries(Path(folder))}


def store_description(folder: Path) -> tuple[TokenSpec, dict[str, Any]]:
    """What the tokens of a store are, and what made them; the store may still be unsealed.

    Raises:
        FileNotFoundError: if there is no store, naming the command that makes one.
        StoreError: if another version wrote it.
    """
    found = read_json(folder / "spec.json", made_by=MADE_BY)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StoreError(f"{folder / 'spec.json'} is not of format {FORMAT}: another version of this project wrote it.")
    if not isinstance(found.get("made_by"), dict):
        raise StoreError(f"{folder / 'spec.json'} does not say what made the tokens: it is damaged. Make them again.")
    return TokenSpec.from_dict(found.get("spec", {}), source=str(folder / "spec.json")), found["made_by"]


def _entries(folder: Path) -> Iterator[tuple[Path, Entry]]:
    """Every whole utterance of every part, in a fixed order; a torn last line and what it speaks of are left out."""
    levels = store_description(folder)[0].levels
    for lines in sorted((folder / "parts").glob("*.jsonl")):
        units_bytes = lines.with_suffix(".units").stat().st_size if lines.with_suffix(".units").exists() else 0
        codes_bytes = lines.with_suffix(".codes").stat().st_size if lines.with_suffix(".codes").exists() else 0
        with open(lines, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn off
                entry = Entry(**checked_line(line, texts=TEXTS, counts=COUNTS, path=lines))
                if entry.split not in SPLITS:
                    raise StoreError(f"{lines} is damaged ({entry.split[:40]!r} is no split). Remove its three files.")
                whole_units = 2 * (entry.units_at + entry.units) <= units_bytes
                if whole_units and 2 * levels * (entry.frames_at + entry.frames) <= codes_bytes:
                    yield lines, entry


def _damaged(lines: Path, error: Exception) -> StoreError:
    return StoreError(f"{lines} is damaged ({error}). Remove its three files; tokenizing redoes them.")


@dataclass
class _Written:
    """What stands whole in the parts, sorted by id: 34 bytes and a string for each, so that millions fit into memory."""

    ids: list[str]
    index: NDArray[Any]  # `INDEX_TYPE`
    parts: list[Path]
    speakers: list[str]


def _written(folder: Path) -> _Written:
    ids: list[str] = []
    rows = bytearray()
    parts: dict[Path, int] = {}
    speakers: dict[str, int] = {}
    for part, entry in _entries(folder):
        ids.append(entry.id)
        part_number = parts.setdefault(part, len(parts))
        speaker_number = speakers.setdefault(entry.speaker, len(speakers))
        places = (entry.units_at, entry.units, entry.frames_at, entry.frames)
        try:
            rows += _INDEX_ROW.pack(part_number, *places, speaker_number, SPLITS.index(entry.split), entry.true_end)
        except (struct.error, ValueError) as error:
            raise _damaged(part, error) from error
    order = sorted(range(len(ids)), key=ids.__getitem__)  # stable: of two with one id, the first written comes first
    order = [at for before, at in zip([-1, *order], order, strict=False) if before < 0 or ids[before] != ids[at]]
    index = np.frombuffer(rows, INDEX_TYPE)[order]
    kept_parts = _renumbered(index, "part", list(parts))
    kept_speakers = _renumbered(index, "speaker", list(speakers))
    return _Written([ids[at] for at in order], index, kept_parts, kept_speakers)


def _renumbered(index: NDArray[Any], column: str, names: list[Any]) -> list[Any]:
    """The names that a column of numbers uses, sorted; the column then holds positions among those."""
    used = sorted(np.unique(index[column]).tolist(), key=names.__getitem__)
    numbers = np.zeros(len(names), np.uint32)
    numbers[used] = np.arange(len(used))
    index[column] = numbers[index[column]]
    return [names[number] for number in used]


def _require_expected(folder: Path, ids: list[str], expected: Iterable[str]) -> None:
    foreign, missing, count = set(ids), [], 0
    for count, id_ in enumerate(expected, start=1):  # noqa: B007 (how many there are is said below)
        if id_ in foreign:
            foreign.remove(id_)
        else:
            missing.append(id_)
    if missing:
        raise StoreError(
            f"{folder} lacks {len(missing)} of {count} utterances, such as {min(missing)!r}: tokenizing is not "
            "finished. Run the same command again: it continues."
        )
    if foreign:
        raise StoreError(f"{folder} holds {len(foreign)} utterances that the manifest lacks, such as {min(foreign)!r}.")


def seal(folder: Path | str, *, expected: Iterable[str]) -> "TokenStore":
    """Make a complete store immutable and readable.

    Args:
        expected: the ids of all utterances that must be there, and no others, each once.

    Raises:
        StoreError: if utterances are missing, or foreign ones stand in it. Nothing is changed then.
    """
    folder = Path(folder)
    written = _written(folder)
    _require_expected(folder, written.ids, expected)
    if not written.ids:
        raise StoreError(f"{folder} holds no utterance at all: there is nothing to seal.")
    index, parts = written.index, written.parts
    with atomic_path(folder / "index.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, index)
    for name, lines in (("ids.txt", written.ids), ("speakers.txt", written.speakers)):
        with atomic_path(folder / name) as temporary, open(temporary, "w", encoding="utf-8") as text:
            text.writelines(json.dumps(line) + "\n" for line in lines)
    digest = hashlib.sha256((folder / "spec.json").read_bytes() + (folder / "index.npy").read_bytes())
    for part in parts:
        for suffix in (".units", ".codes"):
            digest.update(str(part.with_suffix(suffix).stat().st_size).encode())
    sizes = {p.stem: [p.with_suffix(".units").stat().st_size, p.with_suffix(".codes").stat().st_size] for p in parts}
    write_json(
        folder / "sealed.json",
        {
            "format": FORMAT,
            "utterances": len(index),
            "frames": int(index["frames"].sum()),
            "units": int(index["units"].sum()),
            "parts": [part.stem for part in parts],
            "bytes": sizes,
            "digest": digest.hexdigest(),
        },
    )
    return TokenStore(folder)


class TokenStore:
    """A sealed store, for reading. Opening maps the index; tokens are read where they are asked for, and nothing else.

    Files are read at positions, not mapped: what was read does not stay in this process, however long it runs, and a file that
    was cut off while it is read is an error and not a crash. Safe to use in forked processes; sent to others, it opens anew.

    Attributes:
        spec: what the tokens are.
        made_by: digests of the codec, the tokenizer and the manifest that made them.
        digest: identifies the content; language models remember it.
        index: one row per utterance (`INDEX_TYPE`), sorted by id.

    Raises:
        FileNotFoundError: if there is no store, naming the command that makes it.
        StoreError: if it is not sealed, or its files are not the ones that were sealed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.spec, self.made_by = store_description(self.folder)
        if not (self.folder / "sealed.json").exists():
            raise StoreError(
                f"{self.folder} is not sealed: tokenizing has not finished. Run the tokenize stage again; it continues."
            )
        path = self.folder / "sealed.json"
        sealed = checked_sealed(read_json(path, made_by=MADE_BY), path)
        self.digest: str = sealed.digest
        self._parts: list[str] = sealed.parts
        self.index: NDArray[Any] = checked_index(
            self.folder / "index.npy", sealed, dtype=INDEX_TYPE, levels=self.spec.levels, splits=len(SPLITS)
        )
        for part, sizes in sealed.part_bytes.items():
            found = [size for suffix in ("units", "codes") if (size := self._size(part, suffix)) is not None]
            if found != sizes:
                raise StoreError(
                    f"{self.folder}/parts/{part}: {found} bytes found, {sizes} were sealed. Copied in part?"
                )
        self._file = lru_cache(maxsize=OPEN_FILES)(self._opened)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore, (self.folder,)

    def _path(self, part: str, suffix: str) -> Path:
        return self.folder / "parts" / f"{part}.{suffix}"

    def _size(self, part: str, suffix: str) -> int | None:
        try:
            return os.stat(f"{self.folder}/parts/{part}.{suffix}").st_size
        except FileNotFoundError:
            return None

    def __len__(self) -> int:
        return len(self.index)

    def _opened(self, part: int, suffix: str) -> BinaryIO:
        file = open(self._path(self._parts[part], suffix), "rb", buffering=0)  # noqa: SIM115 (closed when forgotten)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # else every crop reads 128 KiB ahead
        return file

    def _read(self, part: int, suffix: str, first: int, last: int) -> NDArray[np.int64]:
        """Tokens [first, last) of a part's file."""
        wanted = 2 * max(0, last - first)
        found = os.pread(self._file(part, suffix).fileno(), wanted, 2 * first)
        if len(found) != wanted:
            raise StoreError(
                f"{self._path(self._parts[part], suffix)} ends inside an utterance: it was cut off since this run began."
            )
        return np.frombuffer(found, "<u2").astype(np.int64)

    @property
    def ids(self) -> list[str]:
        """Utterance ids, in the order of the index."""
        return checked_names(self.folder / "ids.txt", count=len(self.index))

    @property
    def speakers(self) -> list[str]:
        """Speaker names; the index holds positions in this list."""
        return checked_names(
            self.folder / "speakers.txt", count=None, least=int(self.index["speaker"].max(initial=0)) + 1
        )

    def rows(self, split: str) -> NDArray[np.int64]:
        """Positions in the index of one split's utterances.

        Raises:
            StoreError: for an unknown or an empty split.
        """
        if split not in SPLITS:
            raise StoreError(f"A split is one of {', '.join(SPLITS)}, got {split!r}")
        found = np.flatnonzero(self.index["split"] == SPLITS.index(split))
        if not len(found):
            raise StoreError(
                f"{self.folder} has no utterance in the {split} split: prepare the corpus with larger shares."
            )
        return found

    def units(self, row: int, start: int = 0, stop: int | None = None) -> Tensor:
        """(stop - start,) int64 units of one utterance, repeats included; a stop beyond the end means the end."""
        part, first, count, *_ = self.index[row].item()
        last = first + (count if stop is None else min(count, stop))
        found = self._read(part, "units", first + start, last)
        require_in_vocabulary(found, limit=self.spec.clusters, what=f"units of row {row} of {self.folder}")
        return torch.from_numpy(found)

    def codes(self, row: int, start: int = 0, stop: int | None = None) -> Tensor:
        """(levels, stop - start) int64 codes of one utterance; a stop beyond the end means the end."""
        part, _, _, first, count, *_ = self.index[row].item()
        last, levels = first + (count if stop is None else min(count, stop)), self.spec.levels
        flat = self._read(part, "codes", (first + start) * levels, last * levels)
        require_in_vocabulary(flat, limit=self.spec.codebook_size, what=f"codes of row {row} of {self.folder}")
        return torch.from_numpy(flat.reshape(-1, levels)).t()
