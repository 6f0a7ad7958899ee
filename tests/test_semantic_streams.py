"""Statistics of all frames and a uniform sample of them, over one stream and over several processes."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.semantic.gathering import cpu_group, gather_frames
from audiolm.semantic.moments import FeatureMoments, usable_deviation
from audiolm.semantic.reservoir import MARGIN, FeatureReservoir, capacity_of_each


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


def filled(reservoir: FeatureReservoir, examples: Iterable[int]) -> FeatureReservoir:
    """Offers examples of 20 to 40 frames, whose values say which frame of which example they are."""
    for example in examples:
        frames = 20 + 7 * example % 21
        reservoir.add(1000.0 * example + torch.arange(frames)[:, None], example=example)
    return reservoir


def test_a_sample_does_not_depend_on_when_frames_are_thrown_away() -> None:
    """Of 30,000 frames the reservoir holds up to 1136 at a time, so that it has thrown away often: against all keys at once."""
    reservoir = filled(FeatureReservoir(100, seed=3), range(1000))
    everything = filled(FeatureReservoir(10**6, seed=3), range(1000))
    keys = everything.keys()[:, 0]
    expected = everything.sample()[keys <= keys.kthvalue(100).values]
    assert torch.equal(reservoir.sample(), expected)
    assert reservoir.seen == len(everything.sample())
    assert (reservoir.keys()[:, 0] < reservoir.bound).all()


def test_another_seed_gives_another_sample() -> None:
    one, two = (filled(FeatureReservoir(100, seed=seed), range(50)).sample() for seed in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("streams", [1, 2, 8])
def test_each_reservoir_has_room_for_what_a_fair_draw_may_ask_of_it(streams: int) -> None:
    for frames in (20, 1000, 100_000):
        kept = capacity_of_each(frames, streams=streams)
        share = frames / streams
        assert min(frames, share + MARGIN * share**0.5) <= kept <= frames


def _gather_rank(rank: int, folder: str, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = cpu_group()
    assert group is not None
    for frames in (10**5, 1000, 60):  # more than there are, more than a message's rows, few
        reservoir = filled(FeatureReservoir(capacity_of_each(frames, streams=2)), range(rank, 1500, 2))
        moments = of(reservoir.sample())
        gathered = gather_frames(reservoir, moments, heard=rank == 1, frames=frames, group=group)
        assert gathered.heard
        assert (gathered.sample is None) == (rank == 1)
        if gathered.sample is not None:
            assert torch.equal(gathered.sample, filled(FeatureReservoir(frames), range(1500)).sample())
    unlike = filled(FeatureReservoir(200), range(1500) if rank else range(1500, 1510))  # one has seen 150 times as much
    gathered = gather_frames(unlike, moments, heard=True, frames=300, group=group)
    if gathered.sample is not None:
        alone = filled(FeatureReservoir(300), range(1510))
        short = alone.sample()[alone.keys()[:, 0].argsort()[: len(gathered.sample)].sort().values]
        assert 200 <= len(gathered.sample) < 220
        assert torch.equal(gathered.sample, short)
    dist.destroy_process_group()


def test_two_processes_gather_the_sample_of_one_on_the_first(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_gather_rank, args=(str(tmp_path), port), nprocs=2)
