"""What runs inside the processes of `test_equal_results.py`: every stage, on this process's share of the same batches."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loggers import Logger
from torch import Tensor

from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.discriminators import DiscriminatorConfig
from audiolm.codec.quantizer import ResidualQuantizer
from audiolm.processes import Draws, Processes
from audiolm.semantic.augmentation import Augmentation
from audiolm.semantic.conformer import ConformerConfig
from audiolm.semantic.encoders import EncoderConfig
from audiolm.semantic.objectives import BestRqConfig, HubertConfig, W2vBertConfig
from audiolm.stages import encoder
from audiolm.stages.base import StageModule
from audiolm.stages.codec import CodecStage
from audiolm.stages.detokenizer import DetokenizerStage
from audiolm.stages.encoder import EncoderStage
from audiolm.stages.global_batch import share_batches
from audiolm.stages.speaker import SpeakerStage
from audiolm.stages.tokenizer import TokenizerStage
from datamodules import LibriLightDataModule

STEPS = {
    "codec": 10,
    "w2v-bert": 4,
    "best-rq": 3,
    "hubert": 3,
    "detokenizer_codes": 3,
    "detokenizer_units": 2,
    "speaker": 5,
}
STAGES = ("tokenizer", *STEPS)
encoder.STATISTICS_BATCHES = 8  # the corpus is small
DISCRIMINATORS = DiscriminatorConfig(stft_channels=2, wave_channels=4, wave_max_channels=8, wave_scales=1)


class Losses(Logger):
    """Everything that is logged, on every process."""

    name, version = "losses", 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append({name: value for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def stage(name: str, root: Path, *, given: Path) -> StageModule:
    """A tiny stage without dropout; `given`: the folder of the codec and tokenizer that detokenizers need, or of the manifest."""
    torch.manual_seed(0)
    adversarial: dict[str, Any] = {"discriminators": DISCRIMINATORS, "mel_windows": (64, 256), "warmup_steps": 2}
    if name == "codec":  # k-means after two steps; the discriminators start; entries die
        sizes = SoundStreamConfig(
            channels=2, dim=8, strides=(4, 4, 8), levels=3, codebook_size=16, pool_factor=16, dead_fraction=0.5
        )
        return CodecStage(codec=sizes, discriminator_start=5, root=str(root), **adversarial)
    if name.startswith("detokenizer"):
        source = given / ("codec" if name.endswith("codes") else "tokenizer") / "best.ckpt"
        sizes_ = {"levels": 3, "channels": 2, "dim": 8, "strides": (4, 4, 8), "discriminator_start": 1}
        sizes_ |= {"strides": (4, 4, 5, 8)} if name.endswith("units") else {}
        return DetokenizerStage(stage=name, source=str(source), root=str(root), **sizes_, **adversarial)  # type: ignore[arg-type]
    if name == "speaker":
        manifest = [str(given / "manifest.jsonl")]
        return SpeakerStage(data=manifest, channels=(4, 8, 8), warmup_steps=2, learning_rate=1e-3, root=str(root))
    if name == "tokenizer":
        return TokenizerStage(
            encoder=EncoderConfig(kind="mfcc"), clusters=8, levels=2, iterations=5, max_frames=150, root=str(root)
        )
    sizes = {"dim": 16, "contrastive_layers": 1, "masked_layers": 1, "heads": 2, "feed_forward": 32}
    return EncoderStage(
        encoder=ConformerConfig(**sizes, subsampling_channels=2, dropout=0.0),
        objective=name,  # type: ignore[arg-type]
        w2v_bert=W2vBertConfig(codes=8, code_dim=8, distractors=10),
        best_rq=BestRqConfig(codes=8),
        hubert=HubertConfig(clusters=6),
        augmentation=Augmentation(warp=0.1, tilt=0.3, noise=0.5),
        warmup_steps=2,
        learning_rate=1e-3,
        root=str(root),
    )


def train(name: str, corpus: Path, root: Path, *, given: Path, processes: int) -> dict[str, Any]:
    """Train a stage on batches of four: its losses and its weights at the end."""
    losses, module = Losses(), stage(name, root, given=corpus if name == "speaker" else given)
    options = {"devices": processes, "strategy": "ddp", "plugins": [LightningEnvironment()]} if processes > 1 else {}
    trainer = L.Trainer(
        **options,  # type: ignore[arg-type]
        **(
            {"max_steps": STEPS[name], "max_epochs": -1}
            if name in STEPS
            else {"max_epochs": 1, "limit_train_batches": 4}
        ),
        accelerator="cpu",
        logger=losses,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=STEPS.get(name, 1.0),
        check_val_every_n_epoch=None if name in STEPS else 1,
        use_distributed_sampler=False,
    )
    seconds = 0.25 if name == "codec" or name.startswith("detokenizer") else 1.6
    view: Any = "waveform"
    if name == "speaker":
        seconds, view = 1.0, "labelled"
    data = LibriLightDataModule(view=view, window_seconds=seconds, batch_size=4, workers=0, root=str(corpus))
    share_batches(trainer, module, data)
    trainer.fit(module, datamodule=data)
    if processes == 1:
        trainer.save_checkpoint(root / module.name / "best.ckpt", weights_only=False)
    return {"losses": losses.seen, "weights": {key: value.clone() for key, value in module.state_dict().items()}}


def train_all(corpus: Path, root: Path, *, given: Path, processes: int) -> dict[str, Any]:
    """All stages, one after the other."""
    return {name: train(name, corpus, root, given=given, processes=processes) for name in STAGES}


def train_rank(rank: int, corpus: Path, root: Path, given: Path, port: int) -> None:
    """One process of two, started as a cluster does: through the environment."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank), RANK=str(rank)
    )
    dist.init_process_group("gloo")
    found = {"shared": shared(Processes.current()), "quantizer": quantized(Processes.current())}
    torch.save(found | train_all(corpus, root, given=given, processes=2), root / f"{rank}.pt")
    dist.destroy_process_group()


