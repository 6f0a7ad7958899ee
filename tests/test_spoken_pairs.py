"""Accuracies over pairs: agreement with loops over tables, ties at chance, bands with their edges."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiolm.evaluation.pair_folders import folder_pairs
from audiolm.evaluation.score_files import read_score_file, write_score_file
from audiolm.evaluation.spoken_pairs import CHANCE, SpokenPair, accuracies, score_pairs


def word_pairs(frequencies: list[int | None], *, voices: int = 2) -> list[SpokenPair]:
    return [
        SpokenPair(
            (number,), f"v{voice}", f"w{number}-{voice}", f"n{number}-{voice}", "word", "non", frequency, 3 + number % 3
        )
        for number, frequency in enumerate(frequencies)
        for voice in range(voices)
    ]


def reference(
    pairs: list[SpokenPair], scores: dict[str, float]
) -> dict[tuple[str, str], tuple[int, float | None, float | None]]:
    """The definition as loops: voices first, then pairs; (n, mean, deviation) by group."""
    by_pair: dict[tuple[str | int, ...], list[float]] = {}
    of_pair: dict[tuple[str | int, ...], SpokenPair] = {}
    for pair in pairs:
        right, wrong = scores[pair.right], scores[pair.wrong]
        by_pair.setdefault(pair.id, []).append(1.0 if right > wrong else 0.0 if right < wrong else 0.5)
        of_pair.setdefault(pair.id, pair)
    means = {id_: sum(values) / len(values) for id_, values in by_pair.items()}
    groups: dict[tuple[str, str], list[float]] = {("all", "all"): list(means.values())}
    if any(pair.frequency is not None for pair in pairs):
        for group in ("oov", "1-5", "6-20", "21-100", ">100"):
            groups["frequency", group] = []
        groups["in-vocabulary", "in-vocabulary"] = []
    for id_, mean in means.items():
        frequency = of_pair[id_].frequency
        if frequency is not None:
            band = ["oov", "1-5", "6-20", "21-100", ">100"][sum(frequency >= edge for edge in (1, 5, 20, 100))]
            groups["frequency", band].append(mean)
            if frequency:
                groups["in-vocabulary", "in-vocabulary"].append(mean)
        groups.setdefault(("length", str(of_pair[id_].length_phones)), []).append(mean)
    return {
        key: (
            len(values),
            sum(values) / len(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )
        for key, values in groups.items()
    }


@given(
    frequencies=st.lists(st.none() | st.sampled_from([0, 1, 4, 5, 19, 20, 99, 100, 10**6]), min_size=1, max_size=12),
    voices=st.integers(1, 4),
    data=st.data(),
)
def test_accuracies_agree_with_the_loops(frequencies: list[int | None], voices: int, data: st.DataObject) -> None:
    pairs = word_pairs(frequencies, voices=voices)
    few = st.sampled_from([-3.0, -2.0, -1.0])  # ties are frequent
    scores = {stem: data.draw(few) for pair in pairs for stem in (pair.right, pair.wrong)}
    found = {(row.by, row.group): row for row in accuracies("lexical", score_pairs(pairs, scores))}
    expected = reference(pairs, scores)
    assert set(found) == set(expected)
    for key, (n, mean, deviation) in expected.items():
        assert found[key].n == n
        assert found[key].score == (None if mean is None else pytest.approx(mean))
        assert found[key].std == (None if deviation is None else pytest.approx(deviation))


def test_hand_written_scores() -> None:
    pairs = word_pairs([0, 7])
    scores = {
        "w0-0": -5.0,
        "n0-0": -6.0,
        "w0-1": -5.0,
        "n0-1": -5.0,
        "w1-0": -9.0,
        "n1-0": -1.0,
        "w1-1": -9.0,
        "n1-1": -1.0,
    }
    scored = score_pairs(pairs, scores)
    assert [row.score for row in scored] == [0.75, 0.0]  # won and tied; lost twice
    rows = {(row.by, row.group): row.score for row in accuracies("lexical", scored)}
    assert rows["all", "all"] == 0.375
    assert rows["in-vocabulary", "in-vocabulary"] == 0.0
    assert rows["frequency", "oov"] == 0.75
    assert rows["frequency", "1-5"] is None


def test_voices_are_averaged_before_pairs() -> None:
    pairs = [SpokenPair((0,), "a", "r", "x"), SpokenPair((1,), "a", "r1", "x1"), SpokenPair((1,), "b", "r2", "x2")]
    scores = {"r": 1.0, "x": 0.0, "r1": 0.0, "x1": 1.0, "r2": 0.0, "x2": 1.0}
    assert accuracies("syntactic", score_pairs(pairs, scores))[0].score == 0.5  # not 1 / 3


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_a_model_that_knows_nothing_is_at_chance_in_every_group(frequencies: list[int]) -> None:
    pairs = word_pairs(list(frequencies))
    scores = {stem: -7.0 for pair in pairs for stem in (pair.right, pair.wrong)}
    assert {row.score for row in accuracies("lexical", score_pairs(pairs, scores))} <= {CHANCE, None}


@given(st.lists(st.tuples(st.floats(-1e6, 0), st.floats(-1e6, 0)), min_size=1, max_size=20))
def test_exchanging_right_and_wrong_mirrors_at_chance(values: list[tuple[float, float]]) -> None:
    pairs = word_pairs([None] * len(values), voices=1)
    scores = {f"w{n}-0": right for n, (right, _) in enumerate(values)} | {
        f"n{n}-0": wrong for n, (_, wrong) in enumerate(values)
    }
    turned = [SpokenPair(pair.id, pair.voice, pair.wrong, pair.right) for pair in pairs]
    forth, back = (accuracies("lexical", score_pairs(some, scores))[0].score for some in (pairs, turned))
    assert forth is not None
    assert back is not None
    assert forth + back == pytest.approx(1)


def test_sentences_are_told_apart_by_type() -> None:
    pairs = [SpokenPair((kind, "", 0), "a", f"r{kind}", f"x{kind}", type=kind) for kind in ("b", "a")]
    rows = accuracies("syntactic", score_pairs(pairs, {"ra": 1.0, "xa": 0.0, "rb": 0.0, "xb": 1.0}))
    assert [(row.by, row.group, row.score) for row in rows] == [
        ("all", "all", 0.5),
        ("type", "a", 1.0),
        ("type", "b", 0.0),
    ]


@pytest.mark.parametrize("scores", [{"w0-0": 1.0}, {"w0-0": 1.0, "n0-0": math.nan}])
def test_a_pair_without_both_scores_is_refused(scores: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="n0-0 has no score"):
        score_pairs(word_pairs([1], voices=1), scores)


# ------------------------------------------------------------------------------------------------ score files


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9]{1,11}", fullmatch=True), st.floats(-1e9, 0), min_size=1))
def test_a_score_file_gives_back_every_digit(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, float]
) -> None:
    path = tmp_path_factory.mktemp("scores") / "lexical" / "dev.txt"
    write_score_file(path, scores)
    assert read_score_file(path, stems=set(scores)) == scores
    for line in path.read_text().splitlines():
        stem, score = line.split(" ")  # exactly one space
        assert scores[stem] == float(score)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a -1\n", "1 of 2 are missing, such as 'b'"),
        ("a -1\nb -2\nB -3\n", "1 are unknown, such as 'B'"),
        ("a -1\na -2\nb -1\n", "line 2 .* a has a score already"),
        ("a -1\nb  -2\n", "line 2 .* one space and a number"),
        ("a -1\nb nan\n", "line 2"),
        ("a,-1\nb,-2\n", "line 1"),
    ],
)
def test_score_files_that_the_official_scorer_would_refuse_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dev.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_score_file(tmp_path / "dev.txt", stems={"a", "b"})


# ------------------------------------------------------------------------------------------------ folders of pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_numbers_sort_a_folder_into_pairs_and_sub_folders_are_types(tmp_path: Path) -> None:
    touch(tmp_path, "10_b.wav", "9_a.wav", "2_x.wav", "1_y.wav", "more/0_r.flac", "more/1_w.wav", "readme.txt")
    found = folder_pairs(tmp_path, "lexical")
    sides = [(pair.type, pair.right, pair.wrong) for pair in found.pairs]
    assert sides == [("", "1_y", "2_x"), ("", "9_a", "10_b"), ("more", "more/0_r", "more/1_w")]
    assert set(found.recordings) == {stem for pair in found.pairs for stem in (pair.right, pair.wrong)}
    assert all(path.is_file() for path in found.recordings.values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no recording"),
        (("0+a.wav", "1+b.wav", "2+c.wav"), "3 recordings, which are no pairs"),
        (("0+a.wav", "00+b.wav"), "have one number, 0"),
        (("0_a.wav", "1_b.wav"), r"whole number and '\+'"),
        (("a+0.wav", "1+b.wav"), "whole number"),
    ],
)
def test_folders_that_are_no_pairs_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder_pairs(touch(tmp_path, *names), "syntactic")
    with pytest.raises(FileNotFoundError, match="folder of pairs"):
        folder_pairs(tmp_path / "nowhere", "syntactic")
