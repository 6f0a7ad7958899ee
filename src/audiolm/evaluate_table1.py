"""`audiolm evaluate table1`: its options, and what it prints."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.evaluate_abx import add_comparison, comparison_of
from audiolm.manifest import SPLITS

if TYPE_CHECKING:
    from audiolm.evaluation.clips import Clip
    from audiolm.evaluation.table1 import Table1Settings
    from audiolm.evaluation.table1_rows import Row


def add_table1(commands: Any) -> None:
    """Add the verb and its options to the sub-verbs of `audiolm evaluate`."""
    help = "the paper's Table I: ABX, ViSQOL and bitrate of units, residual units and codes -> table1.csv, summary.json"
    table = commands.add_parser("table1", help=help, description=f"{help}. ABX as in the paper: --frames libri-light.")
    table.set_defaults(run=_table1)
    table.add_argument("--items", type=Path, required=True, help="an .item file: phones, triphones or words")
    table.add_argument("--audio", type=Path, required=True, help="folder of the recordings that the items name")
    table.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    table.add_argument(
        "--only", nargs="+", metavar="ROW", help="among units residual-units coarse-codes all-codes; by default all"
    )
    table.add_argument("--data", type=Path, help="folder of audio to decode; by default --audio, as in the paper")
    table.add_argument("--split", choices=SPLITS, help="decode the clips of this split of ROOT/manifest.jsonl instead")
    table.add_argument("--measures", nargs="+", default=["visqol"], help="among visqol (default) pesq stoi si_sdr mel")
    table.add_argument(
        "--visqol-mapping", default="polynomial", help="polynomial (default), polynomial-unscaled or lattice"
    )
    table.add_argument("--limit", type=int, help="decode no more than so many clips, evenly spread")
    table.add_argument("--max-seconds", type=float, help="decode no more than so much of each clip")
    table.add_argument("--context", default="within", help="of phones: within (default, as in the paper) or any")
    add_comparison(table)
    table.set_defaults(frames="libri-light")
    table.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that measure decoded audio")
    table.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/table1")


def _table1(options: argparse.Namespace) -> None:
    from audiolm.evaluation.abx_items import read_items
    from audiolm.evaluation.item_recordings import item_recordings
    from audiolm.evaluation.table1 import Table1Data, Table1Settings, measure_table1, require_checkpoints
    from audiolm.evaluation.table1_rows import token_types
    from audiolm.lock import only_one
    from audiolm.progress import progress_bars

    for name in ("limit", "max_seconds", "workers"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    tokens = token_types(options.only)
    require_checkpoints(options.root, tokens)
    abx, device = comparison_of(options)
    abx = replace(abx, contexts=(options.context,))
    settings = Table1Settings(abx, tuple(dict.fromkeys(options.measures)), options.visqol_mapping)
    settings.codec(1)  # refuses measures and mappings that do not exist
    items = read_items(options.items)
    data = Table1Data(items, item_recordings(items, options.audio), _clips(options))
    out = options.out or options.root / "evaluation" / "table1"
    with only_one(out, what="audiolm evaluate table1"), progress_bars() as progress:
        rows = measure_table1(
            options.root,
            tokens,
            data,
            out,
            settings=settings,
            device=device,
            workers=options.workers,
            progress=progress,
        )
    _print(rows, settings, clips=len(data.clips))
    print(f"Wrote {out}")


def _clips(options: argparse.Namespace) -> "list[Clip]":
    from audiolm.evaluation.clips import folder_clips, split_clips

    cut = {"limit": options.limit, "max_seconds": options.max_seconds}
    if options.data and options.split:
        raise ValueError("--data and --split both say which audio to decode: give one of them")
    if options.split:
        return split_clips(options.root / "manifest.jsonl", options.split, **cut)
    return folder_clips(options.data or options.audio, **cut)


def _print(rows: "Sequence[Row]", settings: "Table1Settings", *, clips: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from audiolm.evaluation.table1 import plain
    from audiolm.evaluation.table1_results import NOTE, protocol
    from audiolm.evaluation.table1_rows import claim_words, orderings

    titles = {name: title for name, title in settings.codec(1).titles().items() if name in settings.measures}
    table = Table(title=f"Table I: {rows[0]['items']:,} items, {clips} clips")
    for heading in ("tokens", "levels", "bit/s", "entropy", "ABX within, %", "ABX across, %", *titles.values()):
        table.add_column(heading, justify="left" if heading == "tokens" else "right")
    for row in rows:
        sizes = f"{row['levels']} x {row['codebook']}", f"{row['bitrate_bps']:.0f}", f"{row['entropy_bps']:.0f}"
        errors = (_number(row[f"abx_{name}"], row[f"abx_{name}_low"], row[f"abx_{name}_high"]) for name in _SPEAKERS)
        measured = (_mean(row[name], row[f"{name}_standard_error"]) for name in titles)
        table.add_row(row["title"], *sizes, *errors, *measured)
        paper = (f"{row[f'paper_{name}']:g}" if f"paper_{name}" in row else "" for name in titles)
        errors = (f"{row[f'paper_abx_{name}']:g}" for name in _SPEAKERS)
        table.add_row("  the paper's", "", f"{row['paper_bitrate_bps']:g}", "", *errors, *paper, style="italic dim")
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    print("The paper's orderings:")
    for ordering in orderings(rows):
        print(f"  {claim_words(ordering)}")
    for name, words in protocol({"abx": plain(vars(settings.abx))}, mapping=settings.visqol_mapping).items():
        if name != "visqol" or name in settings.measures:
            print(f"{name}: {words}")
    print(NOTE)


_SPEAKERS = ("within", "across")


def _number(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.1f} to {high:.1f})"


def _mean(mean: float | None, error: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3g}" if error is None else f"{mean:.3g} ± {error:.2g}"
