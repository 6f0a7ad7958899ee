"""The codec's contract: causality, lengths, level prefixes, chunks, weights, bad input."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.layers import NormalisedWeight
from audiolm.codec.losses import multi_scale_mel_loss
from audiolm.codec.soundstream import SoundStream

TINY = SoundStreamConfig(channels=2, dim=8, strides=(2, 3), levels=3, codebook_size=16, pool_factor=2)


def tiny_codec(*, seed: int = 0) -> SoundStream:
    """Random weights, random codebooks, already initialised."""
    torch.manual_seed(seed)
    codec = SoundStream(TINY)
    codec.quantizer.codebooks.normal_()
    codec.quantizer.initialised.fill_(True)
    return codec.eval()


@pytest.fixture
def codec() -> SoundStream:
    return tiny_codec()


def test_paper_configuration_has_9_85_million_parameters_without_codebooks() -> None:
    codec = SoundStream(SoundStreamConfig())
    assert round(sum(parameter.numel() for parameter in codec.parameters()) / 1e6, 2) == 9.85
    assert codec.hop_samples == 320
    assert codec.quantizer.codebooks.shape == (12, 1024, 128)


def test_configuration_survives_json() -> None:
    config = SoundStreamConfig(strides=(2, 4), levels=3)
    assert SoundStreamConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    "wrong", [{"levels": 0}, {"strides": ()}, {"strides": (1, 2)}, {"codebook_size": 70000}, {"ema_decay": 1.0}]
)
def test_impossible_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SoundStreamConfig(**wrong)  # type: ignore[arg-type]


def test_configuration_of_another_codec_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"missing \['dim'\], unknown \['width'\]"):
        SoundStreamConfig.from_dict({**{k: v for k, v in TINY.as_dict().items() if k != "dim"}, "width": 8})


@pytest.mark.parametrize("frame", [0, 1, 7])
def test_a_latent_depends_on_no_sample_after_its_frame_and_on_the_last_sample_in_it(
    codec: SoundStream, frame: int
) -> None:
    audio = torch.randn(1, 10 * codec.hop_samples, requires_grad=True)
    codec.encoder(audio)[0, :, frame].sum().backward()
    assert audio.grad is not None
    end = (frame + 1) * codec.hop_samples
    assert audio.grad[0, end - 1] != 0
    assert not audio.grad[0, end:].any()


@pytest.mark.parametrize("frame", [0, 1, 7])
def test_decoded_audio_depends_on_no_later_frame(codec: SoundStream, frame: int) -> None:
    latents = torch.randn(1, TINY.dim, 10, requires_grad=True)
    hop = codec.hop_samples
    codec.decoder(latents)[0, frame * hop : (frame + 1) * hop].sum().backward()
    assert latents.grad is not None
    assert latents.grad[0, :, frame].any()
    assert not latents.grad[0, :, frame + 1 :].any()


def test_audio_before_the_start_counts_as_silence(codec: SoundStream) -> None:
    """A peer implementation reflects the signal at the left edge: its first frames then depend on later samples."""
    audio = torch.randn(1, 4 * codec.hop_samples)
    layers = [module for module in codec.modules() if hasattr(module, "bias") and module.bias is not None]
    for layer in layers:  # silence stays silence only without biases
        torch.nn.init.zeros_(layer.bias)
    silence = torch.zeros(1, 40 * codec.hop_samples)
    alone, after_silence = codec.encoder(audio), codec.encoder(torch.cat([silence, audio], dim=1))
    torch.testing.assert_close(alone, after_silence[..., 40:])


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 3), samples=st.integers(1, 50))
def test_frames_are_samples_over_hop_rounded_up(batch: int, samples: int) -> None:
    codec = tiny_codec()
    codes = codec.encode(torch.randn(batch, samples))
    assert codes.shape == (batch, TINY.levels, math.ceil(samples / codec.hop_samples))
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < TINY.codebook_size
    assert codec.decode(codes).shape == (batch, codes.size(2) * codec.hop_samples)


def test_any_prefix_of_the_levels_decodes_to_the_sum_of_its_entries(codec: SoundStream) -> None:
    codes = codec.encode(torch.randn(2, 60))
    for levels in range(1, TINY.levels + 1):
        latents = sum(codec.quantizer.codebooks[level][codes[:, level]] for level in range(levels))
        assert isinstance(latents, Tensor)
        torch.testing.assert_close(codec.decode(codes[:, :levels]), codec.decoder(latents.transpose(1, 2)))


@pytest.mark.parametrize("chunk_frames", [1, 5, 64, 100])
def test_chunked_equals_whole_and_equals_the_training_path(codec: SoundStream, chunk_frames: int) -> None:
    codec, audio = codec.double(), torch.randn(2, 1201, dtype=torch.float64)  # double: rounding cannot flip a code
    codec.quantizer.codebooks = codec.quantizer.codebooks.float()
    codes = codec.encode(audio, chunk_frames=chunk_frames)
    padded = torch.nn.functional.pad(audio, (0, -audio.size(1) % codec.hop_samples))
    quantized = codec.quantizer(codec.encoder(padded))
    assert torch.equal(codes, quantized.codes)
    decoded = codec.decode(codes, chunk_frames=chunk_frames)
    torch.testing.assert_close(decoded, codec.decoder(quantized.latents.double()).float(), rtol=1e-4, atol=1e-5)


def test_weights_load_whether_folded_or_not() -> None:
    trained, audio = tiny_codec(seed=1), torch.randn(2, 100)
    for module in trained.modules():
        if isinstance(module, NormalisedWeight):  # training turns some gains negative
            module.gain.data[..., :1, :1].neg_()
            module.gain.data[:1].neg_()
    codes, folded = trained.encode(audio), copy.deepcopy(trained).fold_weights()
    assert torch.equal(folded.encode(audio), codes)
    again = tiny_codec(seed=2)
    again.load_state_dict(folded.state_dict())
    torch.testing.assert_close(again.decode(codes), trained.decode(codes))
    torch.testing.assert_close(again.fold_weights().decode(codes), trained.decode(codes))
    torch.testing.assert_close(folded.fold_weights().decode(codes), trained.decode(codes))  # twice is as good as once
    half = SoundStream.from_checkpoint(StageCheckpoint("codec", TINY.as_dict(), trained.state_dict()))
    once = copy.deepcopy(trained).fold_weights(torch.bfloat16)
    assert torch.equal(half.fold_weights(torch.bfloat16).decode(codes), once.decode(codes))
    other = tiny_codec(seed=3).fold_weights()
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other.decode(codes), trained.decode(codes))


def test_a_codec_is_rebuilt_from_its_checkpoint_and_refuses_foreign_weights(codec: SoundStream) -> None:
    checkpoint = StageCheckpoint("codec", TINY.as_dict(), codec.state_dict())
    audio = torch.randn(1, 64)
    assert torch.equal(SoundStream.from_checkpoint(checkpoint).encode(audio), codec.encode(audio))
    with pytest.raises(ValueError, match="do not fit"):
        SoundStream.from_checkpoint(StageCheckpoint("codec", {**TINY.as_dict(), "dim": 4}, codec.state_dict()))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(100), "shape"),
        (torch.zeros(1, 2, 100), "mix several"),
        (torch.zeros(1, 0), "at least one sample"),
        (torch.zeros(1, 100, dtype=torch.int16), "floating point"),
        (torch.full((1, 100), float("nan")), "NaN"),
    ],
)
def test_audio_of_the_wrong_kind_is_refused(codec: SoundStream, audio: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(audio)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3, 5, dtype=torch.int64), "shape"),
        (torch.zeros(1, 3, 5), "integers"),
        (torch.zeros(1, 0, 5, dtype=torch.int64), "1 to 3 levels"),
        (torch.zeros(1, 4, 5, dtype=torch.int64), "1 to 3 levels"),
        (torch.zeros(1, 3, 0, dtype=torch.int64), "at least one frame"),
        (torch.full((1, 3, 5), 16), "0 to 15, found 16"),
        (torch.full((1, 3, 5), -1), "0 to 15, found -1"),
    ],
)
def test_codes_of_the_wrong_kind_are_refused(codec: SoundStream, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


def test_a_codec_without_codebooks_says_so() -> None:
    with pytest.raises(ValueError, match="no codebooks yet"):
        SoundStream(TINY).encode(torch.zeros(1, 10))


def test_a_few_steps_on_one_clip_bring_its_mel_spectrogram_closer() -> None:
    torch.manual_seed(0)
    codec = SoundStream(
        SoundStreamConfig(channels=4, dim=16, strides=(2, 4), levels=2, codebook_size=16, pool_factor=4)
    )
    time = torch.arange(4000) / 16000
    audio = 0.1 * torch.sin(2 * math.pi * torch.tensor([[220.0], [440.0]]) * time) + 0.01 * torch.randn(2, 4000)
    optimizer = torch.optim.Adam(codec.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        output = codec(audio)
        mel = multi_scale_mel_loss(output.audio, audio, sample_rate_hz=16000, windows=(256, 512))
        optimizer.zero_grad()
        (mel + output.quantized.commitment).backward()
        optimizer.step()
        losses.append(mel.item())
    assert codec.quantizer.ready
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]
