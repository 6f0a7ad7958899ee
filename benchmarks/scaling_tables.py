# ruff: noqa: E501 (sentences of the page)
"""The arithmetic of docs/scaling.md: from operations and rates to days, bytes and reads per second."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ADAM_BYTES = 16  # per parameter: weight, gradient, two moments, in fp32
TRAINED = ("codec", "encoder", "semantic", "coarse", "fine")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def exaflop(options: argparse.Namespace, name: str, stage: dict[str, Any]) -> float:
    """Of the whole training, in 10^18."""
    return stage["steps"] * stage["batch"] * stage["gflop"] / 1e9


def rate_tflops(options: argparse.Namespace, name: str) -> float:
    """What a GPU is assumed to reach."""
    return options.gpu_tflops * (options.codec_utilisation if name == "codec" else options.lm_utilisation)


def busy_of(options: argparse.Namespace, name: str, stage: dict[str, Any], gpus: int) -> int:
    """GPUs that have something to do: no more than there are windows in a step."""
    return min(gpus, stage["batch"])


def computing_s(options: argparse.Namespace, name: str, stage: dict[str, Any], gpus: int) -> float:
    """Of one step, at the assumed rate."""
    gflop = stage["gflop"] * stage["batch"]
    return gflop / 1e3 / rate_tflops(options, name) / busy_of(options, name, stage, gpus)


def sent_gb(options: argparse.Namespace, name: str, stage: dict[str, Any], gpus: int) -> float:
    """What each GPU sends in a step, in 10^9 bytes: 8 for each parameter of others, with DDP and with FSDP alike."""
    busy, parameters = (
        busy_of(options, name, stage, gpus),
        stage["parameters"] + stage.get("discriminator_parameters", 0),
    )
    return 8 * parameters * (busy - 1) / busy / 1e9


def step_s(options: argparse.Namespace, name: str, stage: dict[str, Any], gpus: int) -> float:
    """Whichever takes longer, computing or sending: one hides the other at best."""
    return max(computing_s(options, name, stage, gpus), sent_gb(options, name, stage, gpus) / options.network_gbs)


def days(options: argparse.Namespace, name: str, stage: dict[str, Any], gpus: int) -> float:
    """Of the whole training."""
    return stage["steps"] * step_s(options, name, stage, gpus) / 86400


def all_tables(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """The sections, in the order of the page."""
    stages = result["stages"]
    return [
        *measured(result), *operations(options, stages), *training(options, stages), *tokenizing(options, stages),
        *communication(options, stages), *storage(options, stages), *reading(options, stages),
    ]  # fmt: skip


def measured(result: dict[str, Any]) -> list[str]:
    """What this CPU did."""
    rows = [
        (name, f"{s['measured_gflop']:.1f}", f"{s['measured_s']:.3f}", f"{s['measured_gflop'] / s['measured_s']:.1f}",
         f"{s['of_matrix_rate']:.0%}")
        for name, s in result["stages"].items()
    ]  # fmt: skip
    codec = result["stages"]["codec"]
    rows.append(("codec, encoding a second", f"{codec['encode_gflop_per_s']:.1f}", f"{codec['encode_rtf']:.3f}",
                 f"{codec['encode_gflop_per_s'] / codec['encode_rtf']:.1f}", f"{codec['encode_of_matrix_rate']:.0%}"))  # fmt: skip
    threads = result["settings"]["threads"]
    return [
        "## Measured: this CPU",
        f"{result['processor']}, {threads} thread(s), fp32; matrix products {result['matrix_gflops']:.0f} GFLOP/s in the same run. "
        "Codec: a training step on 1 s; encoder: two of its blocks forward on 16 s; language models: a training step of the "
        "size `peer` on one window.",
        table(("what", "GFLOP", "seconds", "GFLOP/s", "of the matrix rate"), rows),
    ]


def operations(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """What has to be computed."""
    rows = [
        (name, f"{s['parameters'] / 1e6:.1f} M", f"{s['gflop']:,.0f}", f"{s['gflop'] / s['window_s']:,.0f}",
         s["batch"], f"{s['steps']:,}", f"{exaflop(options, name, s):,.0f}")
        for name, s in stages.items()
    ]  # fmt: skip
    head = (
        "stage",
        "parameters",
        "GFLOP per window",
        "per second of audio",
        "windows per step",
        "steps",
        "EFLOP in all",
    )
    return [
        "## Counted: operations of training",
        "EFLOP in all = steps × windows per step × GFLOP per window ÷ 10⁹. Windows: " + ", ".join(
            f"{name} {s['window_s']:g} s" for name, s in stages.items()) + ". Forward and backward; the language models' without what "
        "legal ids and causality save (`lm_training.training_flop`).",
        table(head, rows),
    ]  # fmt: skip


def training(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """Days on so many GPUs."""
    rows = [
        (
            name,
            f"{rate_tflops(options, name):.0f}",
            *(f"{days(options, name, stages[name], gpus):.2f}" for gpus in options.gpus),
        )
        for name in TRAINED
    ]
    return [
        "## Projected, not measured: days of training",
        f"Steps × the longer of computing and sending (below) ÷ 86,400; computing = EFLOP × 10⁶ ÷ (TFLOP/s × GPUs). **Assumed:** {options.gpu_tflops:g} TFLOP/s per GPU, of which "
        f"{options.lm_utilisation:.0%} is reached by Transformers and {options.codec_utilisation:.0%} by the codec. Validation and "
        "checkpoints are not in it. A stage uses no more GPUs than it has windows in a step, and with one window for each the assumed "
        "share will hardly be reached: read 256 GPUs as a lower bound.",
        table(("stage", "assumed TFLOP/s per GPU", *(f"{gpus} GPUs" for gpus in options.gpus)), rows),
    ]


def tokenizing(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """Codec and encoder over the whole corpus."""
    seconds = options.hours * 3600
    codec, encoder = stages["codec"], stages["encoder"]
    work = {
        "codec, encoding": (codec["encode_gflop_per_s"], options.codec_utilisation),
        "encoder, to the usual layer": (
            encoder["forward_gflop_per_s"] * encoder["usual_layer_share"],
            options.lm_utilisation,
        ),
    }
    rows = []
    for name, (gflop, utilisation) in work.items():
        total = seconds * gflop / 1e9
        hours = [total * 1e6 / (options.gpu_tflops * utilisation) / gpus / 3600 for gpus in options.gpus]
        rows.append((name, f"{gflop:.1f}", f"{total:.1f}", *(f"{value:.2f}" for value in hours)))
    cpu_years = seconds * codec["encode_rtf"] / 86400 / 365
    needed = options.audio_bytes / 1000
    return [
        "## Projected, not measured: tokenizing",
        f"Hours for {options.hours:,.0f} hours of audio, all processes reading their share. On this CPU's thread the codec's half would "
        f"take {cpu_years:.1f} years ({codec['encode_rtf']:.3f} of real time). Utterances are tokenized one by one, so a GPU may reach less than "
        f"assumed; and FLAC is decoded on the CPU: an hour of audio is {needed * 1000:.0f} MB.",
        table(("work", "GFLOP per second of audio", "EFLOP", *(f"{gpus} GPUs, h" for gpus in options.gpus)), rows),
    ]


def communication(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """Bytes of a step against its computing."""
    rows = []
    for name in TRAINED:
        for gpus in sorted({busy_of(options, name, stages[name], gpus) for gpus in options.gpus}):
            gb = sent_gb(options, name, stages[name], gpus)
            computing = 1e3 * computing_s(options, name, stages[name], gpus)
            rows.append((name, gpus, f"{gb:.2f}", f"{1e3 * gb / options.network_gbs:.1f}", f"{computing:.1f}"))
    return [
        "## Projected, not measured: communication of a step",
        "Sent by each of n GPUs: (n − 1) / n × parameters × 8 bytes. With DDP, fp32 gradients are reduced (4) and gathered (4) in a "
        "ring; with FSDP, bf16 weights are gathered twice (2 + 2) and fp32 gradients scattered (4). **Assumed:** "
        f"{options.network_gbs:g} GB/s per GPU between nodes, no latency. Where sending takes longer than computing, more GPUs do not help: "
        "take fewer, or more windows a step.",
        table(("stage", "GPUs", "sent, GB", "sending, ms", "computing, ms"), rows),
    ]


def storage(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """Disk, and memory of a GPU."""
    seconds = options.hours * 3600
    tokens = seconds * (25 + 50 * 12)
    most = max(options.gpus)
    rows = [
        (
            "audio, FLAC (assumed)",
            f"{options.hours:,.0f} h × {options.audio_bytes:g} MB",
            f"{options.hours * options.audio_bytes / 1e6:,.1f} TB",
        ),
        ("tokens", f"{tokens:.3g} × 2 bytes", f"{tokens * 2 / 1e12:.2f} TB"),
    ]
    for name in TRAINED:
        parameters = stages[name]["parameters"] + stages[name].get("discriminator_parameters", 0)
        rows.append((f"checkpoint, {name}", f"{parameters / 1e6:.0f} M × 12 bytes", f"{parameters * 12 / 1e9:.2f} GB"))
    memory = []
    for name in TRAINED:
        state = ADAM_BYTES * (stages[name]["parameters"] + stages[name].get("discriminator_parameters", 0)) / 1e9
        memory.append(
            (name, f"{state:.2f}", f"{state / 8:.2f}", f"{state / most:.3f}", f"{state + options.activation_gb:.0f}")
        )
    head = ("stage", "state, DDP, GB", "FSDP, 8 GPUs", f"FSDP, {most} GPUs", "DDP with activations (assumed)")
    return [
        "## Computed: storage",
        table(("what", "arithmetic", "size"), rows),
        "## Computed: memory of a GPU",
        f"State = 16 bytes a parameter: weight, gradient and two moments in fp32. **Assumed:** {options.activation_gb:g} GB of activations; "
        "`activation_checkpointing: true` and a smaller micro-batch lower it.",
        table(head, memory),
    ]


def reading(options: argparse.Namespace, stages: dict[str, Any]) -> list[str]:
    """Crops per second that the trainer asks for, against what one reader gives."""
    reads = json.loads(Path(options.draws).read_text())["store"]["read"] if options.draws else {}
    rows = []
    for name in TRAINED:
        stage, most = stages[name], max(options.gpus)
        per_second = stage["batch"] / busy_of(options, name, stage, most) / step_s(options, name, stage, most)
        given = 1e3 * 16 / reads[name]["batch_ms"] if name in reads else None
        workers = "–" if given is None else f"{per_second / given:.3f}"
        rows.append((name, f"{per_second:.1f}", "–" if given is None else f"{given:,.0f}", workers))
    return [
        "## Reading",
        f"Windows per second that a GPU needs at the assumed rate ({max(options.gpus)} GPUs), and those that one process drew, read and laid out in "
        "`benchmarks/store.py` on its synthetic store (warm; no disk in it). Audio crops: decoding FLAC decides; not measured here.",
        table(("stage", "needed per GPU and second", "measured per process and second", "processes needed"), rows),
    ]
