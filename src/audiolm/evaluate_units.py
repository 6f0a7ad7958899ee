"""`audiolm evaluate units`: what the semantic units have to do with phones."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm.evaluation.units_table import UnitsTable

SHOWN = 12  # phones in the printed table; the file has all


def add_units(commands: Any) -> None:
    """Add the verb and its options to the sub-verbs of `audiolm evaluate`."""
    help = (
        "phone purity, PNMI, repeats and use of the units against aligned phones -> units.json, phones.csv, units.svg"
    )
    units = commands.add_parser("units", help=help, description=help)
    units.set_defaults(run=_units)
    units.add_argument("--phones", type=Path, required=True, help="table of file, start, end, phone, word, by tabs")
    units.add_argument("--audio", type=Path, required=True, help="the folder that the table's paths begin in")
    units.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    units.add_argument("--tokenizer", type=Path, help="a tokenizer's checkpoint; by default ROOT/tokenizer/best.ckpt")
    units.add_argument("--utterance", help="the recording to draw; by default the first")
    units.add_argument("--limit", type=int, help="no more than so many recordings, evenly spread")
    units.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/units")


def _units(options: argparse.Namespace) -> None:
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.evaluation.units_table import measure_units
    from audiolm.progress import progress_bar
    from audiolm.semantic.tokenizer import SemanticTokenizer

    if options.limit is not None and options.limit <= 0:
        raise ValueError(f"--limit must be positive, got {options.limit}")
    path = options.tokenizer or options.root / "tokenizer" / "best.ckpt"
    checkpoint = load_stage_checkpoint(path, stage="tokenizer")
    tokenizer = SemanticTokenizer.from_checkpoint(checkpoint)
    out = options.out or options.root / "evaluation" / "units"
    about = {"tokenizer_digest": checkpoint.digest, "tokenizer": checkpoint.config, "phones": str(options.phones)}
    about |= {"audio": str(options.audio), "limit": options.limit}
    with progress_bar("evaluate units") as progress:
        table = measure_units(
            tokenizer,
            options.phones,
            options.audio,
            out,
            utterance=options.utterance,
            limit=options.limit,
            about=about,
            progress=progress,
        )
    _print(table, rate_hz=tokenizer.rate_hz)
    print(f"Wrote {out}")


def _print(table: "UnitsTable", *, rate_hz: int) -> None:
    from rich.console import Console
    from rich.table import Table

    use, repeats = table.use, table.repeats
    console = Console(width=None if sys.stdout.isatty() else 140)
    whole = Table(title=f"{use.clusters} units at {rate_hz} Hz on {table.files} recordings")
    for heading in ("", "phone purity", "cluster purity", "PNMI", "frames"):
        whole.add_column(heading, justify="right" if heading else "left")
    for name, row in (("all phones", table.phones), ("without silence", table.speech)):
        if row is not None:
            numbers = (row.phone_purity, row.cluster_purity, row.pnmi)
            whole.add_row(name, *(f"{number:.3f}" for number in numbers), f"{row.frames:,}")
    console.print(whole)
    phones = Table(title=f"The {min(SHOWN, len(table.rows))} most frequent phones")
    for heading in ("phone", "frames", "units that mean it", "found", "right when said"):
        phones.add_column(heading, justify="right" if heading != "phone" else "left")
    for line in table.rows[:SHOWN]:
        shares = ("–" if line[name] != line[name] else f"{line[name]:.1%}" for name in ("recall", "precision"))  # nan
        phones.add_row(line["phone"] or "–", f"{line['frames']:,}", str(line["units"]), *shares)
    console.print(phones)
    print(
        f"{use.used} of {use.clusters} clusters in use; entropy {use.entropy_bits:.2f} bits per unit, "
        f"{use.bitrate_bps:.0f} bit/s. A unit lasts {repeats.mean_run_frames:.2f} frames: {repeats.repeat_share:.1%} are "
        f"repeats, {repeats.units_per_second:.1f} units per second are left without them."
    )
    if table.unlabelled:
        print(f"{table.unlabelled} frames lie in no phone of the table and were not compared.")
