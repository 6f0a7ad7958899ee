"""`audiolm evaluate likelihood`: its options, and what it prints."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm.manifest import SPLITS

if TYPE_CHECKING:
    from audiolm.evaluation.passages import Passage
    from audiolm.evaluation.unit_likelihood_table import LikelihoodTable


def add_likelihood(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = (
        "how likely the hierarchy's semantic model finds what continuations say: hierarchy, acoustic-only, real recordings "
        "-> files.csv, summary.json, likelihood.svg"
    )
    parser = commands.add_parser("likelihood", help=help, description=help)
    parser.set_defaults(run=_likelihood)
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="of continuations of the same prompts, as the generate stage writes them; a NAME again: another seed of it",
    )
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    parser.add_argument("--generator", type=Path, help="the judge: a hierarchy's folder; by default ROOT/generator")
    parser.add_argument("--data", type=Path, help="the folder of the prompts' recordings; by default the chain's split")
    parser.add_argument("--split", choices=SPLITS, default="test", help="without --data: of ROOT/manifest.jsonl")
    parser.add_argument("--without-real", action="store_true", help="no real recordings beside them")
    parser.add_argument("--limit", type=int, help="no more than so many prompts, evenly spread")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/likelihood")


def _likelihood(options: argparse.Namespace) -> None:

    from audiolm.devices import choose_device
    from audiolm.evaluation.unit_likelihood_table import NOTE, write_table
    from audiolm.evaluation.unit_likelihoods import measure_unit_likelihoods
    from audiolm.generator import AudioLM
    from audiolm.generator.folder import generator_digest
    from audiolm.progress import progress_bar

    folder = options.generator or options.root / "generator"
    device = choose_device(options.device)
    judge = AudioLM.from_pretrained(folder, device=device)
    judge.require_units("a log likelihood")
    systems = _systems(options)
    about = {"generator": generator_digest(folder)}
    out = options.out or options.root / "evaluation" / "likelihood"
    with progress_bar("evaluate likelihood") as progress:
        rows = measure_unit_likelihoods(judge, systems, out, about=about, progress=progress)
    _print_table(write_table(out, rows, about=about))
    print(NOTE)
    print(f"Wrote {out}")


def _systems(options: argparse.Namespace) -> "dict[str, list[Passage]]":
    """The passages of every system that the options name, real recordings among them."""
    from audiolm.evaluation.clips import folder_clips, split_clips, spread
    from audiolm.evaluation.passages import continuations
    from audiolm.evaluation.unit_likelihoods import REAL, real_continuations, same_prompts

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if options.without_real and options.data:
        raise ValueError(f"--without-real compares with nothing real: leave --data {options.data} out, or the option")
    systems = {name: continuations(folders) for name, folders in _named(options.folders).items()}
    kept = set(spread(same_prompts(systems), options.limit))
    systems = {name: [passage for passage in own if passage.prompt in kept] for name, own in systems.items()}
    if options.without_real:
        return systems
    manifest = options.root / "manifest.jsonl"
    if options.data is None and not manifest.exists():
        raise FileNotFoundError(
            f"{manifest} is not there, whose {options.split} split prompts would be of: name the folder of their recordings "
            "with --data, or say --without-real"
        )
    clips = folder_clips(options.data) if options.data else split_clips(manifest, options.split)
    real, too_short = real_continuations(clips, next(iter(systems.values())))
    if too_short:
        print(f"{too_short} of {len(kept)} recordings end before their continuations do: they stand for no real ones.")
    return {**systems, REAL: real}


def _named(texts: list[str]) -> dict[str, list[Path]]:
    """Folders by the name of their system; several of one name are its seeds."""
    from audiolm.evaluation.unit_likelihoods import REAL

    named: dict[str, list[Path]] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = Path(text).name, text
            if name in named:
                raise ValueError(f"two folders are called {name}: say which they are of, as NAME={text}")
        if not name or name == REAL:
            raise ValueError(f"{text}: a system needs a name, and not {REAL!r}, which is that of the recordings")
        named.setdefault(name, []).append(Path(folder))
    return named


def _print_table(table: "LikelihoodTable") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    scores = Table(title="Log likelihood of what is said, given the prompt (nats per unit; higher is likelier)")
    for heading in ("system", "mean over prompts", "all units", "prompts", "files", "units"):
        scores.add_column(heading, justify="left" if heading == "system" else "right")
    for row in table.systems:
        files = f"{row.files}{f' (+ {row.empty} without units)' if row.empty else ''}"
        pooled = _number(row.pooled_per_unit, None)
        scores.add_row(
            row.system, _number(row.per_unit, row.standard_error), pooled, str(row.prompts), files, str(row.units)
        )
    console.print(scores)
    if not table.differences:
        return
    pairs = Table(title="Prompt by prompt")
    for heading in ("first − second", "difference", "prompts", "first likelier", "second likelier", "sign test, p"):
        pairs.add_column(heading, justify="left" if "−" in heading else "right")
    for pair in table.differences:
        p = "–" if pair.p_two_sided is None else f"{pair.p_two_sided:.3g}"
        counts = map(str, (pair.prompts, pair.first_likelier, pair.second_likelier))
        pairs.add_row(f"{pair.first} − {pair.second}", _number(pair.difference, pair.standard_error), *counts, p)
    console.print(pairs)


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.2g}")
