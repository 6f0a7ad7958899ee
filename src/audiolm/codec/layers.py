"""The causal convolutions of SoundStream, its encoder and its decoder.

Causal everywhere: every convolution is padded with zeros on the side of the past only, at the very start of a recording
too (a reflection there would let the first frames see their future).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KERNEL = 7
DILATIONS = (1, 3, 9)
LOUDNESS = 16.0  # speech has an RMS of about 0.06: inside, it has about 1, as the initial weights expect


class NormalisedWeight(nn.Module):
    """A convolution weight as gain times direction, one gain per output channel (weight normalisation).

    Its own small module rather than torch's parametrization, so that weights have the same names in training and when
    folded for inference: a checkpoint of either loads into either.
    """

    def __init__(self, *shape: int, output_axis: int, fan_in: int) -> None:
        super().__init__()
        self.other_axes = tuple(axis for axis in range(len(shape)) if axis != output_axis)
        # keeps the variance: with torch's default the latents of fresh weights are 10^-4, and training stands still
        self.direction = nn.Parameter(torch.empty(shape).uniform_(-1, 1) * math.sqrt(3 / fan_in))
        self.gain = nn.Parameter(self._norm().detach().clone())
        self.folded = False

    def forward(self) -> Tensor:
        return self.direction if self.folded else self.direction * (self.gain / self._norm())

    def fold(self) -> None:
        """Store the product, so that inference need not compute it. Training goes on only from an unfolded module.

        It is stored with the channels last, as `codec.streaming` convolves. Folding again changes nothing.
        """
        if not self.folded:
            self._store_product()
        self.folded = True

    @torch.no_grad()
    def _store_product(self) -> None:
        product = self.direction * (self.gain / self._norm())
        self.direction.data = product.transpose(1, 2).contiguous().transpose(1, 2)
        self.gain.abs_()  # its sign is in the product now: else a second multiplication would flip it back

    def _norm(self) -> Tensor:
        return torch.linalg.vector_norm(self.direction, dim=self.other_axes, keepdim=True).clamp(min=1e-12)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[arg-type]
        if self.folded:  # what came in may not have been
            self._store_product()


class CausalConv1d(nn.Module):
    """(batch, inputs, n) -> (batch, outputs, n / stride); output i sees inputs up to stride * (i + 1) - 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.past = (kernel - 1) * dilation + 1 - stride
        self.weight = NormalisedWeight(outputs, inputs, kernel, output_axis=0, fan_in=inputs * kernel)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (self.past, 0)), self.weight(), self.bias, stride=self.stride, dilation=self.dilation)


class CausalTransposedConv1d(nn.Module):
    """(batch, inputs, n) -> (batch, outputs, n * stride); output i sees inputs up to i // stride."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = NormalisedWeight(inputs, outputs, 2 * stride, output_axis=1, fan_in=2 * inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.weight(), self.bias, stride=self.stride)[..., : -self.stride]


class ResidualUnit(nn.Module):
    """x + two convolutions of it: dilated k=7, then k=1. ELU before each, no normalisation layers."""

    def __init__(self, channels: int, *, dilation: int) -> None:
        super().__init__()
        self.dilated = CausalConv1d(channels, channels, KERNEL, dilation=dilation)
        self.pointwise = CausalConv1d(channels, channels, 1)
        with torch.no_grad():  # near the identity at first: 24 units that start at full strength scramble the waveform,
            self.pointwise.weight.gain.mul_(0.1)  # and 250 steps later the error is 0.73 of the signal instead of 0.43

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(F.elu(self.dilated(F.elu(x))))


def residual_units(channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation=dilation) for dilation in DILATIONS]


class Encoder(nn.Module):
    """Audio (batch, samples) to latents (batch, dim, samples / hop); `samples` must be a multiple of the hop.

    Source: SoundStream, section III-A.
    """

    def __init__(self, *, channels: int, dim: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [CausalConv1d(1, channels, KERNEL)]
        for stride in strides:
            layers += [*residual_units(channels), nn.ELU()]
            layers += [CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride)]
            channels *= 2
        self.layers = nn.Sequential(*layers, nn.ELU(), CausalConv1d(channels, dim, 3))

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(rearrange(audio * LOUDNESS, "batch samples -> batch 1 samples"))


class Decoder(nn.Module):
    """Latents (batch, dim, frames) to audio (batch, frames * hop); the encoder's mirror image.

    Source: SoundStream, section III-B.
    """

    def __init__(self, *, channels: int, dim: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        channels *= 2 ** len(strides)
        layers: list[nn.Module] = [CausalConv1d(dim, channels, KERNEL)]
        for stride in reversed(strides):
            layers += [nn.ELU(), CausalTransposedConv1d(channels, channels // 2, stride=stride)]
            channels //= 2
            layers += residual_units(channels)
        self.layers = nn.Sequential(*layers, nn.ELU(), CausalConv1d(channels, 1, KERNEL))

    def forward(self, latents: Tensor) -> Tensor:
        return rearrange(self.layers(latents), "batch 1 samples -> batch samples") / LOUDNESS
