"""Streams: any pieces give what the whole gives, at once; wrong use is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.soundstream import SoundStream
from audiolm.codec.streaming import DecoderStream, EncoderStream

TINY = SoundStreamConfig(channels=2, dim=8, strides=(2, 3), levels=3, codebook_size=16, pool_factor=2)


def tiny_codec(config: SoundStreamConfig = TINY) -> SoundStream:
    torch.manual_seed(0)
    codec = SoundStream(config)
    for parameter in codec.parameters():  # biases too, so that a mistake at a seam shows
        parameter.data = parameter.data.double() + 0.01 * torch.randn(parameter.shape, dtype=torch.float64)
    codec.quantizer.codebooks.normal_()
    codec.quantizer.initialised.fill_(True)
    return codec.eval()


def pieces_of(whole: torch.Tensor, lengths: list[int], *, axis: int) -> list[torch.Tensor]:
    lengths = [length for length in lengths if length <= whole.size(axis)]
    pieces, start = [], 0
    for length in lengths:
        length = min(length, whole.size(axis) - start)
        pieces.append(whole.narrow(axis, start, length))
        start += length
    return [*pieces, whole.narrow(axis, start, whole.size(axis) - start)]


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 300), lengths=st.lists(st.integers(0, 40), max_size=12))
def test_audio_pushed_in_any_pieces_gives_the_codes_of_the_whole(samples: int, lengths: list[int]) -> None:
    codec = tiny_codec()
    audio = torch.randn(2, samples, dtype=torch.float64)
    stream = EncoderStream(codec, batch=2)
    codes = [stream.push(piece) for piece in pieces_of(audio, lengths, axis=1)]
    assert sum(piece.size(2) for piece in codes) == samples // codec.hop_samples  # a frame comes when it is complete
    assert torch.equal(torch.cat([*codes, stream.finish()], dim=2), codec.encode(audio))


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 60), levels=st.integers(1, 3), lengths=st.lists(st.integers(1, 9), max_size=12))
def test_codes_pushed_in_any_pieces_give_the_audio_of_the_whole(frames: int, levels: int, lengths: list[int]) -> None:
    codec = tiny_codec()
    codes = torch.randint(0, 16, (2, levels, frames))
    stream = DecoderStream(codec, batch=2)
    audio = [stream.push(piece) for piece in pieces_of(codes, lengths, axis=2) if piece.size(2)]
    torch.testing.assert_close(torch.cat(audio, dim=1), codec.decode(codes), rtol=0, atol=1e-6)


def test_the_paper_codec_streams_too() -> None:
    codec = tiny_codec(SoundStreamConfig(channels=2, dim=8, levels=2, codebook_size=16))
    audio = torch.randn(1, 16000, dtype=torch.float64)
    stream = EncoderStream(codec)
    codes = torch.cat([stream.push(piece) for piece in audio.split(777, dim=1)], dim=2)
    assert torch.equal(codes, codec.encode(audio))


def test_two_streams_of_one_codec_do_not_mix() -> None:
    codec, audio = tiny_codec(), torch.randn(2, 120, dtype=torch.float64)
    first, second = EncoderStream(codec), EncoderStream(codec)
    ours, theirs = [], []
    for piece in audio.split(10, dim=1):
        ours.append(first.push(piece[:1]))
        theirs.append(second.push(piece[1:]))
    assert torch.equal(torch.cat(ours, dim=2), codec.encode(audio[:1]))
    assert torch.equal(torch.cat(theirs, dim=2), codec.encode(audio[1:]))


def test_no_audio_gives_no_frames_and_no_frames_give_no_audio() -> None:
    codec = tiny_codec()
    codes = EncoderStream(codec).push(torch.zeros(1, 2))
    assert codes.shape == (1, codec.levels, 0)
    assert DecoderStream(codec).push(codes).shape == (1, 0)


def test_wrong_use_is_refused() -> None:
    codec = tiny_codec()
    with pytest.raises(ValueError, match="nothing was pushed"):
        EncoderStream(codec).finish()
    stream = EncoderStream(codec)
    stream.push(torch.zeros(1, 7))
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(torch.zeros(1, 7))
    with pytest.raises(ValueError, match=r"shape \(2, samples\)"):
        EncoderStream(codec, batch=2).push(torch.zeros(1, 7))
    with pytest.raises(ValueError, match="NaN"):
        EncoderStream(codec).push(torch.full((1, 7), float("nan")))
    with pytest.raises(ValueError, match="1 recordings side by side"):
        DecoderStream(codec).push(torch.zeros(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="no codebooks yet"):
        EncoderStream(SoundStream(TINY)).push(torch.zeros(1, 7))


def test_folding_to_bfloat16_changes_the_sound_little() -> None:
    config = SoundStreamConfig(channels=4, dim=8, strides=(2, 4), levels=3, codebook_size=16)
    exact, fast = tiny_codec(config).float().fold_weights(), tiny_codec(config).float().fold_weights(torch.bfloat16)
    codes = torch.randint(0, 16, (1, 3, 200))
    reference, audio = exact.decode(codes), fast.decode(codes)
    assert audio.dtype == torch.float32
    assert (audio - reference).norm() < 0.05 * reference.norm()
    assert (fast.encode(reference)[:, 0] == exact.encode(reference)[:, 0]).float().mean() > 0.9
