"""Encoders keep time, k-means keeps its promises, and a rebuilt tokenizer gives the same units."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.checkpoint import StageCheckpoint
from audiolm.semantic.encoders import EncoderConfig, make_encoder, rebuild_encoder
from audiolm.semantic.kmeans import fit_kmeans
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.pretrained import PretrainedEncoder
from audiolm.semantic.reservoir import FeatureReservoir
from audiolm.semantic.tokenizer import SemanticTokenizer


@pytest.fixture(scope="module", params=["hubert", "wavlm", "wav2vec2-bert"])
def saved_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small randomly initialised model, saved as transformers saves them."""
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    if request.param != "wav2vec2-bert":
        sizes |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    AutoModel.from_config(AutoConfig.for_model(request.param, **sizes)).save_pretrained(folder)
    return folder


@given(samples=st.integers(1, 20000), rate_hz=st.sampled_from([25, 50, 100]))
@settings(max_examples=30, deadline=None)
def test_mfcc_frames_are_the_ceiling_of_samples_over_hop(samples: int, rate_hz: int) -> None:
    encoder = MfccEncoder(rate_hz=rate_hz)
    assert encoder(torch.randn(2, samples)).shape == (2, -(-samples // (16000 // rate_hz)), 39)


def test_an_mfcc_frame_hears_only_its_own_neighbourhood() -> None:
    encoder, audio = MfccEncoder(), torch.randn(1, 16000)
    before = encoder(audio)
    audio[:, 8000:8640] += 1.0  # inside frame 12 (7680 to 8320) and 13
    changed = (encoder(audio) - before).abs().amax(2)[0] > 1e-3
    assert changed[12]
    assert changed[13]
    assert not changed[:10].any()
    assert not changed[16:].any()


def test_mfcc_with_a_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no layers \(4\)"):
        EncoderConfig(kind="mfcc", layer=4)


def test_an_mfcc_rate_that_does_not_divide_100_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide 100"):
        MfccEncoder(rate_hz=30)


@pytest.mark.parametrize("samples", [400, 16000, 16001, 31999])
def test_public_encoders_give_exactly_one_frame_per_320_samples(saved_model: Path, samples: int) -> None:
    encoder = PretrainedEncoder.from_pretrained(str(saved_model), layer=2)
    assert encoder(torch.randn(1, samples) * 0.1).shape == (1, -(-samples // 320), 32)


def test_the_layer_is_the_one_asked_for_and_must_exist(saved_model: Path) -> None:
    audio = torch.randn(1, 8000) * 0.1
    features = [PretrainedEncoder.from_pretrained(str(saved_model), layer=layer)(audio) for layer in (1, 2)]
    assert not torch.allclose(*features)
    with pytest.raises(ValueError, match="layers 0 to 3"):
        PretrainedEncoder.from_pretrained(str(saved_model), layer=4)


def test_a_missing_encoder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        PretrainedEncoder.from_pretrained(str(tmp_path / "nothing"), layer=1)


def test_a_rebuilt_tokenizer_gives_the_same_units_without_the_original_folder(saved_model: Path) -> None:
    encoder = make_encoder(EncoderConfig(kind="pretrained", name=str(saved_model), layer=2), root=saved_model)
    tokenizer, audio = SemanticTokenizer(encoder, clusters=8), torch.randn(2, 16000) * 0.1
    tokenizer.centroids.normal_()
    checkpoint = StageCheckpoint("tokenizer", tokenizer.config_dict(), tokenizer.state_dict())
    assert torch.equal(SemanticTokenizer.from_checkpoint(checkpoint).encode(audio), tokenizer.encode(audio))


def test_units_are_the_nearest_centroids_of_normalised_features() -> None:
    tokenizer = SemanticTokenizer(MfccEncoder(), clusters=16)
    tokenizer.mean.normal_()
    tokenizer.deviation.uniform_(0.5, 2)
    tokenizer.centroids.normal_()
    audio = torch.randn(2, 5000)
    features = (tokenizer.encoder(audio) - tokenizer.mean) / tokenizer.deviation
    expected = torch.cdist(features.double(), tokenizer.centroids.double().expand(2, -1, -1)).argmin(-1)
    assert torch.equal(tokenizer.encode(audio), expected)


def test_kmeans_finds_separate_clusters_and_uses_every_frame() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    frames = centres.repeat_interleave(100, 0) + 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    result = fit_kmeans(frames, clusters=3, restarts=3)
    assert torch.cdist(centres, result.centroids).min(1).values.max() < 0.1
    nearest = torch.cdist(frames, result.centroids).min(1).values.square().mean()
    assert result.distortion == pytest.approx(float(nearest), rel=1e-3)


def test_kmeans_refuses_fewer_frames_than_clusters_and_nan() -> None:
    with pytest.raises(ValueError, match="3 feature frames cannot make 4 clusters"):
        fit_kmeans(torch.randn(3, 2), clusters=4)
    with pytest.raises(ValueError, match="NaN"):
        fit_kmeans(torch.full((10, 2), float("nan")), clusters=2)


def test_a_reservoir_keeps_every_frame_with_equal_probability() -> None:
    kept = np.zeros(60)
    for seed in range(400):
        reservoir = FeatureReservoir(15, seed=seed)
        for example, block in enumerate(torch.arange(60.0)[:, None].split(7)):
            reservoir.add(block, example=example)
        kept[reservoir.sample()[:, 0].long().numpy()] += 1
    assert kept.sum() == 400 * 15
    assert abs(kept - 100).max() < 40  # 100 expected, deviation 8.7: 40 is more than four of them


def test_a_reservoir_larger_than_the_stream_keeps_it_all() -> None:
    reservoir, frames = FeatureReservoir(100), torch.randn(37, 3)
    for example, block in enumerate(frames.split(10)):
        reservoir.add(block, example=example)
    assert torch.equal(reservoir.sample(), frames)


def test_an_encoder_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="not known"):
        rebuild_encoder({"kind": "telepathy"})
