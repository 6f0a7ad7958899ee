"""Who hears what, where: the items of a listening test, in random order with balanced sides."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["human-or-machine", "which-is-human", "preference"]
Role = Literal["trial", "counted", "attention"]
Side = tuple[str, str]  # which folder's name, which recording

SINGLE: Kind = "human-or-machine"


@dataclass(frozen=True)
class Item:
    """One question: one recording (human or machine?) or two (A or B?)."""

    role: Role  # a trial comes first and does not count; an attention item has beeps and one answer that was asked for
    sides: tuple[Side, ...]
    right: str  # the answer that counts as success: "human", "machine", "A" or "B"
    beeps: int | None = None  # the side of an attention item that has them


@dataclass(frozen=True)
class Request:
    """How many items of what kind; `names` are those of the two folders, a success is said of the first."""

    kind: Kind
    names: tuple[str, str]
    seed: int
    limit: int | None = None  # counted items; None: as many as the folders give
    trials: int = 0
    attention: int = 0


def plan_items(first: Sequence[str], second: Sequence[str], request: Request) -> list[Item]:
    """Choose recordings, sides and order. The same recordings and seed give the same test.

    Args:
        first: the recordings of the first folder (human; or one side of a preference), as paths without suffix.
        second: those of the second (machine). A recording of both is used on one side only where one is heard at a time,
            since its beginning would be heard twice; where two are compared, they are the pair.

    Raises:
        ValueError: if there are too few, or, for pairs, some have no partner, naming them.
    """
    text = repr((request.seed, request.kind, sorted(first), sorted(second)))
    dice = random.Random(hashlib.sha256(text.encode()).digest())  # the page alone does not say what was drawn
    if request.kind == SINGLE:
        sequence = _singles(first, second, request.names, dice)
    else:
        sequence = _pairs(first, second, request.names, dice)
    counted, extras = _divide(sequence, request)
    firsts = _balanced(len(counted), dice)
    rest = [_item("counted", sides, first_on_a, request) for sides, first_on_a in zip(counted, firsts, strict=True)]
    beeps = _balanced(request.attention, dice)
    for sides, beeps_on_a in zip(extras[request.trials :], beeps, strict=True):
        rest.append(_attention(sides, beeps_on_a, request))
    trials = [_item("trial", sides, dice.random() < 0.5, request) for sides in extras[: request.trials]]
    dice.shuffle(rest)
    return trials + rest


def _singles(first: Sequence[str], second: Sequence[str], names: tuple[str, str], dice: random.Random) -> list[tuple]:
    """Recordings of the two folders by turns, no name on both sides."""
    shared = sorted(set(first) & set(second))
    sides = [sorted(set(first) - set(second)), sorted(set(second) - set(first))]
    dice.shuffle(shared)
    for name in shared:
        min(sides, key=len).append(name)
    for side in sides:
        dice.shuffle(side)
    turns = zip(*sides, strict=False)  # the longer side's rest has no opposite
    return [((source, name),) for turn in turns for source, name in zip(names, turn, strict=True)]


def _pairs(first: Sequence[str], second: Sequence[str], names: tuple[str, str], dice: random.Random) -> list[tuple]:
    if alone := sorted(set(first) ^ set(second)):
        raise ValueError(
            f"{len(alone)} recordings are in one of the two folders only: {', '.join(alone[:5])}{' …' * (len(alone) > 5)}. "
            "A pair has the same name (without suffix) in both: rename, remove or generate what is missing."
        )
    shared = sorted(first)
    dice.shuffle(shared)
    return [tuple((source, name) for source in names) for name in shared]


def _divide(sequence: list[tuple], request: Request) -> tuple[list[tuple], list[tuple]]:
    """Counted items, and those of trials and attention."""
    step = 2 if request.kind == SINGLE else 1
    extras = request.trials + request.attention
    count = (len(sequence) - extras) // step * step if request.limit is None else request.limit
    if count % step:
        raise ValueError(f"an even number of items is needed, half of them human, got {count}: change --limit")
    if count < step or count + extras > len(sequence):
        raise ValueError(
            f"the folders give {len(sequence)} items; {max(count, step)} counted, {request.trials} for trial and "
            f"{request.attention} of attention were asked for. Add recordings, or lower --limit, --trials, --attention."
        )
    return sequence[:count], sequence[count : count + extras]


def _balanced(count: int, dice: random.Random) -> list[bool]:
    """True as often as False, or once more or less, in random order."""
    sides = [number % 2 == 0 for number in range(count)]
    if count % 2 and dice.random() < 0.5:
        sides = [not side for side in sides]
    dice.shuffle(sides)
    return sides


def _item(role: Role, sides: tuple, first_on_a: bool, request: Request) -> Item:
    if request.kind == SINGLE:
        return Item(role, sides, right=sides[0][0])
    return Item(role, sides if first_on_a else sides[::-1], right="A" if first_on_a else "B")


def _attention(sides: tuple, beeps_on_a: bool, request: Request) -> Item:
    if request.kind == SINGLE:
        return Item("attention", sides, right="machine", beeps=0)
    return Item("attention", sides, right="B" if beeps_on_a else "A", beeps=0 if beeps_on_a else 1)
