"""`audiolm evaluate speaker`: its options, and what it prints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.evaluate_conditions import (
    add_condition_options,
    chosen_clips,
    condition_clips_of,
    require_seconds_left,
)

if TYPE_CHECKING:
    from audiolm.checkpoint import StageCheckpoint
    from audiolm.evaluation.conditions import Kind
    from audiolm.evaluation.similarity import Similarities
    from audiolm.evaluation.speaker_choice import Asked
    from audiolm.evaluation.speaker_table import Accuracy

CONDITIONS: "tuple[Kind, ...]" = ("original", "reconstruction", "acoustic", "continuation")  # of Table III


def add_speaker(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = (
        "how often a classifier recognises speakers in originals, reconstructions, acoustic generations and continuations -> "
        "files.csv, speakers.csv, summary.json, speaker.svg"
    )
    speaker = commands.add_parser("speaker", help=help, description=help)
    speaker.set_defaults(run=_speaker)
    add_condition_options(speaker)
    speaker.add_argument(
        "--conditions",
        nargs="+",
        choices=CONDITIONS,
        default=list(CONDITIONS),
        help="which; by default all four. A generator without units makes no acoustic generations",
    )
    speaker.add_argument("--classifier", type=Path, help="of the speaker stage; by default ROOT/speaker/best.ckpt")
    speaker.add_argument(
        "--all-recordings",
        action="store_true",
        help="generate from recordings too that the classifier trained on; originals stay held out",
    )
    speaker.add_argument(
        "--xvector", metavar="NAME_OR_FOLDER", help="compare voices with a public speaker model, too (transformers)"
    )
    speaker.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/speaker")


def _speaker(options: argparse.Namespace) -> None:
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.devices import choose_device
    from audiolm.evaluation.audio_classifier import AudioClassifier
    from audiolm.evaluation.clips import clips_digest
    from audiolm.evaluation.labelled import CROP_SECONDS
    from audiolm.evaluation.row_files import require_claimable
    from audiolm.evaluation.similarity import measure_similarity
    from audiolm.evaluation.speaker_table import NOTE, measure_speakers, speaker_cases
    from audiolm.evaluation.xvectors import SpeakerVectors
    from audiolm.generator.folder import generator_digest
    from audiolm.lock import only_one
    from audiolm.progress import progress_bar

    path, device = options.classifier or options.root / "speaker" / "best.ckpt", choose_device(options.device)
    checkpoint = load_stage_checkpoint(path, stage="speaker")
    model = AudioClassifier.from_checkpoint(checkpoint)
    asked = _asked(options, path, checkpoint)
    clips = chosen_clips(options, asked.clips)
    if "original" in options.conditions and not asked.held_out & {clip.id for clip in clips}:
        raise ValueError(
            f"the classifier trained on all {len(clips)} recordings of these lengths: nothing is left to ask of originals. Widen "
            "--least-seconds and --most-seconds, or leave them out with --conditions."
        )
    if "continuation" in options.conditions:
        require_seconds_left(options, clips, least=CROP_SECONDS, compared=False)
    about: dict[str, Any] = {"classifier": checkpoint.digest, "conditions": sorted(set(options.conditions))}
    if set(options.conditions) != {"original"}:
        about["generator"] = generator_digest(options.generator or options.root / "generator")
    about["recordings"] = clips_digest(clips)
    about |= {name: getattr(options, name) for name in ("samplings", "seed", "prompt_seconds", "all_recordings")}
    voices = SpeakerVectors.from_pretrained(options.xvector, device=device) if options.xvector else None
    of_voices = about | {"voices": voices.digest} if voices else {}
    out = options.out or options.root / "evaluation" / "speaker"
    require_claimable(out, about, verb="speaker")
    if voices:
        require_claimable(out / "similarity", of_voices, verb="speaker", files=("xvectors.jsonl",))
    with only_one(out, what="audiolm evaluate speaker"):
        with progress_bar("audio") as progress:
            conditions = condition_clips_of(options, options.conditions, progress, clips)
        cases = speaker_cases(conditions, asked.speakers, originals=asked.held_out)
        with progress_bar("evaluate speaker") as progress:
            rows = measure_speakers(model, cases, out, about=about, device=device, progress=progress)
        _print_table(rows, speakers=len({asked.speakers[clip.id] for clip in clips}), known=len(model.labels))
        print(NOTE)
        if voices:
            with progress_bar("speaker vectors") as progress:
                found = measure_similarity(
                    voices,
                    cases,
                    clips,
                    asked.speakers,
                    out / "similarity",
                    about=of_voices,
                    prompt_seconds=options.prompt_seconds,
                    progress=progress,
                )
            _print_similarities(found)
    print(f"Wrote {out}")


def _asked(options: argparse.Namespace, path: Path, checkpoint: "StageCheckpoint") -> "Asked":
    """The recordings that may be asked about, before they are chosen by length and number."""
    from audiolm.evaluation.speaker_choice import asked_clips
    from audiolm.evaluation.split_file import read_split

    split = read_split(path, checkpoint)
    if not split.is_matched:
        print(f"{path.parent / 'split.json'} does not say of which training it is: taken for that of {path}.")
    return asked_clips(
        options.data or options.root / "manifest.jsonl",
        checkpoint.config["labels"],
        split,
        of_split=None if options.data else options.split,
        all_recordings=options.all_recordings,
    )


def _print_table(rows: "Sequence[Accuracy]", *, speakers: int, known: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Speakers recognised: recordings of {speakers}, a classifier of {known}")
    for heading in ("condition", "sampling", "clips", "correct", "accuracy, %", "95 %", "of", "chance, %", "paper, %"):
        table.add_column(heading, justify="left" if heading == "condition" else "right")
    for row in rows:
        interval = "–" if row.low is None or row.high is None else f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        sampling = "all" if row.sampling is None else str(row.sampling)
        paper = "–" if row.paper is None or row.sampling is not None else f"{100 * row.paper:.1f}"
        figures = (f"{100 * row.accuracy:.1f}", interval, row.interval, f"{100 * row.chance:.2f}", paper)
        table.add_row(row.condition, sampling, str(row.clips), str(row.correct), *figures)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _print_similarities(found: "Similarities") -> None:
    from rich.console import Console
    from rich.table import Table

    from audiolm.evaluation.similarity import NOTE

    table = Table(title="Voices compared by speaker vectors: cosine")
    for heading in ("pairs", "number", "mean", "95 %", "deviation", "accepted, %"):
        table.add_column(heading, justify="left" if heading == "pairs" else "right")
    for row in found.rows:
        interval = "–" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        accepted = "–" if row.accepted is None else f"{100 * row.accepted:.1f}"
        table.add_row(row.pairs, str(row.count), f"{row.mean:.3f}", interval, f"{row.deviation:.3f}", accepted)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if found.equal_error_rate is not None:
        print(f"Equal error rate of the vectors: {100 * found.equal_error_rate:.2f} % at {found.threshold:.3f}")
    print(NOTE)
