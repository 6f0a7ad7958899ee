import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiolm.tokens.spec import TokenSpec


def test_the_defaults_are_the_papers_numbers() -> None:
    spec = TokenSpec()
    assert (spec.frame_rate_hz, spec.semantic_rate_hz, spec.fine_levels) == (50, 25, 8)
    assert spec.semantic_hop_samples == 640
    assert spec.aligned_samples == 640


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"levels": 0}, "levels"),
        ({"coarse_levels": 13}, "coarse_levels"),
        ({"semantic_rate_hz": 7}, "does not divide"),
        ({"clusters": 70000}, "65536"),
        ({"clusters": 10.0}, "whole number"),
    ],
)
def test_impossible_numbers_are_refused_by_name(wrong: dict[str, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TokenSpec(**wrong)


def test_a_spec_survives_json_and_refuses_missing_or_unknown_numbers() -> None:
    spec = TokenSpec(clusters=7)
    assert TokenSpec.from_dict(spec.as_dict()) == spec
    with pytest.raises(ValueError, match="some file"):
        TokenSpec.from_dict({**spec.as_dict(), "extra": 1}, source="some file")


def test_a_mismatch_names_both_sides_and_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"clusters: 7 in the store, 8 in the checkpoint"):
        TokenSpec(clusters=7).require_equal(TokenSpec(clusters=8), ours="the store", theirs="the checkpoint")


@given(samples=st.integers(1, 10**6), hop=st.sampled_from([160, 320, 480, 1920]))
def test_frames_cover_all_samples_and_no_more_than_one_frame_too_much(samples: int, hop: int) -> None:
    spec = TokenSpec(hop_samples=hop)
    assert 0 <= spec.frames(samples) * hop - samples < hop
    assert 0 <= spec.semantic_frames(samples) * 640 - samples < 640
    assert spec.aligned_samples % hop == 0
    assert spec.aligned_samples % 640 == 0
