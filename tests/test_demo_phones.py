"""The demo's aligned phones: the right names at the right places, of voices that no model learns from."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import tiny_tokenizer, write_tiny_checkpoint

from audiolm.audio import audio_info, read_audio
from audiolm.demo_corpus import DemoCorpusError, voices, write_demo_phones
from audiolm.demo_corpus.held_out import HELD_OUT_VOICES, MOST_TRAINING_VOICES, held_out_voices
from audiolm.demo_corpus.phones import AUDIO, ITEMS, LONGEST_SECONDS, PHONES, SHORTEST_SECONDS
from audiolm.demo_corpus.voices import SILENCE, demo_voices, phonemes, synthesize, synthesize_with_phones
from audiolm.evaluation.abx_items import files_of, read_items
from audiolm.evaluation.alignments import read_alignments
from audiolm.evaluation.item_recordings import item_recordings
from audiolm.files import read_json
from audiolm.verbs import run_verb

RATE_HZ = 16000
TEXT = "The old captain quickly measured nine bridges, but the doctor found seven maps."


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phones") / "set"
    write_demo_phones(out, sentences=2, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------ one sentence


@pytest.mark.parametrize("voice", demo_voices(7), ids=lambda voice: voice.name)
def test_phones_are_those_of_the_text_from_beginning_to_end(voice) -> None:  # type: ignore[no-untyped-def]
    audio, rate, phones = synthesize_with_phones(TEXT, voice)
    assert phones[0].onset_seconds == 0
    assert phones[-1].offset_seconds == len(audio) / rate
    assert all(one.offset_seconds == next_.onset_seconds for one, next_ in pairwise(phones))
    assert all(one.onset_seconds < one.offset_seconds for one in phones)
    assert not any(one.phone == next_.phone == SILENCE for one, next_ in pairwise(phones))
    assert [one.phone for one in phones if one.phone != SILENCE] == phonemes([TEXT], accent=voice.accent)[0]


def test_asking_for_phones_changes_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [synthesize(TEXT, voice, seed=3)[0] for voice in demo_voices(12)]
    monkeypatch.setattr(voices, "_PHONEME_EVENTS", 0)
    for voice, audio in zip(demo_voices(12), asked, strict=True):
        alone, _, phones = synthesize_with_phones(TEXT, voice, seed=3)
        assert torch.equal(alone, audio)
        assert [phone.phone for phone in phones] == [SILENCE]


def test_a_phone_is_where_it_is_heard() -> None:
    high: dict[str, list[float]] = {}
    level: dict[str, list[float]] = {}
    for voice in demo_voices(8):
        audio, rate, phones = synthesize_with_phones("She sees six mossy houses, so she says.", voice)
        for phone in phones:
            part = audio[round(phone.onset_seconds * rate) : round(phone.offset_seconds * rate)]
            if len(part) < 0.03 * rate:
                continue
            power = torch.fft.rfft(part).abs().square()
            high.setdefault(phone.phone, []).append(float(power[int(3500 / rate * len(part)) :].sum() / power.sum()))
            level.setdefault(phone.phone, []).append(float(part.square().mean()))
    assert min(high["s"]) > 0.5 > max(high["i"] + high["oU"])  # hissing is above 3.5 kHz, vowels are below
    assert max(level[SILENCE]) < min(level["i"] + level["oU"])


# ------------------------------------------------------------------------------------------------ the set


def test_items_and_table_are_in_the_layouts_that_the_evaluation_reads(demo: Path) -> None:
    items, table = read_items(demo / ITEMS), read_alignments(demo / PHONES)
    found = item_recordings(items, demo / AUDIO)
    assert files_of(items) == [Path(name).stem for name in table] == sorted(found)
    assert len(found) == 2 * HELD_OUT_VOICES
    assert {item.speaker for item in items} == {f"demo{voice}" for voice in range(HELD_OUT_VOICES)}
    for name in table:
        path = demo / AUDIO / name
        info = audio_info(path)
        assert found[path.stem] == path
        assert SHORTEST_SECONDS - 0.01 <= info.samples / RATE_HZ <= LONGEST_SECONDS + 0.01
        assert info.sample_rate_hz == RATE_HZ
        spoken = [one for one in table[name] if one.phone != SILENCE]
        of_file = [item for item in items if item.file == path.stem]
        assert [(float(i.onset), float(i.offset), i.phone) for i in of_file] == [
            (one.start_seconds, one.end_seconds, one.phone) for one in spoken
        ]
        assert table[name][-1].end_seconds == pytest.approx(info.samples / RATE_HZ, abs=2e-4)
        names = [SILENCE, *(one.phone for one in table[name]), SILENCE]
        around = [(a, b, c) for a, b, c in zip(names, names[1:], names[2:], strict=False) if b != SILENCE]
        assert [(i.previous, i.phone, i.next) for i in of_file] == around
        assert float(read_audio(path, sample_rate_hz=RATE_HZ).square().mean().sqrt()) == pytest.approx(
            10 ** (-23 / 20), rel=0.01
        )


def test_the_evaluation_measures_on_them(demo: Path, tmp_path: Path) -> None:
    """MFCC keep phones of clean voices apart, and units of MFCC say something of phones."""
    audio = ("--audio", str(demo / AUDIO))
    options = ("--items", str(demo / ITEMS), *audio, "--features", "mfcc", "--context", "any")
    run_verb(["evaluate", "abx", *options, "--out", str(tmp_path / "abx")])
    found = read_json(tmp_path / "abx" / "ABX_scores.json", made_by="")
    assert all(0 < value < 0.3 for value in numbers(found))
    (tmp_path / "tokenizer").mkdir()
    tokenizer = tiny_tokenizer()
    write_tiny_checkpoint(tmp_path / "tokenizer" / "best.ckpt", "tokenizer", tokenizer, tokenizer.config_dict())
    options = ("--phones", str(demo / PHONES), *audio, "--root", str(tmp_path), "--out", str(tmp_path / "units"))
    run_verb(["evaluate", "units", *options])
    assert list((tmp_path / "units").iterdir())


def numbers(found: object) -> list[float]:
    if isinstance(found, dict):
        return [number for value in found.values() for number in numbers(value)]
    return [float(found)] if isinstance(found, float) else []


def test_the_voices_are_in_no_demo_corpus_of_up_to_202() -> None:
    last = held_out_voices(HELD_OUT_VOICES)
    assert not set(last) & set(demo_voices(MOST_TRAINING_VOICES))
    assert len(set(last)) == HELD_OUT_VOICES
    assert held_out_voices(4) == last[-4:]


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(demo: Path, tmp_path: Path) -> None:
    write_demo_phones(tmp_path / "again", sentences=2, workers=3)
    assert contents(tmp_path / "again") == contents(demo)
    assert "already there" in write_demo_phones(demo, sentences=2)


def test_what_cannot_be_written_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoCorpusError, match="is not this set"):
        write_demo_phones(demo, sentences=3)
    with pytest.raises(DemoCorpusError, match="at least 1"):
        write_demo_phones(tmp_path / "out", sentences=0)
    spoilt = Path(shutil.copytree(demo, tmp_path / "spoilt"))
    (spoilt / ITEMS).unlink()
    with pytest.raises(DemoCorpusError, match=r"1 of 18 files of .* are gone, such as phoneme.item"):
        write_demo_phones(spoilt, sentences=2)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DemoCorpusError, match="is not this set"):
        write_demo_phones(tmp_path / "file")
    with pytest.raises(DemoCorpusError, match="cannot be written"):
        write_demo_phones(tmp_path / "file" / "below")
