"""Aligned phones: which phone is spoken when, from a tab-separated table."""

import csv
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("file", "start", "end", "phone", "word")
TOLERANCE_SECONDS = 0.02  # aligners count whole frames: a last one may reach past the end of the recording
SILENCES = ("SIL", "sil", "sp", "spn", "")


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of one recording in which one phone is spoken."""

    start_seconds: float
    end_seconds: float
    phone: str
    word: str = ""


def read_alignments(path: Path) -> dict[str, list[Interval]]:
    """Read a table with the columns file, start, end (seconds), phone, word.

    Returns:
        The intervals of each file, in order. They may leave gaps.

    Raises:
        FileNotFoundError: if the table is not there.
        ValueError: naming the line, for missing columns, times that are no numbers, or intervals out of order.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the table of phones {path} is not there: give one with --phones")
    try:
        return _read(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a tab-separated table in UTF-8: {error}") from error


def _read(path: Path) -> dict[str, list[Interval]]:
    found: dict[str, list[Interval]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COLUMNS[:4] if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} lacks the column(s) {', '.join(missing)}: expected tab-separated {', '.join(COLUMNS)}"
            )
        for row in rows:
            where = f"line {rows.line_num} of {path}"
            interval = _interval(row, where)
            before = found.setdefault(row["file"], [])
            if before and interval.start_seconds < before[-1].end_seconds:
                raise ValueError(
                    f"{where}: an interval begins at {interval.start_seconds} s, before the one above it ends "
                    f"({before[-1].end_seconds} s). Intervals of a file must follow each other: sort the table by file and start."
                )
            before.append(interval)
    if not found:
        raise ValueError(f"{path} holds no intervals")
    return found


def _interval(row: dict[str, str], where: str) -> Interval:
    try:
        start, end = float(row["start"]), float(row["end"])
    except (TypeError, ValueError):
        raise ValueError(f"{where}: start and end must be seconds, got {row['start']!r} and {row['end']!r}") from None
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"{where}: an interval must begin at 0 or later and end after its start, got {start} to {end}")
    if not row["phone"]:
        raise ValueError(f"{where}: the interval from {start} to {end} has no phone: the line is incomplete")
    return Interval(start, end, row["phone"], row.get("word") or "")


def frame_phones(intervals: list[Interval], *, frames: int, rate_hz: float) -> list[str | None]:
    """The phone at the centre of each frame, (i + 1/2) / rate; None between intervals and after the last."""
    phones: list[str | None] = []
    place = 0
    for frame in range(frames):
        centre = (frame + 0.5) / rate_hz
        while place < len(intervals) and intervals[place].end_seconds <= centre:
            place += 1
        inside = place < len(intervals) and intervals[place].start_seconds <= centre
        phones.append(intervals[place].phone if inside else None)
    return phones


def require_within(intervals: list[Interval], *, seconds: float, file: str) -> None:
    """Stop where intervals lie beyond the end of their recording.

    Raises:
        ValueError: naming the file and both times.
    """
    last = intervals[-1]
    if last.end_seconds > seconds + TOLERANCE_SECONDS:
        raise ValueError(
            f"{file} is {seconds:.3f} s long, but its phone {last.phone!r} ends at {last.end_seconds} s: the table was made "
            "for another version of the recording, or its times are not in seconds."
        )
