"""How likely a semantic model finds what continuations say, given what their prompts say: a row per file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audiolm.evaluation.clips import Clip
from audiolm.evaluation.heard_units import heard_units
from audiolm.evaluation.passages import Passage, passages_digest
from audiolm.evaluation.row_files import append_rows, claim, start_rows, whole_lines
from audiolm.generator.model import AudioLM
from audiolm.generator.prompts import Prompt, digests
from audiolm.tokens.layout import remove_repeats

REAL = "real"


@dataclass(frozen=True)
class UnitLikelihood:
    """One file: the units after its seam, without repeats, and their log likelihood given those before it."""

    system: str
    file: str
    prompt: str  # the same for all files that continue the same stretch of the same recording
    units: int  # that were scored
    log_likelihood: float | None  # in nats, summed over them; None where there are none

    @property
    def per_unit(self) -> float | None:
        """Nats per unit, at most 0."""
        return None if self.log_likelihood is None else self.log_likelihood / self.units


def measure_unit_likelihoods(
    judge: AudioLM,
    systems: Mapping[str, Sequence[Passage]],
    out: Path,
    *,
    about: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[UnitLikelihood]:
    """Score every file; `out` gets `settings.json` and `files.csv`, a row at a time: a run that was killed goes on.

    Args:
        judge: a hierarchy: its tokenizer finds the units again in the audio, its semantic stage scores them.
        systems: by name; real recordings are `REAL` and pass the judge's codec first, since continuations are decoded codes.
        about: what else the numbers depend on: the judge's digest.
        progress: called with (files scored, all files).

    Raises:
        ValueError: for a judge that is acoustic only, or an `out` that holds measurements of other things.
        AudioError: for a file that cannot be read.
    """
    judge.require_units("a log likelihood")
    of_systems = {name: passages_digest(passages) for name, passages in systems.items()}
    claim(out, {**about, "device": judge.device.type, "systems": of_systems}, verb="likelihood")
    table = out / "files.csv"
    rows = {(row.system, row.file): row for row in read_unit_likelihoods(table)}
    start_rows(table, rows.values(), kind=UnitLikelihood)  # without the half line that a killed run may have left
    every = [(name, passage) for name, passages in systems.items() for passage in passages]
    progress(len(rows), len(every))
    for name, passage in every:
        if (name, passage.id) not in rows:
            rows[name, passage.id] = _scored(judge, name, passage)
            append_rows(table, [rows[name, passage.id]])
            progress(len(rows), len(every))
    return [rows[name, passage.id] for name, passage in every]


@torch.inference_mode()
def _scored(judge: AudioLM, system: str, passage: Passage) -> UnitLikelihood:
    rate = judge.spec.sample_rate_hz
    before, after = map(torch.from_numpy, passage.read(sample_rate_hz=rate))
    if system == REAL:
        passed = judge.reconstruct(torch.cat([before, after]))
        before, after = passed[: len(before)], passed[len(before) :]
    given, units = heard_units(judge.require_units("a log likelihood"), before, after, sample_rate_hz=rate)
    count = len(remove_repeats(torch.cat([given, units]))) - len(remove_repeats(given))
    if not count:
        return UnitLikelihood(system, passage.id, passage.prompt, 0, None)
    scores = judge.log_likelihood([units], given=[given])
    assert int(scores.tokens[0]) == count, f"{passage.path}: {int(scores.tokens[0])} of {count} units were scored"
    return UnitLikelihood(system, passage.id, passage.prompt, count, float(scores.sum[0]))


def same_prompts(systems: Mapping[str, Sequence[Passage]]) -> list[str]:
    """The prompts that all systems continue, in the order of the first.

    Raises:
        ValueError: if one lacks prompts that another continues.
    """
    prompts = {name: {passage.prompt for passage in passages} for name, passages in systems.items()}
    every = set().union(*prompts.values())
    lacking = {name: len(every - own) for name, own in prompts.items() if every - own}
    if lacking:
        counts = ", ".join(f"{name} lacks {count} of {len(every)}" for name, count in lacking.items())
        raise ValueError(
            f"the folders do not continue the same prompts ({counts}), so they cannot be compared prompt by prompt. Generate "
            "from the same recordings with the same `--model.prompt_seconds`."
        )
    return list(dict.fromkeys(passage.prompt for passage in next(iter(systems.values()))))


def real_continuations(clips: Sequence[Clip], like: Sequence[Passage]) -> tuple[list[Passage], int]:
    """How the recordings of the prompts themselves go on, as long as the continuations.

    Recordings are recognised by their content and place in the file, or, where a description has none, by their id.

    Args:
        clips: the recordings that prompts were taken from.
        like: continuations; the first of each prompt says how long prompt and continuation are.

    Returns:
        The stretches, and how many recordings end before the continuation does.

    Raises:
        ValueError: if a prompt is of none of the recordings, or all are too short.
    """
    of_file = digests([Prompt(clip.id, str(clip.path)) for clip in clips])
    known = {f"{of_file[clip.id]}:{clip.start}": clip for clip in clips} | {clip.id: clip for clip in clips}
    first = {passage.prompt: passage for passage in reversed(like)}
    found = {prompt: known.get(prompt.rpartition(":")[0]) or known.get(prompt) for prompt in first}
    strange = [first[prompt].path for prompt, clip in found.items() if clip is None]
    if strange:
        raise ValueError(
            f"the prompts of {len(strange)} of {len(found)} continuations, such as {strange[0]}, are of none of the "
            f"{len(clips)} real recordings: name their folder with --data or their --split, or say --without-real"
        )
    stretches = [_going_on(clip, first[prompt]) for prompt, clip in found.items() if clip is not None]
    whole = [
        stretch for stretch, clip in zip(stretches, found.values(), strict=True) if clip and _inside(stretch, clip)
    ]
    if not whole:
        raise ValueError(f"all {len(stretches)} recordings end before a continuation of them does: say --without-real")
    return whole, len(stretches) - len(whole)


def _going_on(clip: Clip, like: Passage) -> Passage:
    rate = clip.sample_rate_hz
    seam = clip.start + round(like.before_seconds * rate)
    end = seam + round(like.after_seconds * rate)
    return Passage(clip.id, "real", clip.path, clip.start, seam, end, rate, like.prompt, clip.dc_offset, clip.stamp)


def _inside(stretch: Passage, clip: Clip) -> bool:
    return stretch.end <= clip.start + clip.samples


def read_unit_likelihoods(path: Path) -> list[UnitLikelihood]:
    """The rows of a `files.csv`; a half line that a killed run left behind is dropped.

    Raises:
        ValueError: if a whole line is not one of ours, naming it.
    """
    rows = []
    for number, line in whole_lines(path):
        try:
            nats = float(line["log_likelihood"]) if line["log_likelihood"] else None
            row = UnitLikelihood(line["system"], line["file"], line["prompt"], int(line["units"]), None)
            if (nats is None) != (row.units == 0) or row.units < 0:
                raise ValueError("units and likelihood do not fit together")
            rows.append(replace(row, log_likelihood=nats))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path} cannot be read: it was edited or damaged. Remove its folder and measure again."
            ) from error
    return rows
