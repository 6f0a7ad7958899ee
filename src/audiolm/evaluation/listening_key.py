"""The key of a listening test: what its items are. It stays with the experimenter; the page does not hold it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from audiolm.evaluation.listening_plan import SINGLE, Item, Kind, Role
from audiolm.files import read_json, write_json

FORMAT = "audiolm listening key 1"
MADE_BY = "`audiolm evaluate listening-test make`"
SINGLE_ANSWERS, PAIR_ANSWERS = ("human", "machine"), ("A", "B")


@dataclass(frozen=True)
class Key:
    """What a page asked, and which answer is a success."""

    page: str  # the page's digest
    kind: Kind
    names: tuple[str, str]
    items: tuple[Item, ...]

    @property
    def answers(self) -> tuple[str, str]:
        """What a rater can have chosen."""
        return SINGLE_ANSWERS if self.kind == SINGLE else PAIR_ANSWERS


def write_key(path: Path, key: Key, *, about: dict[str, Any]) -> None:
    """Write `key.json`; `about` says how the test was made, as plain values."""
    items = [{"number": number, **asdict(item)} for number, item in enumerate(key.items, start=1)]
    head = {"format": FORMAT, "page": key.page, "kind": key.kind, "names": key.names}
    write_json(path, {**head, "items": items, "about": about})


def read_key(path: Path) -> Key:
    """Read what `write_key` wrote.

    Raises:
        FileNotFoundError: if it is not there, naming the command that writes it.
        ValueError: if it is not a key, or damaged.
    """
    values = read_json(path, made_by=MADE_BY)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path} is no key of a listening test ({FORMAT!r}): name the key.json that {MADE_BY} wrote")
    try:
        items = tuple(_item(entry, number) for number, entry in enumerate(values["items"], start=1))
        key = Key(str(values["page"]), values["kind"], _two(values["names"]), items)
        _require(key.kind in get_args(Kind), f"its kind is {key.kind!r}")
        _require(bool(items), "it has no items")
        for number, item in enumerate(items, start=1):
            _require(item.right in key.answers, f"item {number} has the right answer {item.right!r}")
            known = {source for source, _ in item.sides} <= set(key.names)
            _require(known and len(item.sides) == (1 if key.kind == SINGLE else 2), f"the sides of item {number}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): take the copy that {MADE_BY} wrote, unchanged") from error
    return key


def _item(entry: dict[str, Any], number: int) -> Item:
    _require(entry["number"] == number and entry["role"] in get_args(Role), f"item {number}")
    return Item(entry["role"], tuple(_two(side) for side in entry["sides"]), entry["right"], entry["beeps"])


def _two(values: Sequence[Any]) -> tuple[str, str]:
    first, second = values
    return str(first), str(second)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
