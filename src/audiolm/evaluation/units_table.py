"""Measure a tokenizer's units against aligned phones: recordings and a table to `units.json`, `phones.csv`, a picture."""

import csv
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audiolm.audio import read_audio
from audiolm.evaluation.alignments import SILENCES, Interval, frame_phones, read_alignments, require_within
from audiolm.evaluation.clips import spread
from audiolm.evaluation.unit_measures import PhoneMeasures, RepeatMeasures, phone_measures, repeat_measures
from audiolm.evaluation.unit_pictures import units_picture
from audiolm.files import atomic_path, write_json
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.semantic.unit_use import UnitUse, unit_use

PHONE_COLUMNS = ("phone", "frames", "share", "units", "best_unit", "best_unit_share", "recall", "precision")


@dataclass(frozen=True)
class UnitsTable:
    """What `measure_units` found.

    Attributes:
        phones: over all labelled frames, silence as a phone of its own.
        speech: the same without silence; None if there is nothing else.
        repeats: over whole utterances.
        use: over whole utterances.
        rows: one per phone, most frequent first, by the names of `PHONE_COLUMNS`.
        files: recordings measured.
        unlabelled: frames whose centre lies in no interval; not counted in `phones`.
    """

    phones: PhoneMeasures
    speech: PhoneMeasures | None
    repeats: RepeatMeasures
    use: UnitUse
    rows: list[dict[str, Any]]
    files: int
    unlabelled: int


def measure_units(
    tokenizer: SemanticTokenizer,
    alignments: Path,
    folder: Path,
    out: Path,
    *,
    utterance: str | None = None,
    limit: int | None = None,
    about: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UnitsTable:
    """Tokenize every aligned recording and compare.

    Args:
        alignments: as `read_alignments` reads it; its files are paths below `folder`.
        utterance: which one to draw: its path, or its name without folder and suffix. By default the first.
        limit: no more than so many recordings, evenly spread.
        about: what made the units, for `units.json`.
        progress: called with (recordings measured, all).

    Raises:
        FileNotFoundError: if recordings are missing, naming the first and how many.
        ValueError: for a table that does not fit the recordings, or an utterance that is not in it.
    """
    table = read_alignments(alignments)
    names = spread(list(table), limit)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} recordings of {alignments} are not below {folder}, such as {missing[0]}: "
            "--audio must be the folder that the table's paths begin in"
        )
    drawn = _chosen(utterance, list(table)) if utterance else names[0]
    tokenizer.eval()
    phone_names = sorted({interval.phone for intervals in table.values() for interval in intervals})
    counts = np.zeros((len(phone_names), tokenizer.clusters), dtype=np.int64)
    every: list[NDArray[np.int64]] = []
    unlabelled = 0
    for done, name in enumerate(names, start=1):
        _, units = _tokenized(tokenizer, folder / name, table[name])
        labels = frame_phones(table[name], frames=len(units), rate_hz=tokenizer.rate_hz)
        for label, unit in zip(labels, units.tolist(), strict=True):
            if label is None:
                unlabelled += 1
            else:
                counts[phone_names.index(label), unit] += 1
        every.append(units)
        progress(done, len(names))
    result = _summary(counts, phone_names, every, tokenizer, unlabelled)
    _write(out, result, about or {})
    audio, units = _tokenized(tokenizer, folder / drawn, table[drawn])
    rate = tokenizer.sample_rate_hz
    picture = units_picture(audio, units, table[drawn], sample_rate_hz=rate, rate_hz=tokenizer.rate_hz, title=drawn)
    with atomic_path(out / "units.svg") as temporary:
        temporary.write_bytes(picture)
    return result


def _tokenized(
    tokenizer: SemanticTokenizer, path: Path, intervals: list[Interval]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    audio = read_audio(path, sample_rate_hz=tokenizer.sample_rate_hz)
    require_within(intervals, seconds=len(audio) / tokenizer.sample_rate_hz, file=str(path))
    return audio.numpy(), tokenizer.encode(audio[None])[0].numpy()


def _chosen(utterance: str, names: list[str]) -> str:
    found = [name for name in names if utterance in (name, Path(name).stem, Path(name).name)]
    if len(found) != 1:
        raise ValueError(
            f"--utterance {utterance!r} names {len(found)} recordings of the table: give a path as in its first column, "
            f"such as {names[0]}"
        )
    return found[0]


def _summary(
    counts: NDArray[np.int64],
    names: list[str],
    units: list[NDArray[np.int64]],
    tokenizer: SemanticTokenizer,
    unlabelled: int,
) -> UnitsTable:
    spoken = counts[[name not in SILENCES for name in names]]
    everything = torch.from_numpy(np.concatenate(units))
    use = unit_use(torch.bincount(everything, minlength=tokenizer.clusters), rate_hz=tokenizer.rate_hz)
    owner = counts.argmax(0)  # the phone that each unit stands for
    rows: list[dict[str, Any]] = []
    for place, (name, row) in enumerate(zip(names, counts, strict=True)):
        mine = (owner == place) & (counts.sum(0) > 0)
        if row.sum():
            rows.append(
                {
                    "phone": name,
                    "frames": int(row.sum()),
                    "share": float(row.sum() / counts.sum()),
                    "units": int(mine.sum()),
                    "best_unit": int(row.argmax()),
                    "best_unit_share": float(row.max() / row.sum()),
                    "recall": float(row[mine].sum() / row.sum()),
                    "precision": float(row[mine].sum() / counts[:, mine].sum()) if mine.any() else float("nan"),
                }
            )
    rows.sort(key=lambda row: (-row["frames"], row["phone"]))
    return UnitsTable(
        phones=phone_measures(counts),
        speech=phone_measures(spoken) if spoken.sum() else None,
        repeats=repeat_measures(units, rate_hz=tokenizer.rate_hz),
        use=use,
        rows=rows,
        files=len(units),
        unlabelled=unlabelled,
    )


def _write(out: Path, table: UnitsTable, about: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    use = {
        **asdict(table.use),
        "used_share": table.use.used_share,
        "perplexity": table.use.perplexity,
        "bitrate_bps": table.use.bitrate_bps,
        "nominal_bitrate_bps": table.use.nominal_bitrate_bps,
    }
    whole = {
        "phones": _finite(asdict(table.phones)),
        "phones_without_silence": _finite(asdict(table.speech)) if table.speech else None,
        "repeats": asdict(table.repeats),
        "use": use,
        "files": table.files,
        "frames_without_phone": table.unlabelled,
        "about": about,
    }
    write_json(out / "units.json", whole)
    with atomic_path(out / "phones.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, PHONE_COLUMNS)
        writer.writeheader()
        writer.writerows(_finite(row) for row in table.rows)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
