"""Sentences of voices that no model learns from, with the phones in them: what ABX and Table I need."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from audiolm.demo_corpus.grammar import sentence
from audiolm.demo_corpus.held_out import HELD_OUT_VOICES, complete_set, held_out_voices, is_complete, write_spoken
from audiolm.demo_corpus.voices import SILENCE, SpokenPhone, Voice, synthesize_with_phones
from audiolm.demo_corpus.write import DemoCorpusError

ITEMS, PHONES, AUDIO = "phoneme.item", "phones.tsv", "audio"  # what the folder holds

_SETTINGS = "demo-phones.json"
_VERSION = 1  # of everything that decides the bytes


def write_demo_phones(
    out: str | Path,
    *,
    sentences: int = 16,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write recordings (16 kHz mono), `phoneme.item` and `phones.tsv`.

    Each of eight voices, of which no demo corpus of up to 202 voices learns, speaks sentences of its own from the demo corpus's
    grammar: `audio/<voice>/<voice>-<number>.wav`. The item file is Libri-Light's, an item a phone; its pauses are neighbours
    (`SIL`) and no items. The table has all stretches, pauses too. Phones are espeak-ng's, without stress and length, and begin
    where its synthesizer begins them. The same settings give the same bytes. The folder appears when it is complete; a complete
    one is left alone.

    Args:
        sentences: of each voice.
        seed: of the sentences.
        workers: threads; None takes one per CPU.
        progress: called with (recordings written, recordings in all).

    Returns:
        What stands in the folder, for the screen.

    Raises:
        DemoCorpusError: for numbers that cannot be, or an `out` that holds anything else.
    """
    out = Path(out)
    if sentences < 1 or seed < 0:
        raise DemoCorpusError(f"sentences must be at least 1, seed at least 0; got {sentences} and {seed}")
    settings = {"version": _VERSION, "voices": HELD_OUT_VOICES, "sentences": sentences, "seed": seed}
    said = f"{sentences} sentences of each of {HELD_OUT_VOICES} voices, with aligned phones, in {out}"
    if is_complete(out, _SETTINGS, settings):
        return f"{said} (already there)"
    draw = random.Random(f"demo phones {seed}")
    texts = [sentence(draw) for _ in range(sentences * HELD_OUT_VOICES)]
    names = [f"demo{voice}-{number:03d}" for voice in range(HELD_OUT_VOICES) for number in range(sentences)]
    with complete_set(out, _SETTINGS, settings) as folder:
        speak = partial(_speak, folder / AUDIO, dict(enumerate(held_out_voices(HELD_OUT_VOICES))))
        aligned: dict[str, list[SpokenPhone]] = {}
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
            for name, phones in zip(names, executor.map(speak, names, texts), strict=True):
                aligned[name] = phones
                progress(len(aligned), len(names))
        (folder / ITEMS).write_text(_items(aligned))
        (folder / PHONES).write_text(_table(aligned))
    return said


def _speaker(name: str) -> str:
    return name.split("-")[0]


def _speak(folder: Path, cast: dict[int, Voice], name: str, text: str) -> list[SpokenPhone]:
    voice = cast[int(_speaker(name).removeprefix("demo"))]
    audio, rate, phones = synthesize_with_phones(text, voice)
    path = folder / _speaker(name) / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_spoken(path, audio, sample_rate_hz=rate)
    return phones


def _items(aligned: dict[str, list[SpokenPhone]]) -> str:
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for name, phones in aligned.items():
        around = [SILENCE, *(phone.phone for phone in phones), SILENCE]
        lines += [
            f"{name} {_times(phone)} {phone.phone} {before} {after} {_speaker(name)}"
            for phone, before, after in zip(phones, around, around[2:], strict=False)
            if phone.phone != SILENCE
        ]
    return "\n".join(lines) + "\n"


def _table(aligned: dict[str, list[SpokenPhone]]) -> str:
    rows = [
        f"{name}\t{_times(phone, between=chr(9))}\t{phone.phone}"
        for name, phones in aligned.items()
        for phone in phones
    ]
    return "\n".join(["file\tstart\tend\tphone", *rows]) + "\n"


def _times(phone: SpokenPhone, *, between: str = " ") -> str:
    return f"{phone.onset_seconds:.4f}{between}{phone.offset_seconds:.4f}"
