"""Statistics of all frames and a uniform sample of them, over one stream and over several processes."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.semantic.gathering import cpu_group, gather_frames
from audiolm.semantic.moments import FeatureMoments, usable_deviation
from audiolm.semantic.reservoir import FeatureReservoir, capacity_of_each, merge_counts


@given(blocks=st.lists(st.integers(0, 30), min_size=1, max_size=8), offset=st.sampled_from([0.0, 1e4]))
@settings(max_examples=30, deadline=None)
def test_streamed_moments_are_those_of_all_frames_at_once(blocks: list[int], offset: float) -> None:
    frames = torch.randn(sum(blocks), 5, generator=torch.Generator().manual_seed(0)) + offset
    one, halves = FeatureMoments(5), [FeatureMoments(5), FeatureMoments(5)]
    for number, block in enumerate(frames.split(blocks)):
        one.add(block)
        halves[number % 2].add(block)
    halves[0].merge(FeatureMoments.from_tensor(halves[1].as_tensor()))
    for moments in (one, halves[0]):
        assert moments.count == len(frames)
        if len(frames):
            expected = frames.double()
            assert torch.allclose(moments.mean, expected.mean(0), rtol=1e-12, atol=1e-12)
            assert torch.allclose(moments.deviation, expected.std(0, unbiased=False), rtol=1e-9, atol=1e-9)


def test_features_that_are_not_finite_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="1 of 3 feature frames hold NaN"):
        FeatureMoments(2).add(torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [2.0, 1.0]]))


def of(frames: torch.Tensor) -> FeatureMoments:
    moments = FeatureMoments(frames.shape[1])
    moments.add(frames)
    return moments


def test_useless_features_are_refused_with_the_cause() -> None:
    varied = torch.randn(100, 3)
    with pytest.raises(ValueError, match="100 feature frames were seen, too few for 101 clusters"):
        usable_deviation(of(varied), heard=True, clusters=101)
    with pytest.raises(ValueError, match="silent"):
        usable_deviation(of(varied), heard=False, clusters=10)
    with pytest.raises(ValueError, match="All 100 feature frames are equal"):
        usable_deviation(of(torch.full((100, 3), 0.1)), heard=True, clusters=10)
    varied[:, 1] = 1e6 / 3
    with pytest.warns(UserWarning, match="1 of 3 feature dimensions never change"):
        deviation = usable_deviation(of(varied), heard=True, clusters=10)
    assert deviation[1] == 1
    assert deviation[0] == pytest.approx(float(varied[:, 0].std(unbiased=False)))


def test_a_merged_reservoir_is_uniform_over_streams_of_unlike_length() -> None:
    """Streams of 30, 90 and 0 frames, reservoirs of 50, samples of 24 in 1500 trials: every frame 300 times."""
    lengths, trials = (30, 90, 0), 1500
    hits = np.zeros(sum(lengths))
    pairs = np.zeros(trials)
    for trial in range(trials):
        streams, taken = [], []
        for number, frames in enumerate(torch.arange(120.0)[:, None].split(lengths)):
            reservoir = FeatureReservoir(50, seed=3 * trial + number)
            for block in frames.split(7) if len(frames) else ():
                reservoir.add(block)
            streams.append(reservoir)
        counts = merge_counts([s.seen for s in streams], [s.kept for s in streams], frames=10, seed=trial)
        for reservoir, count in zip(streams, counts, strict=True):
            if count:
                taken.append(reservoir.sample()[reservoir.choose(count)][:, 0].long().numpy())
        chosen = np.concatenate(taken)
        assert len(set(chosen)) == len(chosen) == 10
        hits[chosen] += 1
        pairs[trial] = (chosen < 30).sum()
    assert abs(hits - 125).max() < 5 * 11  # expected 1500 * 10 / 120 = 125, deviation 10.7
    # a share of its own size: hypergeometric with mean 2.5 and variance 10 * 1/4 * 3/4 * 110/119
    assert pairs.mean() == pytest.approx(2.5, abs=5 * np.sqrt(1.733 / trials))
    assert pairs.var() == pytest.approx(1.733, rel=0.2)


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_each_reservoir_has_room_for_what_a_fair_draw_may_ask_of_it(streams: int) -> None:
    for frames in (20, 1000, 100_000):
        kept = capacity_of_each(frames, streams=streams)
        assert kept <= frames
        seen = [10 * frames] * streams
        assert sum(merge_counts(seen, [kept] * streams, frames=frames)) == frames


def test_a_stream_far_longer_than_the_others_shortens_the_sample_instead_of_bending_it() -> None:
    counts = merge_counts([1_000_000, 1000], [5000, 1000], frames=10_000)
    assert 4000 < sum(counts) < 5000
    assert counts[1] < 25  # a thousandth of the sample, not a tenth


def test_a_sample_of_more_than_there_is_holds_everything() -> None:
    assert merge_counts([30, 0, 12], [30, 0, 12], frames=1000) == [30, 0, 12]


def _gather_rank(rank: int, folder: str, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = cpu_group()
    assert group is not None
    shares = []
    for trial in range(60):
        mine = torch.arange(400.0) if rank == 0 else torch.arange(400.0, 600.0)
        reservoir = FeatureReservoir(capacity_of_each(60, streams=2) + 90, seed=2 * trial + rank)
        moments = FeatureMoments(1)
        for block in mine[:, None].split(64):
            reservoir.add(block)
            moments.add(block)
        gathered = gather_frames(reservoir, moments, heard=rank == 1, frames=60, group=group, seed=trial)
        assert gathered.heard
        assert gathered.moments.count == 600
        assert torch.allclose(gathered.moments.deviation[0], torch.arange(600.0).double().std(unbiased=False))
        assert (gathered.sample is None) == (rank == 1)
        if gathered.sample is not None:
            values = gathered.sample[:, 0]
            assert len(values.unique()) == len(values) == 60
            assert values.min() >= 0
            assert values.max() < 600
            shares.append(float((values < 400).float().mean()))
    torch.save((torch.tensor(shares), gathered.moments.as_tensor()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_gather_one_uniform_sample_on_the_first(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_gather_rank, args=(str(tmp_path), port), nprocs=2)
    (shares, ours), (_, theirs) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(ours, theirs)
    # 400 of 600 frames are the first process's; the mean of 60 samples of 60 deviates by sqrt(2/9 / 60 / 60) = 0.008
    assert float(shares.mean()) == pytest.approx(2 / 3, abs=0.04)
