"""k-means keeps its promises: distinct starts, no empty clusters, faiss's own results, clear refusals."""

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from audiolm.semantic.kmeans import _distinct_frames, fit_kmeans
from audiolm.semantic.nearest import by_bf16, by_float32, searches


def speechlike(frames: int, dim: int, *, centres: int = 40, seed: int = 0) -> Tensor:
    """Frames around so many centres, of norms and distances like normalised features."""
    random = torch.Generator().manual_seed(seed)
    means = 0.7 * torch.randn(centres, dim, generator=random)
    picks = torch.randint(centres, (frames,), generator=random)
    return means[picks] + 0.7 * torch.randn(frames, dim, generator=random)


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_kmeans_is_as_good_as_faiss_from_the_same_start(engine: str) -> None:
    frames = speechlike(3000, 48)
    start = _distinct_frames(frames, 32, np.random.default_rng([5, 0]))
    theirs = faiss.Kmeans(48, 32, niter=10, seed=5, max_points_per_centroid=3000, min_points_per_centroid=1)
    theirs.train(frames.numpy(), init_centroids=start.numpy())
    ours = fit_kmeans(frames, clusters=32, iterations=10, seed=5, engine=engine)  # type: ignore[arg-type]
    distances = torch.cdist(frames.double(), torch.from_numpy(theirs.centroids).double()).min(1).values.square()
    # same start, same steps; bf16 may send frames that lie between two centroids the other way
    assert ours.distortion == pytest.approx(float(distances.mean()), rel=2e-3)


def test_distortion_and_nearest_are_those_of_a_loop() -> None:
    frames = speechlike(200, 7)
    result = fit_kmeans(frames, clusters=9, iterations=5)
    total = 0.0
    for frame, unit in zip(frames.double(), result.nearest, strict=True):
        distances = [float((frame - centroid).square().sum()) for centroid in result.centroids.double()]
        assert distances[int(unit)] == pytest.approx(min(distances), abs=1e-4)
        total += min(distances)
    assert result.distortion == pytest.approx(total / 200, rel=1e-4)


def test_iterations_and_restarts_lower_the_distortion_and_the_seed_decides() -> None:
    frames = speechlike(1500, 16)
    seen: list[float] = []
    first = fit_kmeans(frames, clusters=40, iterations=8, progress=lambda restart, iteration, error: seen.append(error))
    assert len(seen) == 8
    assert all(
        later <= earlier * (1 + 1e-4) for earlier, later in zip(seen, [*seen[1:], first.distortion], strict=True)
    )
    again = fit_kmeans(frames, clusters=40, iterations=8)
    assert torch.equal(first.centroids, again.centroids)
    other = fit_kmeans(frames, clusters=40, iterations=8, seed=1)
    assert not torch.equal(first.centroids, other.centroids)
    assert fit_kmeans(frames, clusters=40, iterations=8, restarts=4).distortion < first.distortion


def test_no_cluster_ends_empty_where_the_frames_allow_it() -> None:
    """30 different frames, one of them 970 times more: 30 clusters must find each."""
    frames = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([frames, frames[:1].expand(970, -1)])
    result = fit_kmeans(frames, clusters=30, iterations=4)
    assert result.empty == 0
    assert len(result.nearest.unique()) == 30
    assert result.distortion < 1e-6


def test_fewer_different_frames_than_clusters_are_refused_by_number() -> None:
    frames = torch.randn(5, 3).repeat(100, 1)
    with pytest.raises(ValueError, match="Only 5 of 500 feature frames differ.*6 clusters"):
        fit_kmeans(frames, clusters=6)
    frames[0, 0], frames[5, 0] = 0.0, -0.0  # equal numbers, unlike bytes
    with pytest.raises(ValueError, match="Only"):
        fit_kmeans(torch.tensor([[0.0], [-0.0], [0.0]]), clusters=2)


def test_kmeans_handles_more_clusters_than_fit_one_block() -> None:
    frames = torch.randn(6000, 4, generator=torch.Generator().manual_seed(0))
    result = fit_kmeans(frames, clusters=5000, iterations=2)
    assert result.centroids.shape == (5000, 4)
    assert result.empty == 0


def test_bf16_search_is_exact_but_for_near_ties() -> None:
    frames, centroids = speechlike(2000, 256), 0.8 * speechlike(64, 256, seed=1)
    exact, scores = by_float32(frames, centroids)
    near = scores + torch.randn(2000)  # what an iteration before would know
    rough, found = by_bf16(frames, centroids, near)
    loss = scores - (frames * centroids[rough]).sum(1) + centroids[rough].square().sum(1) / 2
    noise = 2**-8 * (frames.square() @ centroids.square().t()).sqrt().amax(1)  # two roundings of 2^-9 per product
    assert (loss < 6 * noise).all()
    assert (rough == exact).float().mean() > 0.97
    assert torch.allclose(found, scores, atol=float(6 * noise.max() + 0.05))


def test_without_a_score_before_the_search_is_exact() -> None:
    frames, centroids = speechlike(50, 8), speechlike(6, 8, seed=1)
    for search in (by_bf16, by_float32, *searches("faiss", 8)):
        nearest, score = search(frames, centroids, None)
        distances = torch.cdist(frames.double(), centroids.double())
        assert torch.equal(nearest, distances.argmin(1))
        expected = (frames.square().sum(1) - distances.min(1).values.square()) / 2
        assert torch.allclose(score, expected.float(), atol=1e-3)
