"""Distances between frames and between items equal the slow ones, ties and silent frames included."""

import itertools

import pytest
import reference_abx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiolm.evaluation import abx_pairs
from audiolm.evaluation.abx_distances import DISTANCES, Distance, frame_distances, unit_frames, warped_distances
from audiolm.evaluation.abx_pairs import ItemDistances, batches


def warped(distances: Tensor, rows: list[int], columns: list[int]) -> list[float]:
    """`warped_distances` of (pairs, height, width), as it is used within a flat tensor."""
    pairs, height, width = distances.shape
    row_places = torch.arange(pairs) * height * width + torch.arange(height)[:, None] * width
    column_places = torch.arange(width)[:, None].expand(width, pairs)
    counts = torch.tensor(rows), torch.tensor(columns)
    return warped_distances(distances.flatten(), row_places, column_places, *counts).tolist()


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([[3.0]], 3.0),
        ([[1.0, 2.0, 3.0]], 2.0),  # one row: all of its cells
        ([[1.0], [5.0]], 3.0),
        ([[1.0, 9.0], [9.0, 1.0]], 1.0),  # straight
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),  # around the corner costs as much as straight, but has three cells
        ([[0.0, 9.0, 9.0], [0.0, 0.0, 9.0], [0.0, 9.0, 1.0], [9.0, 1.0, 1.0]], 2 / 5),  # before the end two ways cost 1
        ([[0.0, 0.0, 0.0, 9.0], [9.0, 0.0, 9.0, 1.0], [9.0, 9.0, 1.0, 1.0]], 2 / 4),  # the same the other way round
    ],
)
def test_warping_by_hand(distances: list[list[float]], expected: float) -> None:
    assert warped(torch.tensor([distances]), [len(distances)], [len(distances[0])]) == [pytest.approx(expected)]
    assert reference_abx.warp(distances) == pytest.approx(expected)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_warping_a_batch_of_any_lengths_equals_tracing_back(data: st.DataObject) -> None:
    pairs = data.draw(st.integers(1, 4))
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    rows = [data.draw(st.integers(1, height)) for _ in range(pairs)]
    columns = [data.draw(st.integers(1, width)) for _ in range(pairs)]
    values = data.draw(st.lists(st.integers(0, 3), min_size=pairs * height * width, max_size=pairs * height * width))
    distances = torch.tensor(values, dtype=torch.float64).view(pairs, height, width)  # small integers: ties abound
    expected = [
        reference_abx.warp(distances[pair, :row, :column].tolist())
        for pair, (row, column) in enumerate(zip(rows, columns, strict=True))
    ]
    assert warped(distances, rows, columns) == expected


@pytest.mark.parametrize("distance", DISTANCES)
def test_frame_distances_equal_their_formulas_silent_frames_included(distance: Distance) -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.rand(4, 3, generator=random, dtype=torch.float64) for _ in range(2))
    left[1] = right[2] = 0
    right[3] = 5 * left[3]
    if distance == "cosine":
        left[0] *= -1
    expected = [[reference_abx.frame_distance(p, q, distance) for q in right.tolist()] for p in left.tolist()]
    found = frame_distances(unit_frames(left), unit_frames(right), distance)
    assert torch.allclose(
        found, torch.tensor(expected, dtype=torch.float64), atol=3e-8
    )  # acos near 1 doubles no digits
    if distance == "cosine":
        assert found[1].tolist() == [1, 1, 0, 1]
        assert found[:, 2].tolist() == [1, 0, 1, 1]


@given(
    rows=st.lists(st.integers(1, 40), min_size=0, max_size=60),
    cells=st.integers(1, 3000),
    seed=st.integers(0, 9),
)
def test_batches_hold_every_pair_once_and_stay_near_their_size(rows: list[int], cells: int, seed: int) -> None:
    lengths = torch.tensor(rows, dtype=torch.int64)
    columns = torch.randint(1, 41, lengths.shape, generator=torch.Generator().manual_seed(seed))
    parts = list(batches(lengths, columns, cells=cells))
    assert sorted(torch.cat(parts).tolist() if parts else []) == list(range(len(rows)))
    for part in parts:
        assert len(part) == 1 or int((lengths * columns)[part].sum()) < cells + 1600


def test_many_pairs_are_batched_with_little_padding() -> None:
    rows, columns = torch.randint(4, 16, (2, 100_000), generator=torch.Generator().manual_seed(0))
    padded = sum(
        len(part) * int(rows[part].max() * columns[part].max()) for part in batches(rows, columns, cells=2**14)
    )
    assert padded < 1.15 * int((rows * columns).sum())


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("few_different", [False, True])
def test_item_distances_equal_the_slow_ones(
    distance: Distance, few_different: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(abx_pairs.BATCH_CELLS, "cpu", 50)
    random = torch.Generator().manual_seed(0)
    frames = torch.rand(40, 3, generator=random)
    if few_different:
        frames = frames[torch.randint(5, (40,), generator=random)]
    frames[7] = 0
    starts, lengths = torch.tensor([3, 0, 20, 18, 5]), torch.tensor([4, 1, 9, 22, 3])
    distances = ItemDistances(frames, starts, lengths, distance=distance)
    assert (distances.table is not None) == few_different
    compared = [(range(0, 2), range(1, 5)), (range(4, 5), range(0, 3)), (range(0, 5), range(0, 5))]
    slices = [frames[start : start + count].tolist() for start, count in zip(starts, lengths, strict=True)]
    expected = [
        reference_abx.item_distance(slices[x], slices[y], distance) for xs, ys in compared for x in xs for y in ys
    ]
    assert torch.allclose(distances(compared), torch.tensor(expected, dtype=torch.float64), atol=3e-8)


@pytest.mark.parametrize("different", [6, 5000])
def test_equal_items_are_equally_far_to_the_last_bit(different: int) -> None:
    centroids = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    word, other = [0, 3, 3, 5], [1, 3, 2, 5, 4]
    frames = centroids[word + other + word + other + word]
    starts, lengths = torch.tensor([0, 4, 9, 13, 18]), torch.tensor([4, 5, 4, 5, 4])
    others = torch.randn(different - 6, 64)  # many: so that there is no table of distances
    frames = torch.cat([frames, others])
    starts, lengths = torch.cat([starts, torch.tensor([22])]), torch.cat([lengths, torch.tensor([len(others)])])
    distances = ItemDistances(frames, starts, lengths, distance="cosine")
    assert (distances.table is None) == (different > 6)
    found = distances([(range(5), range(5))]).view(5, 5)
    assert found[0, 2] == found[2, 4] == found[0, 4] == 0
    assert len({float(found[x, y]) for x in (0, 2, 4) for y in (1, 3)}) == 1


def test_the_order_of_steps_does_not_decide_a_tie() -> None:
    x, *steps = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    orders = list(itertools.permutations(steps))  # from four frames x each is at the same distance, up to rounding
    frames = torch.stack([x] * 4 + [frame for order in orders for frame in order])
    lengths = torch.full((1 + len(orders),), 4)
    found = ItemDistances(frames, lengths.cumsum(0) - 4, lengths, distance="cosine")
    assert len(set(found([(range(1), range(1, 1 + len(orders)))]).tolist())) == 1


def test_divergences_of_negative_features_are_refused() -> None:
    one = torch.tensor([1])
    with pytest.raises(ValueError, match="some features are negative"):
        ItemDistances(torch.tensor([[0.5, -0.5]]), one - 1, one, distance="kl")
