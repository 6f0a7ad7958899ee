"""Items of an ABX test: stretches of recordings, each a phone (or word) in its context; `.item` files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from audiolm.files import require_regular_file

Context = Literal["within", "any"]
CONTEXTS: tuple[Context, ...] = get_args(Context)
_DECIMAL = re.compile(r"[+-]?(\d{1,20}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,2})?", re.ASCII)
_FIELDS = ("file", "onset", "offset", "phone", "previous phone", "next phone", "speaker")


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an item file. Times are seconds, kept exactly as they were written."""

    file: str  # stem of the recording or feature file
    onset: Fraction
    offset: Fraction
    phone: str
    previous: str
    next: str
    speaker: str

    def context(self, mode: Context) -> tuple[str, ...]:
        """What must be equal for two items to be compared: the neighbouring phones, or nothing."""
        return (self.previous, self.next) if mode == "within" else ()


def read_items(path: Path) -> list[Item]:
    """Read an item file: phones, triphones or whole words.

    Args:
        path: text of seven columns separated by white space: file, onset, offset, phone, previous phone, next phone, speaker.
            The first line is a header whatever it says.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: naming file and line, if a line is not an item; or if there is none.

    Source: the item files of Libri-Light and ZeroSpeech.
    """
    try:
        require_regular_file(path)
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"the item file {path} does not exist") from None
    except ValueError as error:  # bytes that are no UTF-8, too
        raise ValueError(f"{path} is not a text file, so it cannot be an item file ({error})") from error
    if lines[-1] == "":  # the end of the last line
        lines.pop()
    items = [_item(line, f"line {number} of {path}") for number, line in enumerate(lines[1:], start=2)]
    if not items:
        raise ValueError(f"{path} holds no item: after its first line, a header that is skipped, nothing follows")
    return items


def _item(line: str, where: str) -> Item:
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{where} has {len(fields)} fields, not 7 ({', '.join(_FIELDS)}): {line[:200]!r}")
    file, onset_text, offset_text, phone, previous, following, speaker = fields
    onset, offset = _seconds(onset_text, where), _seconds(offset_text, where)
    if not 0 <= onset < offset:
        raise ValueError(
            f"{where}: an item lasts from 0 or later to some time after, not {onset_text} to {offset_text} s"
        )
    return Item(file, onset, offset, phone, previous, following, speaker)


def _seconds(text: str, where: str) -> Fraction:
    try:
        if not _DECIMAL.fullmatch(text):  # Fraction reads 1/3 and 1_0, and takes gigabytes for 1e999999999
            raise ValueError
        return Fraction(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a time in seconds") from None


def files_of(items: Sequence[Item]) -> list[str]:
    """The recordings that items lie in, each once, in the order of the items."""
    return list(dict.fromkeys(item.file for item in items))
