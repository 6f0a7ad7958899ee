"""The report's second half: what the chain sounds like, heard and seen."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiolm.evaluation.report_facts import ChainFacts
from audiolm.evaluation.report_page import Html, element, figure, grid, join, missing, paragraph, player, table
from audiolm.evaluation.report_pictures import log_mel, spectrogram_picture
from audiolm.files import read_json

RECONSTRUCTION_SECONDS = 6.0  # shown of each, so that the page stays below 8 MB; the files hold all of it


def read_samples(root: Path) -> dict[str, Any] | None:
    """What `audiolm samples` wrote, or None if it has not run."""
    path = root / "samples" / "samples.json"
    return read_json(path, made_by="make samples") if path.exists() else None


def reconstruction_section(facts: ChainFacts, samples: dict[str, Any] | None) -> Html:
    """SI-SDR and mel distance by number of levels, and each sample utterance at these."""
    if samples is None:
        return missing("No samples have been made yet.", facts.make("samples"))
    parts = [
        paragraph(
            "The codec turns audio into codes and back. The more quantizer levels it may use, the more bits per "
            "second, and the closer the result is to the original. Measured on test speakers:"
        ),
        _table(facts, samples),
    ]
    for item in samples["items"]:
        parts.append(_heading(item))
        clips = {"original": item["original"]} | {_levels(n): name for n, name in _by_level(item)}
        read = {caption: _read(facts.root, name) for caption, name in clips.items()}
        known = [clip for clip in read.values() if clip is not None]
        top_db = max((float(_mel(clip, samples).max()) for clip in known[:1]), default=0.0)
        figures = [
            _figure(facts, samples, clip, caption=caption, label=f"{caption}, {item['id']}", top_db=top_db)
            for caption, clip in read.items()
        ]
        parts.append(grid(*figures))
    return join(parts)


def continuations_section(facts: ChainFacts, samples: dict[str, Any] | None) -> Html:
    """What the chain says after each prompt."""
    if samples is None:
        return missing("No continuations have been made yet.", facts.make("samples"))
    made = samples["seconds"] * len(samples["items"])
    parts = [
        paragraph(
            f"The prompt, passed through the codec, and what the model says next: up to {samples['prompt_seconds']:g}"
            f" s of an unseen speaker, then {samples['seconds']:g} s of its own. The line marks where the prompt "
            f"ends. All {len(samples['items'])} continuations together, {made:g} s of speech, took "
            f"{samples['generation_seconds']:.1f} s to generate (seed {samples['seed']})."
        )
    ]
    figures = []
    for item in samples["items"]:
        boundary = item["prompt_samples"] / samples["sample_rate_hz"]
        seconds = (item["samples"] - item["prompt_samples"]) / samples["sample_rate_hz"]
        caption = join(
            [f"speaker {item['speaker']} ", element("span", f"{boundary:.2f} s prompt + {seconds:.2f} s continuation")]
        )
        clip = _read(facts.root, item["continuation"])
        label = f"prompt and continuation, {item['id']}"
        figures.append(_figure(facts, samples, clip, caption=caption, label=label, boundary_seconds=boundary))
    return join([*parts, grid(*figures)])


def unconditional_section(facts: ChainFacts, samples: dict[str, Any] | None) -> Html:
    """What the chain says of itself."""
    if samples is None:
        return missing("Nothing has been sampled yet.", facts.make("samples"))
    figures = []
    for number, name in enumerate(samples["unconditional"], start=1):
        caption = f"free sample {number}"
        figures.append(_figure(facts, samples, _read(facts.root, name), caption=caption, label=caption))
    return join([paragraph("Speech from nothing: content, voice and room are all the model's choice."), grid(*figures)])


def _figure(
    facts: ChainFacts,
    samples: dict[str, Any],
    clip: NDArray[np.int16] | None,
    *,
    caption: object,
    label: str,
    top_db: float | None = None,
    boundary_seconds: float | None = None,
) -> Html:
    if clip is None:
        return missing(f"The sound file ({label}) is gone.", facts.make("samples"))
    rate = samples["sample_rate_hz"]
    shown = clip if boundary_seconds is not None or top_db is None else clip[: round(RECONSTRUCTION_SECONDS * rate)]
    mel_db = _mel(shown, samples)
    picture = spectrogram_picture(
        mel_db,
        seconds=len(shown) / rate,
        sample_rate_hz=rate,
        top_db=float(mel_db.max()) if top_db is None else top_db,
        boundary_seconds=boundary_seconds,
    )
    ends = "" if boundary_seconds is None else f"; the prompt ends at {boundary_seconds:.2f} s"
    if len(shown) < len(clip):
        caption = join([caption, element("span", f" the first {RECONSTRUCTION_SECONDS:g} s")])
    sound = player(shown, sample_rate_hz=rate, label=label)
    return figure(picture, alt=f"Spectrogram: {label}{ends}", caption=caption, player=sound)


def _table(facts: ChainFacts, samples: dict[str, Any]) -> Html:
    rows = []
    for row in samples["reconstruction"]:
        rate = "—"
        if facts.tokens is not None:
            spec = facts.tokens.spec
            rate = f"{row['levels'] * spec.frame_rate_hz * math.log2(spec.codebook_size):,.0f}"
        rows.append((row["levels"], rate, f"{row['si_sdr_db']:.2f} dB", f"{row['mel_distance']:.3f}", row["clips"]))
    return table(
        ("levels", "bits per second", "SI-SDR (more is better)", "mel distance (less is better)", "clips"), rows
    )


def _heading(item: dict[str, Any]) -> Html:
    return element("h3", f"Speaker {item['speaker']} ", element("small", item["id"]))


def _by_level(item: dict[str, Any]) -> list[tuple[int, str]]:
    return sorted((int(levels), name) for levels, name in item["reconstructions"].items())


def _levels(number: int) -> str:
    return "1 level" if number == 1 else f"{number} levels"


def _read(root: Path, name: str) -> NDArray[np.int16] | None:
    path = root / "samples" / name
    return soundfile.read(path, dtype="int16")[0] if path.exists() else None


def _mel(clip: NDArray[np.int16], samples: dict[str, Any]) -> NDArray[np.float32]:
    return log_mel(clip.astype(np.float32) / np.float32(2**15), sample_rate_hz=samples["sample_rate_hz"])
