"""Items are read exactly, and have exactly their frames."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import reference_abx
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiolm.evaluation.abx_frames import frame_bounds, item_frames
from audiolm.evaluation.abx_items import Item, read_items

HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "test.item"
    path.write_text(text)
    return path


def test_the_first_line_is_skipped_whatever_it_says_and_the_rest_is_kept_exactly(tmp_path: Path) -> None:
    row = "6295-244435-0009 0.2925 0.4725 IH L NG 6295\n"
    expected = Item("6295-244435-0009", Fraction("0.2925"), Fraction("0.4725"), "IH", "L", "NG", "6295")
    assert read_items(write(tmp_path, HEADER + row)) == [expected]
    assert read_items(write(tmp_path, row + row)) == [expected]
    assert read_items(write(tmp_path, "\n" + row.replace(" ", "\t").rstrip("\n"))) == [expected]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 0.1 0.2 P L R", "line 3 of .*test.item has 6 fields"),
        ("a 0.1 0.2 P L R s extra", "8 fields"),
        ("", "0 fields"),
        ("a 0.1 soon P L R s", "line 3 of .*'soon' is not a time"),
        ("a nan 0.2 P L R s", "'nan' is not a time"),
        ("a 0 1/2 P L R s", "'1/2' is not a time"),
        ("a 0.2 0.2 P L R s", "0.2 to 0.2 s"),
        ("a -0.1 0.2 P L R s", "-0.1 to 0.2 s"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_items(write(tmp_path, f"{HEADER}a 0 0.1 P L R s\n{line}\n"))


def test_an_item_file_without_items_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no item"):
        read_items(write(tmp_path, HEADER))
    with pytest.raises(FileNotFoundError, match="missing.item does not exist"):
        read_items(tmp_path / "missing.item")


times = st.integers(0, 20000).map(lambda ticks: str(Decimal(ticks) / 10000))


@given(onset=times, offset=times, rate_hz=st.sampled_from([25, 50, 75, 100]), frames=st.integers(1, 200))
def test_an_item_has_the_frames_whose_centre_lies_in_it(onset: str, offset: str, rate_hz: int, frames: int) -> None:
    exact = Fraction(onset), Fraction(offset)
    start, end = frame_bounds(*exact, rate_hz=Fraction(rate_hz), frames=frames)
    centres = [Fraction(2 * frame + 1, 2 * rate_hz) for frame in range(frames)]
    assert list(range(start, end)) == [i for i, centre in enumerate(centres) if exact[0] <= centre <= exact[1]]
    row = ("", onset, offset, "", "", "", "")
    for bug in (False, True):
        expected = reference_abx.bounds(row, rate_hz=rate_hz, frames=frames, libri_light=bug)
        rule = "libri-light" if bug else "corrected"
        assert frame_bounds(*exact, rate_hz=Fraction(rate_hz), frames=frames, rule=rule) == expected


def test_a_bound_that_binary_floats_would_move_stays() -> None:
    assert 100 * 0.145 - 0.5 < 14  # it is 14 exactly
    assert frame_bounds(Fraction("0.1"), Fraction("0.145"), rate_hz=Fraction(100), frames=999) == (10, 15)


def test_the_libri_light_rule_leaves_the_last_frame_out() -> None:
    times = Fraction("0.2925"), Fraction("0.4725")
    for rate_hz, corrected in ((100, (29, 47)), (25, (7, 12))):
        kept = frame_bounds(*times, rate_hz=Fraction(rate_hz), frames=999)
        assert kept == corrected
        shorter = frame_bounds(*times, rate_hz=Fraction(rate_hz), frames=999, rule="libri-light")
        assert shorter == (corrected[0], corrected[1] - 1)


def item(file: str, onset: str, offset: str) -> Item:
    return Item(file, Fraction(onset), Fraction(offset), "P", "L", "R", "s")


def test_items_get_their_frames_and_those_too_short_for_one_are_counted() -> None:
    features = {"a": torch.arange(20.0).view(10, 2), "b": torch.arange(20.0, 28.0).view(4, 2)}
    items = [item("a", "0.2", "0.5"), item("b", "0", "0.4"), item("a", "0.31", "0.34")]
    found = item_frames(items, features.__getitem__, rate_hz=Fraction(10))
    assert found.items == tuple(items[:2])
    assert found.dropped == 1
    slices = [found.frames[start : start + count] for start, count in zip(found.starts, found.lengths, strict=True)]
    assert torch.equal(slices[0], features["a"][2:5])
    assert torch.equal(slices[1], features["b"])


def test_normalised_frames_have_zero_mean_and_unit_variance_over_all_recordings() -> None:
    features = {name: 5 + 3 * torch.randn(50, 4) for name in "ab"}
    items = [item("a", "0", "1"), item("b", "0", "1")]
    frames = item_frames(items, features.__getitem__, rate_hz=Fraction(50), normalize=True).frames
    assert torch.allclose(frames.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(frames.square().mean(0), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": torch.ones(10, 2), "b": torch.ones(10, 3)}, r"features of b have the shape \(10, 3\)"),
        ({"a": torch.ones(10, 2), "b": torch.ones(20)}, r"features of b have the shape \(20,\)"),
        ({"a": torch.ones(10, 2), "b": torch.full((10, 2), torch.nan)}, "features of b hold NaN"),
        ({"a": torch.ones(10, 2), "b": torch.ones(7, 2)}, "1 items end after their features do. The first: P of b"),
    ],
)
def test_features_that_do_not_fit_are_refused(features: dict[str, torch.Tensor], message: str) -> None:
    items = [item("a", "0", "1"), item("b", "0", "1")]
    with pytest.raises(ValueError, match=message):
        item_frames(items, features.__getitem__, rate_hz=Fraction(10))
