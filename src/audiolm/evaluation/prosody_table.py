"""Measure continuations and real recordings, continuing where an earlier run stopped: passages to `files.csv` and its summary."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation.frechet import fit, frechet_distance, log_mel_frames
from audiolm.evaluation.measured_folder import Pooled, pool, read_rows, write_results
from audiolm.evaluation.passage_measures import RATE_HZ, Measured, measure_passage, titles
from audiolm.evaluation.passages import Passage, passages_digest
from audiolm.evaluation.row_files import append_rows, claim, start_rows

NOTE = (
    "Means over files with their standard error, at 16 kHz. A step is the absolute difference across the seam; the seam of a "
    "real recording is a random place in it, so its steps are those of natural audio. Exceeds real: how often a continuation's "
    "value is greater than a real one's; 0.5 is no difference. F0 by autocorrelation, 65 to 500 Hz, medians of voiced frames; "
    "spread is the distance of its quartiles. Silence: frames 40 dB below the loud ones of the same file. At the seam: 50 ms on "
    "either side. Fréchet distance: Gaussians of log-mel frames (64 bins, 64 ms), not of a network's embeddings; it falls with "
    "more audio, and half to half of the real recordings is what equal audio gives."
)


@dataclass(frozen=True)
class ProsodyTable:
    """What was measured: means per kind and measure, and distances between all audio of one kind and of another."""

    pooled: list[Pooled]
    frechet: dict[str, float | None]


def measure_prosody(
    generated: Sequence[Passage],
    real: Sequence[Passage],
    out: Path,
    *,
    music: bool,
    about: dict[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProsodyTable:
    """Measure every passage and write a folder of results.

    A file's rows are on disk before the next one's, so a run that was killed goes on where it was.

    Args:
        real: stretches of real recordings; may be empty, then nothing is compared.
        out: folder for `settings.json`, `files.csv`, `pooled.json` and `prosody.svg`.
        music: chroma, key, onsets and tempo instead of F0 and speaking rate.
        about: what else the numbers depend on, for `settings.json`.
        progress: called with (files measured, all files).

    Raises:
        ValueError: for an `out` that holds measurements of other audio or settings.
        AudioError: for a file that cannot be read; what was measured before is kept.
    """
    passages, names = [*generated, *real], titles(music=music)
    counts = {"continuations": len(generated), "real": len(real), "music": music, "rate_hz": RATE_HZ}
    about = json.loads(json.dumps({**about, **counts, "passages_digest": passages_digest(passages)}))
    claim(out, about, verb="prosody")
    table = out / "files.csv"
    rows = read_rows(table, rows_per_file=len(names))
    start_rows(table, rows, kind=Measured)
    measured = {(row.kind, row.file) for row in rows}
    left = [passage for passage in passages if (passage.kind, passage.id) not in measured]
    progress(len(passages) - len(left), len(passages))
    for number, passage in enumerate(left, start=len(passages) - len(left) + 1):
        new = measure_passage(passage, music=music)
        append_rows(table, new)
        rows += new
        progress(number, len(passages))
    result = ProsodyTable(pool(rows, list(names)), frechet_distances(generated, real))
    write_results(
        out,
        result.pooled,
        titles=names,
        whole={f"frechet_{name}": value for name, value in result.frechet.items()},
        about=about,
        note=NOTE,
        picture="prosody.svg",
    )
    return result


def frechet_distances(generated: Sequence[Passage], real: Sequence[Passage]) -> dict[str, float | None]:
    """Fréchet distances of log-mel frames to real recordings.

    Returns:
        `continuation_to_real`: what follows the seams; `prompt_to_real`: what precedes them, which has passed the codec only, so
        that the difference is the language models'; `real_half_to_half`: every other real recording to the rest. All to what
        follows the seams of real recordings (the halves: both sides). None without enough of them.
    """
    if not real:
        return {}
    theirs = fit(_mels(real, after=True))
    halves = [[*_mels(real[half::2], after=True), *_mels(real[half::2], after=False)] for half in (0, 1)]
    return {
        "continuation_to_real": frechet_distance(fit(_mels(generated, after=True)), theirs),
        "prompt_to_real": frechet_distance(fit(_mels(generated, after=False)), theirs),
        "real_half_to_half": frechet_distance(fit(halves[0]), fit(halves[1])) if len(real) > 1 else None,
    }


def _mels(passages: Sequence[Passage], *, after: bool) -> Iterable[NDArray[np.float64]]:
    for passage in passages:
        yield log_mel_frames(passage.read(sample_rate_hz=RATE_HZ)[after], sample_rate_hz=RATE_HZ)
