"""SoundStream's discriminators: one on the complex spectrogram, one on the waveform at three resolutions."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

STFT_WINDOW, STFT_HOP = 1024, 256
STFT_BLOCKS = (
    (2, (1, 2)),
    (2, (2, 2)),
    (1, (1, 2)),
    (2, (2, 2)),
    (1, (1, 2)),
    (2, (2, 2)),
)  # channels x, (time, frequency)
WAVE_LAYERS = 4  # grouped convolutions, each down-sampling by 4
SLOPE = 0.2


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the discriminators; the defaults are the paper's.

    Raises:
        ValueError: naming the number that cannot be.

    Source: SoundStream, section III-D and figures 4 and 5.
    """

    stft_channels: int = 32  # of the first convolution; 16 times as many in the last block
    wave_channels: int = 16  # of the first convolution; times 4 at every down-sampling
    wave_max_channels: int = 1024
    wave_scales: int = 3  # full, half, quarter sample rate

    def __post_init__(self) -> None:
        if min(self.stft_channels, self.wave_scales) < 1:
            raise ValueError(f"stft_channels and wave_scales must be at least 1, got {self}")
        if self.wave_channels < 4 or self.wave_channels % 4 or self.wave_max_channels % 4:
            raise ValueError(f"wave_channels and wave_max_channels must be multiples of 4 (groups of 4), got {self}")


class Judgement(NamedTuple):
    """What one discriminator says: scores along time (real high, reconstructed low) and its inner activations."""

    scores: Tensor
    features: list[Tensor]


class WaveDiscriminator(nn.Module):
    """Judges (batch, samples) by strided grouped convolutions. Source: SoundStream, section III-D; MelGAN."""

    def __init__(self, *, channels: int, max_channels: int) -> None:
        super().__init__()
        layers = [nn.Conv1d(1, channels, 15, padding=7)]
        for _ in range(WAVE_LAYERS):
            wider = min(4 * channels, max_channels)
            layers.append(nn.Conv1d(channels, wider, 41, stride=4, padding=20, groups=channels // 4))
            channels = wider
        layers.append(nn.Conv1d(channels, channels, 5, padding=2))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv1d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> Judgement:
        x, features = rearrange(audio, "batch samples -> batch 1 samples"), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Judgement(self.score(x), features)


class SpectralUnit(nn.Module):
    """(batch, channels, time, frequency): 3x3, then a strided convolution, beside a strided 1x1 shortcut."""

    def __init__(self, channels: int, factor: int, stride: tuple[int, int]) -> None:
        super().__init__()
        kernel = (stride[0] + 2, stride[1] + 2)
        self.inner = weight_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.strided = weight_norm(nn.Conv2d(channels, factor * channels, kernel, stride=stride))
        self.shortcut = weight_norm(nn.Conv2d(channels, factor * channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        # with 1 before and s after, ceil(n / s) positions remain on each axis: the shortcut's number
        time, frequency = self.strided.stride
        inner = F.pad(F.leaky_relu(self.inner(x), SLOPE), (1, frequency, 1, time))
        shortcut = self.shortcut(x)
        strided = self.strided(inner)[..., : shortcut.size(2), : shortcut.size(3)]
        return F.leaky_relu(strided + shortcut, SLOPE)


class SpectralDiscriminator(nn.Module):
    """Judges (batch, samples) by 2-D convolutions over its complex STFT. Source: SoundStream, section III-D."""

    window: Tensor

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(weight_norm(nn.Conv2d(2, channels, 7, padding=3)), nn.LeakyReLU(SLOPE))
        ]
        for factor, stride in STFT_BLOCKS:
            layers.append(SpectralUnit(channels, factor, stride))
            channels *= factor
        self.layers = nn.ModuleList(layers)
        bins = STFT_WINDOW // 2 // 2 ** len(STFT_BLOCKS)  # 512 / 64 = 8: every block halves the frequency axis
        self.score = weight_norm(nn.Conv2d(channels, 1, (1, bins)))
        self.register_buffer("window", torch.hann_window(STFT_WINDOW), persistent=False)

    def forward(self, audio: Tensor) -> Judgement:
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), STFT_WINDOW, STFT_HOP, window=self.window, pad_mode="constant", return_complex=True
            )
        x = rearrange(torch.view_as_real(spectrum[:, :-1]), "batch bins frames parts -> batch parts frames bins")
        x, features = x.contiguous(), []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return Judgement(self.score(x), features)


class Discriminators(nn.Module):
    """All discriminators of the paper: (batch, samples) to one judgement each, the spectral one first."""

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        config = config or DiscriminatorConfig()
        self.spectral = SpectralDiscriminator(channels=config.stft_channels)
        self.waves = nn.ModuleList(
            WaveDiscriminator(channels=config.wave_channels, max_channels=config.wave_max_channels)
            for _ in range(config.wave_scales)
        )

    def forward(self, audio: Tensor) -> list[Judgement]:
        judgements = [self.spectral(audio)]
        for wave in self.waves:
            judgements.append(wave(audio))
            audio = F.avg_pool1d(audio[:, None], 4, stride=2, padding=1)[:, 0]  # half the rate for the next
        return judgements
