"""`audiolm evaluate prosody` and `audiolm evaluate diversity`: their options, and what they print."""

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.manifest import SPLITS

if TYPE_CHECKING:
    from audiolm.evaluation.measured_folder import Pooled
    from audiolm.evaluation.passages import Passage


def add_prosody(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both verbs to those of `audiolm evaluate`."""
    help = (
        "F0, speaking rate, silence, loudness and log-mel Fréchet distance across the seams of continuations, beside real "
        "recordings -> files.csv, pooled.json, prosody.svg"
    )
    prosody = commands.add_parser("prosody", help=help, description=help)
    prosody.set_defaults(run=_prosody)
    prosody.add_argument(
        "--music", action="store_true", help="chroma, key, onsets and tempo instead of F0 and syllables"
    )
    _add_common(prosody, "prosody")
    help = (
        "entropy, distinct n-grams and self-BLEU of the units of continuations, beside real recordings -> "
        "files.csv, pooled.json, diversity.svg"
    )
    diversity = commands.add_parser("diversity", help=help, description=help)
    diversity.set_defaults(run=_diversity)
    diversity.add_argument(
        "--tokenizer", type=Path, help="a tokenizer's checkpoint; by default ROOT/tokenizer/best.ckpt"
    )
    diversity.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    _add_common(diversity, "diversity")


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="of continuations, as the generate stage or `audiolm samples` writes them; several: other seeds",
    )
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    parser.add_argument("--data", type=Path, help="a folder of real recordings; by default the chain's split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="without --data: of ROOT/manifest.jsonl")
    parser.add_argument("--without-real", action="store_true", help="compare with nothing")
    parser.add_argument("--before-seconds", type=float, help="no more than so much before each seam; by default all")
    parser.add_argument("--after-seconds", type=float, help="no more than so much after each seam; by default all")
    parser.add_argument("--places", type=int, default=1, help="at most so many seams in one real recording")
    parser.add_argument("--seed", type=int, default=0, help="of the places in real recordings")
    parser.add_argument("--limit", type=int, help="no more than so many continuations, evenly spread")
    parser.add_argument("--out", type=Path, help=f"folder of the results; by default ROOT/evaluation/{name}")


def _prosody(options: argparse.Namespace) -> None:
    from audiolm.evaluation.passage_measures import titles
    from audiolm.evaluation.prosody_table import NOTE, measure_prosody
    from audiolm.progress import progress_bar

    generated, real = _passages(options)
    out = options.out or options.root / "evaluation" / "prosody"
    with progress_bar("evaluate prosody") as progress:
        table = measure_prosody(generated, real, out, music=options.music, about=_about(options), progress=progress)
    names = titles(music=options.music)
    _print_table(table.pooled, names, title=f"{len(generated)} continuations, {len(real)} stretches of real recordings")
    for name, value in table.frechet.items():
        print(f"Log-mel Fréchet distance, {name.replace('_', ' ')}: {'–' if value is None else f'{value:.4g}'}")
    print(NOTE)
    print(f"Wrote {out}")


def _diversity(options: argparse.Namespace) -> None:
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.devices import choose_device
    from audiolm.evaluation.diversity_table import NOTE, TITLES, measure_diversity
    from audiolm.progress import progress_bar
    from audiolm.semantic.tokenizer import SemanticTokenizer

    device = choose_device(options.device)
    generated, real = _passages(options)
    path = options.tokenizer or options.root / "tokenizer" / "best.ckpt"
    checkpoint = load_stage_checkpoint(path, stage="tokenizer")
    out = options.out or options.root / "evaluation" / "diversity"
    with progress_bar("evaluate diversity") as progress:
        table = measure_diversity(
            SemanticTokenizer.from_checkpoint(checkpoint),
            generated,
            real,
            out,
            about=_about(options) | {"tokenizer_digest": checkpoint.digest},
            device=device,
            progress=progress,
        )
    _print_table(table.pooled, TITLES, title=f"Units of {len(generated)} continuations, {len(real)} real recordings")
    for kind in ("continuation", "real"):
        whole = {name.removeprefix(f"{kind}_"): v for name, v in table.whole.items() if name.startswith(f"{kind}_")}
        if whole:
            numbers = ", ".join(f"{name} {'–' if value is None else f'{value:.4g}'}" for name, value in whole.items())
            print(f"All {kind} units together: {numbers}")
    print(NOTE)
    print(f"Wrote {out}")


def _passages(options: argparse.Namespace) -> "tuple[list[Passage], list[Passage]]":
    """The continuations and the real stretches that the options ask for."""
    from audiolm.evaluation.clips import folder_clips, split_clips, spread
    from audiolm.evaluation.passages import SHORTEST_SECONDS, continuations, real_passages

    for name, least in (
        ("limit", 1),
        ("places", 1),
        ("before_seconds", SHORTEST_SECONDS),
        ("after_seconds", SHORTEST_SECONDS),
    ):
        value = getattr(options, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if options.without_real and options.data:
        raise ValueError(f"--without-real compares with nothing: leave --data {options.data} out, or the option")
    cut = {"before_seconds": options.before_seconds, "after_seconds": options.after_seconds}
    generated = [passage.within(**cut) for passage in spread(continuations(options.folders), options.limit)]
    if options.without_real:
        return generated, []
    manifest = options.root / "manifest.jsonl"
    if options.data is None and not manifest.exists():
        raise FileNotFoundError(
            f"{manifest} is not there, whose {options.split} split continuations are compared with: run `audiolm prepare`, name "
            "a folder of real recordings with --data, or say --without-real"
        )
    clips = folder_clips(options.data) if options.data else split_clips(manifest, options.split)
    real, too_short = real_passages(clips, generated, places=options.places, seed=options.seed)
    if too_short:
        print(f"{too_short} of {len(clips)} real recordings are shorter than a continuation with its prompt: left out.")
    return generated, real


def _about(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the passages do not show by themselves."""
    return {name: getattr(options, name) for name in ("before_seconds", "after_seconds", "places", "seed", "limit")}


def _print_table(pooled: "list[Pooled]", titles: Mapping[str, str], *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("", "continuations", "real", "exceeds real"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {(row.measure, row.kind): row for row in pooled}
    for name, text in titles.items():
        ours, real = rows.get((name, "continuation")), rows.get((name, "real"))
        above = "–" if ours is None or ours.exceeds_real is None else f"{ours.exceeds_real:.2f}"
        table.add_row(text, _cell(ours), _cell(real), above)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for row in pooled:
        if row.empty:
            print(f"* {titles[row.measure]}: no value for {row.empty} {row.kind} files ({row.why_empty})")


def _cell(row: "Pooled | None") -> str:
    if row is None or row.mean is None:
        return "–"
    error = "" if row.standard_error is None else f" ± {row.standard_error:.2g}"
    return f"{row.mean:.4g}{error}{' *' if row.empty else ''}"
