"""A small sWUGGY and sBLIMP of the demo corpus's words and sentences, in the layout of ZeroSpeech 2021."""

import csv
import os
import random
import string
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from audiolm.demo_corpus.foils import SHORTEST_WORD_LETTERS, determiner_last, non_words, plain_words, scrambled
from audiolm.demo_corpus.grammar import sentence, vocabulary
from audiolm.demo_corpus.held_out import complete_set, held_out_voices, is_complete, write_spoken
from audiolm.demo_corpus.voices import Voice, phonemes, synthesize
from audiolm.demo_corpus.write import DemoCorpusError

VOICES = 4
LONGEST_SENTENCE_WORDS = 9
TYPES = (("scrambled", "all_words"), ("determiner", "behind_its_word"))  # sentences take turns

_SETTINGS = "demo-zerospeech.json"
_VERSION = 1  # of everything that decides the bytes
_COLUMNS = {
    "lexical": ("filename", "id", "voice", "frequency", "word", "phones", "length", "correct"),
    "syntactic": ("filename", "id", "voice", "type", "subtype", "transcription", "correct"),
}


@dataclass(frozen=True)
class _Spoken:
    """One recording: what is said, by whom, and its row in the gold file but for its name."""

    task: str
    text: str
    voice: int
    row: dict[str, Any]


