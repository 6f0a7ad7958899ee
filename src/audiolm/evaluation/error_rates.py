"""Word and character error rates, pooled over a corpus, of texts in one spelling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np
from numpy.typing import NDArray

Spelling = Literal["english", "basic"]
SPELLINGS: dict[Spelling, str] = {
    "english": "Whisper's English normaliser (lower case, no punctuation, numbers as digits, contractions in full, no "
    "fillers), without its table of British spellings",
    "basic": "Whisper's basic normaliser (lower case, no punctuation or symbols; the apostrophe is one)",
}
RESAMPLINGS = 1000  # of the bootstrap
INTERVAL = 0.95


def normaliser(spelling: Spelling) -> Callable[[str], str]:
    """What brings reference and hypothesis into one spelling: that of Whisper, as transformers has it.

    Source: Radford et al. 2022, appendix C.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalise: Callable[[str], str] = EnglishTextNormalizer({}) if spelling == "english" else BasicTextNormalizer()
    return lambda text: " ".join(normalise(text).split())


@dataclass(frozen=True)
class Edits:
    """What turns a reference into a hypothesis: substitutions, deletions and insertions, and how long the reference is."""

    word_edits: int
    words: int
    character_edits: int
    characters: int


def edits_of(reference: str, hypothesis: str) -> Edits:
    """Count the edits between two texts in one spelling; spaces are characters.

    Raises:
        ValueError: for an empty reference, whose error rate is not defined.
    """
    if not reference:
        raise ValueError("an empty reference has no error rate")
    words, characters = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    return Edits(
        word_edits=words.substitutions + words.deletions + words.insertions,
        words=words.hits + words.substitutions + words.deletions,
        character_edits=characters.substitutions + characters.deletions + characters.insertions,
        characters=characters.hits + characters.substitutions + characters.deletions,
    )


@dataclass(frozen=True)
class Rate:
    """Edits per unit of reference, pooled, with a bootstrap interval over utterances."""

    value: float
    low: float | None  # None for a single utterance, which says nothing of others
    high: float | None
    edits: int
    length: int


def pooled_rate(edits: Sequence[int], lengths: Sequence[int], *, utterances: Sequence[str], seed: int = 0) -> Rate:
    """The sum of edits over the sum of lengths.

    Args:
        edits, lengths: one for each text.
        utterances: whose each is: several samplings of one utterance are drawn together.
        seed: of the bootstrap.

    Raises:
        ValueError: if there is nothing to pool.
    """
    if not edits or not sum(lengths):
        raise ValueError("there is no reference to pool error rates over")
    names = sorted(set(utterances))
    place = {name: number for number, name in enumerate(names)}
    owner = np.array([place[name] for name in utterances])
    wrong, long = (
        np.bincount(owner, weights=values, minlength=len(names)).astype(np.float64) for values in (edits, lengths)
    )
    low, high = _interval(wrong, long, seed=seed) if len(names) > 1 else (None, None)
    return Rate(sum(edits) / sum(lengths), low, high, sum(edits), sum(lengths))


def _interval(wrong: NDArray[np.float64], long: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    times = random.multinomial(len(wrong), np.full(len(wrong), 1 / len(wrong)), size=RESAMPLINGS)
    rates = (times @ wrong) / (times @ long)
    low, high = np.quantile(rates, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)
