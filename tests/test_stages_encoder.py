"""The encoder stage: statistics, resuming, skipped steps, collapse, and what later stages read."""

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.corpus import prepare
from audiolm.errors import TrainingFailedError
from audiolm.semantic.augmentation import Augmentation
from audiolm.semantic.conformer import ConformerConfig
from audiolm.semantic.encoders import EncoderConfig, make_encoder, trained_encoder
from audiolm.semantic.objectives import BestRqConfig, HubertConfig, W2vBertConfig
from audiolm.stages.encoder import EncoderStage
from datamodules import LibriLightDataModule

TINY = ConformerConfig(
    dim=16, contrastive_layers=1, masked_layers=1, heads=2, feed_forward=32, subsampling_channels=2, dropout=0.1
)


@pytest.fixture(scope="module")
def root(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    prepare(tone_corpus, folder)
    return folder


def tiny_stage(root: Path, **changes: Any) -> EncoderStage:
    torch.manual_seed(0)
    return EncoderStage(
        encoder=TINY,
        best_rq=BestRqConfig(codes=8),
        augmentation=Augmentation(warp=0.1, tilt=0.3, noise=0.5),
        warmup_steps=2,
        root=str(root),
        **{"learning_rate": 1e-3, "w2v_bert": W2vBertConfig(codes=8, code_dim=8, distractors=10), **changes},
    )


def fit(stage: EncoderStage, root: Path, steps: int, *, stop: int | None = None, **options: Any) -> L.Trainer:
    """Train towards `steps` steps; stop early after `stop`, as a killed run does."""

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.should_stop = stop is not None and trainer.global_step >= stop

    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        use_distributed_sampler=False,
        callbacks=[Stop()],
    )
    data = LibriLightDataModule(view="waveform", window_seconds=1.6, batch_size=4, workers=0, root=str(root))
    trainer.fit(stage, datamodule=data, **options)
    return trainer


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("objective", ["w2v-bert", "best-rq"])
def test_resuming_equals_not_stopping(root: Path, tmp_path: Path, stop: int, objective: str) -> None:
    whole = tiny_stage(tmp_path, objective=objective)
    fit(whole, root, 7)
    begun = tiny_stage(tmp_path, objective=objective)
    fit(begun, root, 7, stop=stop).save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    resumed = tiny_stage(tmp_path, objective=objective)
    fit(resumed, root, 7, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=False)
    for name, value in whole.state_dict().items():
        if name != "usage":  # counted from validation to validation, and Lightning adds one where a run is stopped
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_spectra_are_normalised_with_the_corpus_statistics(root: Path, tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path)
    fit(stage, root, 1)
    data = LibriLightDataModule(view="waveform", window_seconds=1.6, batch_size=4, workers=0, root=str(root))
    data.trainer = stage.trainer
    spectra = [stage.model.spectrogram(batch.audio, steps=160) for batch in islice(data.training_batches(), 8)]
    every = torch.cat(spectra).flatten(0, 1)
    assert every.mean(0).abs().max() < 0.2
    assert (every.std(0) - 1).abs().max() < 0.2


def test_the_trained_encoder_is_what_the_tokenizer_stage_takes(
    root: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    chain = Path(shutil.copytree(root, tmp_path / "chain"))
    with pytest.raises(FileNotFoundError, match="make encoder"):
        make_encoder(EncoderConfig(), root=chain)
    run_stage_of("encoder", chain)
    encoder = make_encoder(EncoderConfig(layer=1), root=chain)
    assert encoder.layer == 1
    with pytest.raises(ValueError, match="no layer"):
        make_encoder(EncoderConfig(layer=9), root=chain)
    trained = "{kind: trained, name: null, layer: 1}"
    run_stage_of("tokenizer", chain, "--model.init_args.encoder", trained)
    first = load_stage_checkpoint(chain / "tokenizer" / "best.ckpt", stage="tokenizer")
    assert first.config["encoder"]["layer"] == 1
    objective = '{tokenizer: "' + str(chain / "tokenizer" / "best.ckpt") + '"}'
    run_stage_of("encoder", chain, "--model.init_args.objective", "hubert", "--model.init_args.hubert", objective)
    second = trained_encoder(load_stage_checkpoint(chain / "encoder" / "best.ckpt", stage="encoder"))
    assert second(torch.randn(1, 6400)).shape == (1, 10, 16)


def test_hubert_without_a_tokenizer_begins_with_units_of_mfcc_and_resumes_with_them(root: Path, tmp_path: Path) -> None:
    stages = []
    for stop in (None, 2):
        stage = tiny_stage(tmp_path, objective="hubert", hubert=HubertConfig(clusters=6))
        trainer = fit(stage, root, 5, stop=stop)
        assert len(stage.objective.tokenizer.centroids[0].unique(dim=0)) == 6
        trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
        stages.append(stage)
    resumed = tiny_stage(tmp_path, objective="hubert", hubert=HubertConfig(clusters=6))
    fit(resumed, root, 5, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=False)
    for name, value in stages[0].state_dict().items():
        if name != "usage":
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_steps_that_are_not_finite_are_skipped_counted_and_then_stop_the_run(root: Path, tmp_path: Path) -> None:
    class Poisoned(EncoderStage):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx in (1, 2) else 1.0)

    torch.manual_seed(0)
    stage = Poisoned(encoder=TINY, w2v_bert=W2vBertConfig(codes=8, code_dim=8), root=str(tmp_path), skip_limit=2)
    fit(stage, root, 4)
    assert int(stage.skipped_steps) == 2
    assert all(value.isfinite().all() for value in stage.state_dict().values())
    torch.manual_seed(0)
    strict = Poisoned(encoder=TINY, w2v_bert=W2vBertConfig(codes=8, code_dim=8), root=str(tmp_path), skip_limit=1)
    with pytest.raises(TrainingFailedError, match="not finite"):
        fit(strict, root, 4)


def test_collapsed_targets_are_said_with_what_helps(root: Path, tmp_path: Path) -> None:
    stage = tiny_stage(tmp_path, w2v_bert=W2vBertConfig(codes=64, code_dim=8, distractors=5))
    with torch.no_grad():
        stage.objective.quantizer.scores.bias[3] = 1e4
    with pytest.warns(UserWarning, match=r"of 64 only 1\.0 are in effective use"):
        fit(stage, root, 12)


def test_the_last_weights_are_kept_even_where_no_validation_came_after_them(
    root: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    chain = Path(shutil.copytree(root, tmp_path / "chain"))
    options = ("--trainer.max_steps", "3", "--ckpt_path", "last")  # validation every 2
    run_stage_of("encoder", chain, *options)
    best = chain / "encoder" / "best.ckpt"
    assert load_stage_checkpoint(best, stage="encoder").step == 3
    best.unlink()  # killed after the last step, before the end
    (chain / "encoder" / "done.json").unlink()
    run_stage_of("encoder", chain, *options)
    assert load_stage_checkpoint(best, stage="encoder").step == 3
    assert (chain / "encoder" / "done.json").exists()


def test_a_loss_scaler_is_refused_because_gradients_are_clipped_here() -> None:
    with pytest.raises(ValueError, match="use bf16-mixed"):
        EncoderStage.configure_optimizers(SimpleNamespace(trainer=SimpleNamespace(precision="16-mixed")))