def write_demo_zerospeech(
    out: str | Path,
    *,
    corpus: str | Path,
    words: int = 100,
    sentences: int = 100,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write `lexical/dev` and `syntactic/dev`: wavs (16 kHz mono) and `gold.csv`, spoken by four voices.

    Words are those of the demo corpus's grammar; each non-word is its word with two vowels, or two consonants, exchanged, and
    sounds like no word of the grammar. Sentences are new ones from the grammar, without punctuation; the wrong ones hold the
    same words, all in another order (type `scrambled`) or with a determiner behind its neighbour (`determiner`). The voices are
    the last of the demo voices: no demo corpus of up to 202 voices has them, though it may have their throats with another
    accent. The same settings give the same bytes. The folder appears when it is complete; a complete one is left alone.

    Args:
        corpus: the demo corpus that a model learns from: `frequency` in the gold file is how often its transcripts, of all
            its speakers, hold the word.
        words: pairs of words; at most as many as the grammar has of five letters or more.
        sentences: pairs of sentences.
        seed: of the choice of words and sentences.
        workers: threads; None takes one per CPU.
        progress: called with (recordings written, recordings in all).

    Returns:
        What stands in the folder, for the screen.

    Raises:
        DemoCorpusError: for a corpus without transcripts, numbers that cannot be, or an `out` that holds anything else.
    """
    out, counts = Path(out), _word_counts(Path(corpus))
    if words < 1 or sentences < 1 or seed < 0:
        raise DemoCorpusError(
            f"words and sentences must be at least 1, seed at least 0; got {words}, {sentences} and {seed}"
        )
    settings = {"version": _VERSION, "words": words, "sentences": sentences, "seed": seed, "corpus_words": dict(counts)}
    said = f"{words} pairs of words and {sentences} of sentences, each in {VOICES} voices, in {out}"
    draw = random.Random(f"demo zerospeech {seed}")
    spoken = [*_word_pairs(words, counts, draw), *_sentence_pairs(sentences, draw)]
    stems = _stems(len(spoken), draw)
    recordings = [f"{item.task}/dev/{stem}.wav" for stem, item in zip(stems, spoken, strict=True)]
    if is_complete(out, _SETTINGS, settings, files=[*(f"{task}/dev/gold.csv" for task in _COLUMNS), *recordings]):
        return f"{said} (already there)"
    with complete_set(out, _SETTINGS, settings) as folder:
        for task in _COLUMNS:
            (folder / task / "dev").mkdir(parents=True)
            rows = [
                {"filename": stem} | item.row for stem, item in zip(stems, spoken, strict=True) if item.task == task
            ]
            _write_gold(folder / task / "dev" / "gold.csv", _COLUMNS[task], rows)
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
            write = partial(_write_recording, folder, held_out_voices(VOICES))
            for done, _ in enumerate(executor.map(write, stems, spoken), start=1):
                progress(done, len(spoken))
    return said


def _word_counts(corpus: Path) -> Counter[str]:
    """How often each word stands in the transcripts of a demo corpus, in lower case."""
    paths = sorted(corpus.rglob("*.trans.txt"))
    if not paths:
        raise DemoCorpusError(
            f"there is no transcript (*.trans.txt) below {corpus}: `audiolm demo-corpus --out {corpus}` writes a demo corpus"
        )
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return Counter(word for line in lines for word in line.lower().split()[1:])


def _word_pairs(count: int, counts: Counter[str], draw: random.Random) -> list[_Spoken]:
    real = sorted(word.lower() for word in vocabulary() if word.isalpha())
    sounds = {word: tuple(spoken) for word, spoken in zip(real, phonemes(real), strict=True)}
    known = set(sounds.values())
    pairs: list[tuple[str, str, list[str]]] = []
    for word in draw.sample(real, len(real)):
        candidates = non_words(word) if len(word) >= SHORTEST_WORD_LETTERS else []
        draw.shuffle(candidates)
        for foil, spoken in zip(candidates, phonemes(candidates), strict=True):
            if tuple(spoken) not in known and len(spoken) == len(sounds[word]):  # else length tells them apart
                pairs.append((word, foil, spoken))
                break
        if len(pairs) == count:
            break
    if len(pairs) < count:
        raise DemoCorpusError(f"the grammar gives {len(pairs)} pairs of words, {count} were asked for")
    recordings = []
    for number, (word, foil, foil_sounds) in enumerate(pairs):
        for voice in range(VOICES):
            shared = {"id": number, "voice": f"demo{voice}", "frequency": counts[word]}
            for text, sound, correct in ((word, sounds[word], 1), (foil, foil_sounds, 0)):
                row = {**shared, "word": text, "phones": " ".join(sound), "length": len(sound), "correct": correct}
                recordings.append(_Spoken("lexical", text, voice, row))
    return recordings


def _sentence_pairs(count: int, draw: random.Random) -> list[_Spoken]:
    recordings: list[_Spoken] = []
    seen: set[str] = set()
    while len(seen) < count:
        right = plain_words(sentence(draw))
        type_, subtype = TYPES[len(seen) % 2]
        wrong = scrambled(right, draw) if type_ == "scrambled" else determiner_last(right, draw)
        if wrong is None or len(right) > LONGEST_SENTENCE_WORDS or " ".join(right) in seen:
            continue
        for voice in range(VOICES):
            shared = {"id": len(seen) // 2, "voice": f"demo{voice}", "type": type_, "subtype": subtype}
            for words, correct in ((right, 1), (wrong, 0)):
                row = {**shared, "transcription": " ".join(words), "correct": correct}
                recordings.append(_Spoken("syntactic", " ".join(words), voice, row))
        seen.add(" ".join(right))
    return recordings


def _stems(count: int, draw: random.Random) -> list[str]:
    """Names that say nothing, in mixed case, as ZeroSpeech has them."""
    stems: set[str] = set()
    ordered: list[str] = []
    while len(ordered) < count:
        stem = "".join(draw.choices(string.ascii_letters, k=11))
        if stem.lower() not in stems:  # some disks do not tell upper from lower case
            stems.add(stem.lower())
            ordered.append(stem)
    return ordered


def _write_recording(folder: Path, cast: list[Voice], stem: str, item: _Spoken) -> None:
    audio, rate = synthesize(item.text, cast[item.voice])
    write_spoken(folder / item.task / "dev" / f"{stem}.wav", audio, sample_rate_hz=rate)


def _write_gold(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
