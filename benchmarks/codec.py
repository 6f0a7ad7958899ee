"""Speed and memory of the codec at the paper's size: a training step, encoding, decoding, an hour-long file.

    .venv/bin/python benchmarks/codec.py [--json] [--precisions bf16 fp32] [--device cpu|cuda]
    .venv/bin/python benchmarks/codec.py --peer path/to/peer/python --peer-script path/to/peer_audiolm_pytorch.py

Every case runs in a process of its own, so that its peak memory (of the whole process, libraries included) is its own.
Times are medians after a warm-up. A training step is the stage's, under a Lightning trainer: generator and
discriminators, both optimizers, quantizer update, weight averaging, on four clips of one second. Encoding and decoding
are of one clip, as `audiolm` runs them; 0.02 means a fiftieth of the clip's duration.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from typing import Any

import common

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands of this project do

SECONDS = (10, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=7, help="training steps measured, after two to warm up")
    parser.add_argument("--repeats", type=int, default=5, help="encodings and decodings measured, after one to warm up")
    parser.add_argument("--batch-size", type=int, default=4, help="one-second clips per training step")
    parser.add_argument("--hour", action="store_true", help="also encode and decode one hour (minutes)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--peer", help="python of an environment with audiolm-pytorch")
    parser.add_argument("--peer-script", help="script that measures it: `SCRIPT bench --cases codec:train,…`")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options)))
        return
    result = measure(options)
    print(json.dumps(result, indent=None if options.json else 2)) if options.json else show(result)
    if options.peer and not options.json:
        subprocess.run(
            [options.peer, options.peer_script, "bench", "--cases", "codec:encode_decode,codec:train"], check=True
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases; the top level repeats the figures of the first precision, encoding and decoding at 10 s."""
    by_precision = {}
    for precision in options.precisions:
        train = child(options, "train", precision)
        figures = {"train_step_s": train["seconds"], "train_peak_gb": train["peak_gb"]}
        for seconds in SECONDS + ((3600,) if options.hour else ()):
            coded = child(options, f"code:{seconds}", precision)
            figures[f"encode_rtf_{seconds}s"], figures[f"decode_rtf_{seconds}s"] = (
                coded["encode_rtf"],
                coded["decode_rtf"],
            )
            figures[f"code_peak_gb_{seconds}s"] = coded["peak_gb"]
        if options.device == "cuda":
            figures["tokenized_hours_per_minute"] = 60 / 3600 / figures[f"encode_rtf_{SECONDS[-1]}s"]
        by_precision[precision] = figures
    first = by_precision[options.precisions[0]]
    return {
        "train_step_s": first["train_step_s"],
        "train_peak_gb": first["train_peak_gb"],
        "encode_rtf": first[f"encode_rtf_{SECONDS[0]}s"],
        "decode_rtf": first[f"decode_rtf_{SECONDS[0]}s"],
        "by_precision": by_precision,
        "settings": {
            "precision": options.precisions[0],
            "device": options.device,
            "threads": options.threads,
            "batch": f"{options.batch_size} clips of 1 s",
            "codec": "paper: 16 kHz, C = 32, D = 128, strides 2 4 5 8, 12 x 1024",
            "steps": options.steps,
            "repeats": options.repeats,
        },
    }


def child(options: argparse.Namespace, case: str, precision: str) -> dict[str, Any]:
    command = ["--case", case, "--precisions", precision, "--device", options.device, "--threads", options.threads]
    command += ["--steps", options.steps, "--repeats", options.repeats, "--batch-size", options.batch_size]
    return common.child(__file__, command)


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    case, _, argument = options.case.partition(":")
    result = train(options) if case == "train" else code(options, seconds=int(argument))
    return {**result, "peak_gb": round(common.peak_gb(options.device), 2)}


def train(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from audiolm.stages import CodecStage
    from datamodules.waveforms import WaveformBatch

    stage = CodecStage(discriminator_start=0, root="/nonexistent")
    common.give_codebooks(stage.model)
    batch = WaveformBatch(0.1 * torch.randn(options.batch_size, 16000), torch.full((options.batch_size,), 16000))
    precision, steps = options.precisions[0], options.steps
    seconds = common.trainer_step_seconds(stage, batch, device=options.device, precision=precision, steps=steps)
    return {"seconds": round(seconds, 3)}


def code(options: argparse.Namespace, *, seconds: int) -> dict[str, Any]:
    import torch

    from audiolm.codec.soundstream import SoundStream

    codec = SoundStream()
    common.give_codebooks(codec)
    codec.fold_weights(torch.bfloat16 if options.precisions[0] == "bf16" else torch.float32).to(options.device)
    audio = 0.1 * torch.randn(1, 16000 * seconds, device=options.device)
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(1 if seconds > 600 else options.repeats + 1):
        started = time.perf_counter()
        codes = codec.encode(audio).cpu()
        times["encode"].append(time.perf_counter() - started)
        started = time.perf_counter()
        codec.decode(codes.to(options.device)).cpu()
        times["decode"].append(time.perf_counter() - started)
    return {
        f"{name}_rtf": round(statistics.median(values[-options.repeats :]) / seconds, 4)
        for name, values in times.items()
    }


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", *result["by_precision"])
    for name in next(iter(result["by_precision"].values())):
        table.add_row(name, *(f"{figures[name]:g}" for figures in result["by_precision"].values()))
    Console().print(table, result["settings"])


if __name__ == "__main__":
    main()
