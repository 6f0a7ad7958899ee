"""k-means over features, by faiss."""

import warnings
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class KmeansResult:
    """Centroids (clusters, dim) float32, and the mean squared distance of the training features to their nearest one."""

    centroids: Tensor
    distortion: float


def fit_kmeans(
    features: Tensor, *, clusters: int, iterations: int = 20, restarts: int = 1, seed: int = 0
) -> KmeansResult:
    """Cluster features; all of them are used (faiss would subsample to 256 per centroid unless told).

    Args:
        features: (frames, dim) float32.

    Raises:
        ValueError: if there are fewer frames than clusters, or features are not finite.
    """
    if features.ndim != 2 or len(features) < clusters:
        raise ValueError(
            f"{len(features)} feature frames cannot make {clusters} clusters: at least one frame per cluster is needed, 50 "
            "or more are advisable. Lower `clusters`, or let the tokenizer stage read more audio."
        )
    array = np.ascontiguousarray(features.cpu().numpy(), dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError("Features contain NaN or infinity: a recording or the encoder is defective.")
    if len(array) < 39 * clusters:  # faiss's own threshold for a warning
        warnings.warn(f"{len(array)} frames for {clusters} clusters are few: expect noisy units.", stacklevel=2)
    kmeans = faiss.Kmeans(
        array.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(array),
        gpu=torch.cuda.is_available() and hasattr(faiss, "StandardGpuResources"),
    )
    kmeans.train(array)
    assert kmeans.centroids is not None, "train sets the centroids"
    assert kmeans.obj is not None, "train sets the objective"
    return KmeansResult(torch.from_numpy(kmeans.centroids.copy()), float(kmeans.obj[-1]) / len(array))
