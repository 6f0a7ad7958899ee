"""SoundStream piece by piece: every convolution remembers what it will still need of its past.

This is the one inference path: `SoundStream.encode` and `decode` push long audio through it in chunks. Signals are laid
out as images of height one, channels last, which the processors' convolutions are made for (two to three times faster
than 1-D convolutions on the machines in benchmarks/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from audiolm.codec.layers import LOUDNESS, CausalConv1d, CausalTransposedConv1d, Decoder, Encoder, ResidualUnit

if TYPE_CHECKING:
    from audiolm.codec.soundstream import SoundStream

State = dict[nn.Module, Tensor]  # what each convolution keeps of the past; absent: silence


class EncoderStream:
    """Audio in, in pieces of any length; codes out, as soon as a frame is complete.

    Pieces pushed one after the other give the codes of `SoundStream.encode` of the whole. The stream is the state: one
    per recording (or per batch of recordings that run in step). Latency: one frame of `hop_samples` (20 ms at 16 kHz),
    no look-ahead.

    Args:
        codec: a trained codec.
        batch: recordings side by side.
    """

    def __init__(self, codec: SoundStream, *, batch: int = 1) -> None:
        _require_soundstream(codec)
        self.codec, self.batch = codec, batch
        self._state: State = {}
        self._pending: Tensor | None = None
        self._finished = False

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Take the next piece of audio.

        Args:
            audio: (batch, samples) float in [-1, 1]; any number of samples, none included.

        Returns:
            (batch, levels, frames) int64: the frames that this piece completed, possibly none.

        Raises:
            ValueError: if `audio` is of another shape or holds NaN, or the stream was finished.
        """
        self._check(audio)
        waiting = audio if self._pending is None else torch.cat([self._pending, audio], dim=1)
        whole = waiting.size(1) // self.codec.hop_samples * self.codec.hop_samples
        self._pending = waiting[:, whole:]
        if not whole:
            return torch.empty(self.batch, self.codec.levels, 0, dtype=torch.int64, device=audio.device)
        return self.codec.quantizer.encode(encode_frames(self.codec.encoder, waiting[:, :whole], self._state))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Complete a last partial frame with silence: (batch, levels, 0 or 1 frames). Nothing can be pushed after it."""
        if self._pending is None:
            raise ValueError("nothing was pushed into this stream: there is nothing to finish")
        rest = self._pending
        codes = self.push(F.pad(rest[:, :0], (0, -rest.size(1) % self.codec.hop_samples)))
        self._finished = True
        return codes

    def _check(self, audio: Tensor) -> None:
        if self._finished:
            raise ValueError("this stream is finished: start another one for the next recording")
        if audio.ndim != 2 or audio.size(0) != self.batch or not audio.is_floating_point():
            raise ValueError(
                f"audio must be floating point of shape ({self.batch}, samples), got {audio.dtype} of shape "
                f"{tuple(audio.shape)}. The number of recordings side by side is fixed when a stream starts."
            )
        if not audio.isfinite().all():
            raise ValueError("audio holds NaN or infinity: the recording is damaged, or was divided by a zero level")
        self.codec.require_trained()


class DecoderStream:
    """Codes in, in pieces of any number of frames; their audio out at once, `hop_samples` per frame, no look-ahead.

    Pieces pushed one after the other give the audio of `SoundStream.decode` of the whole.

    Args:
        codec: a trained codec.
        batch: recordings side by side.
    """

    def __init__(self, codec: SoundStream, *, batch: int = 1) -> None:
        _require_soundstream(codec)
        self.codec, self.batch = codec, batch
        self._state: State = {}

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Take the next frames.

        Args:
            codes: (batch, 1 to `levels` levels, frames) integers in [0, codebook_size); no frames, as an encoder's stream
                may return them, give no samples.

        Returns:
            (batch, frames * hop_samples) float32.

        Raises:
            ValueError: if `codes` is of another shape or type, or holds a code outside the codebook.
        """
        empty = codes.ndim == 3 and not codes.size(2)
        latents = None if empty else self.codec.embed(codes)
        if codes.size(0) != self.batch:
            raise ValueError(
                f"this stream decodes {self.batch} recordings side by side, got codes of {codes.size(0)}: the number "
                "is fixed when a stream starts"
            )
        self.codec.require_trained()
        if latents is None:
            return torch.zeros(self.batch, 0, device=codes.device)
        return decode_frames(self.codec.decoder, latents, self._state)


def encode_frames(encoder: Encoder, audio: Tensor, state: State) -> Tensor:
    """Latents (batch, dim, frames) of whole frames of audio (batch, samples) that go on where `state` stands."""
    audio = (audio * LOUDNESS).to(_dtype(encoder))
    latents = _advance(encoder.layers, _as_image(audio[:, None]), state)
    return rearrange(latents, "batch dim 1 frames -> batch dim frames")


def decode_frames(decoder: Decoder, latents: Tensor, state: State) -> Tensor:
    """Audio (batch, samples) float32 of latents (batch, dim, frames) that go on where `state` stands."""
    audio = _advance(decoder.layers, _as_image(latents.to(_dtype(decoder))), state)
    return rearrange(audio, "batch 1 1 samples -> batch samples").float() / LOUDNESS


def _advance(module: nn.Module, x: Tensor, state: State) -> Tensor:
    if isinstance(module, nn.Sequential):
        for part in module:
            x = _advance(part, x, state)
        return x
    if isinstance(module, ResidualUnit):
        inner = _advance(module.dilated, F.elu(x), state)
        return x + _advance(module.pointwise, F.elu(inner, inplace=True), state)
    if isinstance(module, CausalConv1d):
        return _convolve(module, x, state)
    if isinstance(module, CausalTransposedConv1d):
        return _convolve_transposed(module, x, state)
    return cast(Tensor, module(x))


def _convolve(conv: CausalConv1d, x: Tensor, state: State) -> Tensor:
    if conv.past:
        x = torch.cat([state[conv], x], dim=3) if conv in state else F.pad(x, (conv.past, 0))
        state[conv] = x[..., -conv.past :].clone()
    weight = conv.weight().unsqueeze(2)
    return F.conv2d(x, weight, conv.bias, stride=(1, conv.stride), dilation=(1, conv.dilation))


def _convolve_transposed(conv: CausalTransposedConv1d, x: Tensor, state: State) -> Tensor:
    """Each input covers two strides of output: what it adds beyond its own is kept for the next piece."""
    y = F.conv_transpose2d(x, conv.weight().unsqueeze(2), conv.bias, stride=(1, conv.stride))
    if conv in state:
        y[..., : conv.stride] += state[conv]
    state[conv] = y[..., -conv.stride :] - conv.bias[:, None, None]
    return y[..., : -conv.stride]


def _as_image(x: Tensor) -> Tensor:
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _require_soundstream(codec: nn.Module) -> None:
    if not isinstance(getattr(codec, "encoder", None), Encoder):
        raise ValueError(
            f"only a SoundStream trained here streams, not a {type(codec).__name__}: encode and decode whole recordings with it"
        )


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
