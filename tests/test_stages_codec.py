"""The codec stage: what counts as a step, what resumes, what is skipped and what is monitored."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader, Dataset

from audiolm.audio import read_audio
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.discriminators import DiscriminatorConfig
from audiolm.codec.soundstream import SoundStream
from audiolm.errors import TrainingFailedError
from audiolm.stages.codec import CodecStage
from datamodules.waveforms import WaveformBatch

TINY = SoundStreamConfig(channels=2, dim=8, strides=(2, 4), levels=2, codebook_size=8, pool_factor=32)


class Crops(Dataset[WaveformBatch]):
    """Batch number n of noise; NaN from `broken_from` on."""

    def __init__(self, count: int, *, first: int = 0, broken_from: int = 10**6) -> None:
        self.count, self.first, self.broken_from = count, first, broken_from

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> WaveformBatch:
        seed = self.first + number
        audio = 0.1 * torch.randn(2, 400, generator=torch.Generator().manual_seed(seed))
        if number >= self.broken_from:
            audio = audio * float("nan")
        return WaveformBatch(audio, torch.full((2,), 400))


def tiny_stage(root: Path, **changes: Any) -> CodecStage:
    torch.manual_seed(0)
    return CodecStage(
        discriminators=DiscriminatorConfig(stft_channels=2, wave_channels=4, wave_max_channels=8, wave_scales=1),
        warmup_steps=2,
        root=str(root),
        **{"codec": TINY, "mel_windows": (64, 128), "discriminator_start": 3, "learning_rate": 1e-3, **changes},
    )


def fit(
    stage: CodecStage,
    steps: int,
    *,
    crops: Crops | None = None,
    stop: int | None = None,
    ckpt_path: str | None = None,
    trainer_options: dict[str, Any] | None = None,
    callbacks: list[L.Callback] | None = None,
) -> L.Trainer:
    """Train towards `steps` steps; stop early after `stop`, as a killed run does."""

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = stop is not None and trainer.global_step >= stop

    trainer = L.Trainer(
        **(trainer_options or {}),
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        callbacks=[Stop(), *(callbacks or [])],
    )
    train, validation = (DataLoader(part, batch_size=None) for part in (crops or Crops(steps), Crops(2)))
    trainer.fit(stage, train, validation, ckpt_path=ckpt_path)
    return trainer


def test_only_generator_steps_advance_the_global_step_and_discriminators_start_late(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path)
    before = {name: value.clone() for name, value in stage.discriminators.state_dict().items()}
    trainer = fit(stage, 3)
    assert trainer.global_step == 3
    assert all(torch.equal(before[name], value) for name, value in stage.discriminators.state_dict().items())
    stage = tiny_stage(tmp_path)
    trainer = fit(stage, 6)
    assert trainer.global_step == 6
    assert any(not torch.equal(before[name], value) for name, value in stage.discriminators.state_dict().items())
    generator, adversary = trainer.optimizers
    assert {int(state["step"]) for state in generator.state.values()} == {6}
    assert {int(state["step"]) for state in adversary.state.values()} == {3}


def test_validation_reports_what_the_checkpoint_and_the_report_need(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path)
    metrics = fit(stage, 8).callback_metrics
    names = ["loss", "si_sdr_db", "reconstruction", "adversarial", "feature", "discriminator", "commitment"]
    for name in [*names, "perplexity_level_1", "perplexity_level_2"]:
        assert metrics[f"validation/{name}"].isfinite(), name
    assert 1 <= metrics["validation/perplexity_level_1"] <= TINY.codebook_size
    assert stage.model.training


def test_before_there_are_codebooks_validation_scores_silence_not_the_unquantised_shortcut(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, codec=dataclasses.replace(TINY, pool_factor=10**6))
    metrics = fit(stage, 4).callback_metrics
    assert metrics["validation/si_sdr_db"] == pytest.approx(-80.0)


@pytest.mark.parametrize("stop", [2, 7])  # while the k-means pool fills; after the discriminators started
def test_resuming_equals_not_stopping(tmp_path: Path, stop: int) -> None:
    whole = tiny_stage(tmp_path)
    fit(whole, 10)
    fit(tiny_stage(tmp_path), 10, stop=stop).save_checkpoint(tmp_path / "last.ckpt")
    resumed = tiny_stage(tmp_path)
    fit(resumed, 10, crops=Crops(10, first=stop), ckpt_path=str(tmp_path / "last.ckpt"))
    for name, value in whole.state_dict().items():
        if (
            name != "live.quantizer.usage"
        ):  # stopping validates once more, which begins the count anew: a statistic only
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_rebuilds_the_codec_without_lightning(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path)
    fit(stage, 6).save_checkpoint(tmp_path / "best.ckpt")
    codec = SoundStream.from_checkpoint(load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec"))
    audio = torch.randn(1, 400)
    assert torch.equal(codec.encode(audio), stage.model.eval().encode(audio))
    assert not torch.equal(codec.decoder.layers[0].bias, stage.live.decoder.layers[0].bias)  # the average, not the last


def test_discriminators_are_not_moved_by_the_generators_losses_nor_the_generator_by_theirs(tmp_path: Path) -> None:
    """One forward pass of the reconstruction through the discriminators serves both: neither gradient may leak."""
    stages = [tiny_stage(tmp_path, discriminator_start=0, discriminator_learning_rate=rate) for rate in (0.0, 1e-3)]
    for stage in stages:
        fit(stage, 1)
    for (name, still), moved in zip(
        stages[0].live.state_dict().items(), stages[1].live.state_dict().values(), strict=True
    ):
        assert torch.equal(still, moved), name  # the first generator step knows nothing of the discriminators' step
    fresh = tiny_stage(tmp_path).discriminators.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in stages[0].discriminators.state_dict().items())


def test_a_run_with_an_absurd_learning_rate_is_stopped_and_explained(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, learning_rate=30.0, discriminator_start=10**6)
    with pytest.raises(
        TrainingFailedError, match=r"(exploded|learned nothing|not finite).*learning rate is too high \(30,"
    ):
        fit(stage, 400)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("gradient_clip", 0.0),
        ("average_decay", 1.0),
        ("discriminator_start", -5),
        ("mel_windows", (3, 64)),
    ],
)
def test_settings_that_cannot_train_are_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        tiny_stage(tmp_path, **{name: value})


def test_a_collapsed_level_is_named_with_what_helps(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, codec=dataclasses.replace(TINY, codebook_size=32, pool_factor=8))
    stage.health.usage_patience = 1

    class OneEntryTakesAll(L.Callback):
        def on_validation_epoch_start(self, *_: Any) -> None:
            stage.live.quantizer.usage.fill_(1000)
            stage.live.quantizer.usage[1] = torch.tensor([10**9] + 31 * [0])

    with pytest.warns(UserWarning, match=r"Level 2 has collapsed.*dead_fraction"):
        trainer = fit(stage, 4, callbacks=[OneEntryTakesAll()])
    assert trainer.callback_metrics["train/collapsed_levels"] == 1


def test_reconstructions_of_every_validation_can_be_heard_and_seen(chain: Path) -> None:
    """The tiny chain validates three times; what is there must be as long as the original, and not it."""
    folder = chain / "codec" / "listening"
    originals, steps = sorted(folder.glob("*-original.flac")), sorted(folder.glob("step-*.png"))
    assert originals
    assert len(steps) >= 2
    first = read_audio(originals[0], sample_rate_hz=16000)
    for step in steps:
        again = read_audio(folder / f"clip-1-{step.stem}.flac", sample_rate_hz=16000)
        assert again.shape == first.shape
        assert not torch.equal(again, first)


def test_steps_that_are_not_finite_are_skipped_counted_and_then_stop_the_run(tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, skip_limit=2)
    with pytest.raises(TrainingFailedError, match=r"3 training steps .* learning rate"):
        fit(stage, 20, crops=Crops(20, broken_from=5))
    assert stage.trainer.global_step == 5
    assert all(value.isfinite().all() for value in stage.state_dict().values())


def _train_rank(rank: int, folder: str, port: int) -> None:
    """One process of two, started as a cluster does: through the environment."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank), RANK=str(rank)
    )
    options = {"devices": 2, "strategy": "ddp", "plugins": [LightningEnvironment()], "use_distributed_sampler": False}
    stage = tiny_stage(Path(folder))
    fit(stage, 6, crops=Crops(20, first=100 * rank), trainer_options=options)
    torch.save(stage.state_dict(), f"{folder}/{rank}.pt")


def test_all_weights_and_codebooks_are_equal_on_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train_rank, args=(str(tmp_path), port), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert ours["model.quantizer.initialised"]
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
