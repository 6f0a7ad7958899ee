"""Levels of residual units, what they embed to, and centroids that must belong to the encoder at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tones_and_noise

from audiolm.checkpoint import HEADER, StageCheckpoint, header
from audiolm.semantic.centroids import read_centroids
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.semantic.unit_use import unit_use


def residual_tokenizer(*, levels: int, clusters: int = 6) -> tuple[SemanticTokenizer, torch.Tensor]:
    """A tokenizer fitted level by level on some audio, and that audio's normalised features."""
    tokenizer = SemanticTokenizer(MfccEncoder(), clusters=clusters, levels=levels)
    features = tokenizer.encoder(tones_and_noise(160000)[None])[0]
    tokenizer.mean.copy_(features.mean(0))
    tokenizer.deviation.copy_(features.std(0))
    remainder = tokenizer.normalize(features)
    for level in range(levels):
        result = fit_kmeans(remainder, clusters=clusters, iterations=5, seed=level)
        tokenizer.centroids[level] = result.centroids
        remainder = remainder - result.centroids[result.nearest]
    return tokenizer.eval(), tokenizer.normalize(features)


def test_levels_agree_with_a_loop_and_each_lowers_the_error() -> None:
    tokenizer, features = residual_tokenizer(levels=4)
    units = tokenizer.quantize(features)
    assert units.shape == (4, len(features))
    for frame in range(0, len(features), 37):
        remainder = features[frame]
        for level in range(4):
            expected = int((tokenizer.centroids[level] - remainder).square().sum(1).argmin())
            assert int(units[level, frame]) == expected
            remainder = remainder - tokenizer.centroids[level, expected]
    errors = [float((features - tokenizer.embed(units[:levels])).square().mean()) for levels in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.8 * errors[0]


def test_encode_gives_the_first_of_all_levels() -> None:
    tokenizer, _ = residual_tokenizer(levels=3)
    audio = torch.stack([tones_and_noise(7000, seed=seed) for seed in range(2)])
    units = tokenizer.encode_levels(audio)
    assert units.shape == (2, 3, 11)
    assert torch.equal(tokenizer.encode(audio), units[:, 0])
    assert torch.equal(tokenizer.encode_levels(audio, levels=2), units[:, :2])


def test_embedding_one_level_gives_centroids_and_refuses_what_is_not_there() -> None:
    tokenizer, _ = residual_tokenizer(levels=2)
    assert torch.equal(tokenizer.embed(torch.tensor([3, 0, 3])), tokenizer.centroids[0][[3, 0, 3]])
    for units, word in (
        (torch.zeros(3, 5, dtype=torch.int64), "at most 2 level"),
        (torch.tensor([6]), r"\[0, 6\)"),
        (torch.tensor([-1]), "another tokenizer"),
    ):
        with pytest.raises(ValueError, match=word):
            tokenizer.embed(units)


def test_a_checkpoint_brings_its_levels_back() -> None:
    tokenizer, _ = residual_tokenizer(levels=2)
    checkpoint = StageCheckpoint("tokenizer", tokenizer.config_dict(), tokenizer.state_dict())
    audio = tones_and_noise(5000)[None]
    assert torch.equal(
        SemanticTokenizer.from_checkpoint(checkpoint).encode_levels(audio), tokenizer.encode_levels(audio)
    )


def test_a_checkpoint_of_another_encoder_is_refused_naming_both() -> None:
    tokenizer, _ = residual_tokenizer(levels=1)
    config = tokenizer.config_dict() | {"encoder": MfccEncoder(rate_hz=50).config_dict()}
    with pytest.raises(ValueError, match=r"another encoder: .*rate_hz 50.* there, .*rate_hz 50.* here"):
        SemanticTokenizer.from_checkpoint(StageCheckpoint("tokenizer", config, tokenizer.state_dict()))
    del config["encoder_digest"]
    with pytest.raises(ValueError, match="older version"):
        SemanticTokenizer.from_checkpoint(StageCheckpoint("tokenizer", config, tokenizer.state_dict()))


def test_centroids_of_files_are_read_and_those_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    encoder, tokenizer = MfccEncoder(), residual_tokenizer(levels=1)[0]
    plain = tokenizer.centroids[0]
    np.save(tmp_path / "plain.npy", plain.numpy())
    torch.save(plain, tmp_path / "plain.pt")
    for name in ("plain.npy", "plain.pt"):
        found = read_centroids(tmp_path / name, encoder=encoder, clusters=6)
        assert torch.equal(found.centroids[0], plain)
        assert torch.equal(found.deviation, torch.ones(39))
    weights = {f"model.{name}": value for name, value in tokenizer.state_dict().items()}
    content = {HEADER: header("tokenizer", tokenizer.config_dict(), {}), "state_dict": weights}
    torch.save(content, tmp_path / "best.ckpt")
    found = read_centroids(tmp_path / "best.ckpt", encoder=encoder, clusters=6)
    assert torch.equal(found.mean, tokenizer.mean)
    with pytest.raises(
        ValueError, match=r"best.ckpt were fitted on another encoder: .*rate_hz 25.* there.*rate_hz 50.* here"
    ):
        read_centroids(tmp_path / "best.ckpt", encoder=MfccEncoder(rate_hz=50), clusters=6)
    with pytest.raises(ValueError, match=r"\(1, 6, 39\) where .* \(1, 7, 39\)"):
        read_centroids(tmp_path / "plain.npy", encoder=encoder, clusters=7)
    np.save(tmp_path / "nan.npy", np.full((6, 39), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        read_centroids(tmp_path / "nan.npy", encoder=encoder, clusters=6)
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_centroids(tmp_path / "object.npy", encoder=encoder, clusters=6)
    (tmp_path / "km.joblib").write_bytes(b"")
    with pytest.raises(ValueError, match="runs code"):
        read_centroids(tmp_path / "km.joblib", encoder=encoder, clusters=6)
    with pytest.raises(FileNotFoundError, match="nothing.npy"):
        read_centroids(tmp_path / "nothing.npy", encoder=encoder, clusters=6)


def test_use_of_units_by_hand() -> None:
    use = unit_use(torch.tensor([2, 1, 1, 0]), rate_hz=25)
    assert (use.frames, use.used, use.used_share) == (4, 3, 0.75)
    assert use.entropy_bits == pytest.approx(1.5)
    assert use.perplexity == pytest.approx(2**1.5)
    assert use.bitrate_bps == pytest.approx(37.5)
    assert use.nominal_bitrate_bps == 50
    assert unit_use(torch.tensor([5, 0]), rate_hz=25).entropy_bits == 0
