"""Long recordings in windows: every frame from where it is farthest from an edge, in memory that does not grow."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tones_and_noise
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.semantic.windows import OVERLAP_SECONDS, WINDOW_SECONDS, encode_in_windows, window_plan


class Listener(Encoder):
    """Gives every frame its first sample, its distance to the nearer edge of what it was given, and remembers lengths."""

    sample_rate_hz, rate_hz, dim = 400, 100, 2

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def _hidden_states(self, audio: Tensor, samples: Tensor, layers: Sequence[int]) -> list[Tensor]:
        self.lengths.append(audio.shape[1])
        first = audio[:, :: self.hop_samples]
        place = torch.arange(first.shape[1])
        edge = torch.minimum(place, first.shape[1] - 1 - place).expand(len(audio), -1)
        return [torch.stack([first, edge], dim=2)] * len(layers)

    def config_dict(self) -> dict[str, Any]:
        return {}


def tiny_conformer(*, seed: int = 0) -> ConformerEncoder:
    torch.manual_seed(seed)
    sizes = ConformerConfig(
        dim=16, contrastive_layers=2, masked_layers=2, heads=2, feed_forward=32, subsampling_channels=4, mel_bins=16
    )
    return ConformerEncoder(sizes).requires_grad_(False).eval()


@given(samples=st.integers(1, 900), window=st.integers(1, 60), overlap=st.integers(0, 59))
@settings(max_examples=200, deadline=None)
def test_every_frame_is_there_once_from_the_window_in_which_it_is_farthest_from_an_edge(
    samples: int, window: int, overlap: int
) -> None:
    overlap %= window
    encoder, audio = Listener(), torch.arange(float(samples))[None]
    (features,) = encode_in_windows(
        encoder, audio, layers=[0], window_seconds=window / 100, overlap_seconds=overlap / 100
    )
    frames = -(-samples // 4)
    assert torch.equal(features[0, :, 0], 4.0 * torch.arange(frames))
    assert max(encoder.lengths) <= 4 * window
    starts = [start for start, _, _ in window_plan(frames, window=window, overlap=overlap)]
    width = min(window, frames)
    assert len(encoder.lengths) == len(starts)
    for frame in range(frames):
        inner = [min(frame - start, start + width - 1 - frame) for start in starts if start <= frame < start + width]
        assert int(features[0, frame, 1]) == max(inner)
        if overlap <= frame < frames - overlap:
            assert max(inner) >= (overlap - 1) // 2


@pytest.mark.parametrize("seconds", [0.01, 3.0, 4.0])
def test_a_recording_no_longer_than_a_window_is_encoded_whole(seconds: float) -> None:
    encoder, audio = (
        tiny_conformer(),
        torch.stack([tones_and_noise(int(16000 * seconds), seed=seed) for seed in (0, 1)]),
    )
    shallow, deep = encode_in_windows(encoder, audio, layers=[0, 3], window_seconds=4, overlap_seconds=1)
    for state, whole in zip((shallow, deep), encoder.hidden_states(audio, layers=[0, 3]), strict=True):
        assert torch.equal(state, whole)


@pytest.mark.parametrize("rate_hz", [25, 50, 100])
def test_mfcc_in_windows_is_the_same_as_whole(rate_hz: int) -> None:
    encoder, audio = MfccEncoder(rate_hz=rate_hz), tones_and_noise(16000 * 100 + 123)[None]
    (whole,) = encode_in_windows(encoder, audio, layers=[0], window_seconds=200)
    assert torch.equal(whole, encoder(audio))
    for window_seconds, overlap_seconds in ((WINDOW_SECONDS, OVERLAP_SECONDS), (5.0, 0.2)):
        (features,) = encode_in_windows(
            encoder, audio, layers=[0], window_seconds=window_seconds, overlap_seconds=overlap_seconds
        )
        assert torch.allclose(features, whole, rtol=0, atol=1e-4)  # of some hundreds: rounding alone
    (cut,) = encode_in_windows(encoder, audio, layers=[0], window_seconds=5, overlap_seconds=0)
    assert not torch.allclose(cut, whole, rtol=0, atol=1e-1)  # what the overlap is for


def test_a_seam_is_no_worse_than_any_other_frame() -> None:
    """Against the whole recording at once: attention hears less everywhere, the seam adds nothing to that."""
    encoder, audio = tiny_conformer(), tones_and_noise(16000 * 80)[None]
    whole = encoder.hidden_states(audio, layers=[4])[0]

    def errors(overlap_seconds: float) -> Tensor:
        got = encode_in_windows(encoder, audio, layers=[4], overlap_seconds=overlap_seconds)[0]
        return (got - whole).square().mean(2)[0] / whole.var(1).mean()

    plan = window_plan(2000, window=750, overlap=50)
    near = torch.tensor([[first - 1, first] for _, first, _ in plan[1:]]).flatten()
    assert errors(OVERLAP_SECONDS)[near].max() < 3 * errors(OVERLAP_SECONDS).quantile(0.9)
    assert errors(0).max() > 10 * errors(OVERLAP_SECONDS).max()


def test_rows_of_a_batch_do_not_mix() -> None:
    encoder, audio = tiny_conformer(), torch.stack([tones_and_noise(16000 * 5, seed=seed) for seed in (0, 1)])
    numbers = {"window_seconds": 2.0, "overlap_seconds": 0.4}
    (both,) = encode_in_windows(encoder, audio, layers=[2], **numbers)
    for row in (0, 1):
        (alone,) = encode_in_windows(encoder, audio[row : row + 1], layers=[2], **numbers)
        assert torch.allclose(both[row], alone[0], atol=1e-5)


@pytest.mark.parametrize(("window_seconds", "overlap_seconds"), [(1, 1), (1, 2), (1, -0.5), (0, 0)])
def test_an_overlap_as_long_as_the_window_is_refused(window_seconds: float, overlap_seconds: float) -> None:
    with pytest.raises(ValueError, match=r"overlap_seconds must be at least 0 and less than window_seconds"):
        encode_in_windows(
            Listener(), torch.zeros(1, 10), layers=[0], window_seconds=window_seconds, overlap_seconds=overlap_seconds
        )


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="layers 0 to 0"):
        encode_in_windows(Listener(), torch.zeros(1, 10), layers=[1])


def test_units_of_long_recordings_depend_on_the_tokenizer_alone() -> None:
    tokenizer = SemanticTokenizer(tiny_conformer(), clusters=20, levels=2, window_seconds=3, overlap_seconds=0.4)
    audio = tones_and_noise(16000 * 8 + 77)[None]
    (features,) = encode_in_windows(
        tokenizer.encoder, audio, layers=[tokenizer.encoder.layer], window_seconds=3, overlap_seconds=0.4
    )
    tokenizer.mean.copy_(features[0].mean(0))
    tokenizer.deviation.copy_(features[0].std(0))
    tokenizer.centroids.normal_(generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.features(audio), tokenizer.normalize(features))
    units = tokenizer.encode_levels(audio)
    assert torch.equal(units[0], tokenizer.quantize(tokenizer.normalize(features[0])))

    checkpoint = StageCheckpoint("tokenizer", tokenizer.config_dict(), tokenizer.state_dict())
    rebuilt = SemanticTokenizer.from_checkpoint(checkpoint)
    assert (rebuilt.window_seconds, rebuilt.overlap_seconds) == (3, 0.4)
    assert torch.equal(rebuilt.encode_levels(audio), units)
    config = {name: value for name, value in tokenizer.config_dict().items() if name != "window_seconds"}
    with pytest.raises(ValueError, match="in which windows.*older version"):
        SemanticTokenizer.from_checkpoint(StageCheckpoint("tokenizer", config, tokenizer.state_dict()))


HOUR = """
import resource, torch
from test_semantic_windows import tiny_conformer
from audiolm.semantic.tokenizer import SemanticTokenizer
torch.set_num_threads(1)
tokenizer = SemanticTokenizer(tiny_conformer(), clusters=8)
tokenizer.encode(torch.zeros(1, 16000 * 60))
audio = 0.1 * torch.randn(1, 16000 * 3600)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
units = tokenizer.encode(audio)
assert units.shape == (1, 90000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_an_hour_takes_no_more_memory_than_a_minute() -> None:
    """At once its attention alone would take 2 x 90000 ^ 2 numbers, 65 GB."""
    done = subprocess.run(
        [sys.executable, "-c", HOUR], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    grown_mib = float(done.stdout.split()[-1])
    assert grown_mib < 100  # the units are 0.7 MiB; the rest is what the allocator keeps
