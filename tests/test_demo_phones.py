"""The demo's aligned phones: the right names at the right places, of voices that no model learns from."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from audiolm.audio import audio_info, read_audio
from audiolm.demo_corpus import DemoCorpusError, write_demo_phones
from audiolm.demo_corpus.held_out import HELD_OUT_VOICES, MOST_TRAINING_VOICES, held_out_voices
from audiolm.demo_corpus.phones import AUDIO, ITEMS, PHONES
from audiolm.demo_corpus.voices import SILENCE, demo_voices, phonemes, synthesize, synthesize_with_phones
from audiolm.evaluation.abx_items import files_of, read_items
from audiolm.evaluation.alignments import read_alignments
from audiolm.evaluation.item_recordings import item_recordings

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
    assert torch.equal(audio, synthesize(TEXT, voice)[0])
    assert phones[0].onset_seconds == 0
    assert phones[-1].offset_seconds == len(audio) / rate
    assert all(one.offset_seconds == next_.onset_seconds for one, next_ in pairwise(phones))
    assert all(one.onset_seconds < one.offset_seconds for one in phones)
    assert not any(one.phone == next_.phone == SILENCE for one, next_ in pairwise(phones))
    assert [one.phone for one in phones if one.phone != SILENCE] == phonemes([TEXT], accent=voice.accent)[0]


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
    assert files_of(items) == list(table) == sorted(found)
    assert len(found) == 2 * HELD_OUT_VOICES
    assert {item.speaker for item in items} == {f"demo{voice}" for voice in range(HELD_OUT_VOICES)}
    for name, path in found.items():
        info = audio_info(path)
        assert info.sample_rate_hz == RATE_HZ
        spoken = [one for one in table[name] if one.phone != SILENCE]
        of_file = [item for item in items if item.file == name]
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


def test_the_voices_are_in_no_demo_corpus_of_up_to_202() -> None:
    voices = held_out_voices(HELD_OUT_VOICES)
    assert not set(voices) & set(demo_voices(MOST_TRAINING_VOICES))
    assert len(set(voices)) == HELD_OUT_VOICES
    assert held_out_voices(4) == voices[-4:]


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(demo: Path, tmp_path: Path) -> None:
    write_demo_phones(tmp_path / "again", sentences=2, workers=3)
    assert contents(tmp_path / "again") == contents(demo)
    assert "already there" in write_demo_phones(demo, sentences=2)


def test_what_cannot_be_written_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoCorpusError, match="is not this set"):
        write_demo_phones(demo, sentences=3)
    with pytest.raises(DemoCorpusError, match="at least 1"):
        write_demo_phones(tmp_path / "out", sentences=0)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DemoCorpusError, match="is not this set"):
        write_demo_phones(tmp_path / "file")
    with pytest.raises(DemoCorpusError, match="cannot be written"):
        write_demo_phones(tmp_path / "file" / "below")
