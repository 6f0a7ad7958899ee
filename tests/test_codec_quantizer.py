"""Residual vector quantization: gradients, averages, initialisation, dead entries, dropout, several processes."""

import copy
import math
from pathlib import Path

import pytest
import reference
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from audiolm.codec.quantizer import ResidualQuantizer, kmeans, nearest, perplexity


def ready_quantizer(
    *, levels: int = 3, size: int = 8, dim: int = 4, dead_fraction: float = 0.0, dropout: float = 0.0, seed: int = 0
) -> ResidualQuantizer:
    torch.manual_seed(seed)
    quantizer = ResidualQuantizer(
        levels=levels, codebook_size=size, dim=dim, decay=0.9, dead_fraction=dead_fraction, dropout=dropout
    )
    quantizer.codebooks.normal_()
    quantizer.ema_counts.fill_(1.0)
    quantizer.ema_sums.copy_(quantizer.codebooks)
    quantizer.initialised.fill_(True)
    return quantizer


@pytest.mark.parametrize("active", [1, 2, 3])
def test_gradient_passes_unchanged_whatever_the_number_of_levels(active: int) -> None:
    """Without detaching the quantised part of a residual, every level after the first would cancel the gradient."""
    quantizer = ready_quantizer().eval()
    latents, weight = torch.randn(2, 4, 5, requires_grad=True), torch.randn(2, 4, 5)
    output = quantizer(latents, active_levels=torch.full((2,), active))
    (output.latents * weight).sum().backward()
    torch.testing.assert_close(latents.grad, weight)


def test_output_is_the_sum_of_the_entries_of_the_active_levels_per_example() -> None:
    quantizer, active = ready_quantizer().eval(), torch.tensor([1, 3, 2])
    latents = torch.randn(3, 4, 6)
    output = quantizer(latents, active_levels=active)
    for row, levels in enumerate(active.tolist()):
        assert (output.codes[row, :levels] >= 0).all()
        assert (output.codes[row, levels:] == -1).all()
        expected = quantizer.decode(output.codes[row : row + 1, :levels])
        torch.testing.assert_close(output.latents[row : row + 1], expected, rtol=1e-5, atol=1e-5)  # z - (z - q) rounds


def test_encode_agrees_with_a_loop_over_frames_and_levels() -> None:
    quantizer, latents = ready_quantizer(), torch.randn(2, 4, 7)
    codes = quantizer.encode(latents)
    assert torch.equal(codes, reference.residual_codes(latents, quantizer.codebooks))
    assert torch.equal(codes, quantizer.eval()(latents).codes)


def test_moving_averages_agree_with_a_loop() -> None:
    quantizer, active = ready_quantizer(), torch.tensor([3, 1])
    counts, sums = quantizer.ema_counts.clone(), quantizer.ema_sums.clone()
    latents = torch.randn(2, 4, 10)
    codebooks = reference.ema_step(latents, quantizer.codebooks, counts, sums, active=active, decay=0.9)
    quantizer(latents, active_levels=active)
    torch.testing.assert_close(quantizer.ema_counts, counts)
    torch.testing.assert_close(quantizer.ema_sums, sums)
    torch.testing.assert_close(quantizer.codebooks, codebooks)


def test_a_level_without_frames_keeps_its_averages() -> None:
    quantizer = ready_quantizer()
    before = copy.deepcopy(quantizer)
    quantizer(torch.randn(2, 4, 10), active_levels=torch.tensor([1, 2]))
    assert not torch.equal(quantizer.codebooks[:2], before.codebooks[:2])
    assert torch.equal(quantizer.codebooks[2], before.codebooks[2])
    assert torch.equal(quantizer.ema_counts[2], before.ema_counts[2])


def test_evaluation_learns_nothing() -> None:
    quantizer = ready_quantizer(dead_fraction=0.5).eval()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(torch.randn(2, 4, 10))
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_latents_that_are_not_finite_leave_the_codebooks_sound() -> None:
    quantizer = ready_quantizer(dead_fraction=0.5)
    before = quantizer.codebooks.clone()
    quantizer(torch.full((1, 4, 10), math.nan))
    assert torch.equal(quantizer.codebooks, before)


def test_statistics_are_float32_under_autocast() -> None:
    latents = torch.randn(2, 4, 10)
    exact, mixed = ready_quantizer(), ready_quantizer()
    exact(latents)
    with torch.autocast("cpu", torch.bfloat16):
        mixed(latents)
    assert torch.equal(exact.codebooks, mixed.codebooks)


def test_active_levels_are_drawn_per_example_and_uniformly() -> None:
    quantizer = ready_quantizer(dropout=1.0)
    codes = quantizer(torch.randn(600, 4, 1)).codes
    drawn = (codes[..., 0] >= 0).sum(1).bincount(minlength=4)
    assert drawn[0] == 0
    assert (drawn[1:] > 150).all()  # 200 expected of each, deviation 11.5
    full = ready_quantizer(dropout=0.5)(torch.randn(600, 4, 1)).codes
    assert 340 < (full[:, 2, 0] >= 0).sum() < 460  # half plus a third of the other half: 400, deviation 11.5


