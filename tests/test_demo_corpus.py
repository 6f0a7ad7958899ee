import json
import random
from pathlib import Path

import pytest
import torch

from audiolm.audio import AudioError, audio_info, read_audio
from audiolm.corpus import prepare
from audiolm.demo_corpus import DemoCorpusError, voices, write, write_demo_corpus
from audiolm.demo_corpus.grammar import sentence, transcript, vocabulary
from audiolm.demo_corpus.voices import ACCENTS, VARIANTS, Voice, VoiceError, demo_voices, synthesize


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "corpus"
    write_demo_corpus(out, voices=3, seconds_per_voice=6.0, workers=1)
    return out


# Sentences


def test_sentences_vary_and_use_a_few_hundred_words() -> None:
    draw = random.Random(0)
    sentences = [sentence(draw) for _ in range(500)]
    used = {word for text in sentences for word in transcript(text).split()}
    assert len(set(sentences)) > 490
    assert used <= vocabulary()
    assert len(used) > 300
    assert 200 < len(vocabulary()) < 1000
    assert not any(mark in text for text in sentences for mark in "<>|")


def test_sentences_follow_the_generator_alone() -> None:
    assert sentence(random.Random(3)) == sentence(random.Random(3)) != sentence(random.Random(4))


def test_a_transcript_is_upper_case_words() -> None:
    assert transcript("Did she leave, at last?") == "DID SHE LEAVE AT LAST"


# Voices


def test_the_same_call_gives_the_same_samples_whatever_was_said_before() -> None:
    flutter, klatt = Voice("en-us", "f1"), Voice("en", "klatt3")  # both keep state inside espeak-ng
    first = [synthesize("Good morning.", voice, seed=1)[0] for voice in (flutter, klatt)]
    synthesize("Something else entirely.", Voice("en-029", "m5", pitch=20))
    again = [synthesize("Good morning.", voice, seed=1)[0] for voice in (flutter, klatt)]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_every_setting_of_a_voice_is_heard() -> None:
    plain = synthesize("Good morning.", Voice("en-us", "f1"))[0]
    others = [
        Voice("en-gb-scotland", "f1"), Voice("en-us", "m5"), Voice("en-us", "f1", pitch=60),
        Voice("en-us", "f1", pitch_range=80), Voice("en-us", "f1", words_per_minute=120),
    ]  # fmt: skip
    for voice in others:
        audio = synthesize("Good morning.", voice)[0]
        assert audio.shape != plain.shape or not torch.equal(audio, plain), voice


def test_synthesis_is_float_mono_inside_full_scale() -> None:
    audio, sample_rate_hz = synthesize("Good morning.", demo_voices(1)[0])
    assert sample_rate_hz == 22050
    assert audio.ndim == 1
    assert audio.dtype == torch.float32
    assert 0.05 < float(audio.abs().max()) < 0.999  # heard, and not clipped


def test_every_accent_and_variant_of_the_demo_exists() -> None:
    for accent in ACCENTS:
        synthesize("Yes.", Voice(accent, "f1"))
    for variant, _ in VARIANTS:
        synthesize("Yes.", Voice("en-us", variant))


def test_unknown_voices_are_refused_although_espeak_would_use_another_one() -> None:
    with pytest.raises(VoiceError, match="variant 'nobody'"):
        synthesize("Yes.", Voice("en-us", "nobody"))
    with pytest.raises(VoiceError, match="accent 'martian'"):
        synthesize("Yes.", Voice("martian", "f1"))


def test_demo_voices_are_all_different_and_more_of_them_keep_the_first_ones() -> None:
    assert len({voice.name for voice in demo_voices(210)}) == 210
    assert demo_voices(24) == demo_voices(210)[:24]
    assert sorted({voice.gender for voice in demo_voices(2)}) == ["F", "M"]
    with pytest.raises(VoiceError, match="211"):
        demo_voices(211)


# Corpus


