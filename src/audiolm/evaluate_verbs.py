"""The verbs below `audiolm evaluate`: measures of what a chain, or a public model, can do."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm.evaluate_abx import add_abx
from audiolm.evaluate_asr import add_asr
from audiolm.evaluate_detector import add_detector
from audiolm.evaluate_layers import add_layers
from audiolm.evaluate_likelihood import add_likelihood
from audiolm.evaluate_listening import add_listening
from audiolm.evaluate_paper import add_paper
from audiolm.evaluate_prosody import add_prosody
from audiolm.evaluate_speaker import add_speaker
from audiolm.evaluate_table1 import add_table1
from audiolm.evaluate_units import add_units
from audiolm.evaluate_zerospeech import add_zerospeech
from audiolm.manifest import SPLITS

if TYPE_CHECKING:
    from audiolm.evaluation.codec_measures import Settings
    from audiolm.evaluation.codec_results import Pooled


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Add the sub-verbs and their options to the parser of `audiolm evaluate`."""
    commands = evaluate.add_subparsers(required=True, metavar="WHAT")
    help = "how much of speech a codec keeps, by number of levels -> files.csv, pooled.json, measures.svg"
    codec = commands.add_parser("codec", help=help, description=help)
    codec.set_defaults(run=_codec)
    codec.add_argument(
        "--codec",
        help="a best.ckpt, a stage's or a chain's folder, a generator folder, or a public codec; by default ROOT's",
    )
    codec.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    codec.add_argument("--data", type=Path, help="a folder of audio; by default the chain's split")
    codec.add_argument("--split", choices=SPLITS, default="test", help="without --data: of ROOT/manifest.jsonl")
    codec.add_argument("--levels", type=int, nargs="+", help="how many levels to decode; by default 1 2 4 8 … and all")
    codec.add_argument("--measures", nargs="+", help="among visqol pesq stoi si_sdr mel; by default all of them")
    codec.add_argument(
        "--visqol-mapping", default="polynomial", help="polynomial (default), polynomial-unscaled or lattice"
    )
    codec.add_argument("--limit", type=int, help="no more than so many clips, evenly spread")
    codec.add_argument("--max-seconds", type=float, help="no more than so much of each clip")
    codec.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/codec")
    codec.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that measure")
    add_units(commands)
    add_abx(commands)
    add_layers(commands)
    add_listening(commands)
    add_zerospeech(commands)
    add_prosody(commands)
    add_likelihood(commands)
    add_paper(commands)
    add_asr(commands)
    add_table1(commands)
    add_speaker(commands)
    add_detector(commands)


def _codec(options: argparse.Namespace) -> None:
    from audiolm.evaluation.clips import folder_clips, split_clips
    from audiolm.evaluation.codec_measures import MEASURES, Settings
    from audiolm.evaluation.codec_table import measure_codec
    from audiolm.evaluation.which_codec import load_codec
    from audiolm.progress import progress_bar

    for name in ("limit", "max_seconds", "workers"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    codec = load_codec(options.codec or options.root)
    levels = options.levels or [2**power for power in range(10) if 2**power < codec.levels] + [codec.levels]
    measures = tuple(dict.fromkeys(options.measures or MEASURES))
    settings = Settings(tuple(sorted(set(levels))), measures, options.visqol_mapping)
    cut = {"limit": options.limit, "max_seconds": options.max_seconds}
    if options.data:
        clips = folder_clips(options.data, **cut)
    else:
        clips = split_clips(options.root / "manifest.jsonl", options.split, **cut)
    out = options.out or options.root / "evaluation" / "codec"
    with progress_bar("evaluate codec") as progress:
        pooled = measure_codec(codec, clips, out, settings=settings, workers=options.workers, progress=progress)
    _print_table(pooled, settings, clips=len(clips))
    print(f"Wrote {out}")


def _print_table(pooled: "list[Pooled]", settings: "Settings", *, clips: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from audiolm.evaluation.codec_results import NOTE

    table = Table(title=f"Codec on {clips} clips")
    for heading in ("levels", "kbit/s", *settings.titles().values()):
        table.add_column(heading, justify="right")
    cells: dict[tuple[int, float], list[str]] = {}
    for row in pooled:
        error = "" if row.standard_error is None else f" ± {row.standard_error:.2g}"
        mark = " *" if row.empty else ""
        text = "–" if row.mean is None else f"{row.mean:.4g}{error}{mark}"
        cells.setdefault((row.levels, row.bitrate_bps), []).append(text)
    for (levels, bitrate), texts in cells.items():
        table.add_row(str(levels), f"{bitrate / 1000:g}", *texts)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for row in pooled:
        if row.empty:
            print(
                f"* {row.measure} at {row.levels} levels: no value for {row.empty} of {clips} clips ({row.why_empty})"
            )
    print(NOTE)