def test_until_the_pool_is_full_latents_pass_unquantised_and_then_kmeans_starts_from_distinct_frames() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(levels=2, codebook_size=8, dim=4, pool_frames=64)
    for step in range(4):
        assert not quantizer.ready
        assert len(quantizer.pool) == 20 * step
        latents = torch.randn(2, 4, 10)
        output = quantizer(latents)
        assert torch.equal(output.latents, latents)
        assert (output.codes == -1).all()
    assert quantizer.ready
    assert len(quantizer.pool) == 0
    for codebook in quantizer.codebooks:
        assert len(codebook.unique(dim=0)) == 8
    torch.testing.assert_close(quantizer.ema_counts.sum(1), torch.tensor([20.0, 20.0]))  # frames of a step


def test_kmeans_uses_distinct_vectors_even_if_most_frames_are_equal() -> None:
    frames = torch.cat([torch.zeros(500, 2), torch.randn(10, 2)])
    centroids, _ = kmeans(frames, 11)
    assert len(centroids.unique(dim=0)) == 11
    torch.testing.assert_close(centroids[nearest(frames, centroids)], frames)


def test_kmeans_of_fewer_distinct_vectors_than_clusters_stays_finite_and_distinct() -> None:
    centroids, _ = kmeans(torch.zeros(100, 3), 8)
    assert centroids.isfinite().all()
    assert centroids.abs().max() < 1e-4


def test_kmeans_finds_separate_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    frames = (centres.repeat_interleave(50, 0) + 0.1 * torch.randn(150, 2))[torch.randperm(150)]
    best = min((kmeans(frames, 3)[0] for _ in range(5)), key=lambda c: float(torch.cdist(frames, c).amin(1).sum()))
    assert torch.cdist(centres, best).amin(1).max() < 0.1


def test_an_entry_below_a_fraction_of_the_mean_use_is_replaced_by_a_frame_of_the_batch() -> None:
    quantizer = ready_quantizer(levels=1, dead_fraction=0.1)
    quantizer.codebooks[0, 3] = 1000.0
    quantizer.ema_sums[0, 3] = 1000.0
    latents = torch.randn(2, 4, 50)
    for _ in range(40):
        if float(quantizer.codebooks[0, 3].abs().max()) < 100:
            break
        quantizer(latents)
    frames = latents.transpose(1, 2).reshape(-1, 4)
    assert torch.cdist(quantizer.codebooks[0, 3:4], frames).min() < 1e-6
    assert quantizer.ema_counts[0, 3] > 0.1 * quantizer.ema_counts[0].mean()


def test_dead_entries_get_different_frames_and_no_more_than_there_are() -> None:
    quantizer = ready_quantizer(levels=1, dead_fraction=0.5)
    quantizer.ema_counts[0, 1:] = 0.0
    quantizer.ema_sums[0, 1:] = 0.0
    quantizer.codebooks[0, 1:] = 1000.0 + torch.arange(7.0)[:, None]
    quantizer(torch.randn(1, 4, 3))
    moved = quantizer.codebooks[0, 1:][quantizer.codebooks[0, 1:, 0] < 500]
    assert len(moved) == 3
    assert len(moved.unique(dim=0)) == 3


def test_perplexity_counts_the_entries_in_effective_use() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [0, 0, 0, 0], [10, 10, 0, 0]])
    torch.testing.assert_close(perplexity(counts), torch.tensor([4.0, 1.0, 1.0, 2.0]))
    quantizer = ready_quantizer(levels=1)
    quantizer(torch.randn(2, 4, 10))
    assert quantizer.usage.sum() == 20
    quantizer.reset_usage()
    assert quantizer.usage.sum() == 0


@pytest.mark.parametrize("steps_before", [2, 6])
def test_resuming_equals_not_stopping_while_collecting_and_after(steps_before: int) -> None:
    torch.manual_seed(0)
    batches = torch.randn(10, 2, 4, 10)
    whole = ResidualQuantizer(levels=2, codebook_size=8, dim=4, pool_frames=64)
    resumed = ResidualQuantizer(levels=2, codebook_size=8, dim=4, pool_frames=64)
    for step, latents in enumerate(batches):
        if step == steps_before:
            resumed.load_state_dict(whole.state_dict())
        torch.manual_seed(step)  # as a stage does
        whole(latents)
        if step >= steps_before:
            torch.manual_seed(step)
            resumed(latents)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def _train_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    quantizer = ResidualQuantizer(levels=2, codebook_size=8, dim=4, decay=0.8, dead_fraction=0.3, pool_frames=64)
    for step in range(12):  # initialises at the second step; dead entries appear
        latents = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(2 * step + rank))
        torch.manual_seed(step)  # as a stage does
        quantizer(latents)
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_codebooks_are_equal_on_two_processes(tmp_path: Path) -> None:
    mp.spawn(_train_two_ranks, args=(str(tmp_path),), nprocs=2)
    states: list[dict[str, Tensor]] = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert states[0]["initialised"]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
