"""The log likelihood of every recording of a set, kept in a file that a killed run goes on from."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.audio import SHORTEST_SECONDS, audio_info, resampled_length
from audiolm.evaluation.row_files import append_rows, claim, start_rows, whole_lines
from audiolm.generator import AudioLM
from audiolm.generator.prompts import Prompt, defects, digests

AGAIN = "remove its folder and run the same command again"


@dataclass(frozen=True)
class Likelihood:
    """How likely the semantic model finds one recording."""

    file: str  # its stem
    tokens: int  # units without repeats
    log_likelihood: float  # nats, summed over the tokens


def measure_likelihoods(
    model: AudioLM,
    recordings: Mapping[str, Path],
    out: Path,
    *,
    about: Mapping[str, Any],
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Likelihood]:
    """Score every recording with the semantic stage; `out` gets `settings.json` and `files.csv`.

    All recordings are decoded and looked at before the first is scored. Recordings of similar length are scored together.
    Batches are cut from all of them, not from those left: a run that was killed and went on gives the same digits.

    Args:
        recordings: by stem.
        about: what the numbers depend on besides recordings, batch size and device, as JSON's types: the generator's digest.
        progress: called with (recordings scored, all recordings).

    Raises:
        ValueError: for a generator without a semantic stage, recordings that cannot be used (with their number and the first
            of them), or an `out` that holds likelihoods of another generator, other recordings or other settings.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if "semantic" not in model.stages:
        raise ValueError(
            f"this generator has no semantic stage (only {', '.join(model.stages) or 'none'}): nothing in it says how likely "
            "speech is. Compose one with a semantic stage (`make semantic`, `audiolm compose`)."
        )
    prompts = _usable(recordings, sample_rate_hz=model.spec.sample_rate_hz)
    settings = {**about, "recordings": len(prompts), "recordings_digest": _digest(prompts)}
    settings |= {"batch_size": batch_size, "device": model.device.type}
    claim(out, settings, verb="swuggy` or `sblimp")
    table = out / "files.csv"
    rows = read_likelihoods(table)
    start_rows(table, rows.values(), kind=Likelihood)
    prompts.sort(key=lambda prompt: (prompt.seconds, prompt.id))
    progress(len(rows), len(prompts))
    for at in range(0, len(prompts), batch_size):
        batch = prompts[at : at + batch_size]
        if all(prompt.id in rows for prompt in batch):
            continue
        new = [row for row in _likelihoods(model, batch) if row.file not in rows]
        append_rows(table, new)
        rows |= {row.file: row for row in new}
        progress(len(rows), len(prompts))
    return rows


def _likelihoods(model: AudioLM, batch: Sequence[Prompt]) -> list[Likelihood]:
    audio = [prompt.read(sample_rate_hz=model.spec.sample_rate_hz) for prompt in batch]
    scores = model.log_likelihood_of_audio(audio, batch_size=len(batch))
    rows = [
        Likelihood(prompt.id, tokens, nats)
        for prompt, tokens, nats in zip(batch, scores.tokens.tolist(), scores.sum.tolist(), strict=True)
    ]
    lost = next((row.file for row in rows if not math.isfinite(row.log_likelihood)), None)
    if lost is not None:
        raise ValueError(f"the log likelihood of {lost} is not finite: the semantic model's training has diverged")
    return rows


def _usable(recordings: Mapping[str, Path], *, sample_rate_hz: int) -> list[Prompt]:
    """Every recording, decoded once.

    Raises:
        ValueError: naming the first that is unreadable, silent or too short, and how many there are.
    """
    prompts = []
    for stem, path in recordings.items():
        info = audio_info(path)
        prompts.append(Prompt(stem, str(path), 0, info.samples, info.sample_rate_hz))
    shortest = math.ceil(SHORTEST_SECONDS * sample_rate_hz)
    short = {
        prompt.id: f"{prompt.path} lasts {1000 * prompt.seconds:.0f} ms, 100 ms are needed"
        for prompt in prompts
        if resampled_length(prompt.samples, prompt.sample_rate_hz, sample_rate_hz) < shortest
    }
    bad = short or defects(prompts, sample_rate_hz=sample_rate_hz, shortest_samples=shortest)
    if bad:
        stem, why = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {len(prompts)} recordings cannot be scored, such as {stem}: {why}. A set is scored whole or not "
            "at all: copy it again."
        )
    return prompts


def _digest(prompts: Sequence[Prompt]) -> str:
    return hashlib.sha256(repr(sorted(digests(prompts).items())).encode()).hexdigest()


def read_likelihoods(path: Path) -> dict[str, Likelihood]:
    """The recordings scored so far; a last line that a killed run left behind in part is dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows: dict[str, Likelihood] = {}
    for number, values in whole_lines(path):
        try:
            row = Likelihood(values["file"], int(values["tokens"]), float(values["log_likelihood"]))
            if row.file in rows or row.tokens < 1 or not math.isfinite(row.log_likelihood):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} of {path} cannot be read: it was edited or damaged; {AGAIN}") from error
        rows[row.file] = row
    return rows
