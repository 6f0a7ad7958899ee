"""The small sWUGGY and sBLIMP: real words and sentences against twins that differ in nothing but being wrong."""

import random
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiolm.audio import audio_info, read_audio
from audiolm.demo_corpus import DemoCorpusError, write_demo_zerospeech
from audiolm.demo_corpus.foils import DETERMINERS, VOWELS, determiner_last, non_words, plain_words, scrambled
from audiolm.demo_corpus.grammar import vocabulary
from audiolm.demo_corpus.held_out import MOST_TRAINING_VOICES, held_out_voices
from audiolm.demo_corpus.voices import demo_voices, phonemes
from audiolm.demo_corpus.zerospeech import VOICES
from audiolm.evaluation.spoken_pairs import accuracies, score_pairs
from audiolm.evaluation.zerospeech_gold import read_gold, zerospeech_set

REAL = {word.lower() for word in vocabulary()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transcripts, as a demo corpus has them: some words often, most never."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "101-1.trans.txt").write_text("101-1-0000 THE LANTERN\n101-1-0001 LANTERN KITCHEN\n")
    return folder


@pytest.fixture(scope="module")
def demo(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    write_demo_zerospeech(out, corpus=corpus, words=12, sentences=6, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------ twins


@given(st.from_regex(r"[a-z]{2,9}", fullmatch=True))
def test_a_non_word_is_its_word_with_two_letters_of_a_kind_exchanged(word: str) -> None:
    for foil in non_words(word):
        places = [at for at in range(len(word)) if word[at] != foil[at]]
        assert len(places) == 2
        assert sorted(foil) == sorted(word)
        assert len({word[at] in VOWELS for at in places}) == 1


@given(st.lists(st.sampled_from(["the", "a", "dog", "sees", "cats"]), min_size=2, max_size=8), st.integers(0, 99))
def test_a_scrambled_sentence_has_the_same_words_in_another_order(words: list[str], seed: int) -> None:
    if len(set(words)) < 2:
        with pytest.raises(ValueError, match="one order only"):
            scrambled(words, random.Random(seed))
        return
    order = scrambled(words, random.Random(seed))
    assert Counter(order) == Counter(words)
    assert order != words


def test_a_determiner_ends_up_behind_its_word() -> None:
    draw = random.Random(0)
    assert determiner_last(["she", "saw", "the", "dog"], draw) == ["she", "saw", "dog", "the"]
    assert determiner_last(["she", "saw", "two", "dogs"], draw) is None
    assert determiner_last(["give", "it", "to", "the"], draw) is None
    assert plain_words("Did she leave, at last?") == ["did", "she", "leave", "at", "last"]


def test_phonemes_are_without_stress_and_tell_words_apart() -> None:
    found = phonemes(["lantern", "nalternn", "the cat"])
    assert found[0] == ["l", "aa", "n", "t", "3", "n"]
    assert found[1] != found[0]
    assert len(found[2]) == 5


# ------------------------------------------------------------------------------------------------ the set


def test_the_set_is_in_the_layout_that_the_evaluation_reads(demo: Path) -> None:
    lexical, syntactic = zerospeech_set(demo, "lexical"), zerospeech_set(demo, "syntactic")
    assert len(lexical.pairs) == 12 * VOICES
    assert len(syntactic.pairs) == 6 * VOICES
    for data in (lexical, syntactic):
        assert len({pair.voice for pair in data.pairs}) == VOICES
        assert all(audio_info(path).sample_rate_hz == 16000 for path in data.recordings.values())
    scores = dict.fromkeys(syntactic.recordings, 0.0) | {pair.right: 1.0 for pair in syntactic.pairs}
    assert accuracies("syntactic", score_pairs(syntactic.pairs, scores))[0].score == 1


def test_words_are_of_the_grammar_and_non_words_sound_like_none_of_it(demo: Path, corpus: Path) -> None:
    rows = read_gold(demo / "lexical" / "dev" / "gold.csv", "lexical")
    known = {tuple(sounds) for sounds in phonemes(sorted(REAL))}
    counts = {"lantern": "2", "kitchen": "1"}
    for row in rows:
        assert (row["word"] in REAL) == (row["correct"] == "1") == (tuple(row["phones"].split()) in known)
        assert int(row["length"]) == len(row["phones"].split())
        if row["correct"] == "1":
            assert row["frequency"] == counts.get(row["word"], "0")
    lengths: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        lengths[row["id"]].add(row["length"])
    assert all(len(found) == 1 for found in lengths.values())  # a model that counts phones learns nothing


def test_sentences_hold_the_same_words_on_both_sides(demo: Path) -> None:
    pairs = zerospeech_set(demo, "syntactic").pairs
    for pair in pairs:
        assert Counter(pair.right_text.split()) == Counter(pair.wrong_text.split())
        assert pair.right_text != pair.wrong_text
        assert set(pair.right_text.split()) <= REAL
    assert {pair.type for pair in pairs} == {"scrambled", "determiner"}
    assert all(DETERMINERS & set(pair.right_text.split()) for pair in pairs if pair.type == "determiner")


def test_reference_order_pairs_the_nth_right_row_with_the_nth_wrong_one(demo: Path) -> None:
    rows = read_gold(demo / "syntactic" / "dev" / "gold.csv", "syntactic")
    right, wrong = ([row for row in rows if row["correct"] == side] for side in "10")
    key = ("id", "voice", "type", "subtype")
    assert [[row[name] for name in key] for row in right] == [[row[name] for name in key] for row in wrong]


def test_loudness_is_the_same_on_both_sides_and_names_say_nothing(demo: Path) -> None:
    data = zerospeech_set(demo, "lexical")
    for path in data.recordings.values():
        rms = float(read_audio(path, sample_rate_hz=16000).square().mean().sqrt())
        assert rms == pytest.approx(10 ** (-23 / 20), rel=0.01)
    names = sorted(data.recordings, key=str.lower)
    sides = [name in {pair.right for pair in data.pairs} for name in names]
    assert 0.2 < sum(a == b for a, b in pairwise(sides)) / len(sides) < 0.8  # no order among names


def test_the_voices_are_in_no_demo_corpus_of_up_to_202() -> None:
    voices = held_out_voices(VOICES)
    assert not set(voices) & set(demo_voices(MOST_TRAINING_VOICES))
    assert len({voice.variant for voice in voices}) == VOICES
    assert sorted(voice.gender for voice in voices) == ["F", "F", "M", "M"]


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(
    demo: Path, corpus: Path, tmp_path: Path
) -> None:
    write_demo_zerospeech(tmp_path / "again", corpus=corpus, words=12, sentences=6, workers=3)
    assert contents(tmp_path / "again") == contents(demo)
    assert "already there" in write_demo_zerospeech(demo, corpus=corpus, words=12, sentences=6)


def test_what_cannot_be_written_is_refused(demo: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoCorpusError, match="is not this set"):
        write_demo_zerospeech(demo, corpus=corpus, words=13, sentences=6)
    with pytest.raises(DemoCorpusError, match="no transcript"):
        write_demo_zerospeech(tmp_path / "out", corpus=tmp_path)
    with pytest.raises(DemoCorpusError, match="at least 1"):
        write_demo_zerospeech(tmp_path / "out", corpus=corpus, words=0)
    with pytest.raises(DemoCorpusError, match=r"gives \d+ pairs of words, 9999 were asked for"):
        write_demo_zerospeech(tmp_path / "out", corpus=corpus, words=9999)
    assert not (tmp_path / "out").exists()
