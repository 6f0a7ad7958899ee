"""ABX figures equal those of loops over the rules; what is drawn is drawn alike every time."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import reference_abx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from audiolm.evaluation import abx_cells
from audiolm.evaluation.abx import AbxSettings, measure_abx
from audiolm.evaluation.abx_distances import Distance
from audiolm.evaluation.abx_items import Context, Item
from audiolm.evaluation.abx_speed import measure_abx_speed
from audiolm.evaluation.abx_tasks import SPEAKERS, Speakers, comparisons, group_items


def made_up(*, count: int, seed: int, codebook: int | None = None) -> tuple[list[Item], dict[str, Tensor]]:
    """Items of 3 phones, 2 contexts, 3 speakers on noise at 50 Hz; or with `codebook` on few different frames."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    features = {f"file{number}": torch.randn(60, 5, generator=generator) for number in range(4)}
    if codebook:
        entries = torch.randn(codebook, 5, generator=generator)
        features = {
            stem: entries[torch.randint(codebook, (60,), generator=generator)].repeat_interleave(2, 0)[:60]
            for stem in features
        }
    items = []
    for _ in range(count):
        onset = Fraction(int(random.integers(0, 10000)), 10000)
        offset = onset + Fraction(int(random.integers(100, 1500)), 10000)
        names = (f"P{random.integers(3)}", f"L{random.integers(2)}", "R", f"s{random.integers(3)}")
        items.append(Item(f"file{random.integers(4)}", onset, offset, *names))
    return items, features


def as_row(item: Item) -> reference_abx.Row:
    times = (f"{float(time):.4f}" for time in (item.onset, item.offset))
    return (item.file, *times, item.phone, item.previous, item.next, item.speaker)  # type: ignore[return-value]


