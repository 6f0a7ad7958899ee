"""Speed and memory of the semantic side: a pretraining step, features, k-means, ABX.

    .venv/bin/python benchmarks/semantic.py [--json] [--sizes demo small] [--precisions bf16 fp32] [--device cpu|cuda]
    .venv/bin/python benchmarks/semantic.py --full        # k-means of 1 M frames instead of a tenth of them

Every case runs in a process of its own, so that its peak memory (of the whole process, libraries included) is its own.
Times of steps and features are medians after a warm-up. A pretraining step is the encoder stage's, under a Lightning
trainer, on noise, with the sizes, batch and window of `stages/SIZE/encoder.yaml`. Features are those of one clip up to the
encoder's usual layer; a real-time factor of 0.02 means a fiftieth of the clip's duration. K-means is `fit_kmeans` on
normal noise, all frames used in every iteration; ABX is within context on made-up items, about as many as dev-clean has.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import common

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands of this project do
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # the new name of a method that older versions lack

STAGES = Path(__file__).parents[1] / "stages"
KMEANS = (100_000, 1024, 1024, 20)  # frames, dim, clusters, iterations
KMEANS_FULL = (1_000_000, 1024, 1024, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="+", default=["demo"], help="demo, small, paper: a folder of stages/; or a YAML"
    )
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=7, help="training steps measured, after two to warm up")
    parser.add_argument("--repeats", type=int, default=5, help="clips encoded, after one to warm up")
    parser.add_argument("--batch-size", type=int, help="crops per step; by default the stage's")
    parser.add_argument("--window-seconds", type=float, help="of each crop; by default the stage's")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 60], help="lengths of the clips")
    parser.add_argument(
        "--kmeans", type=int, nargs=4, default=KMEANS, metavar=("FRAMES", "DIM", "CLUSTERS", "ITERATIONS")
    )
    parser.add_argument("--full", action="store_true", help="k-means of 1 M frames x 1024, K = 1024, 20 iterations")
    parser.add_argument("--abx-speakers", type=int, default=40, help="40 make 1.7 million triples")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.full:
        options.kmeans = KMEANS_FULL
    if options.case:
        print(json.dumps(run_case(options)))
        return
    result = measure(options)
    print(json.dumps(result)) if options.json else show(result)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases; the top level repeats the figures of the first size and precision, features of the shortest clip."""
    for size in options.sizes:
        yaml_of(size)
    by_size: dict[str, dict[str, dict[str, float]]] = {}
    described = {}
    for size in options.sizes:
        for precision in options.precisions:
            step = child(options, "pretrain", size, precision)
            figures = {"pretrain_step_s": step["seconds"], "pretrain_peak_gb": step["peak_gb"]}
            for seconds in options.seconds:
                features = child(options, f"features:{seconds}", size, precision)
                figures[f"features_rtf_{seconds}s"] = features["rtf"]
                figures[f"features_peak_gb_{seconds}s"] = features["peak_gb"]
            by_size.setdefault(size, {})[precision] = figures
            described[size] = step["size"]
    kmeans = child(options, "kmeans", options.sizes[0], options.precisions[0])
    abx = child(options, "abx", options.sizes[0], options.precisions[0])
    first = by_size[options.sizes[0]][options.precisions[0]]
    return {
        "pretrain_step_s": first["pretrain_step_s"],
        "pretrain_peak_gb": first["pretrain_peak_gb"],
        "features_rtf": first[f"features_rtf_{options.seconds[0]}s"],
        "kmeans_s": kmeans["seconds"],
        "kmeans_peak_gb": kmeans["peak_gb"],
        "abx_triples_per_s": abx["triples_per_s"],
        "abx_peak_gb": abx["peak_gb"],
        "by_size": by_size,
        "settings": {
            "size": options.sizes[0],
            "sizes": described,
            "precision": options.precisions[0],
            "device": options.device,
            "threads": options.threads,
            "processor": abx["processor"],
            "torch": abx["torch"],
            "clip_seconds": options.seconds,
            "kmeans": {**kmeans["settings"], "full": tuple(options.kmeans) == KMEANS_FULL},
            "abx": abx["settings"],
            "steps": options.steps,
            "repeats": options.repeats,
        },
    }


def child(options: argparse.Namespace, case: str, size: str, precision: str) -> dict[str, Any]:
    command = ["--case", case, "--sizes", size, "--precisions", precision]
    for name in ("device", "threads", "steps", "repeats", "batch_size", "window_seconds", "abx_speakers"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name.replace('_', '-')}", value]
    return common.child(__file__, [*command, "--kmeans", *options.kmeans])


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    case, _, argument = options.case.partition(":")
    cases = {"pretrain": pretrain, "features": features, "kmeans": kmeans, "abx": abx}
    result = cases[case](options, *([int(argument)] if argument else []))
    peak = common.peak_gb("cpu" if case == "kmeans" else options.device)
    facts = {"torch": torch.__version__, "processor": common.processor(options.device)}
    return {**result, "peak_gb": round(peak, 2), **facts}


