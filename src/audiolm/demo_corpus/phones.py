"""Sentences of voices that no demo corpus has, with the phones in them: what ABX, Table I and Table III need."""

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from audiolm.demo_corpus.grammar import sentence
from audiolm.demo_corpus.held_out import HELD_OUT_VOICES, complete_set, held_out_voices, is_complete, write_spoken
from audiolm.demo_corpus.voices import SILENCE, SpokenPhone, synthesize_with_phones
from audiolm.demo_corpus.write import DemoCorpusError

ITEMS, PHONES, AUDIO = "phoneme.item", "phones.tsv", "audio"  # what the folder holds
SHORTEST_SECONDS, LONGEST_SECONDS = 4.0, 10.0  # the paper's, of recordings that are generated from

_SETTINGS = "demo-phones.json"
_VERSION = 1  # of everything that decides the bytes


def write_demo_phones(
    out: str | Path,
    *,
    sentences: int = 20,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write recordings (16 kHz mono), `phoneme.item` and `phones.tsv`.

    Each of eight voices speaks sentences of its own of 4 to 10 s from the demo corpus's grammar:
    `audio/<voice>/<voice>-<number>.wav`. The voices are the last of the demo voices: no demo corpus of up to 202 voices has them,
    though it may have their throats with another accent. The item file is Libri-Light's, an item a phone; its pauses are
    neighbours (`SIL`) and no items. The table has all stretches, pauses too. Phones are espeak-ng's, without stress and length,
    and begin where its synthesizer begins them. The same settings give the same bytes. The folder appears when it is complete; a
    complete one is left alone.

    Args:
        sentences: of each voice.
        seed: of the sentences.
        workers: threads; None takes one per CPU.
        progress: called with (voices written, voices in all).

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
    names = [_name(voice, number) for voice in range(HELD_OUT_VOICES) for number in range(sentences)]
    if is_complete(out, _SETTINGS, settings, files=[ITEMS, PHONES, *(f"{AUDIO}/{name}" for name in names)]):
        return f"{said} (already there)"
    with complete_set(out, _SETTINGS, settings) as folder:
        speak = partial(_speak, folder / AUDIO, sentences=sentences, seed=seed)
        aligned: dict[str, list[SpokenPhone]] = {}
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
            for done, spoken in enumerate(executor.map(speak, range(HELD_OUT_VOICES)), start=1):
                aligned |= spoken
                progress(done, HELD_OUT_VOICES)
        (folder / ITEMS).write_text(_items(aligned))
        (folder / PHONES).write_text(_table(aligned))
    return said


def _name(voice: int, number: int) -> str:
    """A recording's path below the folder of audio."""
    return f"demo{voice}/demo{voice}-{number:03d}.wav"


def _speak(folder: Path, index: int, *, sentences: int, seed: int) -> dict[str, list[SpokenPhone]]:
    """Write all sentences of one voice; returns their phones by the recording's path."""
    voice, draw = held_out_voices(HELD_OUT_VOICES)[index], random.Random(f"demo phones {seed} {index}")
    aligned: dict[str, list[SpokenPhone]] = {}
    while len(aligned) < sentences:
        audio, rate, phones = synthesize_with_phones(sentence(draw), voice, seed=draw.getrandbits(31))
        if SHORTEST_SECONDS <= len(audio) / rate <= LONGEST_SECONDS:
            name = _name(index, len(aligned))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_spoken(folder / name, audio, sample_rate_hz=rate)
            aligned[name] = phones
    return aligned


def _items(aligned: dict[str, list[SpokenPhone]]) -> str:
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for name, phones in aligned.items():
        path, around = Path(name), [SILENCE, *(phone.phone for phone in phones), SILENCE]
        lines += [
            f"{path.stem} {' '.join(_times(phone))} {phone.phone} {before} {after} {path.parent}"
            for phone, before, after in zip(phones, around, around[2:], strict=False)
            if phone.phone != SILENCE
        ]
    return "\n".join(lines) + "\n"


def _table(aligned: dict[str, list[SpokenPhone]]) -> str:
    rows = [(name, *_times(phone), phone.phone) for name, phones in aligned.items() for phone in phones]
    return "".join("\t".join(row) + "\n" for row in [("file", "start", "end", "phone"), *rows])


def _times(phone: SpokenPhone) -> tuple[str, str]:
    return f"{phone.onset_seconds:.4f}", f"{phone.offset_seconds:.4f}"
