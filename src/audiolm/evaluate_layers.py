"""`audiolm evaluate layers`: its options, what it prints, and the choice that it leaves for the tokenizer stage."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm.evaluate_abx import add_comparison, comparison_of

if TYPE_CHECKING:
    from audiolm.evaluation.abx import AbxResult
    from audiolm.evaluation.abx_items import Item
    from audiolm.evaluation.alignments import Interval
    from audiolm.evaluation.clips import Clip
    from audiolm.evaluation.layers_results import LayersTable
    from audiolm.semantic.encoder import Encoder

CLUSTERS = (50, 100, 200, 500, 1024)
TRAIN_SECONDS = 30.0  # of each training recording, from its beginning


def add_layers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to those of `audiolm evaluate`."""
    help = (
        "which layer of an encoder keeps phones apart best, and how many units of it are needed -> layers.json, layers.csv, "
        "layers.svg, ROOT/encoder/selected.json"
    )
    layers = commands.add_parser("layers", help=help, description=help)
    layers.set_defaults(run=_layers)
    layers.add_argument("--items", type=Path, required=True, help="an .item file: phones, triphones or words")
    layers.add_argument("--audio", type=Path, required=True, help="folder of the recordings that the items name")
    layers.add_argument("--root", type=Path, default=Path("checkpoints"), help="folder of the chain")
    layers.add_argument("--encoder", help="a public model by name or folder; by default ROOT/encoder/best.ckpt")
    layers.add_argument("--layers", type=int, nargs="+", help="which ones; by default all, from 0")
    layers.add_argument(
        "--clusters", type=int, nargs="*", default=CLUSTERS, help="numbers of units; by default 50 100 200 500 1024"
    )
    layers.add_argument(
        "--by", default="across-any", help="across-any (default), within-any, across-within: speakers and context"
    )
    layers.add_argument("--train-audio", type=Path, help="to normalise and cluster by; by default ROOT's train split")
    layers.add_argument(
        "--train-limit", type=int, default=1000, help="recordings of it, evenly spread, 30 s at most each"
    )
    layers.add_argument("--max-frames", type=int, default=200_000, help="frames that are clustered, drawn at random")
    layers.add_argument("--phones", type=Path, help="table of aligned phones of recordings below --audio: purity, PNMI")
    layers.add_argument("--limit", type=int, help="no more than so many recordings of the items, evenly spread")
    layers.add_argument("--memory-gb", type=float, default=4, help="for frames of items, of several layers at a time")
    layers.add_argument(
        "--measure-only", action="store_true", help="leave the layer that the tokenizer stage takes as it is"
    )
    add_comparison(layers)
    layers.add_argument("--out", type=Path, help="folder of the results; by default ROOT/evaluation/layers")


def _layers(options: argparse.Namespace) -> None:
    from audiolm.evaluation.cluster_sweep import sweep_clusters
    from audiolm.evaluation.item_recordings import item_recordings
    from audiolm.evaluation.layer_sweep import Rule, sweep_layers
    from audiolm.evaluation.layers_results import LayersTable, write_layers
    from audiolm.progress import progress_bars
    from audiolm.semantic.mfcc import MfccEncoder

    clusters = _check(options)
    rule = Rule.named(options.by)
    settings, device = comparison_of(options)
    encoder = _encoder(options)
    layers = sorted(set(options.layers)) if options.layers else list(range(encoder.layers + 1))
    encoder.check_layers(layers)
    items = _items(options)
    recordings = item_recordings(items, options.audio)
    aligned, clips = _aligned(options), _clips(options)
    common: dict[str, Any] = {"settings": settings, "device": device}
    sweep: dict[str, Any] = {**common, "rule": rule, "memory_bytes": round(options.memory_gb * 2**30)}
    with progress_bars() as progress:
        found = sweep_layers(
            encoder,
            items,
            recordings,
            clips,
            layers=layers,
            clusters=max(clusters, default=1),
            progress=progress,
            **sweep,
        )
        mfcc = sweep_layers(MfccEncoder(rate_hz=encoder.rate_hz), items, recordings, clips, layers=[0], **sweep)
        units = sweep_clusters(
            encoder,
            found,
            clips,
            clusters=clusters,
            max_frames=options.max_frames,
            aligned=aligned,
            progress=progress,
            **common,
        )
    table = LayersTable(rule, found.results, found.best, mfcc.results[0], units)
    out = options.out or options.root / "evaluation" / "layers"
    write_layers(out, table, about=_about(options, encoder, settings))
    _print(table, encoder)
    if not options.measure_only:
        _select(options, table, encoder, out)
    print(f"Wrote {out}")


def _check(options: argparse.Namespace) -> list[int]:
    """The numbers of clusters, in order."""
    for name in ("limit", "train_limit", "max_frames", "memory_gb"):
        if (value := getattr(options, name)) is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    clusters = sorted(set(options.clusters))
    if clusters and not 2 <= clusters[0] <= clusters[-1] <= options.max_frames:
        raise ValueError(
            f"--clusters must be at least 2 and at most --max-frames ({options.max_frames}), got {clusters[0]} to {clusters[-1]}"
        )
    if options.phones and not clusters:
        raise ValueError("--phones measures units: give --clusters")
    return clusters


def _encoder(options: argparse.Namespace) -> "Encoder":
    if options.encoder:
        from audiolm.semantic.pretrained import PretrainedEncoder

        return PretrainedEncoder.from_pretrained(options.encoder, layer=0)
    from audiolm.checkpoint import load_stage_checkpoint
    from audiolm.semantic.encoders import trained_encoder

    return trained_encoder(load_stage_checkpoint(options.root / "encoder" / "best.ckpt", stage="encoder"))