def yaml_of(size: str) -> Path:
    """The configuration of a size; stops where there is none."""
    path = Path(size) if size.endswith(".yaml") else STAGES / ("" if size == "paper" else size) / "encoder.yaml"
    if not path.is_file():
        there = sorted(path.parent.name for path in STAGES.glob("*/encoder.yaml"))
        raise SystemExit(f"There is no {path}: --sizes are {', '.join([*there, 'paper'])}, or the path of a YAML.")
    return path


def stage_of(size: str) -> tuple[Any, dict[str, Any]]:
    """The encoder stage of a size as its YAML configures it, spectra's statistics set; and its batch and window."""
    import torch
    import yaml
    from jsonargparse import ArgumentParser

    from audiolm.stages import EncoderStage

    model: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for path in (STAGES / "encoder.yaml", yaml_of(size)):
        config = yaml.safe_load(path.read_text())
        model |= config.get("model", {}).get("init_args", {})
        data |= config.get("data", {}).get("init_args", {})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EncoderStage, "stage")
    stage = parser.instantiate_classes(parser.parse_object({"stage": {**model, "root": "/nonexistent"}})).stage
    bins = stage.model.spectrogram.bins
    stage.model.spectrogram.set_statistics(torch.full((bins,), -8.0), torch.full((bins,), 3.0))
    if hasattr(stage.objective, "tokenizer"):  # HuBERT's units, which training would fit first: any will do
        stage.objective.tokenizer.centroids.normal_()
    return stage, data


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from datamodules.waveforms import WaveformBatch

    stage, data = stage_of(options.sizes[0])
    batch_size = options.batch_size or data["batch_size"]
    seconds = options.window_seconds or data["window_seconds"]
    samples = round(seconds * stage.sample_rate_hz)
    batch = WaveformBatch(0.1 * torch.randn(batch_size, samples), torch.full((batch_size,), samples))
    precision, steps = options.precisions[0], options.steps
    step_seconds = common.trainer_step_seconds(stage, batch, device=options.device, precision=precision, steps=steps)
    size = {
        "encoder": stage.config_dict()["config"],
        "objective": type(stage.objective).__name__,
        "parameters": sum(parameter.numel() for parameter in stage.model.parameters()),
        "layer": stage.model.layer,
        "batch": f"{batch_size} crops of {seconds:g} s",
    }
    return {"seconds": round(step_seconds, 4), "size": size}


def features(options: argparse.Namespace, seconds: int) -> dict[str, Any]:
    import torch

    encoder = stage_of(options.sizes[0])[0].model.requires_grad_(False).eval().to(options.device)
    audio = 0.1 * torch.randn(1, encoder.sample_rate_hz * seconds, device=options.device)
    times = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        with (
            torch.inference_mode(),
            torch.autocast(options.device, torch.bfloat16, enabled=options.precisions[0] == "bf16"),
        ):
            encoder(audio).cpu()
        times.append(time.perf_counter() - started)
    return {"rtf": round(statistics.median(times[1:]) / seconds, 6)}


def kmeans(options: argparse.Namespace) -> dict[str, Any]:
    import warnings

    import torch

    from audiolm.semantic.kmeans import fit_kmeans

    warnings.simplefilter("ignore")  # few frames per cluster are meant
    frames, dim, clusters, iterations = options.kmeans
    sample = torch.randn(frames, dim)
    started = time.perf_counter()
    fit_kmeans(sample, clusters=clusters, iterations=iterations)
    seconds = time.perf_counter() - started
    settings = {"frames": frames, "dim": dim, "clusters": clusters, "iterations": iterations, "restarts": 1}
    return {"seconds": round(seconds, 3), "settings": settings}


def abx(options: argparse.Namespace) -> dict[str, Any]:
    from audiolm.evaluation.abx_speed import measure_abx_speed

    result = measure_abx_speed(speakers=options.abx_speakers, device=options.device)
    triples = sum(score.triples for score in result.scores)
    settings = {"items": result.items, "triples": triples, "frames_per_item": round(result.frames, 2), "dim": 39}
    return {"triples_per_s": round(result.triples_per_s), "settings": {**settings, "seconds": round(result.seconds, 2)}}


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = {f"{size} {name}": figures for size, row in result["by_size"].items() for name, figures in row.items()}
    table = Table("measure", *columns)
    for name in next(iter(columns.values())):
        table.add_row(name, *(f"{figures[name]:g}" for figures in columns.values()))
    console.print(table)
    for name in ("kmeans_s", "kmeans_peak_gb", "abx_triples_per_s", "abx_peak_gb"):
        console.print(f"{name}  {result[name]:g}")
    console.print(result["settings"])


if __name__ == "__main__":
    main()
