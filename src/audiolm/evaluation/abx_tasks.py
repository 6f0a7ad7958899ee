"""What is compared with what: groups of items, drawn where they are too large, and the cells of an ABX test."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import numpy as np

from audiolm.evaluation.abx_items import Context, Item

Speakers = Literal["within", "across"]
SPEAKERS: tuple[Speakers, ...] = get_args(Speakers)


class Group(NamedTuple):
    """Items of equal context, speaker and phone: places `start` to `end` of `Groups.order`."""

    context: tuple[str, ...]
    speaker: str
    phone: str
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Groups:
    """All groups, sorted, so that those of one context and speaker are neighbours.

    Attributes:
        order: indices into the items; a group's members are neighbours too.
        blocks: (first, end) into `groups`: those of equal context and speaker.
    """

    groups: tuple[Group, ...]
    order: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]


def group_items(items: Sequence[Item], *, context: Context, max_size_group: int, seed: int) -> Groups:
    """Sort items into groups; of more than `max_size_group` members so many are drawn, once for all cells.

    The draw depends on the seed and the group alone, not on what else is measured.
    """
    keys = [(item.context(context), item.speaker, item.phone) for item in items]
    groups: list[Group] = []
    order: list[int] = []
    for key, members in groupby(sorted(range(len(items)), key=keys.__getitem__), key=keys.__getitem__):
        drawn = draw(list(members), max_size_group, seed=seed, name=repr(key))
        groups.append(Group(*key, len(order), len(order) + len(drawn)))
        order += drawn
    blocks, first = [], 0
    for _, block in groupby(groups, key=lambda group: group[:2]):
        count = len(list(block))
        blocks.append((first, first + count))
        first += count
    return Groups(tuple(groups), tuple(order), tuple(blocks))


class Comparison(NamedTuple):
    """X from group `x`, A from group `a`; B from each other group of the block `first` to `end` in turn: one cell each."""

    x: int
    a: int
    first: int
    end: int


def comparisons(groups: Groups, speakers: Speakers, *, max_x_across: int, seed: int) -> Iterator[Comparison]:
    """What an ABX test asks, block by block.

    within: X and A are two items of one group, which has at least two. across: X is of A's phone and context and of another
    speaker, of whom `max_x_across` at most are drawn per group A.
    """
    same: dict[tuple[object, str], list[int]] = {}  # context and phone -> groups, one per speaker
    for index, group in enumerate(groups.groups):
        same.setdefault((group.context, group.phone), []).append(index)
    for first, end in groups.blocks:
        if end - first < 2:
            continue
        for a in range(first, end):
            group = groups.groups[a]
            if speakers == "within":
                others = [a] if group.size > 1 else []
            else:
                others = [x for x in same[group.context, group.phone] if x != a]
                others = draw(others, max_x_across, seed=seed, name=repr(("x", group[:3])))
            yield from (Comparison(x, a, first, end) for x in others)


def draw(members: list[int], most: int, *, seed: int, name: str) -> list[int]:
    """At most `most` of the members, in their order; which ones is decided by seed and name."""
    if len(members) <= most:
        return members
    digest = hashlib.sha256(name.encode()).digest()
    random = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    return [members[place] for place in sorted(random.choice(len(members), most, replace=False))]
