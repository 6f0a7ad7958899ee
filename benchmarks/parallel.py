"""Two processes against one: losses, memory of the sharded state, and checkpoints, for every stage that trains.

    .venv/bin/python benchmarks/parallel.py --root checkpoints --preset demo [--json] [--stages …] [--steps 6]

Takes a finished chain (`make train-all`) and trains its stages again for a few steps, without dropout, in a temporary folder
that only links to what earlier stages made: nothing in the chain is touched. Each stage runs on one process and on two, with
DDP, and where it can be sharded with FSDP2 and tensor parallelism, always with the same batch per step over all processes.

`difference` is the largest absolute difference of a step's training loss from that of one process, `validation` that of the
validation's. `state_mb` are the weights, gradients and optimizer state that the first process holds; `rss_gb` its peak memory,
libraries included. `save_s` is how long a checkpoint took to write (to be told from damaged, synced), `checkpoint_mb` its size.
On the CPU by default, in fp32; --device cuda for GPUs, where one device is enough for ddp and fsdp on one process.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
STAGES = ("codec", "encoder", "tokenizer", "semantic", "coarse", "fine")
SHARDED = ("encoder", "semantic", "coarse", "fine")
NO_DROPOUT = {
    "codec": ["--model.init_args.codec.quantizer_dropout", "0"],
    "encoder": ["--model.init_args.encoder.dropout", "0"],
    **{stage: ["--model.init_args.transformer.dropout", "0"] for stage in ("semantic", "coarse", "fine")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="a finished chain")
    parser.add_argument("--preset", default="demo", help="demo, small, …; paper for none")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--arguments", nargs="*", default=[], help="further arguments of lightning fit")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    rows = [row for stage in options.stages for row in compare(options, stage)]
    print(json.dumps(rows) if options.json else table(rows))


def compare(options: argparse.Namespace, stage: str) -> list[dict[str, Any]]:
    """One process, then several in every way that the stage knows."""
    ways = [("one", 1, ["--trainer.strategy", "auto"]), ("ddp", options.processes, ["--trainer.strategy", "ddp"])]
    if stage in SHARDED:
        ways.append(("fsdp", options.processes, ["--trainer.strategy", "fsdp"]))
    if stage in SHARDED[1:] and options.processes > 1:
        tensor = ["--trainer.strategy", "fsdp", "--tensor_parallel_size", str(options.processes)]
        ways.append(("tensor parallel", options.processes, tensor))
    rows: list[dict[str, Any]] = []
    for way, processes, arguments in ways:
        rows.append({"stage": stage, "way": way, "processes": processes} | run(options, stage, processes, arguments))
        for measured, name in (("difference", "train"), ("validation", "held_out")):
            ours, theirs = rows[-1][name], rows[0][name]
            rows[-1][measured] = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return [{name: value for name, value in row.items() if name not in ("train", "held_out")} for row in rows]


def run(options: argparse.Namespace, stage: str, processes: int, arguments: list[str]) -> dict[str, Any]:
    """Train a stage in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for made in options.root.resolve().iterdir():
            if made.name != stage and not made.name.startswith("."):
                (root / made.name).symlink_to(made)
        configs = [f"stages/{stage}.yaml", f"stages/{options.preset}/{stage}.yaml", "benchmarks/parallel.yaml"]
        command = [sys.executable, "-m", "audiolm", "fit", "--root", str(root)]
        command += [part for config in configs if (REPOSITORY / config).exists() for part in ("-c", config)]
        command += ["--trainer.devices", str(processes), "--trainer.accelerator", options.device]
        command += ["--trainer.precision", options.precision, "--trainer.callbacks+=parallel.Held", *arguments]
        command += NO_DROPOUT.get(stage, []) + options.arguments
        if stage == "tokenizer":
            command += ["--trainer.limit_train_batches", str(options.steps)]
        else:
            command += ["--trainer.max_steps", str(options.steps), "--trainer.val_check_interval", str(options.steps)]
        path = os.pathsep.join([str(REPOSITORY / "benchmarks"), os.environ.get("PYTHONPATH", "")])
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        started = time.monotonic()
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        held = json.loads((root / stage / "held.json").read_text())
        return held | losses(root / stage) | {"seconds": round(time.monotonic() - started, 1)}


def losses(folder: Path) -> dict[str, list[float]]:
    """Training and validation losses by step; the tokenizer has none, but what its clusters leave over."""
    rows = [row for file in sorted((folder / "log").glob("*/metrics.csv")) for row in csv.DictReader(file.open())]
    train = "tokenizer/distortion" if folder.name == "tokenizer" else "train/loss"
    return {
        name: [float(row[column]) for row in rows if row.get(column)]
        for name, column in (("train", train), ("held_out", "validation/loss"))
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| stage | | processes | difference of training losses | of validation losses | state, MB | peak, GiB "
        "| checkpoint, MB | saved in, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = (
            f"{row['difference']:.1e}",
            f"{row['validation']:.1e}",
            *(row[name] for name in ("state_mb", "rss_gb")),
        )
        lines.append(
            f"| {row['stage']} | {row['way']} | {row['processes']} | {' | '.join(map(str, figures))} | "
            f"{row['checkpoint_mb']} | {row['save_s']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
else:  # inside the processes that train
    import lightning as L
    import torch
    from torch.distributed.tensor import DTensor

    class Held(L.Callback):
        """Says what a process holds at the end, and how long a checkpoint takes."""

        def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            if torch.cuda.is_available():
                peak = torch.cuda.max_memory_allocated() / 2**30
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts kilobytes
            held = sum(map(local_bytes, tensors_of(trainer, pl_module)))
            path = pl_module.folder / "measured.ckpt"
            started = time.monotonic()
            trainer.save_checkpoint(path, weights_only=False)
            seconds = time.monotonic() - started
            if trainer.is_global_zero:
                files = [path] if path.is_file() else list(path.iterdir())
                figures = {"state_mb": round(held / 1e6, 2), "rss_gb": round(peak, 2), "save_s": round(seconds, 2)}
                figures["checkpoint_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 2)
                (pl_module.folder / "held.json").write_text(json.dumps(figures))

    def tensors_of(trainer: L.Trainer, module: Any) -> list[Any]:
        """Weights, gradients as large as what is trained, and optimizer state."""
        parameters = list(module.parameters())
        states = [
            value for optimizer in trainer.optimizers for state in optimizer.state.values() for value in state.values()
        ]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        return [*parameters, *trained, *(value for value in states if isinstance(value, torch.Tensor))]

    def local_bytes(tensor: Any) -> int:
        """What this process has of it."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        return int(local.numel() * local.element_size())
