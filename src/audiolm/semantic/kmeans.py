"""k-means over features: Lloyd's algorithm on all of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.semantic.nearest import Engine, Search, searches

SCORES_AT_ONCE = 2**24  # frames times clusters: 64 MB of distances in memory at a time
FEW_FRAMES = 39  # per cluster: where faiss warns as well
REPAIRS = 20  # rounds; each leaves fewer clusters empty, one or two are usual


@dataclass(frozen=True)
class KmeansResult:
    """What k-means found.

    Attributes:
        centroids: (clusters, dim) float32.
        nearest: (frames,) int64, the centroid that each training frame is nearest to.
        distortion: mean squared distance of the training frames to their nearest centroid.
        empty: clusters that no training frame is nearest to; 0 unless the frames are nearly all alike.
    """

    centroids: Tensor
    nearest: Tensor
    distortion: float
    empty: int


def fit_kmeans(
    features: Tensor,
    *,
    clusters: int,
    iterations: int = 20,
    restarts: int = 1,
    seed: int = 0,
    engine: Engine = "auto",
    progress: Callable[[int, int, float], None] = lambda restart, iteration, distortion: None,
) -> KmeansResult:
    """Cluster features; all of them are used in every iteration (faiss's own would subsample to 256 per centroid).

    A restart begins from other frames drawn at random; the one with the least distortion is kept. A cluster that loses all
    its frames is moved to a frame drawn with a probability proportional to its squared distance, as k-means++ draws.
    During the iterations a CPU with bf16 matrix units multiplies in bf16: frames about equally far from two centroids may
    then go to either. The result is assigned and measured in float32.

    Args:
        features: (frames, dim) float32 on the CPU; not copied.
        engine: who searches: see `audiolm.semantic.nearest.searches`.
        progress: called after every iteration with (restart, iteration, distortion before its update).

    Raises:
        ValueError: if there are fewer frames, or fewer different frames, than clusters, or features are not finite.

    Source: AudioLM, section IV-B uses k-means without further words; this is Lloyd's.
    """
    _check(features, clusters)
    squares = torch.cat([chunk.square().sum(1) for chunk in features.split(_chunk_frames(clusters))])
    quick, exact = searches(engine, features.shape[1])
    best: KmeansResult | None = None
    for restart in range(restarts):
        random = np.random.default_rng([seed, restart])
        centroids = _distinct_frames(features, clusters, random)
        distances: Tensor | None = None
        for iteration in range(iterations):
            nearest, distances = _assign(features, squares, centroids, quick, before=distances)
            progress(restart, iteration, float(distances.mean(dtype=torch.float64)))
            counts = torch.bincount(nearest, minlength=clusters)
            centroids = _means(features, nearest, counts, centroids)
            _move_empty(centroids, counts, features, distances, random)
        result = _repaired(features, squares, centroids, exact, random)
        if best is None or result.distortion < best.distortion:
            best = result
    assert best is not None, "restarts is at least 1"
    if best.empty:
        warnings.warn(f"{best.empty} of {clusters} clusters are empty: the frames are too much alike.", stacklevel=2)
    return best


def _check(features: Tensor, clusters: int) -> None:
    if features.ndim != 2 or len(features) < clusters:
        raise ValueError(
            f"{len(features)} feature frames cannot make {clusters} clusters: at least one frame per cluster is needed, 50 "
            "or more are advisable. Lower `clusters`, or let the tokenizer stage read more audio."
        )
    if not all(bool(torch.isfinite(chunk).all()) for chunk in features.split(_chunk_frames(clusters))):
        raise ValueError("Features contain NaN or infinity: a recording or the encoder is defective.")
    if len(features) < FEW_FRAMES * clusters:
        warnings.warn(f"{len(features)} frames for {clusters} clusters are few: expect noisy units.", stacklevel=3)


def _distinct_frames(features: Tensor, clusters: int, random: np.random.Generator) -> Tensor:
    """Frames (clusters, dim) drawn at random, no two alike."""
    order, drawn = random.permutation(len(features)), clusters
    while True:
        candidates = features[torch.from_numpy(order[:drawn])].numpy() + 0.0  # the sum turns -0 into 0: equal bytes
        whole = candidates.view(np.dtype((np.void, candidates.strides[0]))).ravel()
        _, first = np.unique(whole, return_index=True)
        if len(first) >= clusters:
            return torch.from_numpy(candidates[np.sort(first)[:clusters]])
        if drawn >= len(features):
            raise ValueError(
                f"Only {len(first)} of {len(features)} feature frames differ: they cannot make {clusters} clusters. Are most "
                "recordings silent, or copies of each other? Lower `clusters`, or use other recordings."
            )
        drawn *= 2


def _assign(
    features: Tensor, squares: Tensor, centroids: Tensor, search: Search, *, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The nearest centroid and the squared distance to it, (frames,) each; `before`: the distances an iteration ago."""
    nearest, distances = torch.empty(len(features), dtype=torch.int64), torch.empty(len(features))
    size = _chunk_frames(len(centroids))
    for start in range(0, len(features), size):
        part = slice(start, start + size)
        scores = None if before is None else (squares[part] - before[part]) / 2
        nearest[part], score = search(features[part], centroids, scores)
        distances[part] = squares[part] - 2 * score
    return nearest, distances.clamp_(min=0)


def _means(features: Tensor, nearest: Tensor, counts: Tensor, centroids: Tensor) -> Tensor:
    """The mean of every cluster's frames; an empty one stays where it is."""
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    size = _chunk_frames(len(centroids))
    for chunk, ids in zip(features.split(size), nearest.split(size), strict=True):
        ends = torch.bincount(ids, minlength=len(centroids)).cumsum(0)
        starts = F.pad(ends[:-1], (1, 0))
        sums += F.embedding_bag(ids.argsort(), chunk, starts, mode="sum")  # ten times faster than index_add
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centroids).float()


def _move_empty(
    centroids: Tensor, counts: Tensor, features: Tensor, distances: Tensor, random: np.random.Generator
) -> None:
    """Put empty clusters' centroids on frames that are badly served, in place."""
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        weights = distances.double().numpy()
        movable = empty[: int(np.count_nonzero(weights))]
        if len(movable):
            chosen = random.choice(len(features), size=len(movable), replace=False, p=weights / weights.sum())
            centroids[movable] = features[torch.from_numpy(chosen)]


def _repaired(
    features: Tensor, squares: Tensor, centroids: Tensor, search: Search, random: np.random.Generator
) -> KmeansResult:
    """Assign in full precision; what is empty then is moved until nothing is: used centroids stay where they are."""
    for _ in range(REPAIRS):
        nearest, distances = _assign(features, squares, centroids, search)
        counts = torch.bincount(nearest, minlength=len(centroids))
        if bool(counts.all()):
            break
        _move_empty(centroids, counts, features, distances, random)
    empty = int((counts == 0).sum())
    return KmeansResult(centroids, nearest, float(distances.mean(dtype=torch.float64)), empty)


def _chunk_frames(clusters: int) -> int:
    return max(256, min(16384, SCORES_AT_ONCE // clusters))
