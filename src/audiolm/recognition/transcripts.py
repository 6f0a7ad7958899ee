"""Transcripts as corpora come with them: LibriSpeech's `.trans.txt`, and tables with a header."""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm.audio import AUDIO_SUFFIXES
from audiolm.files import require_regular_file

WHOLE = ("utterance", "text")  # columns of a table of whole recordings
PARTS = ("file", "start", "end", "text")  # of a table of stretches of longer ones
FORMATS = (
    "LibriSpeech's `.trans.txt` (a name, a space, the words), or a tab-separated `.tsv` with a header that has the columns "
    "`utterance` and `text`, or `file`, `start`, `end` and `text`"
)


@dataclass(frozen=True)
class Spoken:
    """What is said in a recording, or in a stretch of one."""

    name: str  # as the transcript has it: a stem or a path, without an audio suffix
    text: str
    where: str  # file and line, for messages
    start_seconds: float | None = None  # None: the whole recording
    end_seconds: float | None = None


class Transcripts:
    """Texts, found by the name of a recording.

    A recording has the texts of its stem; where the transcript has a path, as much of it as both have must agree.

    Args:
        source: the file or folder they come from, for messages.
        spoken: the texts.

    Raises:
        ValueError: if one name has two texts.
    """

    def __init__(self, source: Path, spoken: Sequence[Spoken]) -> None:
        self.source, self.spoken = source, list(spoken)
        self._of_stem: dict[str, list[Spoken]] = {}
        seen: dict[tuple[str, float | None], Spoken] = {}
        for one in self.spoken:
            twin = seen.setdefault((one.name, one.start_seconds), one)
            if twin is not one:
                raise ValueError(
                    f"{one.name!r} has two transcripts, in {twin.where} and in {one.where}: names must be unique. Give one "
                    "of the files with --transcripts, or put the folder into the first column."
                )
            self._of_stem.setdefault(one.name.rpartition("/")[2], []).append(one)

    def of(self, path: str) -> list[Spoken]:
        """What is said in the recording of that path or stem, in order of time; nothing if no transcript has its name.

        Raises:
            ValueError: if several transcripts fit.
        """
        parts = without_suffix(path).split("/")
        found = [one for one in self._of_stem.get(parts[-1], []) if _agree(one.name.split("/"), parts)]
        names = sorted({one.name for one in found})
        if len(names) > 1:
            raise ValueError(f"{path} could be {names[0]} or {names[1]} of the transcripts in {self.source}")
        return sorted(found, key=lambda one: one.start_seconds or 0.0)

    @property
    def digest(self) -> str:
        """sha256 (hex) of names, times and texts."""
        rows = sorted((one.name, one.start_seconds or 0.0, one.end_seconds or 0.0, one.text) for one in self.spoken)
        return hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()


def without_suffix(path: str) -> str:
    """A path without the suffix of an audio file."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in AUDIO_SUFFIXES else path


def _agree(left: Sequence[str], right: Sequence[str]) -> bool:
    shared = min(len(left), len(right))
    return list(left)[-shared:] == list(right)[-shared:]


def find_transcripts(audio: Path) -> Transcripts:
    """The transcripts that came with a folder of recordings: in it, or a table in the folder above.

    Raises:
        FileNotFoundError: if there are none, naming what is read.
    """
    files = transcript_files(audio)
    if not files:
        raise FileNotFoundError(
            f"there are no transcripts in {audio}, nor a table of them beside it. Name a file or folder with "
            f"--transcripts (data.init_args.transcripts of the asr stage). What is read: {FORMATS}."
        )
    return Transcripts(audio, [one for path in files for one in _read(path)])


def transcript_files(audio: Path) -> list[Path]:
    """The files that came with a folder of recordings, unread: those in it, else tables in the folder above. May be none."""
    return _transcript_files(audio) or [path for path in sorted(audio.parent.glob("*.tsv")) if _is_table(path)]


def read_transcripts(source: Path) -> Transcripts:
    """Read a file of transcripts, or all in a folder.

    Raises:
        FileNotFoundError: if it is not there, or the folder has none.
        ValueError: for a file of another kind, a line without text, times that none can have, or a name that comes twice.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there: name a file of transcripts, or a folder with some. {FORMATS}.")
    if source.is_dir():
        files = _transcript_files(source)
        if not files:
            raise FileNotFoundError(f"{source} holds no transcripts. What is read: {FORMATS}.")
        return Transcripts(source, [one for path in files for one in _read(path)])
    if not (source.name.endswith(".trans.txt") or _is_table(source)):
        raise ValueError(f"{source} is no file of transcripts. What is read: {FORMATS}.")
    return Transcripts(source, list(_read(source)))


def _transcript_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.trans.txt")) or [path for path in sorted(folder.glob("*.tsv")) if _is_table(path)]


def _columns(path: Path) -> list[str]:
    require_regular_file(path)
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        return file.readline(2**16).rstrip("\r\n").split("\t")


def _is_table(path: Path) -> bool:
    columns = set(_columns(path))
    return columns >= set(WHOLE) or columns >= set(PARTS)


def _read(path: Path) -> Iterator[Spoken]:
    require_regular_file(path)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.name.endswith(".trans.txt"):
            yield from _lines(path, file)
        else:
            yield from _rows(path, csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _lines(path: Path, lines: Iterator[str]) -> Iterator[Spoken]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        yield _spoken(name, text, f"{path}:{number}")


def _rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[Spoken]:
    names = set(rows.fieldnames or ())
    for number, row in enumerate(rows, start=2):
        where = f"{path}:{number}"
        if names >= set(WHOLE):
            yield _spoken(row["utterance"], row["text"], where)
            continue
        try:
            start, end = float(row["start"]), float(row["end"])
        except (TypeError, ValueError):
            start, end = 0.0, 0.0
        if not 0 <= start < end < 1e6:
            raise ValueError(f"{where}: start and end must be seconds, {row['start']!r} and {row['end']!r} cannot be")
        yield _spoken(row["file"], row["text"], where, start, end)


def _spoken(name: str | None, text: str | None, where: str, *times: float) -> Spoken:
    if not name or not (text or "").strip():
        raise ValueError(
            f"{where}: a transcript needs a name and a text, found {name!r} and {text!r}: mend or remove it"
        )
    return Spoken(without_suffix(name), " ".join(str(text).split()), where, *times)
