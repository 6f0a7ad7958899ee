"""Speed and memory of the language models: a training step, decoding, a whole continuation, beside the machine's limits.

    .venv/bin/python benchmarks/lm.py [--json] [--sizes peer paper] [--precisions fp32 bf16] [--device cpu|cuda]
    .venv/bin/python benchmarks/lm.py --attention auto reference --plain --long
    .venv/bin/python benchmarks/lm.py --peer path/to/peer/python --peer-script path/to/peer_audiolm_pytorch.py

Every case runs in a process of its own, so that its peak memory (of the whole process, libraries included; on CUDA what
torch has allocated) is its own. Times are medians after a warm-up. Models are random, with the paper's tokens: 1024 units
at 25 Hz, 12 levels of 1024 codes at 50 Hz, four of them coarse. The size `peer` is the one at which audiolm-pytorch was
measured (6 layers, 8 heads, 256, 1024), `paper` the paper's (12, 16, 1024, 4096; by default only on CUDA).

A training step is the stage's: loss, backward, clipping, fused AdamW, on whole windows of 751 (30 s), 2253 (10 s) and 1800
(3 s) positions; `bf16` is autocast. `of_matrix_rate` is the share of the measured matrix rate of that precision, counted
as 6 x weights x positions + attention; `lm_training.training_flop` states what counts.

`ms_per_step` is the time of one more token in each of `rows` rows at the start and the end of a continuation, by
`audiolm.lm.decoding.decode`; `of_bandwidth` the share of the measured bandwidth that reading the weights and the cache
once takes (`lm_decoding.bytes_per_step`). A small model's weights stay in the processor's cache: then it can exceed 1.
`continuation_s` is `AudioLM.continue_` after 3 s of sound, 2 s more, with the codec at the paper's size, the semantic
encoder excluded.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import common

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the commands of this project do

STAGES = ("semantic", "coarse", "fine")
SIZES = ("peer", "paper", "tiny")
PEER_CASES = [f"train:{stage}" for stage in STAGES] + [f"gen:{stage}:cache" for stage in STAGES]
PASSED_ON = ["device", "threads", "steps", "repeats", "train_batch", "dropout", "batch", "prompt_seconds"]
PASSED_ON += ["decode_precision", "matrix_size", "array_gb"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, help="by default peer, and on CUDA paper too; tiny is for tests")
    add("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    add("--cases", nargs="+", default=["train", "decode", "continue"], choices=["train", "decode", "continue"])
    add("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"], help="of training")
    add("--decode-precision", default="fp32", choices=["fp32", "bf16"])
    add("--attention", nargs="+", default=["auto"], help="auto reference blockwise flex: all train, the first decodes")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--threads", type=int, default=os.cpu_count())
    add("--steps", type=int, default=7, help="training steps measured, after two to warm up")
    add("--repeats", type=int, default=5, help="decodings and continuations measured, after one to warm up")
    add("--train-batch", type=int, default=1, help="windows per training step")
    add("--dropout", type=float, default=0.0)
    add("--prompt-seconds", type=float, default=3.0)
    add("--seconds", type=float, nargs="+", default=[2.0, 7.0], help="lengths of the continuations")
    add("--batch", type=int, default=1, help="also decode and continue so many rows side by side")
    add("--long", type=float, nargs="?", const=300.0, help="also one continuation of so many seconds (300)")
    add("--matrix-size", type=int, help="of the matrix rate; by default 2048, on CUDA 8192")
    add("--array-gb", type=float, help="of the bandwidth; by default 1, on CUDA 8")
    add("--plain", action="store_true", help="also a plain GPT of the same sizes: benchmarks/plain_gpt.py")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--peer", help="python of an environment with audiolm-pytorch")
    add("--peer-script", help="script that measures it: `SCRIPT bench --cases train:coarse,… --out FILE`")
    add("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.sizes = options.sizes or (["peer", "paper"] if cuda else ["peer"])
    options.matrix_size = options.matrix_size or (8192 if cuda else 2048)
    options.array_gb = options.array_gb or (8.0 if cuda else 1.0)
    if bool(options.peer) != bool(options.peer_script):
        parser.error("--peer and --peer-script belong together")
    if options.case:
        print(json.dumps(run_case(options)))
        return
    result = measure(options)
    if options.json:
        print(json.dumps(result))
    else:
        from lm_tables import show

        show(result)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases; the top level repeats the figures of the first size and attention, memory in the first precision."""
    before = child(options, "machine")
    by_size = {size: measure_size(options, size) for size in options.sizes}
    machine = faster(before, child(options, "machine"))
    for figures in by_size.values():
        add_shares(figures, machine)
    first = by_size[options.sizes[0]]
    result: dict[str, Any] = {name: machine[name] for name in ("matrix_gflops", "bandwidth_gbs")}
    if "train" in options.cases:
        steps = first["train"][options.attention[0]]
        in_first = {stage: by_precision[options.precisions[0]] for stage, by_precision in steps.items()}
        result["train_step_s"] = {
            stage: {precision: figures["step_s"] for precision, figures in by_precision.items()}
            for stage, by_precision in steps.items()
        }
        for name in ("peak_gb", "peak_over_imports_gb"):
            result[f"train_{name}"] = {stage: figures[name] for stage, figures in in_first.items()}
    if "continue" in options.cases:
        result["continuation_s"] = first["continue"][f"{options.seconds[0]:g} s"]["batch 1"]["seconds"]
    result["by_size"] = by_size
    if options.peer:
        result["peer"] = measure_peer(options)
    names = ["stages", "precisions", "attention", "seconds"]
    settings = {name: getattr(options, name) for name in (*PASSED_ON, *names)}
    described = {"sizes": options.sizes, "processor": machine["processor"], "torch": machine["torch"]}
    return {**result, "settings": settings | described}


