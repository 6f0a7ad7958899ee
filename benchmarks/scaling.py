"""How long the chain takes at the paper's sizes on 60,000 hours: operations counted, rates measured here, GPUs assumed.

    .venv/bin/python benchmarks/scaling.py [--json] [--gpus 8 64 256] [--gpu-tflops 989] [--lm-utilisation 0.4] …

Counted: parameters and operations of a training step and of tokenizing, from stages/*.yaml and the modules themselves.
Measured: how long such work takes on this CPU, and what share that is of its matrix rate in the same run (one thread by default).
Assumed, each by an option: a GPU's rate, memory and network from its data sheet, and the share of that rate that is reached.
No figure for GPUs is measured. The tables are what docs/scaling.md shows.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import common

STAGES = Path(__file__).parents[1] / "stages"
MODELS = ("semantic", "coarse", "fine")
FP32_BYTES, ADAM_BYTES = 4, 16  # weight, gradient and two moments in fp32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gpus", type=int, nargs="+", default=[8, 64, 256])
    add("--hours", type=float, default=60_000)
    add("--gpu-tflops", type=float, default=989, help="bf16 without sparsity (data sheet of an H100 SXM)")
    add("--lm-utilisation", type=float, default=0.40, help="assumed share of --gpu-tflops in training Transformers")
    add("--codec-utilisation", type=float, default=0.08, help="the same for the codec's narrow convolutions")
    add("--network-gbs", type=float, default=50, help="10^9 bytes per second and GPU between nodes (400 Gbit/s each)")
    add("--audio-bytes", type=float, default=57.0, help="GB of FLAC per 1000 hours of 16 kHz speech")
    add("--activation-gb", type=float, default=20, help="activations of a GPU's share of a step; to be measured")
    add("--draws", help="JSON of benchmarks/store.py, for the rate of reading measured there")
    add("--threads", type=int, default=1, help="of what is measured here")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--case", choices=["codec", "encoder", "models"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        import scaling_counts

        print(json.dumps(getattr(scaling_counts, options.case)(options)))
        return
    result = measure(options)
    print(json.dumps(result) if options.json else "\n\n".join(tables(options, result)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What was counted and measured, by stage; the matrix rate is the best before and after."""
    lm = Path(__file__).with_name("lm.py")
    common_arguments = ["--threads", options.threads, "--steps", 3, "--repeats", 3]
    machine = ["--case", "machine", *common_arguments, "--matrix-size", 1024, "--array-gb", 0.25]
    before = common.child(str(lm), machine)
    counted = {
        case: common.child(__file__, ["--case", case, "--threads", options.threads]) for case in ("codec", "encoder")
    }
    models = common.child(__file__, ["--case", "models"])
    for stage in MODELS:
        step = common.child(str(lm), ["--case", f"train:peer:auto:{stage}:fp32", *common_arguments])
        models[stage] |= {"measured_gflop": step["gflop"], "measured_s": step["step_s"]}
    after = common.child(str(lm), machine)
    rate = max(run["matrix_gflops"]["fp32"] for run in (before, after))
    stages = {**counted, **models}
    for stage in stages.values():
        stage["of_matrix_rate"] = stage["measured_gflop"] / stage["measured_s"] / rate
    stages["codec"]["encode_of_matrix_rate"] = (
        stages["codec"]["encode_gflop_per_s"] / stages["codec"]["encode_rtf"] / rate
    )
    return {"matrix_gflops": rate, "processor": before["processor"], "stages": stages, "settings": vars(options)}


def tables(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """All tables of docs/scaling.md, as Markdown."""
    import scaling_tables

    command = " ".join(["benchmarks/scaling.py", *sys.argv[1:]])
    return [f"`{command}` printed what follows.", *scaling_tables.all_tables(options, result)]


if __name__ == "__main__":
    main()
