"""`audiolm evaluate abx`: its options, and what it prints."""

import argparse
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiolm.evaluation.abx import AbxResult, AbxSettings
    from audiolm.evaluation.abx_items import Item
    from audiolm.evaluation.feature_sources import FeatureSource

FROM_AUDIO = ("mfcc", "encoder", "units", "features", "codes")


def add_abx(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = "how well features keep phones apart, within and across speakers -> ABX_scores.json, abx.json, pairs.csv"
    abx = commands.add_parser("abx", help=help, description=help)
    abx.set_defaults(run=_abx)
    abx.add_argument("--items", type=Path, required=True, help="an .item file: phones, triphones or words")
    abx.add_argument("--audio", type=Path, help="folder of the recordings that the items name")
    abx.add_argument(
        "--features",
        required=True,
        help="mfcc; encoder: the trained one, else the tokenizer's, before normalising; features: normalised by the "
        "tokenizer; units: through their centroids; codes: quantised vectors of a codec; or a folder of .pt, .npy or .txt files",
    )
    abx.add_argument(
        "--root", type=Path, default=Path("checkpoints"), help="folder of the chain; or a checkpoint, or a public codec"
    )
    abx.add_argument("--encoder", help="with encoder: a public model by name or folder; --layer is needed")
    abx.add_argument("--layer", type=int, help="with encoder: which one; by default the one that is clustered")
    abx.add_argument("--levels", type=int, help="with codes: the first so many; by default all")
    abx.add_argument("--rate-hz", type=_rate, help="frames per second, of mfcc (default 25) and of a folder")
    abx.add_argument("--normalize", action="store_true", help="zero mean and unit variance over these recordings")
    abx.add_argument("--context", nargs="+", default=["within", "any"], help="within, any, or both (default)")
    add_comparison(abx)
    abx.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/abx/FEATURES")


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how items are compared; `comparison_of` reads them."""
    parser.add_argument("--distance", default="cosine", help="cosine (default), euclidian, kl or kl_symmetric")
    parser.add_argument(
        "--frames", default="corrected", help="libri-light: leave out each item's last frame, as published figures do"
    )
    parser.add_argument("--max-group", type=int, default=10, help="of larger groups so many items are drawn")
    parser.add_argument("--max-x-across", type=int, default=5, help="of more other speakers so many are drawn")
    parser.add_argument("--seed", type=int, default=3459, help="of the draws and the bootstrap")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")


def comparison_of(options: argparse.Namespace) -> "tuple[AbxSettings, str]":
    """The settings and the device that options of `add_comparison` ask for, both contexts compared."""
    from audiolm.devices import choose_device
    from audiolm.evaluation.abx import AbxSettings

    settings = AbxSettings(
        distance=options.distance,
        frames=options.frames,
        max_size_group=options.max_group,
        max_x_across=options.max_x_across,
        seed=options.seed,
    )
    return settings, choose_device(options.device)


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames per second")
    return rate


def _abx(options: argparse.Namespace) -> None:
    from audiolm.evaluation.abx import measure_abx
    from audiolm.evaluation.abx_items import read_items
    from audiolm.evaluation.abx_results import write_abx
    from audiolm.progress import progress_bar

    settings, device = comparison_of(options)
    settings = replace(settings, contexts=tuple(dict.fromkeys(options.context)), normalize=options.normalize)
    if options.out is None and not options.root.is_dir():
        raise ValueError(f"--root {options.root} is no chain's folder that results could go to: name one with --out")
    items = read_items(options.items)
    source = _source(options, items, device=device)
    with progress_bar("evaluate abx") as progress:
        result = measure_abx(
            items, source.features, rate_hz=source.rate_hz, settings=settings, device=device, progress=progress
        )
    out = options.out or options.root / "evaluation" / "abx" / Path(options.features).name
    rate = float(source.rate_hz)
    about = {"items": str(options.items), "features": options.features, "rate_hz": rate, "source": source.about}
    write_abx(out, result, settings=settings, about=about)
    title = f"ABX error of {options.features} at {rate:g} Hz{', normalised' if options.normalize else ''}, in %"
    _print_table(result, title=title)
    print(f"Frames: {options.frames}; {result.frames:.1f} per item. Distance: {options.distance}. Wrote {out}")


def _source(options: argparse.Namespace, items: "list[Item]", *, device: str) -> "FeatureSource":
    from audiolm.evaluation import feature_sources as sources
    from audiolm.evaluation.abx_items import files_of
    from audiolm.evaluation.item_recordings import item_recordings

    name = options.features
    _check_fitting(options)
    recordings = item_recordings(items, options.audio) if options.audio else None
    if name not in FROM_AUDIO:
        return sources.folder_source(Path(name), files_of(items), rate_hz=options.rate_hz, recordings=recordings)
    if recordings is None:
        raise ValueError(f"--features {name} are computed from recordings: name their folder with --audio")
    if name == "codes":
        from audiolm.evaluation.which_codec import load_codec

        return sources.codec_source(load_codec(options.root), recordings, levels=options.levels, device=device)
    if name == "mfcc":
        from audiolm.semantic.mfcc import MfccEncoder

        rate_hz = options.rate_hz or Fraction(25)
        if rate_hz.denominator != 1:
            raise ValueError(f"MFCC frames come every 10 ms: --rate-hz must divide 100, got {float(rate_hz):g}")
        return sources.encoder_source(MfccEncoder(rate_hz=int(rate_hz)), recordings, device=device)
    if name == "encoder" and options.encoder:
        from audiolm.semantic.pretrained import PretrainedEncoder

        public = PretrainedEncoder.from_pretrained(options.encoder, layer=options.layer)
        return sources.encoder_source(public, recordings, device=device)
    if name == "encoder":
        encoder = sources.load_encoder(options.root, layer=options.layer)
        return sources.encoder_source(encoder, recordings, device=device)
    tokenizer = sources.load_tokenizer(options.root)
    return sources.tokenizer_source(tokenizer, recordings, units=name == "units", device=device)


def _check_fitting(options: argparse.Namespace) -> None:
    """Options that would change nothing are mistakes."""
    name, folder = options.features, options.features not in FROM_AUDIO
    for option, value, fits in (
        ("--layer", options.layer, name == "encoder"),
        ("--encoder", options.encoder, name == "encoder"),
        ("--levels", options.levels, name == "codes"),
        ("--rate-hz", options.rate_hz, folder or name == "mfcc"),
    ):
        if value is not None and not fits:
            raise ValueError(f"{option} has no meaning with --features {name}")
    if folder and options.rate_hz is None:
        if not Path(name).is_dir():
            raise ValueError(
                f"--features {name} is neither a kind of features ({', '.join(FROM_AUDIO)}) nor a folder of feature files"
            )
        raise ValueError(f"feature files do not say how many frames a second has: give --rate-hz with {name}")
    if options.encoder and options.layer is None:
        raise ValueError("a public encoder needs --layer: which hidden state to take")


def _print_table(result: "AbxResult", *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in (
        "context",
        "speakers",
        "error",
        "95 % over speakers",
        "speakers",
        "phone pairs",
        "cells",
        "triples",
    ):
        table.add_column(heading, justify="left" if heading == "context" else "right")
    for score in result.scores:
        error = "–" if score.error is None else f"{100 * score.error:.2f}"
        interval = "–" if score.interval is None else " to ".join(f"{100 * end:.2f}" for end in score.interval)
        counts = len(score.speaker_errors), len(score.pairs), score.cells, score.triples
        table.add_row(score.context, score.speakers, error, interval, *(f"{count:,}" for count in counts))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if any(score.error is None for score in result.scores):
        print("–: nothing to compare: no two items of a phone (across: of two speakers) beside another phone.")
    if result.dropped:
        print(f"{result.dropped} of {result.items} items are shorter than a frame, so that none is left: dropped.")
    print("Intervals: bootstrap over the speakers of A and B. ", end="")
    print(f"{result.seconds:.1f} s, {result.triples_per_s:,.0f} triples per second.")
