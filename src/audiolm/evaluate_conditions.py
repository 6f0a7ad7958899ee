"""The options that say of which recordings, and how, the conditions of `audiolm evaluate asr|speaker|detector` are made."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm.manifest import SPLITS

if TYPE_CHECKING:
    from audiolm.evaluation.clips import Clip
    from audiolm.evaluation.conditions import Kind


def add_condition_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a verb's parser."""
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    parser.add_argument("--generator", type=Path, help="a generator folder; by default ROOT/generator")
    parser.add_argument("--data", type=Path, help="a folder of recordings; by default the chain's split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="without --data: of ROOT/manifest.jsonl")
    parser.add_argument(
        "--least-seconds", type=float, default=4.0, help="recordings of at least so much (4, the paper's)"
    )
    parser.add_argument("--most-seconds", type=float, default=10.0, help="and at most so much (10); inf for all")
    parser.add_argument("--limit", type=int, help="no more than so many of them, evenly spread")
    parser.add_argument("--samplings", type=int, default=3, help="of acoustic generations and continuations (3)")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="of continuations (3)")
    parser.add_argument("--seconds", type=float, default=7.0, help="of continuations (7)")
    parser.add_argument("--seed", type=int, default=0, help="of the first sampling")
    parser.add_argument("--batch-size", type=int, default=16, help="recordings at a time; less needs less memory")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument(
        "--audio", type=Path, help="where generated audio is kept, for all verbs; by default ROOT/evaluation/audio"
    )


def chosen_clips(options: argparse.Namespace, among: "Sequence[Clip] | None" = None) -> "list[Clip]":
    """The recordings that the options choose; says how many were left out for their length.

    Args:
        among: to choose from, by length and number; by default those of `--data` or of the split.

    Raises:
        ValueError: if none is left, or a number is out of range.
    """
    from audiolm.evaluation.clips import folder_clips, split_clips, spread

    if not 0 <= options.least_seconds < options.most_seconds:
        raise ValueError(
            f"--least-seconds must be less than --most-seconds, got {options.least_seconds} and {options.most_seconds}"
        )
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    manifest = options.root / "manifest.jsonl"
    clips = among or (folder_clips(options.data) if options.data else split_clips(manifest, options.split))
    seconds = [clip.samples / clip.sample_rate_hz for clip in clips]
    kept = [clip for clip, s in zip(clips, seconds, strict=True) if options.least_seconds <= s <= options.most_seconds]
    span = f"{options.least_seconds:g} to {options.most_seconds:g} s"
    if not kept:
        raise ValueError(
            f"none of {len(clips)} recordings ({min(seconds):.1f} to {max(seconds):.1f} s) is {span} long, the paper's "
            "lengths: choose others with --least-seconds and --most-seconds"
        )
    if len(kept) < len(clips):
        print(f"{len(kept)} of {len(clips)} recordings are {span} long; the others are left out, as in the paper.")
    return spread(kept, options.limit)


def require_seconds_left(options: argparse.Namespace, clips: "Sequence[Clip]", *, least: float, compared: bool) -> None:
    """Stop before anything is generated if what is heard of continuations would be too short.

    Args:
        least: seconds that are needed.
        compared: whether what follows the prompt in the recordings is heard, too.

    Raises:
        ValueError: naming the first recording.
    """
    if options.seconds < least:
        raise ValueError(
            f"continuations of {options.seconds:g} s are too short (--seconds): at least {least:g} s are heard at once"
        )
    short = [
        (clip.id, samples / clip.sample_rate_hz)
        for clip in clips
        if (samples := clip.samples - round(options.prompt_seconds * clip.sample_rate_hz)) < least * clip.sample_rate_hz
    ]
    if compared and short:
        id_, seconds = short[0]
        raise ValueError(
            f"{len(short)} of {len(clips)} recordings have less than {least:g} s after a prompt of {options.prompt_seconds:g} s, "
            f"such as {id_} ({max(0.0, seconds):.2f} s): choose longer ones with --least-seconds, or a shorter --prompt-seconds"
        )


def condition_clips_of(
    options: argparse.Namespace,
    kinds: "Sequence[Kind]",
    progress: Callable[[int, int], None],
    clips: "Sequence[Clip] | None" = None,
) -> "dict[Kind, list[list[Clip]]]":
    """The chosen recordings (by default `chosen_clips`) under each condition: see `evaluation.conditions.condition_clips`."""
    from audiolm.devices import choose_device
    from audiolm.evaluation.conditions import Protocol, condition_clips

    clips = chosen_clips(options) if clips is None else clips
    if not math.isfinite(options.seconds) or options.seconds <= 0:
        raise ValueError(f"--seconds must be positive and finite, got {options.seconds}")
    return condition_clips(
        clips,
        kinds,
        generator=options.generator or options.root / "generator",
        folder=options.audio or options.root / "evaluation" / "audio",
        protocol=Protocol(
            samplings=options.samplings,
            seed=options.seed,
            prompt_seconds=options.prompt_seconds,
            seconds=options.seconds,
            batch_size=options.batch_size,
        ),
        device=choose_device(options.device),
        progress=progress,
    )
