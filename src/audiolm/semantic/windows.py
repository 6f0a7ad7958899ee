"""Long recordings in overlapping windows: memory that does not grow with them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from audiolm.semantic.encoder import Encoder

WINDOW_SECONDS = 30.0
OVERLAP_SECONDS = 2.0  # a frame hears a second at least on both sides


def encode_in_windows(
    encoder: Encoder,
    audio: Tensor,
    *,
    layers: Sequence[int],
    window_seconds: float = WINDOW_SECONDS,
    overlap_seconds: float = OVERLAP_SECONDS,
) -> list[Tensor]:
    """Compute features of recordings of any length.

    A recording no longer than a window is encoded whole, as `encoder.hidden_states` does. Of a longer one, every frame comes
    from the window in which it is farthest from an edge: half the overlap at least. What an encoder works out per utterance
    (normalisation of public models, attention) is then worked out per window.

    Args:
        audio: (batch, samples) float32 mono in [-1, 1], at `encoder.sample_rate_hz`; rows of equal length.
        layers: which layers, as in `Encoder.hidden_states`.
        window_seconds: length of a window; rounded to whole frames, as the overlap is.
        overlap_seconds: what neighbouring windows share; the last two share more, so that every window is full.

    Returns:
        For each layer (batch, frames, dim) float32, frames = ceil(samples / encoder.hop_samples).

    Raises:
        ValueError: as `Encoder.hidden_states`; or if the overlap is not shorter than the window.
    """
    pieces = features_in_windows(
        encoder, audio, layers=layers, window_seconds=window_seconds, overlap_seconds=overlap_seconds
    )
    return [torch.cat(of_layer, dim=1) for of_layer in zip(*pieces, strict=True)]


def features_in_windows(
    encoder: Encoder, audio: Tensor, *, layers: Sequence[int], window_seconds: float, overlap_seconds: float
) -> Iterator[list[Tensor]]:
    """Give the features of `encode_in_windows` piece by piece, along frames, for what need not keep them all."""
    window = round(window_seconds * encoder.rate_hz)
    overlap = round(overlap_seconds * encoder.rate_hz)
    if not 0 <= overlap < window:
        raise ValueError(
            f"overlap_seconds must be at least 0 and less than window_seconds: {overlap_seconds:g} s of {window_seconds:g} s "
            f"are {overlap} of {window} frames at {encoder.rate_hz} Hz"
        )
    hop = encoder.hop_samples
    for start, first, last in window_plan(encoder.frames(audio.shape[-1]), window=window, overlap=overlap):
        states = encoder.hidden_states(audio[..., start * hop : (start + window) * hop], layers=layers)
        yield [state[:, first - start : last - start] for state in states]


def window_plan(frames: int, *, window: int, overlap: int) -> list[tuple[int, int, int]]:
    """Where windows of `window` frames start, and the frames [first, last) that are taken from each, all counted from 0.

    Neighbours meet in the middle of what they share. The last window ends where the recording does.
    """
    inner = range(0, max(0, frames - window), window - overlap)
    starts = [*inner, max(0, frames - window)]
    seams = [(left + window + right) // 2 for left, right in pairwise(starts)]
    return list(zip(starts, [0, *seams], [*seams, frames], strict=True))
