"""How much of a waveform a codec keeps: functions from arrays to numbers and tables."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.codec.codec import Codec
from audiolm.codec.losses import LOG_FLOOR, mel_spectrogram

MEL_DISTANCE_WINDOW = 1024
MEL_DISTANCE_BINS = 80


@dataclass(frozen=True)
class ReconstructionRow:
    """One row of `reconstruction_table`: means over clips."""

    levels: int
    si_sdr_db: float
    mel_distance: float
    clips: int


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, (batch,), of two (batch, samples); higher is better.

    Both means are removed first. Silence on either side gives the floor, -80 dB;
    equal signals give 80 dB.

    Raises:
        ValueError: if the shapes differ.

    Source: Le Roux et al., "SDR - half-baked or well done?" (2018), equation 5.
    """
    _check_pair(estimate, reference)
    estimate = (estimate - estimate.mean(-1, keepdim=True)).double()
    reference = (reference - reference.mean(-1, keepdim=True)).double()
    energy = reference.square().sum(-1, keepdim=True)
    target = reference * (estimate * reference).sum(-1, keepdim=True) / (energy + 1e-12)
    noise = estimate - target
    ratio = target.square().sum(-1) / (noise.square().sum(-1) + 1e-8 * target.square().sum(-1) + 1e-12)
    return (10 * torch.log10(ratio.clamp(min=1e-8))).float()


def mel_distance(estimate: Tensor, reference: Tensor, *, sample_rate_hz: int) -> Tensor:
    """Mean absolute difference of log-mel spectrograms, (batch,), of two (batch, samples); in nats, lower is better.

    Windows of 1024 samples, 256 apart, 80 bins, magnitudes, 1e-3 added before the natural logarithm. Comparable only
    with numbers of the same settings.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_pair(estimate, reference)
    logs = [
        torch.log(
            mel_spectrogram(audio, sample_rate_hz=sample_rate_hz, window=MEL_DISTANCE_WINDOW, bins=MEL_DISTANCE_BINS)
            + LOG_FLOOR
        )
        for audio in (estimate, reference)
    ]
    return (logs[0] - logs[1]).abs().mean((1, 2))


def check_levels(codec: Codec, levels: Sequence[int]) -> None:
    """Stop where `codec` does not have one of these numbers of levels.

    Raises:
        ValueError: naming the numbers it has.
    """
    if not all(1 <= count <= codec.levels for count in levels):
        raise ValueError(f"levels must be 1 to {codec.levels}, the codec's number; got {list(levels)}")


@torch.no_grad()
def reconstruct(codec: Codec, clip: Tensor, *, levels: Sequence[int]) -> dict[int, tuple[Tensor, float]]:
    """Encode one waveform once, and decode it from several numbers of levels.

    Args:
        clip: (samples,) float at the codec's rate.
        levels: as `check_levels` takes them.

    Returns:
        For every number of levels the reconstruction, (samples,) float32, cut to the clip's length, and the seconds that
        encoding (all levels) and decoding (these) took.
    """
    started = time.perf_counter()
    codes = codec.encode(clip[None])
    encoding_seconds = time.perf_counter() - started
    results = {}
    for count in levels:
        started = time.perf_counter()
        estimate = codec.decode(codes[:, :count])[0, : clip.size(0)]
        results[count] = estimate, encoding_seconds + time.perf_counter() - started
    return results


def reconstruction_table(codec: Codec, clips: Iterable[Tensor], *, levels: Sequence[int]) -> list[ReconstructionRow]:
    """Reconstruct each clip from several numbers of levels, and measure.

    Args:
        codec: anything with the codec surface.
        clips: waveforms (samples,) at the codec's rate, of any lengths.
        levels: numbers of levels to keep, each 1 to `codec.levels`.

    Raises:
        ValueError: for a number of levels outside that range, or without clips.
    """
    check_levels(codec, levels)
    scores: dict[int, list[tuple[float, float]]] = {count: [] for count in levels}
    for clip in clips:
        for count, (estimate, _) in reconstruct(codec, clip, levels=levels).items():
            distance = mel_distance(estimate[None], clip[None], sample_rate_hz=codec.sample_rate_hz)
            scores[count].append((float(si_sdr(estimate[None], clip[None])), float(distance)))
    if not all(scores.values()):
        raise ValueError("no clips to reconstruct: the split is empty, or its iterator was used up")
    rows = []
    for count, pairs in scores.items():
        ratio, distance = torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()
        rows.append(ReconstructionRow(count, ratio, distance, clips=len(pairs)))
    return rows


def _check_pair(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape or estimate.ndim != 2:
        raise ValueError(
            f"expected two waveforms of one shape (batch, samples), got {tuple(estimate.shape)} and "
            f"{tuple(reference.shape)}. A codec's output is whole frames long: cut it to the input's samples."
        )
