"""Fréchet distance between Gaussians that are fitted to log-mel frames."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from audiolm.codec.losses import mel_spectrogram

MEL_BINS, MEL_WINDOW = 64, 1024  # samples, at the rate of analysis
LOG_FLOOR = 1e-5


@dataclass(frozen=True)
class Gaussian:
    """Mean (dim,) and covariance (dim, dim), float64, of so many vectors."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    vectors: int


def log_mel_frames(audio: NDArray[np.float32], *, sample_rate_hz: int) -> NDArray[np.float64]:
    """(frames, 64): natural logarithms of magnitude mel spectra; windows of 1024 samples, a quarter apart, inside the audio."""
    if len(audio) < MEL_WINDOW:
        return np.zeros((0, MEL_BINS))
    wave = torch.from_numpy(np.ascontiguousarray(audio))[None]
    mel = mel_spectrogram(wave, sample_rate_hz=sample_rate_hz, window=MEL_WINDOW, bins=MEL_BINS)
    return torch.log(mel[0, :, 2:-2] + LOG_FLOOR).double().numpy().T  # the outermost reach beyond the ends


def fit(parts: Iterable[NDArray[np.float64]]) -> Gaussian:
    """Fit a Gaussian to the rows of several matrices (vectors, dim), one matrix in memory at a time.

    Raises:
        ValueError: if there are fewer than two vectors.
    """
    count, total, products = 0, np.zeros(0), np.zeros(0)
    shift = np.zeros(0)  # the first part's mean: sums of squares about it lose no digits
    for part in parts:
        if not len(part):
            continue
        if not count:
            shift = part.mean(0)
            total, products = np.zeros_like(shift), np.zeros((len(shift), len(shift)))
        centred = part - shift
        count, total, products = count + len(part), total + centred.sum(0), products + centred.T @ centred
    if count < 2:
        raise ValueError(f"a Gaussian is fitted to at least 2 vectors, got {count}: the audio is too short")
    mean = total / count
    return Gaussian(mean + shift, (products - count * np.outer(mean, mean)) / (count - 1), count)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), in float64; 0 for equal Gaussians.

    The trace of the root is that of (C1^½ C2 C1^½)^½, symmetric, so that both roots are taken by `eigh`; eigenvalues that
    rounding makes negative count as 0.

    Raises:
        ValueError: if their dimensions differ.

    Source: Dowson and Landau (1982); as Fréchet Audio Distance (arXiv 1812.08466), but of log-mel frames instead of VGGish
    embeddings, so not comparable with published figures.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"Gaussians of {len(one.mean)} and {len(other.mean)} dimensions cannot be compared")
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root @ other.covariance @ root
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
    apart = np.square(one.mean - other.mean).sum()
    return max(0.0, float(apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * trace))
