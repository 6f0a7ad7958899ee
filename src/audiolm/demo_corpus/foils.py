"""Wrong twins: non-words made of words, and sentences whose words stand in a wrong order."""

import random
import re
from functools import partial

VOWELS = "aeiouy"
DETERMINERS = frozenset(["the", "my", "her", "his", "every"])
SHORTEST_WORD_LETTERS = 5  # shorter ones turn into other words


def non_words(word: str) -> list[str]:
    """All spellings that come of letting two different vowels, or two different consonants, change places; sorted."""
    swapped = set()
    for first in range(len(word)):
        for second in range(first + 1, len(word)):
            a, b = word[first], word[second]
            if a != b and (a in VOWELS) == (b in VOWELS):
                swapped.add(word[:first] + b + word[first + 1 : second] + a + word[second + 1 :])
    return sorted(swapped)


def scrambled(words: list[str], draw: random.Random) -> list[str]:
    """The same words in another order: of fifty drawn ones, that with the fewest words where they were.

    Raises:
        ValueError: if all words are equal, or there is one only.
    """
    if len(set(words)) < 2:
        raise ValueError(f"{words} have one order only: give a sentence of different words")
    while (order := min((draw.sample(words, len(words)) for _ in range(50)), key=partial(_unmoved, words))) == words:
        pass
    return order


def determiner_last(words: list[str], draw: random.Random) -> list[str] | None:
    """The same words, one determiner behind the word it belongs to ("letter the"); None where there is no determiner."""
    places = [
        place for place, word in enumerate(words[:-1]) if word in DETERMINERS and words[place + 1] not in DETERMINERS
    ]
    if not places:
        return None
    at = draw.choice(places)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def plain_words(text: str) -> list[str]:
    """A sentence's words in lower case, without punctuation, which would tell right from wrong by its pauses."""
    return re.findall(r"[a-z']+", text.lower())


def _unmoved(words: list[str], order: list[str]) -> int:
    return sum(a == b for a, b in zip(words, order, strict=True))