def shared(processes: Processes) -> dict[str, Tensor]:
    """What `Processes` gives of the same global batch, and gradients, which the processes then average."""
    batch = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = processes.rows(batch).requires_grad_()
    some = ours[: 2 if processes.rank == 0 else None].flatten(0, 1) if processes.count > 1 else None
    frames = batch[[0, 2, 1, 3, 5]].requires_grad_() if some is None else some  # rows of unlike number
    frames = frames.reshape(-1, 4)
    mean = processes.mean_of_rows(frames)
    part = processes.part_of_mean((frames - mean).pow(4).sum(), len(frames))
    draws = Draws(7, examples=range(processes.rank, 6, processes.count))
    (gradient,) = torch.autograd.grad(part + mean.square().sum(), frames)
    return {
        "gathered": processes.gather(ours).detach(),
        "previous": processes.gather(processes.previous_rows(ours.detach())),
        "mean": mean.detach(),
        "part": part.detach(),
        "gradient": gradient / processes.count,
        "draws": processes.gather(torch.cat([draws.uniform(5), draws.normal(20), draws.exponential(3)], dim=1)),
    }


def quantized(processes: Processes) -> dict[str, Tensor]:
    """A quantizer's state, codes and commitment loss over steps through the pool, k-means, dropout and dead entries."""
    quantizer = ResidualQuantizer(levels=3, codebook_size=8, dim=4, decay=0.8, dead_fraction=0.5, pool_frames=100)
    found: dict[str, Tensor] = {}
    for step in range(12):
        batch = torch.randn(4, 4, 10, generator=torch.Generator().manual_seed(step)) * (1 + step % 3)
        torch.manual_seed(step)  # as a stage does
        output = quantizer(processes.rows(batch))
        found[f"codes {step}"] = processes.gather(output.codes)
        found[f"commitment {step}"] = processes.sum(output.commitment) / processes.count
        found |= {f"{name} {step}": value.clone() for name, value in quantizer.state_dict().items()}
    return found


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Over all weights and buffers."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel())