def _items(options: argparse.Namespace) -> "list[Item]":
    from audiolm.evaluation.abx_items import files_of, read_items
    from audiolm.evaluation.clips import spread

    items = read_items(options.items)
    kept = set(spread(files_of(items), options.limit))
    return [item for item in items if item.file in kept]


def _clips(options: argparse.Namespace) -> "list[Clip]":
    from audiolm.evaluation.clips import folder_clips, split_clips

    if options.train_audio:
        return folder_clips(options.train_audio, limit=options.train_limit, max_seconds=TRAIN_SECONDS)
    manifest = options.root / "manifest.jsonl"
    if not manifest.exists():
        raise FileNotFoundError(
            f"{manifest} is not there, whose train split features are normalised and clustered by: run `audiolm prepare`, or "
            "name a folder of recordings with --train-audio (not those of the items)"
        )
    return split_clips(manifest, "train", limit=options.train_limit, max_seconds=TRAIN_SECONDS)


def _aligned(options: argparse.Namespace) -> "dict[Path, list[Interval]] | None":
    from audiolm.evaluation.alignments import read_alignments
    from audiolm.evaluation.clips import spread

    if options.phones is None:
        return None
    table = read_alignments(options.phones)
    aligned = {options.audio / name: table[name] for name in spread(list(table), options.limit)}
    missing = [path for path in aligned if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(aligned)} recordings of {options.phones} are not there, such as {missing[0]}: --audio must "
            "be the folder that the table's paths begin in"
        )
    return aligned


def _about(options: argparse.Namespace, encoder: "Encoder", settings: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from audiolm.semantic.selection import selection_digest

    named = {name: getattr(options, name) for name in ("items", "audio", "train_audio", "phones")}
    return {
        **{name: None if path is None else str(path) for name, path in named.items()},
        **{name: getattr(options, name) for name in ("train_limit", "max_frames", "limit")},
        "train_seconds": TRAIN_SECONDS,
        "encoder": encoder.config_dict(),
        "encoder_name": options.encoder or str(options.root / "encoder" / "best.ckpt"),
        "encoder_digest": selection_digest(encoder),
        "rate_hz": encoder.rate_hz,
        "normalized_by": "training audio",
        "settings": asdict(settings),
    }


def _select(options: argparse.Namespace, table: "LayersTable", encoder: "Encoder", out: Path) -> None:
    from audiolm.semantic.selection import Selection, selection_digest, write_selection

    units, folder = table.best_clusters, options.root / "encoder"
    selection = Selection(
        layer=table.best,
        clusters=units.clusters if units else None,
        by=str(table.rule),
        error=table.error,
        units_error=table.rule.error(units.abx) if units else None,
        items=str(options.items),
        encoder_digest=selection_digest(encoder),
    )
    if options.encoder and (folder / "best.ckpt").exists():
        write_selection(out, selection)
        print(
            f"{folder} holds an encoder trained here, whose choice of layer is left alone. To cluster this one, the tokenizer "
            f"stage needs encoder: {{kind: pretrained, name: {options.encoder}, layer: {table.best}}}."
        )
        return
    path = write_selection(folder, selection)
    print(f"Wrote {path}: the tokenizer stage takes this layer of this encoder unless its configuration names another.")


def _print(table: "LayersTable", encoder: "Encoder") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    layers = Table(title=f"ABX error of normalised features at {encoder.rate_hz} Hz, in % (95 % over speakers)")
    for heading in ("layer", *_headings(table.mfcc)):
        layers.add_column(heading, justify="right")
    layers.add_row("MFCC", *_cells(table.mfcc), end_section=True)
    for layer, result in table.layers.items():
        layers.add_row(f"{layer} *" if layer == table.best else str(layer), *_cells(result))
    console.print(layers)
    chosen = table.best_clusters
    if chosen:
        units = Table(title=f"Units of layer {table.best}, through their centroids")
        phones = ("phone purity", "PNMI") if chosen.phones else ()
        for heading in ("clusters", *_headings(chosen.abx), "distortion", "bit/s", *phones):
            units.add_column(heading, justify="right")
        for row in table.clusters:
            numbers = [f"{row.distortion:.3f}", f"{row.use.bitrate_bps:.0f}"]
            numbers += [f"{row.phones.phone_purity:.3f}", f"{row.phones.pnmi:.3f}"] if row.phones else []
            units.add_row(f"{row.clusters} *" if row is chosen else str(row.clusters), *_cells(row.abx), *numbers)
        console.print(units)
    mfcc = table.rule.error(table.mfcc)
    print(
        f"Winner: layer {table.best} of {encoder.layers}, by the lowest {table.rule.words}: {100 * table.error:.2f} %."
    )
    print(f"MFCC have {100 * mfcc:.2f} %{'' if table.error < mfcc else ': no layer is better'}.")
    if chosen:
        print(
            f"Recommended: clusters: {chosen.clusters} ({100 * table.rule.error(chosen.abx):.2f} %); the tokenizer stage's "
            "configuration decides."
        )


def _headings(result: "AbxResult") -> list[str]:
    return [f"{score.speakers}, {score.context} context" for score in result.scores]


def _cells(result: "AbxResult") -> list[str]:
    cells = []
    for score in result.scores:
        interval = "" if score.interval is None else " ({:.1f}–{:.1f})".format(*(100 * end for end in score.interval))
        cells.append("–" if score.error is None else f"{100 * score.error:.2f}{interval}")
    return cells
