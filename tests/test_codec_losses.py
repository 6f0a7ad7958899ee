"""Losses of the codec, and the measures of its reconstructions."""

import math

import pytest
import torch

from audiolm.codec.losses import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    mel_spectrogram,
    multi_scale_mel_loss,
)
from audiolm.evaluation.reconstruction import mel_distance, reconstruction_table, si_sdr


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_hinge_losses_agree_with_arithmetic() -> None:
    real, fake = [torch.tensor([2.0, 0.0]), torch.tensor([1.0])], [torch.tensor([-2.0, 0.5]), torch.tensor([0.0])]
    # first: mean(0, 1) + mean(0, 1.5); second: 0 + 1
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx((0.5 + 0.75 + 1.0) / 2)
    assert float(hinge_generator_loss(fake)) == pytest.approx((1.75 + 1.0) / 2)


def test_feature_matching_weighs_discriminators_and_layers_equally_and_trains_the_reconstruction_only() -> None:
    real = [[torch.zeros(4, requires_grad=True), torch.zeros(100)], [torch.zeros(2)]]
    fake = [[torch.ones(4, requires_grad=True), torch.full((100,), 3.0)], [torch.full((2,), 4.0)]]
    loss = feature_matching_loss(real, fake)
    assert float(loss) == pytest.approx((2.0 + 4.0) / 2)
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


def test_mel_spectrogram_of_a_tone_peaks_in_its_bin() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)[None]
    low = mel_spectrogram(tone, sample_rate_hz=16000, window=1024)
    high = mel_spectrogram(tone.roll(0) * 1.0, sample_rate_hz=8000, window=1024)  # the same samples mean 500 Hz now
    assert low.shape == (1, 64, 16000 // 256 + 1)
    # HTK mel: 1000 Hz is 1000 mel of 2840 at 8 kHz: bin 1000 / 2840 * 65 - 1 = 21.9
    assert int(low[0, :, 30].argmax()) in (21, 22)
    assert int(high[0, :, 30].argmax()) not in (21, 22)


@pytest.mark.parametrize("samples", [100, 4000])
def test_mel_loss_is_near_zero_for_equal_audio_grows_with_difference_and_takes_short_clips(samples: int) -> None:
    audio = noise(2, samples)
    same = multi_scale_mel_loss(audio, audio, sample_rate_hz=16000)
    slightly = multi_scale_mel_loss(0.9 * audio, audio, sample_rate_hz=16000)
    much = multi_scale_mel_loss(0.2 * audio, audio, sample_rate_hz=16000)
    assert same < 0.02  # six times the 1e-4 under the root, weighted by sqrt(window / 2)
    assert same < slightly < much


def test_mel_loss_at_one_scale_agrees_with_the_formula() -> None:
    ours, theirs = noise(1, 2000), noise(1, 2000, seed=1)
    first, second = (mel_spectrogram(audio, sample_rate_hz=16000, window=512)[0] for audio in (ours, theirs))
    expected = 0.0
    for frame in range(first.size(1)):
        logs = torch.log(first[:, frame] + 1e-3) - torch.log(second[:, frame] + 1e-3)
        absolute = (first[:, frame] - second[:, frame]).abs().mean()
        expected += float(absolute + math.sqrt(512 / 2) * logs.square().mean().sqrt()) / first.size(1)
    loss = multi_scale_mel_loss(ours, theirs, sample_rate_hz=16000, windows=(512,))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_mel_loss_has_a_finite_gradient_at_digital_silence() -> None:
    estimate = torch.zeros(1, 4000, requires_grad=True)
    multi_scale_mel_loss(estimate, torch.zeros(1, 4000), sample_rate_hz=16000).backward()
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()


def test_si_sdr_ignores_scale_and_offset_and_knows_the_noise_ratio() -> None:
    reference = torch.sin(2 * math.pi * 100 * torch.arange(16000) / 16000)[None]
    error = torch.cos(2 * math.pi * 100 * torch.arange(16000) / 16000)[None]  # orthogonal, as strong
    assert float(si_sdr(reference + 0.1 * error, reference)) == pytest.approx(20.0, abs=1e-3)
    assert float(si_sdr(3 * (reference + 0.1 * error) + 0.2, reference)) == pytest.approx(20.0, abs=1e-3)
    assert float(si_sdr(reference, reference)) > 75
    assert float(si_sdr(torch.zeros_like(reference), reference)) < -70


def test_mel_distance_is_the_log_ratio_of_a_louder_copy() -> None:
    audio = noise(2, 8000)
    distance = mel_distance(2 * audio, audio, sample_rate_hz=16000)
    torch.testing.assert_close(distance, torch.full((2,), math.log(2.0)), atol=5e-3, rtol=0)  # the floor of 1e-3


def test_measures_refuse_audio_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="whole frames long"):
        si_sdr(noise(1, 320), noise(1, 300))
    with pytest.raises(ValueError, match="whole frames long"):
        mel_distance(noise(1, 320), noise(1, 300), sample_rate_hz=16000)


class Halving:
    """A codec whose level q adds half of what is missing; codes carry the audio itself."""

    sample_rate_hz, levels = 16000, 3

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        return torch.stack([audio * 0.5 ** (level + 1) for level in range(self.levels)], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.cat([codes.sum(1), torch.zeros(1, 7)], dim=1)  # whole frames: longer than the clip


def test_reconstruction_table_has_a_row_per_number_of_levels() -> None:
    clips = [noise(5000), noise(4000, seed=1)]
    rows = reconstruction_table(Halving(), clips, levels=(1, 3))
    assert [row.levels for row in rows] == [1, 3]
    assert [row.clips for row in rows] == [2, 2]
    assert rows[0].mel_distance == pytest.approx(math.log(2), abs=5e-3)
    assert rows[1].mel_distance == pytest.approx(math.log(8 / 7), abs=5e-3)


@pytest.mark.parametrize("levels", [(0,), (4,)])
def test_reconstruction_table_refuses_levels_the_codec_does_not_have(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 3"):
        reconstruction_table(Halving(), [noise(4000)], levels=levels)


def test_reconstruction_table_without_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clips"):
        reconstruction_table(Halving(), [], levels=(1,))
