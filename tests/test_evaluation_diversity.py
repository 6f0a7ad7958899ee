"""Self-BLEU, distinct n-grams and entropy of units, by hand and beside a slow obvious version."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.evaluation.self_bleu import distinct_share, entropy_bits, self_bleu

SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=6)


def slow_bleu(hypothesis: list[int], references: list[list[int]], order: int) -> float:
    """BLEU as Papineni et al. write it."""
    if len(hypothesis) < order or not references:
        return math.nan
    product = 1.0
    for n in range(1, order + 1):
        grams = [[tuple(units[i : i + n]) for i in range(len(units) - n + 1)] for units in (hypothesis, *references)]
        hits = sum(
            min(count, max(other.count(gram) for other in grams[1:])) for gram, count in Counter(grams[0]).items()
        )
        product *= hits / len(grams[0])
    nearest = min((abs(len(units) - len(hypothesis)), len(units)) for units in references)[1]
    return min(1.0, math.exp(1 - nearest / len(hypothesis))) * product ** (1 / order)


def test_identical_sequences_have_self_bleu_1_and_disjoint_ones_0() -> None:
    assert self_bleu([[1, 2, 3, 4, 5]] * 3, range(3)) == pytest.approx([1, 1, 1])
    assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]], range(2)) == [0, 0]


def test_self_bleu_by_hand() -> None:
    """1 2 3 4 against 1 2 3 9 in pairs: 3 of 4 units, 2 of 3 pairs; equal lengths."""
    assert self_bleu([[1, 2, 3, 4], [1, 2, 3, 9]], range(2), order=2) == pytest.approx([math.sqrt(3 / 4 * 2 / 3)] * 2)


def test_a_repeated_unit_counts_only_as_often_as_a_reference_has_it_and_short_is_penalised() -> None:
    assert self_bleu([[1, 1, 1, 1], [1, 2, 1, 2]], range(2), order=1)[0] == pytest.approx(1 / 2)
    assert self_bleu([[1, 2], [1, 2, 3, 4]], range(2), order=1)[0] == pytest.approx(math.exp(1 - 4 / 2))


def test_continuations_of_one_prompt_are_no_references_of_each_other() -> None:
    sequences = [[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert self_bleu(sequences, range(3)) == pytest.approx([1, 1, 0])
    assert self_bleu(sequences, ["a", "a", "b"]) == [0, 0, 0]


@settings(deadline=None)
@given(sequences=SEQUENCES, order=st.integers(1, 4), data=st.data())
def test_self_bleu_agrees_with_the_slow_version(sequences: list[list[int]], order: int, data: st.DataObject) -> None:
    owners = [data.draw(st.integers(0, 2)) for _ in sequences]
    for number, score in enumerate(self_bleu(sequences, owners, order=order)):
        references = [units for units, owner in zip(sequences, owners, strict=True) if owner != owners[number]]
        assert score == pytest.approx(slow_bleu(sequences[number], references, order), nan_ok=True)


def test_alone_or_too_short_there_is_no_self_bleu() -> None:
    assert math.isnan(self_bleu([[1, 2, 3, 4]], ["a"])[0])
    assert math.isnan(self_bleu([[1, 2, 3], [1, 2, 3, 4]], range(2))[0])
    with pytest.raises(ValueError, match="2 sequences, 1 owners"):
        self_bleu([[1], [2]], ["a"])


def test_distinct_shares_and_entropy_by_hand() -> None:
    assert distinct_share([[1, 2, 1, 2]], 1) == 1 / 2
    assert distinct_share([[1, 2, 1, 2], [2, 1]], 2) == 2 / 4
    assert math.isnan(distinct_share([[1]], 2))
    assert entropy_bits([[0, 1], [2, 3]]) == 2
    assert entropy_bits([[7, 7]]) == 0
    assert math.isnan(entropy_bits([[]]))
