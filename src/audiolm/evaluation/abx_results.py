"""The files that ABX figures are kept in."""

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audiolm.evaluation.abx import AbxResult, AbxSettings
from audiolm.files import atomic_path, write_json


def write_abx(out: Path, result: AbxResult, *, settings: AbxSettings, about: Mapping[str, Any]) -> None:
    """Write a folder of results.

    `ABX_scores.json` (`within`, `across`: fractions of the first context of the settings; null where nothing could be
    compared) and `ABX_args.json` are those of the Libri-Light script; `abx.json` has all figures with intervals, counts and
    speakers; `pairs.csv` every ordered pair of phones.

    Args:
        about: what was measured, plain values.
    """
    first = settings.contexts[0]
    write_json(out / "ABX_scores.json", {name: result.score(first, name).error for name in settings.speakers})
    write_json(out / "ABX_args.json", {**about, **asdict(settings)})
    write_json(out / "abx.json", {**result.as_dict(), "settings": {**about, **asdict(settings)}})
    with (
        atomic_path(out / "pairs.csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["context", "speakers", "phone_a", "phone_b", "error", "triples"])
        for score in result.scores:
            for pair in score.pairs:
                row = [score.context, score.speakers, pair.phone_a, pair.phone_b, repr(pair.error), pair.triples]
                writer.writerow(row)
