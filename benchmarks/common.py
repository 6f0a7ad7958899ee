"""What the benchmarks share: a case in a process of its own, its time and memory, what it ran on, random codebooks."""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def child(script: str, arguments: Sequence[str | int | float]) -> dict[str, Any]:
    """Run one case of a benchmark in a process of its own; what it prints last is its figures.

    The caller should not have imported torch: a process starts with the peak memory of the one that started it.
    """
    done = subprocess.run([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_gb(device: str) -> float:
    """Peak memory so far, in GiB: on CPU of the whole process, libraries included; on CUDA what torch has allocated."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts kilobytes


def resident_gb() -> float:
    """Memory of this process now, in GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def processor(device: str) -> str:
    """The model name of what computes."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def seconds_of(run: Callable[[], Any], *, device: str) -> float:
    """How long one call takes, with the device's queue empty before and after."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median_seconds(run: Callable[[], Any], *, device: str, repeats: int, warm_up: int = 1) -> float:
    """The median time of `repeats` calls, after `warm_up` that do not count."""
    times = [seconds_of(run, device=device) for _ in range(warm_up + repeats)]
    return statistics.median(times[warm_up:])


def trainer_step_seconds(stage: Any, batch: Any, *, device: str, precision: str, steps: int) -> float:
    """The median time of a stage's training steps under a Lightning trainer, all on one batch, after two to warm up."""
    import lightning as L
    import torch
    from torch.utils.data import DataLoader

    times: list[float] = []

    class Clock(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - self.started)

    trainer = L.Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=steps + 2,
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage, DataLoader([batch] * (steps + 2), batch_size=None))
    return statistics.median(times[2:])


def give_codebooks(codec: Any) -> None:
    """Random codebooks of a plausible size: what k-means would make takes training."""
    import torch

    quantizer = codec.quantizer
    quantizer.codebooks.copy_(0.1 * torch.randn_like(quantizer.codebooks))
    quantizer.ema_counts.fill_(1.0)
    quantizer.ema_sums.copy_(quantizer.codebooks)
    quantizer.initialised.fill_(True)