@pytest.mark.parametrize("codebook", [None, 4])
@pytest.mark.parametrize(("distance", "libri_light"), [("cosine", False), ("cosine", True), ("euclidian", False)])
def test_the_whole_figure_equals_loops_over_the_rules(
    codebook: int | None, distance: Distance, libri_light: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(abx_cells.FRAME_DISTANCES_AT_ONCE, "cpu", 300)  # several chunks
    monkeypatch.setattr(abx_cells, "TRIPLES_AT_ONCE", 50)
    items, features = made_up(count=50, seed=1, codebook=codebook)
    rule = "libri-light" if libri_light else "corrected"
    result = measure_abx(
        items,
        features.__getitem__,
        rate_hz=50,
        settings=AbxSettings(distance=distance, frames=rule, max_size_group=50, max_x_across=50),
    )
    rows, lists = [as_row(item) for item in items], {stem: matrix.tolist() for stem, matrix in features.items()}
    assert result.dropped > 0  # some items of 10 ms lie between the centres of two frames
    for score in result.scores:
        error, triples = reference_abx.abx(
            rows,
            lists,
            rate_hz=50,
            across=score.speakers == "across",
            within_context=score.context == "within",
            distance=distance,
            libri_light=libri_light,
        )
        assert score.triples == triples > 0
        assert score.error == pytest.approx(error, abs=1e-6)
        assert score.triples == sum(pair.triples for pair in score.pairs)


@given(seed=st.integers(0, 10_000), codebook=st.sampled_from([None, 2, 30]), count=st.integers(2, 25))
@settings(max_examples=25, deadline=None)
def test_figures_of_any_few_items_equal_the_slow_ones(seed: int, codebook: int | None, count: int) -> None:
    items, features = made_up(count=count, seed=seed, codebook=codebook)
    rows, lists = [as_row(item) for item in items], {stem: matrix.tolist() for stem, matrix in features.items()}
    chosen = AbxSettings(contexts=("any",), max_size_group=50, max_x_across=50)
    for score in measure_abx(items, features.__getitem__, rate_hz=50, settings=chosen).scores:
        across = score.speakers == "across"
        error, triples = reference_abx.abx(rows, lists, rate_hz=50, across=across, within_context=False)
        assert (score.error, score.triples) == (pytest.approx(error, abs=1e-6), triples)


def placed(*groups: tuple[str, str, list[float]]) -> tuple[list[Item], dict[str, Tensor]]:
    """Items of one frame each, which is an angle: (phone, speaker, degrees of its items)."""
    items, frames = [], []
    for phone, speaker, degrees in groups:
        for angle in degrees:
            times = Fraction(len(frames), 10), Fraction(len(frames) + 1, 10)
            items.append(Item("all", *times, phone, "L", "R", speaker))
            frames.append([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    return items, {"all": torch.tensor(frames)}


def test_figures_by_hand() -> None:
    items, features = placed(
        ("P", "anna", [0, 10]), ("Q", "anna", [30, 90]), ("P", "ben", [80]), ("Q", "ben", [95, 100, 60])
    )
    result = measure_abx(items, features.__getitem__, rate_hz=10, settings=AbxSettings(contexts=("any",)))
    within, across = (result.score("any", speakers) for speakers in SPEAKERS)
    errors = {(pair.phone_a, pair.phone_b): pair.error for pair in within.pairs}
    # anna's P are 10 apart, her Q 20 and more away. From her Q at 30 both P are nearer than her Q at 90, from 90 none is:
    # 60 away against 80 and 90. Ben has one P, so only his Q are A: of x and a, 95 and 100 are nearer to each other than to
    # the P at 80, both ways; 60 is not.
    assert errors["P", "Q"] == 0
    ben = 1 - 2 / 6
    assert errors["Q", "P"] == pytest.approx((0.5 + ben) / 2)
    assert within.error == pytest.approx((errors["P", "Q"] + errors["Q", "P"]) / 2)
    assert within.speaker_errors == {"anna": pytest.approx(0.25), "ben": pytest.approx(ben)}
    assert within.triples == 2 * 1 * 2 + 2 * 1 * 2 + 3 * 2 * 1
    assert across.triples == 1 * 2 * 2 + 3 * 2 * 2 + 2 * 1 * 3 + 2 * 3 * 1


def test_a_single_speaker_has_no_figure_across_and_no_interval() -> None:
    items, features = placed(("P", "anna", [0, 10]), ("Q", "anna", [30, 40]))
    result = measure_abx(items, features.__getitem__, rate_hz=10)
    for context in ("within", "any"):
        assert result.score(context, "within").error is not None
        assert result.score(context, "within").interval is None
        assert result.score(context, "across").error is None
        assert result.score(context, "across").triples == 0


def test_what_cannot_be_told_apart_scores_one_half() -> None:
    items, _ = made_up(count=60, seed=0)
    result = measure_abx(items, lambda stem: torch.ones(60, 5), rate_hz=50)
    assert {score.error for score in result.scores} == {0.5}
    assert result.score("any", "across").interval == (0.5, 0.5)


def test_the_interval_surrounds_the_error_and_narrows_with_speakers() -> None:
    widths = []
    for speakers in (4, 40):
        score = measure_abx_speed(speakers=speakers, contexts=3, repetitions=3).score("within", "across")
        assert score.interval is not None
        assert score.interval[0] < score.error < score.interval[1]
        widths.append(score.interval[1] - score.interval[0])
    assert widths[1] < widths[0] / 2


def test_large_groups_are_drawn_from_and_drawn_alike_whatever_else_is_measured() -> None:
    items, _ = made_up(count=300, seed=0)

    def drawn(some: list[Item], seed: int) -> dict[tuple[object, ...], list[Item]]:
        groups = group_items(some, context="any", max_size_group=10, seed=seed)
        return {group[:3]: [some[i] for i in groups.order[group.start : group.end]] for group in groups.groups}

    first = drawn(items, 3459)
    assert {len(members) for members in first.values()} == {10}
    assert drawn(items, 3459) == first
    assert drawn(items, 1) != first
    fewer = drawn([item for item in items if item.phone != "P0"], 3459)
    assert fewer == {key: members for key, members in first.items() if key[2] != "P0"}


@pytest.mark.parametrize("speakers", SPEAKERS)
def test_x_is_of_the_speaker_and_of_as_many_others_as_asked_for(speakers: Speakers) -> None:
    items = [
        Item("f", Fraction(0), Fraction(1), phone, "L", "R", f"s{speaker}")
        for phone, speaker, _ in itertools.product("PQ", range(9), range(2))
    ]
    groups = group_items(items, context="within", max_size_group=10, seed=0)
    found = list(comparisons(groups, speakers, max_x_across=5, seed=0))
    assert found == list(comparisons(groups, speakers, max_x_across=5, seed=0))
    for comparison in found:
        x, a = groups.groups[comparison.x], groups.groups[comparison.a]
        assert (x.phone, x.context) == (a.phone, a.context)
        assert (x.speaker == a.speaker) == (speakers == "within")
        assert {group.speaker for group in groups.groups[comparison.first : comparison.end]} == {a.speaker}
    assert set(Counter(comparison.a for comparison in found).values()) == {1 if speakers == "within" else 5}
    assert len(found) == len(set(found))


def test_equal_seeds_give_equal_figures_and_others_do_not() -> None:
    items, features = made_up(count=300, seed=0)

    def figures(seed: int, context: Context = "any") -> list[tuple[float | None, object]]:
        chosen = AbxSettings(contexts=(context,), max_size_group=4, max_x_across=1, seed=seed)
        scores = measure_abx(items, features.__getitem__, rate_hz=50, settings=chosen).scores
        return [(score.error, score.interval) for score in scores]

    assert figures(3459) == figures(3459)
    assert figures(3459) != figures(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": "manhattan"}, "no distance 'manhattan': choose among cosine, euclidian"),
        ({"frames": "all"}, "no rule for frames 'all'"),
        ({"contexts": ("none",)}, "no context 'none'"),
        ({"contexts": ()}, "no context"),
        ({"max_size_group": 1}, "2 items at least"),
        ({"max_x_across": 0}, "X one speaker"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AbxSettings(**changes)  # type: ignore[arg-type]


def test_items_of_which_none_has_a_frame_are_refused() -> None:
    items = [Item("f", Fraction(0), Fraction("0.01"), "P", "L", "R", "s")]
    with pytest.raises(ValueError, match="none of 1 items has a frame at 25 Hz"):
        measure_abx(items, lambda stem: torch.ones(9, 2), rate_hz=25)


def test_threads_change_nothing_and_leave_their_number_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(abx_cells.FRAME_DISTANCES_AT_ONCE, "cpu", 300)
    items, features = made_up(count=80, seed=3)
    alone = measure_abx(items, features.__getitem__, rate_hz=50)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert measure_abx(items, features.__getitem__, rate_hz=50).scores == alone.scores
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