def measure_size(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Training by model, stage and precision; decoding and continuations by duration and batch."""
    kinds = [*options.attention, *(["plain"] if options.plain else [])]
    batches = sorted({1, options.batch})
    figures: dict[str, Any] = {}
    if "train" in options.cases:
        figures["train"] = {
            kind: {
                stage: {
                    precision: child(options, f"train:{size}:{kind}:{stage}:{precision}")
                    for precision in options.precisions
                }
                for stage in options.stages
            }
            for kind in kinds
        }
    if "decode" in options.cases:
        figures["decode"] = {
            kind: {
                f"{seconds:g} s": {
                    f"batch {rows}": child(options, f"decode:{size}:{kind}:{seconds}", rows) for rows in batches
                }
                for seconds in options.seconds
            }
            for kind in kinds
            if kind == "plain" or kind == options.attention[0]
        }
    if "continue" in options.cases:
        figures["continue"] = {
            f"{seconds:g} s": {
                f"batch {rows}": child(options, f"continue:{size}:{options.attention[0]}:{seconds}", rows)
                for rows in batches
            }
            for seconds in options.seconds
        }
    if options.long:
        figures["long"] = child(options, f"long:{size}:{options.attention[0]}:{options.long}")
        figures["long"]["audio_s"] = options.long
    return figures


def faster(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The machine at its best: measured before and after the cases, since what interferes only slows down."""
    rates = {name: max(rate, after["matrix_gflops"][name]) for name, rate in before["matrix_gflops"].items()}
    bandwidth = max(before["bandwidth_gbs"], after["bandwidth_gbs"])
    return {**before, "matrix_gflops": rates, "bandwidth_gbs": bandwidth}


def add_shares(figures: dict[str, Any], machine: dict[str, Any]) -> None:
    """Add to every training step its share of the matrix rate, to every decoding step its share of the bandwidth."""
    for stages in figures.get("train", {}).values():
        for by_precision in stages.values():
            for precision, row in by_precision.items():
                for name in ("", "_all_parameters"):
                    if f"gflop{name}" in row:
                        rate = row[f"gflop{name}"] / row["step_s"]
                        row[f"of_matrix_rate{name}"] = round(rate / machine["matrix_gflops"][precision], 4)
    for durations in figures.get("decode", {}).values():
        for case in (case for batches in durations.values() for case in batches.values()):
            for row in (case[stage] for stage in STAGES if stage in case):
                for where in ("start", "end"):
                    if f"mb_per_step_{where}" in row:  # MB per ms are GB per second; noise may leave no time at all
                        rate = row[f"mb_per_step_{where}"] / max(row[f"ms_per_step_{where}"], 1e-3)
                        row[f"of_bandwidth_{where}"] = round(rate / machine["bandwidth_gbs"], 4)


def child(options: argparse.Namespace, case: str, rows: int = 1) -> dict[str, Any]:
    arguments: list[Any] = ["--case", case, "--stages", *options.stages]
    for name in PASSED_ON:
        arguments += [f"--{name.replace('_', '-')}", rows if name == "batch" else getattr(options, name)]
    return common.child(__file__, arguments)


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    case, *arguments = options.case.split(":")
    if case == "machine":
        from machine import measure_machine

        return measure_machine(
            device=options.device,
            matrix_size=options.matrix_size,
            array_gb=options.array_gb,
            repeats=options.repeats,
        )
    if case == "train":
        from lm_training import train_case

        return train_case(options, *arguments)
    from lm_decoding import continue_case, decode_case

    size, kind, seconds = arguments[0], arguments[1], float(arguments[2])
    if case == "decode":
        result = decode_case(options, size, kind, seconds)
    else:
        result = continue_case(options, size, kind, seconds, rows=options.batch, once=case == "long")
    return {**result, "peak_gb": round(common.peak_gb(options.device), 3)}


def measure_peer(options: argparse.Namespace) -> dict[str, Any]:
    """The peer's own figures by case, as its script prints them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.json"
        command = [options.peer, options.peer_script, "bench", "--cases", ",".join(PEER_CASES), "--out", str(out)]
        command += ["--threads", str(options.threads), "--reps", str(options.repeats)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return json.loads(out.read_text())["cases"]


if __name__ == "__main__":
    main()
