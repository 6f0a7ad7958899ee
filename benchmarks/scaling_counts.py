"""Parameters and operations of the stages at the paper's sizes, for benchmarks/scaling.py; and small measurements of each."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

STAGES = Path(__file__).parents[1] / "stages"


def settings_of(stage: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """A stage's model and data arguments, and its steps."""
    config = yaml.safe_load((STAGES / f"{stage}.yaml").read_text())
    return config["model"]["init_args"], config["data"]["init_args"], config["trainer"]["max_steps"]


class Operations(TorchDispatchMode):
    """Counts those of matrix products, convolutions and attention; `FlopCounterMode` cannot follow `autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # in inference mode a linear layer comes as one piece
            parts = function.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        result = function(*args, **(kwargs or {}))
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def gflop_of(run: Any) -> float:
    """Operations of a call, in 10^9."""
    with Operations() as operations:
        run()
    return operations.total / 1e9


def codec(options: argparse.Namespace) -> dict[str, Any]:
    """A training step (both networks, forward and backward) and encoding, per second of audio."""
    from audiolm.stages import CodecStage
    from datamodules.waveforms import WaveformBatch

    torch.set_num_threads(options.threads)
    _, data, steps = settings_of("codec")
    batch = WaveformBatch(0.1 * torch.randn(1, 16000), torch.full((1,), 16000))

    def train(count: int) -> tuple[Any, float]:
        stage = CodecStage(discriminator_start=0, root="/nonexistent")
        common.give_codebooks(stage.model)
        return stage, common.trainer_step_seconds(stage, batch, device="cpu", precision="fp32", steps=count)

    gflop = gflop_of(lambda: train(1)) / 3  # two steps to warm up, one measured
    stage, seconds = train(2)
    audio = 0.1 * torch.randn(1, 160_000)
    common.give_codebooks(stage.model)
    model = stage.model.eval()
    with torch.inference_mode():
        encode_gflop = gflop_of(lambda: model.encode(audio)) / 10
        rtf = common.median_seconds(lambda: model.encode(audio), device="cpu", repeats=3) / 10
    return {
        "parameters": sum(p.numel() for p in stage.model.parameters()),
        "discriminator_parameters": sum(p.numel() for p in stage.parameters()) - sum(p.numel() for p in model.parameters()),
        "steps": steps, "batch": data["batch_size"], "window_s": data["window_seconds"], "units": "seconds of audio",
        "gflop": gflop * data["window_seconds"], "measured_gflop": gflop, "measured_s": seconds,
        "encode_gflop_per_s": encode_gflop, "encode_rtf": rtf,
    }  # fmt: skip


def encoder(options: argparse.Namespace) -> dict[str, Any]:
    """A crop of the training length: two blocks are built and counted, the others are alike."""
    from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder

    torch.set_num_threads(options.threads)
    model, data, steps = settings_of("encoder")
    config = ConformerConfig(**model["encoder"])
    small = ConformerEncoder(replace(config, contrastive_layers=1, masked_layers=1), layer=2).eval()
    bins = small.spectrogram.bins
    small.spectrogram.set_statistics(torch.full((bins,), -8.0), torch.full((bins,), 3.0))
    audio = 0.1 * torch.randn(1, round(16000 * data["window_seconds"]))

    def forward(layer: int) -> Any:
        small.layer = layer
        with torch.inference_mode():
            return small(audio)

    one, two = (gflop_of(lambda: forward(layer)) for layer in (1, 2))  # noqa: B023
    block = sum(p.numel() for p in small.blocks[0].parameters())
    rest = sum(p.numel() for p in small.parameters()) - 2 * block
    whole = one + (config.layers - 1) * (two - one)
    return {
        "parameters": rest + config.layers * block, "steps": steps, "batch": data["batch_size"],
        "window_s": data["window_seconds"], "units": "crops", "gflop": 3 * whole,  # backward: twice forward
        "forward_gflop_per_s": whole / data["window_seconds"], "measured_gflop": two,
        "measured_s": common.median_seconds(lambda: forward(2), device="cpu", repeats=3),
        "usual_layer_share": config.usual_layer / config.layers,
    }  # fmt: skip


def models(options: argparse.Namespace) -> dict[str, Any]:
    """The three language models, of a whole window without padding."""
    from lm_models import SPEC, build_model, training_batch
    from lm_training import training_flop

    from audiolm.tokens.layout import StageLayout

    found = {}
    for stage in ("semantic", "coarse", "fine"):
        _, data, steps = settings_of(stage)
        layout = StageLayout(SPEC, stage)  # type: ignore[arg-type]
        with torch.device("meta"):
            model = build_model(layout, size="paper", attention="auto")
        batch = training_batch(layout, rows=1)
        found[stage] = {
            "parameters": sum(p.numel() for p in model.parameters()), "steps": steps, "batch": data["batch_size"],
            "window_s": data["window_seconds"], "positions": batch.inputs.size(1), "units": "windows",
            "gflop": training_flop(model, layout, batch) / 1e9,
        }  # fmt: skip
    return found
