"""The tokenizer stage: statistics of every frame, what it logs and says, and what it refuses."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny import tones_and_noise
from torch.utils.data import DataLoader, Dataset

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.evaluation.curves import read_curves
from audiolm.semantic.encoders import EncoderConfig
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.stages.tokenizer import ClusteringStage, ResidualTokenizerStage, TokenizerStage
from datamodules.waveforms import WaveformBatch


class Crops(Dataset[WaveformBatch]):
    """Two crops a batch, the second one shorter; `gain` 0 makes them silent."""

    def __init__(self, count: int, *, first: int = 0, gain: float = 1.0) -> None:
        self.count, self.first, self.gain = count, first, gain

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> WaveformBatch:
        audio = torch.stack([tones_and_noise(16000, seed=self.first + 2 * number + row) for row in range(2)])
        audio[1, 9000:] = 0
        return WaveformBatch(audio * self.gain, torch.tensor([16000, 9000]))


def fit(
    root: Path,
    *,
    crops: Dataset[WaveformBatch] | None = None,
    validation: int = 2,
    residual: bool = False,
    **options: object,
) -> ClusteringStage:
    given = {"root": str(root), "clusters": 6, "iterations": 5, **options}
    stage = ResidualTokenizerStage(**given) if residual else TokenizerStage(encoder=EncoderConfig(kind="mfcc"), **given)  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=CSVLogger(stage.folder, name="log"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        limit_val_batches=validation,
    )
    train, held_out = (DataLoader(part, batch_size=None) for part in (crops or Crops(6), Crops(2, first=100)))
    trainer.fit(stage, train, held_out)
    return stage


def all_features(stage: ClusteringStage, crops: Crops) -> torch.Tensor:
    """Every frame of every crop, one crop at a time."""
    rows = []
    for number in range(len(crops)):
        batch = crops[number]
        rows += [
            stage.model.encoder(audio[None, :samples])[0]
            for audio, samples in zip(batch.audio, batch.samples.tolist(), strict=True)
        ]
    return torch.cat(rows)


def test_mean_and_deviation_are_of_all_frames_though_few_are_kept(tmp_path: Path) -> None:
    stage = fit(tmp_path, max_frames=40)
    features = all_features(stage, Crops(6)).double()
    assert torch.allclose(
        stage.model.mean.double(), features.mean(0), atol=1e-2
    )  # a short crop's edge looks into silence
    assert torch.allclose(stage.model.deviation.double(), features.std(0, unbiased=False), rtol=2e-2)
    curves = read_curves(tmp_path / "tokenizer" / "log")
    assert curves["tokenizer/frames_seen"].last == len(features) == 6 * (25 + 15)
    assert curves["tokenizer/frames"].last == 40


def test_error_use_and_bitrate_are_logged_and_said_for_both_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = fit(tmp_path, levels=2)
    curves = read_curves(tmp_path / "tokenizer" / "log")
    for split in ("tokenizer", "validation"):
        assert 0 < curves[f"{split}/distortion_level_2"].last < curves[f"{split}/distortion"].last
        assert 0 < curves[f"{split}/used_share"].last <= 1
        assert curves[f"{split}/perplexity"].last == pytest.approx(2 ** curves[f"{split}/entropy_bits"].last)
        assert curves[f"{split}/bitrate_bps"].last == pytest.approx(25 * curves[f"{split}/entropy_bits"].last)
    features = stage.model.normalize(all_features(stage, Crops(6)))
    left = (features - stage.model.embed(stage.model.quantize(features))).square().mean()
    assert curves["tokenizer/distortion_level_2"].last == pytest.approx(float(left), rel=0.05)
    held_out = stage.model.normalize(all_features(stage, Crops(2, first=100)))
    left = (held_out - stage.model.embed(stage.model.quantize(held_out)[0])).square().mean()
    assert curves["validation/distortion"].last == pytest.approx(float(left), rel=0.05)
    printed = capsys.readouterr().out
    for words in (
        "Fitted on 240 of 240 frames seen, level 2",
        "80 frames of the validation split",
        "of 6 clusters in use",
    ):
        assert words in printed


def test_without_a_validation_the_checkpoint_is_the_same(tmp_path: Path) -> None:
    fit(tmp_path / "with")
    fit(tmp_path / "without", validation=0)
    found = [
        load_stage_checkpoint(tmp_path / name / "tokenizer" / "best.ckpt", stage="tokenizer")
        for name in ("with", "without")
    ]
    assert found[0].digest == found[1].digest


def test_the_first_level_of_residual_units_is_the_tokenizer_and_each_level_leaves_less(tmp_path: Path) -> None:
    tokenizer = fit(tmp_path).model
    residual = fit(tmp_path, residual=True, levels=4).model
    assert torch.equal(residual.centroids[:1], tokenizer.centroids)
    assert torch.equal(residual.mean, tokenizer.mean)
    curves = read_curves(tmp_path / "residual_tokenizer" / "log")
    for split in ("tokenizer", "validation"):
        left = [curves[f"{split}/distortion{suffix}"].last for suffix in ("", "_level_2", "_level_3", "_level_4")]
        assert left == sorted(left, reverse=True)
        assert left[3] < 0.8 * left[0]
    found = load_stage_checkpoint(tmp_path / "residual_tokenizer" / "best.ckpt", stage="residual_tokenizer")
    read = SemanticTokenizer.from_checkpoint(found)
    audio = tones_and_noise(9000, seed=7)[None]
    assert torch.equal(read.encode_levels(audio)[:, 0], tokenizer.encode(audio))
    with pytest.raises(ValueError, match="checkpoint of the residual_tokenizer stage, where one of the tokenizer"):
        load_stage_checkpoint(tmp_path / "residual_tokenizer" / "best.ckpt", stage="tokenizer")


def test_residual_units_of_one_level_are_the_tokenizers(tmp_path: Path) -> None:
    tokenizer = fit(tmp_path).model
    assert torch.equal(fit(tmp_path, residual=True, levels=1).model.centroids, tokenizer.centroids)


def test_residual_units_need_the_tokenizer_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make tokenizer"):
        ResidualTokenizerStage(root=str(tmp_path))


def test_given_centroids_are_taken_with_their_normalisation(tmp_path: Path) -> None:
    first = fit(tmp_path / "first")
    path = tmp_path / "first" / "tokenizer" / "best.ckpt"
    second = fit(tmp_path / "second", crops=Crops(3, first=50), centroids=str(path))
    for name in ("centroids", "mean", "deviation"):
        assert torch.equal(getattr(first.model, name), getattr(second.model, name))
    with pytest.raises(ValueError, match="where .* is needed"):
        TokenizerStage(encoder=EncoderConfig(kind="mfcc"), clusters=7, centroids=str(path), root=str(tmp_path))
    with pytest.raises(ValueError, match="fitted on another encoder"):
        TokenizerStage(
            encoder=EncoderConfig(kind="mfcc", rate_hz=50), clusters=6, centroids=str(path), root=str(tmp_path)
        )


def test_a_checkpoint_rebuilds_the_tokenizer_without_lightning(tmp_path: Path) -> None:
    stage = fit(tmp_path, levels=2)
    checkpoint = load_stage_checkpoint(tmp_path / "tokenizer" / "best.ckpt", stage="tokenizer")
    audio = tones_and_noise(8000, seed=7)[None]
    expected = stage.model.encode_levels(audio)
    assert torch.equal(SemanticTokenizer.from_checkpoint(checkpoint).encode_levels(audio), expected)


def test_silence_too_little_audio_and_broken_features_stop_the_stage_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="silent"):
        fit(tmp_path, crops=Crops(6, gain=0.0))
    with pytest.raises(ValueError, match="40 feature frames were seen, too few for 50 clusters"):
        fit(tmp_path, crops=Crops(1), clusters=50)
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit(tmp_path, crops=Crops(2, gain=float("nan")))
    with pytest.raises(ValueError, match="max_frames"):
        TokenizerStage(encoder=EncoderConfig(kind="mfcc"), clusters=10, max_frames=9, root=str(tmp_path))
    assert not (tmp_path / "tokenizer" / "best.ckpt").exists()
