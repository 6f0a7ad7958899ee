"""The summary of `audiolm evaluate asr`: pooled error rates by condition, beside the paper's Table II; a picture."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.evaluation.asr_table import Heard
from audiolm.evaluation.error_rates import INTERVAL, RESAMPLINGS, SPELLINGS, Rate, Spelling, pooled_rate
from audiolm.evaluation.report_pictures import BLUE, GREY, ORANGE, _picture
from audiolm.files import atomic_path, write_json

GSLM = "gslm"
TITLES = {
    "original": "original",
    "reconstruction": "codec reconstruction",
    "acoustic": "acoustic generation",
    GSLM: "GSLM unit-to-speech",
}
PAPER = {  # Table II: CER, WER
    "original": (0.008, 0.025),
    "reconstruction": (0.009, 0.026),
    "acoustic": (0.034, 0.060),
    GSLM: (0.029, 0.066),
}
NOTE = (
    "Error rates are sums of edits over sums of reference length. The paper's are of LibriSpeech test-clean, 4 to 10 s, and a "
    "Conformer Transducer-L trained on 960 hours; with another recogniser or other recordings compare the rows of one column "
    "only. The asr stage's recogniser knows the corpus it was trained on: on other recordings its error rates are poor, those of "
    "originals included."
)


@dataclass(frozen=True)
class ConditionRates:
    """One row of the table."""

    condition: str
    samplings: int  # 0: not run
    files: int  # utterances, each in every sampling
    cer: Rate | None
    wer: Rate | None

    @property
    def paper(self) -> tuple[float, float] | None:
        """(CER, WER) of the paper's Table II."""
        return PAPER.get(self.condition)


def condition_rates(rows: Sequence[Heard]) -> list[ConditionRates]:
    """Pool the rows of each condition, all samplings together; what the paper has and was not measured is there without rates."""
    measured = list(dict.fromkeys(row.condition for row in rows))
    names = [name for name in TITLES if name in measured or name == GSLM or name in PAPER]
    names += [name for name in measured if name not in names]
    results = []
    for name in names:
        of_it = [row for row in rows if row.condition == name]
        if not of_it:
            results.append(ConditionRates(name, 0, 0, None, None))
            continue
        files = [row.file for row in of_it]
        cer = pooled_rate([r.character_edits for r in of_it], [r.characters for r in of_it], utterances=files)
        wer = pooled_rate([r.word_edits for r in of_it], [r.words for r in of_it], utterances=files)
        results.append(ConditionRates(name, len({row.sampling for row in of_it}), len(set(files)), cer, wer))
    return results


def write_asr(
    out: Path,
    rows: Sequence[Heard],
    *,
    spelling: Spelling,
    decoding: str,
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> list[ConditionRates]:
    """Write `summary.json`, `summary.csv` and `wer.svg`.

    Args:
        rows: of `measure_asr`.
        decoding: how the recogniser chooses words.
        settings: what the numbers depend on, as JSON's types.
        notes: what else must be known of these numbers.
    """
    results = condition_rates(rows)
    plain = [_row(result) for result in results]
    protocol = {
        "pooling": "sum of edits / sum of reference length, over all recordings and samplings of a condition",
        "interval": f"{INTERVAL:.0%} bootstrap over utterances, {RESAMPLINGS} resamplings; samplings of one go together",
        "spelling": SPELLINGS[spelling],
        "decoding": decoding,
        "reference": "the corpus's own transcripts",
        "paper": "Table II: LibriSpeech test-clean, 4 to 10 s, 3 samplings, Conformer Transducer-L",
    }
    note = " ".join([NOTE, *notes])
    write_json(out / "summary.json", {"rows": plain, "protocol": protocol, "settings": dict(settings), "note": note})
    with atomic_path(out / "summary.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(plain[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
    with atomic_path(out / "wer.svg") as temporary:
        temporary.write_bytes(error_rates_picture(results))
    return results


def _row(result: ConditionRates) -> dict[str, Any]:
    row: dict[str, Any] = {"condition": result.condition, "samplings": result.samplings, "files": result.files}
    row["state"] = "measured" if result.wer else "not run"
    for place, (name, rate) in enumerate((("cer", result.cer), ("wer", result.wer))):
        values = (rate.value, rate.low, rate.high, rate.edits, rate.length) if rate else (None,) * 5
        row |= dict(
            zip((name, *(f"{name}_{part}" for part in ("low", "high", "edits", "length"))), values, strict=True)
        )
        row[f"{name}_paper"] = result.paper[place] if result.paper else None
    return row


def error_rates_picture(results: Sequence[ConditionRates]) -> bytes:
    """Error rates in %, with their intervals, and the paper's as marks, as SVG."""
    shown = [result for result in results if result.wer or result.paper]
    with _picture(height=2.8) as picture:
        axes = picture.axes
        for place, (label, colour) in enumerate((("CER", BLUE), ("WER", ORANGE))):
            at = [number + 0.36 * place - 0.18 for number in range(len(shown))]
            ours = [(x, r.wer if place else r.cer) for x, r in zip(at, shown, strict=True)]
            bars = [(x, rate) for x, rate in ours if rate is not None]
            axes.bar([x for x, _ in bars], [100 * r.value for _, r in bars], 0.34, color=colour, label=label)
            for x, rate in bars:
                if rate.low is not None and rate.high is not None:
                    axes.plot([x, x], [100 * rate.low, 100 * rate.high], color="black", linewidth=1)
            papers = [(x, 100 * r.paper[place]) for x, r in zip(at, shown, strict=True) if r.paper]
            axes.plot(
                [x for x, _ in papers], [y for _, y in papers], linestyle="", marker="D", markersize=5,
                color=GREY, markeredgecolor="white", label="" if place else "the paper's",
            )  # fmt: skip
        names = [TITLES.get(r.condition, r.condition) + ("" if r.wer else "\n(not run)") for r in shown]
        axes.set_xticks(range(len(shown)), [name.replace(" ", "\n", 1) for name in names], fontsize=8)
        axes.set(title="Error rates of a recogniser", ylabel="%")
        axes.set_ylim(bottom=0)
        picture.legend_below(columns=3)
    return picture.svg
