"""How varied the units of continuations are, beside those of real recordings: passages to `files.csv` and its summary."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audiolm.evaluation.heard_units import heard_units
from audiolm.evaluation.measured_folder import Pooled, pool, write_results
from audiolm.evaluation.passage_measures import Measured
from audiolm.evaluation.passages import Passage, passages_digest
from audiolm.evaluation.row_files import claim, start_rows, unreadable, whole_json_lines
from audiolm.evaluation.self_bleu import distinct_share, entropy_bits, self_bleu
from audiolm.files import atomic_path
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import remove_repeats

GRAMS = (1, 2, 4)
TITLES = {
    "entropy_bits": "unit entropy (bits)",
    **{f"distinct_{n}": f"distinct {n}-grams" for n in GRAMS},
    "units_per_s": "units/s without repeats",
    "self_bleu_across": "self-BLEU across prompts",
    "self_bleu_same_prompt": "self-BLEU of the same prompt",
}
NOTE = (
    "Units of what follows the seam, found again in the audio by the tokenizer, repeats removed. Means over files with their "
    "standard error; below, all units of a kind together. Entropy and distinct shares depend on the number of units: compare "
    "equal numbers of equally long files. Self-BLEU: n-grams of 1 to 4 units, not smoothed; a file against all of other prompts "
    "(real recordings: other recordings), or against the others of its own prompt. Its files are not independent, so its "
    "standard error is too small. Lower self-BLEU is more varied; noise has none: compare with real recordings."
)


@dataclass(frozen=True)
class DiversityTable:
    """What was measured: means over files, and over all units of a kind together."""

    pooled: list[Pooled]
    whole: dict[str, float | None]


def measure_diversity(
    tokenizer: SemanticTokenizer,
    generated: Sequence[Passage],
    real: Sequence[Passage],
    out: Path,
    *,
    about: dict[str, Any],
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DiversityTable:
    """Find the units of every passage and write a folder of results.

    Units of a file are on disk (`units.jsonl`) before the next one's, so a run that was killed goes on where it was.

    Args:
        out: folder for `settings.json`, `units.jsonl`, `files.csv`, `pooled.json` and `diversity.svg`.
        about: what else the numbers depend on, the tokenizer's digest among it.
        progress: called with (files read, all files).

    Raises:
        ValueError: for an `out` that holds measurements of other audio or settings, or units that were edited.
        AudioError: for a file that cannot be read.
    """
    passages = [*generated, *real]
    counts = {"continuations": len(generated), "real": len(real), "clusters": tokenizer.config_dict().get("clusters")}
    about = json.loads(json.dumps({**about, **counts, "passages_digest": passages_digest(passages)}))
    claim(out, about, verb="diversity", files=("files.csv", "units.jsonl"))
    units = _all_units(tokenizer.to(device).eval(), passages, out / "units.jsonl", progress=progress)
    rows = [row for group in (generated, real) for row in _rows(group, [units[p.kind, p.id] for p in group])]
    start_rows(out / "files.csv", rows, kind=Measured)
    whole: dict[str, float | None] = {}
    for kind, group in (("continuation", generated), ("real", real)):
        if group:
            whole |= _whole(kind, [units[p.kind, p.id] for p in group])
    result = DiversityTable(pool(rows, list(TITLES)), whole)
    write_results(out, result.pooled, titles=TITLES, whole=whole, about=about, note=NOTE, picture="diversity.svg")
    return result


def _rows(passages: Sequence[Passage], units: Sequence[list[int]]) -> list[Measured]:
    """Every measure of every file of one kind."""
    across = self_bleu(units, [passage.prompt for passage in passages])
    within = _within_prompts(passages, units)
    rows = []
    for number, (passage, own) in enumerate(zip(passages, units, strict=True)):
        values = {
            "entropy_bits": entropy_bits([own]),
            **{f"distinct_{n}": distinct_share([own], n) for n in GRAMS},
            "units_per_s": len(own) / passage.after_seconds,
            "self_bleu_across": across[number],
            "self_bleu_same_prompt": within[number],
        }
        for name in TITLES:
            empty = math.isnan(values[name])
            why = ("no other file" if len(own) >= 4 and "bleu" in name else "too few units") if empty else ""
            rows.append(Measured(passage.id, passage.kind, name, None if empty else values[name], why))
    return rows


def _within_prompts(passages: Sequence[Passage], units: Sequence[list[int]]) -> list[float]:
    """Self-BLEU of every file among those of its own prompt."""
    members: dict[str, list[int]] = {}
    for number, passage in enumerate(passages):
        members.setdefault(passage.prompt, []).append(number)
    scores = [math.nan] * len(passages)
    for numbers in members.values():
        for number, score in zip(numbers, self_bleu([units[n] for n in numbers], numbers), strict=True):
            scores[number] = score
    return scores


def _whole(kind: str, units: Sequence[list[int]]) -> dict[str, float | None]:
    values = {"units": float(sum(map(len, units))), "used_units": float(len({u for own in units for u in own}))}
    values |= {"entropy_bits": entropy_bits(units), **{f"distinct_{n}": distinct_share(units, n) for n in GRAMS}}
    return {f"{kind}_{name}": None if math.isnan(value) else value for name, value in values.items()}


def _all_units(
    tokenizer: SemanticTokenizer,
    passages: Sequence[Passage],
    path: Path,
    *,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, str], list[int]]:
    found = _read_units(path)
    with atomic_path(path) as temporary:  # without the half line that a killed run may have left
        temporary.write_text("".join(_line(key, units) for key, units in found.items()), encoding="utf-8")
    for number, passage in enumerate(passages, start=1):
        key = (passage.kind, passage.id)
        if key not in found:
            found[key] = _units(tokenizer, passage)
            with open(path, "a", encoding="utf-8") as file:
                file.write(_line(key, found[key]))
        progress(number, len(passages))
    return found


def _units(tokenizer: SemanticTokenizer, passage: Passage) -> list[int]:
    before, after = map(torch.from_numpy, passage.read(sample_rate_hz=tokenizer.sample_rate_hz))
    return remove_repeats(heard_units(tokenizer, before, after, sample_rate_hz=tokenizer.sample_rate_hz)[1]).tolist()


def _line(key: tuple[str, str], units: list[int]) -> str:
    return json.dumps({"kind": key[0], "file": key[1], "units": units}) + "\n"


def _read_units(path: Path) -> dict[tuple[str, str], list[int]]:
    found = {}
    for number, row in whole_json_lines(path):
        try:
            found[row["kind"], row["file"]] = [int(unit) for unit in row["units"]]
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable(path, number) from error
    return found