def test_the_layout_is_libri_light_with_transcripts_of_libri_speech(corpus: Path) -> None:
    recordings = sorted(corpus.rglob("*.flac"))
    assert {path.parent.parent.name for path in recordings} == {"101", "102", "103"}
    for path in recordings:
        speaker, book, _ = path.stem.split("-")
        assert (path.parent.parent.name, path.parent.name) == (speaker, book)
        info, metadata = audio_info(path), json.loads(path.with_suffix(".json").read_text())
        assert (info.sample_rate_hz, info.channels) == (16000, 1)
        assert 2 <= info.seconds <= 8
        assert metadata["speaker"] == speaker
        assert metadata["book_meta"]["id"] == book
        assert metadata["file_length_sec"] == info.seconds
        assert metadata["snr"] > 20
        lines = (path.parent / f"{speaker}-{book}.trans.txt").read_text().splitlines()
        words = dict(line.split(" ", 1) for line in lines)[path.stem]
        assert set(words.split()) <= vocabulary()
    for speaker in ("101", "102", "103"):
        lengths = [audio_info(path).seconds for path in recordings if path.stem.startswith(speaker)]
        assert 6 <= sum(lengths) < 6 + 8


def test_voice_activity_covers_the_loud_part_in_steps_of_80_ms(corpus: Path) -> None:
    for path in corpus.rglob("*.flac"):
        audio = read_audio(path, sample_rate_hz=16000)
        activity = json.loads(path.with_suffix(".json").read_text())["voice_activity"]
        silent = torch.ones_like(audio, dtype=torch.bool)
        for start, end in activity:
            assert start / 0.08 == pytest.approx(round(start / 0.08))
            assert end / 0.08 == pytest.approx(round(end / 0.08))
            silent[round(start * 16000) : round(end * 16000)] = False
        assert float(audio[silent].square().sum()) < 1e-3 * float(audio.square().sum())


def test_voice_activity_joins_over_short_gaps_only() -> None:
    active = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 0, 1], dtype=torch.bool)
    assert write.voice_activity(active) == [[0.08, 0.48], [0.72, 0.8]]


def test_any_number_of_workers_writes_the_same_bytes_and_another_seed_does_not(corpus: Path, tmp_path: Path) -> None:
    write_demo_corpus(tmp_path / "again", voices=3, seconds_per_voice=6.0, workers=3)
    assert contents(tmp_path / "again") == contents(corpus)
    write_demo_corpus(tmp_path / "other", voices=3, seconds_per_voice=6.0, seed=1)
    assert not set(contents(tmp_path / "other").values()) & {
        data for name, data in contents(corpus).items() if name.endswith((".flac", ".txt"))
    }


def test_a_complete_corpus_is_left_alone_and_another_one_is_refused(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    report = write_demo_corpus(corpus, voices=3, seconds_per_voice=6.0)
    assert report.already_there
    assert report.utterances == len(list(corpus.rglob("*.flac")))
    with pytest.raises(DemoCorpusError, match="voices 3, not 4"):
        write_demo_corpus(corpus, voices=4, seconds_per_voice=6.0)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoCorpusError, match="not a demo corpus"):
        write_demo_corpus(tmp_path, voices=1)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), AudioError("no space", reason="not writable")])
def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: BaseException
) -> None:
    written: list[Path] = []
    real_write_audio = write.write_audio

    def fails_at_the_third(path: Path, audio: torch.Tensor, *, sample_rate_hz: int) -> None:
        if len(written) == 2:
            raise cause
        written.append(path)
        real_write_audio(path, audio, sample_rate_hz=sample_rate_hz)

    monkeypatch.setattr(write, "write_audio", fails_at_the_third)
    with pytest.raises((KeyboardInterrupt, DemoCorpusError)):
        write_demo_corpus(tmp_path / "out", voices=1, seconds_per_voice=30.0, workers=1)
    assert len(written) == 2
    assert not list(tmp_path.iterdir())


def test_the_demo_corpus_can_be_prepared(corpus: Path, tmp_path: Path) -> None:
    report = prepare(corpus, tmp_path, workers=1)
    assert report.layout == "Libri-Light"
    assert report.split_by == "speaker"
    assert list(report.speakers.values()) == [1, 1, 1]
    assert not report.rejected
    assert not report.warnings


def test_text_without_sound_is_an_error() -> None:
    with pytest.raises(VoiceError, match="no sound"):
        voices.synthesize("", demo_voices(1)[0])
