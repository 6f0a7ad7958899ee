"""Which recordings a classifier does not train on: a rule that a growing corpus does not change."""

import hashlib
from collections.abc import Iterable

SHARE = 0.1  # held out: the paper's 90/10


def place(id_: str) -> float:
    """A number in [0, 1) that belongs to an id, as good as random, and the same everywhere."""
    digest = hashlib.sha256(id_.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out(ids: Iterable[str]) -> set[str]:
    """Choose what is held out among the ids of one class: a tenth on average, at least one, and never all.

    Those with a place below a tenth; if there is none, the one with the lowest; and the one with the highest never, so that one
    is left to train on. As a corpus grows, what was trained on is not held out later, but for classes that had recordings below a
    tenth only (one in a hundred of those with two recordings, one in 10^5 of those with five).

    Returns:
        Some of the ids; none of a single one, for which there is no honest choice.
    """
    ordered = sorted(set(ids), key=lambda id_: (place(id_), id_))
    if len(ordered) < 2:
        return set()
    below = {id_ for id_ in ordered if place(id_) < SHARE}
    return (below or {ordered[0]}) - {ordered[-1]}
