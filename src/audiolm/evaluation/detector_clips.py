"""What a detector of synthesized speech learns from: recordings on one side, what a generator spoke on the other."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiolm.evaluation.clips import Clip, folder_clips
from audiolm.evaluation.holding_out import held_out
from audiolm.evaluation.labelled import LabelledClips, labelled
from audiolm.evaluation.passages import continuations
from audiolm.files import read_json

HUMAN, MACHINE = "human", "machine"
_MAKE = "lightning predict -c stages/generate.yaml --data.split train --model.mode {mode} --model.out {folder}"


def detector_clips(
    human: Sequence[Path], machine: Sequence[Path], *, human_start_seconds: float = 0.0
) -> LabelledClips:
    """List both sides, and hold a tenth of the recordings out, with everything that was spoken on from them.

    Args:
        human: folders of recordings, best passed through the generator's codec (the generate stage with `mode: reconstruct`):
            else the codec's noise is what is detected.
        machine: folders of continuations, as the generate stage or `audiolm samples` writes them. Their prompts are excluded.
        human_start_seconds: so much of the beginning of each human recording is left out.

    Raises:
        FileNotFoundError: if a folder is not there, with the command that makes it.
        ValueError: if a human folder holds continuations, or too few recordings.
    """
    if human_start_seconds < 0:
        raise ValueError(f"human_start_seconds must be at least 0, got {human_start_seconds}")
    for folders, mode in ((human, "reconstruct"), (machine, "continue")):
        missing = [folder for folder in folders if not folder.is_dir()]
        if missing or not folders:
            folder = missing[0] if missing else Path("FOLDER")
            raise FileNotFoundError(f"There is no folder {folder}. Make it: `{_MAKE.format(mode=mode, folder=folder)}`")
    originals = [clip for folder in human for clip in _recordings(folder, human_start_seconds)]
    spoken = [clip for folder in machine for clip in _continuations(folder)]
    both = [
        (clip, label, recording_of(clip)) for label, clips in ((HUMAN, originals), (MACHINE, spoken)) for clip in clips
    ]
    return labelled(both, held_out=held_out(key for _, _, key in both))


def generator_of(machine: Sequence[Path]) -> str | None:
    """The `generator_digest` of what spoke in the folders; None where nothing says it, as in those of `audiolm samples`.

    Raises:
        ValueError: if several generators spoke: a detector ships with one.
    """
    settings = {folder: folder / "settings.json" for folder in machine}
    said = {
        folder: read_json(path, made_by="the generate stage") for folder, path in settings.items() if path.is_file()
    }
    found = {content.get("generator"): folder for folder, content in said.items() if isinstance(content, dict)}
    if len(found) > 1:
        raise ValueError(
            f"Several generators spoke in {', '.join(map(str, found.values()))}: train a detector for each."
        )
    digest = next(iter(found), None)
    return digest if isinstance(digest, str) else None


def codec_doubts(human: Sequence[Path], generator: str | None) -> list[str]:
    """What speaks against the human side having passed the machine side's codec, in words; nothing if all is well.

    Raw recordings are the paper's control, and only that: the detector then learns the codec's noise.

    Args:
        generator: of `generator_of` the machine side; None if it is not known: it is then not compared.
    """
    doubts = []
    for folder in human:
        rows = [_row(clip) for clip in folder_clips(folder)]
        passed = [row for row in rows if row.get("mode") == "reconstruct"]
        others = [row for row in passed if generator is not None and row.get("generator") != generator]
        if len(passed) < len(rows):
            doubts.append(
                f"{len(rows) - len(passed)} of {len(rows)} recordings of {folder} do not say that they passed a codec (no "
                "`.wav.json` of the generate stage with mode reconstruct beside them): the detector may learn to hear the codec. "
                f"As a control that is right; else make them: `{_MAKE.format(mode='reconstruct', folder='FOLDER')}`"
            )
        if others:
            doubts.append(
                f"{len(others)} of {len(rows)} recordings of {folder} passed the codec of another generator "
                f"({str(others[0].get('generator'))[:12]}…) than the one that spoke on the other side ({str(generator)[:12]}…): "
                "the detector may learn to tell codecs apart. Make them with the same generator."
            )
    return doubts


def recording_of(clip: Clip) -> str:
    """Which recording a clip is of, or was spoken on from: the id without suffix, and without the place it was cut at."""
    stem, suffix = os.path.splitext(clip.id)
    return re.sub(r"@\d+$", "", stem if suffix == clip.path.suffix else clip.id)


def _recordings(folder: Path, start_seconds: float) -> list[Clip]:
    clips = []
    for clip in folder_clips(folder):
        if _row(clip).get("prompt_samples"):
            raise ValueError(
                f"{clip.path} is a continuation (see {clip.path.name}.json), in a folder that was named as human speech. "
                "Were --model.human and --model.machine exchanged?"
            )
        skipped = round(start_seconds * clip.sample_rate_hz)
        clips.append(replace(clip, start=clip.start + skipped, samples=max(0, clip.samples - skipped)))
    return clips


def _row(clip: Clip) -> dict[str, Any]:
    """What the generate stage says of a file, beside it; nothing of others."""
    path = clip.path.with_name(clip.path.name + ".json")
    said = read_json(path, made_by="the generate stage") if path.is_file() else {}
    return said if isinstance(said, dict) else {}


def _continuations(folder: Path) -> list[Clip]:
    named_by_prompt = (folder / "samples.json").is_file()  # there files are numbered, and `prompt` is the utterance
    return [
        Clip(
            p.prompt if named_by_prompt else p.id,
            p.path,
            p.seam,
            p.end - p.seam,
            p.sample_rate_hz,
            p.dc_offset,
            p.stamp,
        )
        for p in continuations([folder])
    ]
