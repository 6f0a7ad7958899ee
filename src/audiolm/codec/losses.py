"""The losses of SoundStream, as functions.

Scores and features come as one tensor, or one list of tensors, per discriminator.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torchaudio.functional as AF
from torch import Tensor

MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)  # 2^6 .. 2^11 samples
MEL_BINS = 64
LOG_FLOOR = 1e-3  # added before the logarithm: what the rounding noise of 16-bit audio measures in a window of 1024


def hinge_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Push scores of real audio above 1 and of reconstructions below -1; mean over time, then over discriminators.

    Source: SoundStream, equation 1.
    """
    losses = [
        torch.relu(1 - ours.float()).mean() + torch.relu(1 + theirs.float()).mean()
        for ours, theirs in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def hinge_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Push the scores of reconstructions above 1; mean over time, then over discriminators.

    Source: SoundStream, equation 2.
    """
    return torch.stack([torch.relu(1 - scores.float()).mean() for scores in fake]).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of the discriminators' inner activations; mean over layers, then over discriminators.

    The gradient reaches `fake` only.

    Source: SoundStream, equation 3.
    """
    losses = [
        torch.stack([(theirs.float() - ours.detach().float()).abs().mean() for ours, theirs in zip(*pair, strict=True)])
        for pair in zip(real, fake, strict=True)
    ]
    return torch.stack([layers.mean() for layers in losses]).mean()


def mel_spectrogram(audio: Tensor, *, sample_rate_hz: int, window: int, bins: int = MEL_BINS) -> Tensor:
    """Magnitude mel spectrogram (batch, bins, frames) of (batch, samples), Hann windows a quarter apart, in float32."""
    with torch.autocast(audio.device.type, enabled=False):
        audio = audio.float()
        hann, filters = _hann(window, audio.device), _filters(window, bins, sample_rate_hz, audio.device)
        spectrum = torch.stft(audio, window, window // 4, window=hann, pad_mode="constant", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        magnitude = torch.sqrt(power + 1e-12)  # the floor keeps the gradient finite at digital silence
        return filters @ magnitude


def multi_scale_mel_loss(
    estimate: Tensor, reference: Tensor, *, sample_rate_hz: int, windows: Sequence[int] = MEL_WINDOWS
) -> Tensor:
    """Distance of two waveforms (batch, samples) in mel spectrograms at several resolutions, summed over these.

    Per window length s: the mean absolute difference, plus sqrt(s / 2) times the L2 norm over bins of the logarithms'
    difference, mean over frames.

    Source: SoundStream, equations 4 and 5. There both norms are sums; here they are means (root mean square for the
    second), so that the number does not grow with clip length or bins.
    """
    total = estimate.new_zeros((), dtype=torch.float32)
    for window in windows:
        mels = mel_spectrogram(torch.cat([estimate, reference]), sample_rate_hz=sample_rate_hz, window=window)
        ours, theirs = mels.chunk(2)
        squares = (torch.log(ours + LOG_FLOOR) - torch.log(theirs + LOG_FLOOR)).square().mean(1)
        logarithmic = torch.sqrt(squares + 1e-8).mean()
        total = total + (ours - theirs).abs().mean() + math.sqrt(window / 2) * logarithmic
    return total


@cache
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)


@cache
def _filters(window: int, bins: int, sample_rate_hz: int, device: torch.device) -> Tensor:
    """(bins, window // 2 + 1). Short windows leave some low filters empty; they add nothing to a difference."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio warns of those empty filters
        filters = AF.melscale_fbanks(window // 2 + 1, 0.0, sample_rate_hz / 2, bins, sample_rate_hz)
    return filters.t().contiguous().to(device)
