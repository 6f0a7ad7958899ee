"""The letters that our recogniser writes: a to z, the apostrophe and the space; and CTC's blank."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
BLANK = 0  # letter n of LETTERS is id n + 1
IDS = {letter: number for number, letter in enumerate(LETTERS, start=1)}
APOSTROPHES = str.maketrans("’‘`´", "''''")


def spelled(text: str) -> str:
    """A transcript in our letters: lower case, without accents and punctuation, single spaces.

    Raises:
        ValueError: for characters that are spoken but are no letters of ours, such as digits, and where nothing is left.
    """
    plain = unicodedata.normalize("NFKD", text.translate(APOSTROPHES)).lower()
    kept = "".join(
        " " if _silent(character) else character for character in plain if not unicodedata.combining(character)
    )
    words = " ".join(word for word in kept.split() if word.strip("'"))
    strange = sorted(set(words) - set(LETTERS))
    if strange or not words:
        what = f"it holds {' '.join(strange)!r}, which nobody spells out" if strange else "nothing in it is spoken"
        raise ValueError(f"{text[:60]!r} cannot be spelled with a to z, the apostrophe and the space: {what}")
    return words


def _silent(character: str) -> bool:
    return character != "'" and (character.isspace() or unicodedata.category(character)[0] in "PZC")


def encode(text: str) -> list[int]:
    """The ids of spelled text."""
    return [IDS[letter] for letter in text]


def decode(path: Iterable[int]) -> str:
    """The text of a CTC path, an id a frame: repeats are one letter, blanks none; single spaces."""
    letters = "".join(LETTERS[number - 1] for number, _ in groupby(path) if number != BLANK)
    return re.sub(" +", " ", letters).strip()


def frames_needed(ids: Sequence[int]) -> int:
    """Frames of the shortest CTC path: one a letter, and a blank between two equal ones."""
    return len(ids) + sum(first == second for first, second in pairwise(ids))
