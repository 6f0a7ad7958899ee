"""ZeroSpeech 2021's sWUGGY and sBLIMP: the folder of recordings and the gold file beside them."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from audiolm.evaluation.spoken_pairs import PairSet, SpokenPair, Task
from audiolm.files import require_regular_file

# In the order in which the reference scorer wants them; read by name.
COLUMNS: Mapping[Task, tuple[str, ...]] = {
    "lexical": ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct"),
    "syntactic": ("filename", "id", "voice", "type", "subtype", "transcription", "correct"),
}
Row = dict[str, str]


def zerospeech_set(root: Path, task: Task, *, name: str = "dev") -> PairSet:
    """List `root/<task>/<name>/*.wav` and the pairs of the `gold.csv` there.

    Args:
        root: the folder of `lexical` and `syntactic`, or the one above its `sLM21-dataset`.
        name: dev or test. The gold files of the test sets are not public: without one, `test` has no pairs.

    Raises:
        FileNotFoundError: if the folder or the gold file of dev is not there.
        ValueError: if columns or rows are missing, rows are twice there or unreadable, recordings without a row or rows
            without a recording, or pairs that lack a side. Names are compared case by case.
    """
    folder = _folder(root, task, name)
    recordings = _recordings(folder)
    gold = folder / "gold.csv"
    if name == "test" and not gold.exists():
        return PairSet(task, name, recordings, (), official=True)
    rows = read_gold(gold, task)
    _require_same_stems({row["filename"] for row in rows}, set(recordings), folder=folder)
    pairs = _words(rows, gold) if task == "lexical" else _sentences(rows, gold)
    return PairSet(task, name, recordings, tuple(pairs), official=True)


def read_gold(path: Path, task: Task) -> list[Row]:
    """The rows of a gold file, as text: words such as "null" stay words.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: naming the row (the header is row 1), for columns or cells that are missing, stems that are empty or
            there twice, numbers that are none, or `correct` other than 0 and 1.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: it says which recordings are pairs. Copy the whole set again.")
    require_regular_file(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(csv.reader(file, strict=True), path, task))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as comma-separated UTF-8 ({error}): copy it again") from error
    if not rows:
        raise ValueError(f"{path} has no row below its header: it was cut off. Copy it again.")
    return rows


def _rows(lines: Iterator[list[str]], path: Path, task: Task) -> Iterator[Row]:
    header: list[str] = next(lines, [])
    missing = [name for name in COLUMNS[task] if name not in header]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}. The {task} gold file of "
            f"ZeroSpeech 2021 has {', '.join(COLUMNS[task])}."
        )
    seen: dict[str, int] = {}
    for number, cells in enumerate(lines, start=2):
        if not cells:
            continue
        where = f"row {number} of {path}"
        if len(cells) != len(header):
            raise ValueError(f"{where} has {len(cells)} cells, the header {len(header)}: it was cut off or edited")
        row = dict(zip(header, cells, strict=True))
        stem = row["filename"]
        if not stem or stem in seen:
            first = f"is that of row {seen[stem]} too" if stem else "is empty"
            raise ValueError(f"{where}: the filename {stem!r} {first}. Every recording has one row.")
        seen[stem] = number
        if row["correct"] not in ("0", "1"):
            raise ValueError(f"{where}: correct must be 0 or 1, got {row['correct']!r}")
        _whole_number(row["id"], name="id", where=where)
        if task == "lexical":
            _whole_number(row["frequency"] or "0", name="frequency", where=where)
            _whole_number(row["length"], name="length", where=where)
        yield row


def _whole_number(text: str, *, name: str = "", where: str = "") -> int:
    try:
        value = float(text)  # tables that passed through other programs say 12.0
        if value < 0 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {name} must be a whole number of 0 or more, got {text!r}") from None
    return int(value)


def _words(rows: list[Row], gold: Path) -> list[SpokenPair]:
    wrong_rows = [row for row in rows if row["correct"] == "0"]
    text = "phones" if not any(row["word"] for row in wrong_rows) else "word"  # as the reference shows them
    return [
        SpokenPair(
            id=(_whole_number(right["id"]),),
            voice=right["voice"],
            right=right["filename"],
            wrong=wrong["filename"],
            right_text=right[text],
            wrong_text=wrong[text],
            frequency=_whole_number(right["frequency"]) if right["frequency"] else None,
            length_phones=_whole_number(right["length"]),
        )
        for right, wrong in _joined(rows, ("id", "voice"), gold)
    ]


def _sentences(rows: list[Row], gold: Path) -> list[SpokenPair]:
    return [
        SpokenPair(
            id=(right["type"], right["subtype"], _whole_number(right["id"])),
            voice=right["voice"],
            right=right["filename"],
            wrong=wrong["filename"],
            right_text=right["transcription"],
            wrong_text=wrong["transcription"],
            type=right["type"],
        )
        for right, wrong in _joined(rows, ("type", "subtype", "id", "voice"), gold)
    ]


def _joined(rows: list[Row], key: tuple[str, ...], gold: Path) -> list[tuple[Row, Row]]:
    """(right, wrong) of every pair, in the file's order of the right ones."""
    sides: dict[tuple[str, ...], tuple[list[Row], list[Row]]] = {}
    for row in rows:
        sides.setdefault(tuple(row[name] for name in key), ([], []))[row["correct"] == "0"].append(row)
    wrong = {pair: found for pair, found in sides.items() if (len(found[0]), len(found[1])) != (1, 1)}
    if wrong:
        pair, (right_rows, wrong_rows) = next(iter(wrong.items()))
        named = ", ".join(f"{name} {value}" for name, value in zip(key, pair, strict=True))
        raise ValueError(
            f"{len(wrong)} pairs of {gold} are no pairs, such as {named}: {len(right_rows)} rows with correct 1 and "
            f"{len(wrong_rows)} with correct 0, one of each is needed. Rows are missing or there twice: copy the file again."
        )
    return [(right[0], wrong[0]) for right, wrong in sides.values()]


def _folder(root: Path, task: Task, name: str) -> Path:
    candidates = [root / task / name, root / "sLM21-dataset" / task / name]
    folder = next((folder for folder in candidates if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"neither {candidates[0]} nor {candidates[1]} is a folder: name the folder that holds `lexical` and `syntactic` "
            "of ZeroSpeech 2021 (`audiolm demo-zerospeech` writes a small one), or give a folder of pairs with --pairs"
        )
    return folder


def _recordings(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".wav")
    if not paths:
        raise ValueError(f"there is no .wav in {folder}: the set was unpacked in part, or lies elsewhere")
    spaced = next((path for path in paths if path.stem.split() != [path.stem]), None)
    if spaced:
        raise ValueError(
            f"{spaced} has a space in its name, which separates names from scores in score files: rename it"
        )
    return {path.stem: path for path in paths}


def _require_same_stems(rows: set[str], recordings: set[str], *, folder: Path) -> None:
    for absent, what, where in (
        (rows - recordings, "rows of gold.csv have no recording", "recordings"),
        (recordings - rows, "recordings have no row in gold.csv", "rows"),
    ):
        if absent:
            raise ValueError(
                f"{len(absent)} {what} in {folder}, such as {min(absent)!r} (names are compared case by case): the {where} "
                "were copied in part, or belong to another set"
            )
