"""Self-BLEU: how much sequences of units say the same as one another; and distinct n-grams and entropy within them."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Units = Sequence[int]
Gram = tuple[int, ...]

ORDER = 4


def ngrams(units: Units, order: int) -> Counter[Gram]:
    """How often each run of `order` units occurs."""
    return Counter(tuple(units[place : place + order]) for place in range(len(units) - order + 1))


def distinct_share(sequences: Sequence[Units], order: int) -> float:
    """Different n-grams of all sequences over all n-grams; nan if there are none. It falls with the amount of speech."""
    counts: Counter[Gram] = Counter()
    for units in sequences:
        counts.update(ngrams(units, order))
    return len(counts) / counts.total() if counts else math.nan


def entropy_bits(sequences: Sequence[Units]) -> float:
    """Entropy of the units' frequencies over all sequences, in bits per unit; nan without units."""
    counts = Counter(unit for units in sequences for unit in units)
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values()) + 0.0 if total else math.nan


def self_bleu(sequences: Sequence[Units], owners: Sequence[Hashable], *, order: int = ORDER) -> list[float]:
    """BLEU of every sequence against all those of other owners: 1 says the same as they, 0 shares no n-gram with them.

    Geometric mean of the clipped precisions of n-grams of 1 to `order` units, times the brevity penalty of the reference nearest
    in length. Not smoothed: one precision of 0 makes it 0.

    Args:
        sequences: units of each utterance, repeats removed.
        owners: one per sequence. Give each sequence its own to compare all with all; give continuations of one prompt the
            same to compare only across prompts.

    Returns:
        One per sequence; nan for one that is shorter than `order`, or beside which there is no other owner's.

    Raises:
        ValueError: if there are not as many owners as sequences, or `order` is not positive.

    Source: Zhu et al. (2018), Texygen (arXiv 1802.01886); BLEU: Papineni et al. (2002).
    """
    if len(sequences) != len(owners) or order < 1:
        raise ValueError(f"{len(sequences)} sequences, {len(owners)} owners, order {order}: one owner each, order >= 1")
    tables = [_MostOf(sequences, owners, n) for n in range(1, order + 1)]
    return [_bleu(number, sequences, owners, tables, order) for number in range(len(sequences))]


class _MostOf:
    """Of every n-gram the highest count in one sequence, and the highest among all other owners: what clipping needs."""

    def __init__(self, sequences: Sequence[Units], owners: Sequence[Hashable], order: int) -> None:
        self.counts = [ngrams(units, order) for units in sequences]
        self.best: dict[Gram, tuple[int, Hashable]] = {}
        self.second: dict[Gram, int] = {}  # the highest of owners other than the best's
        for counts, owner in zip(self.counts, owners, strict=True):
            for gram, count in counts.items():
                self._note(gram, count, owner)

    def _note(self, gram: Gram, count: int, owner: Hashable) -> None:
        most, of = self.best.get(gram, (0, owner))
        if of == owner:
            self.best[gram] = (max(most, count), owner)
        elif count > most:
            self.best[gram], self.second[gram] = (count, owner), most
        else:
            self.second[gram] = max(self.second.get(gram, 0), count)

    def matched(self, number: int, owner: Hashable) -> int:
        """N-grams of a sequence that other owners have as well, each at most as often as one reference has it."""
        total = 0
        for gram, count in self.counts[number].items():
            most, of = self.best[gram]
            total += min(count, self.second.get(gram, 0) if of == owner else most)
        return total


def _bleu(
    number: int, sequences: Sequence[Units], owners: Sequence[Hashable], tables: Sequence[_MostOf], order: int
) -> float:
    length, owner = len(sequences[number]), owners[number]
    references = [len(units) for units, theirs in zip(sequences, owners, strict=True) if theirs != owner]
    if length < order or not references:
        return math.nan
    matched = [table.matched(number, owner) for table in tables]
    if 0 in matched:
        return 0.0
    precisions = [math.log(hits / (length - n)) for n, hits in enumerate(matched)]
    nearest = min(references, key=lambda reference: (abs(reference - length), reference))
    brevity = min(0.0, 1 - nearest / length)
    return math.exp(brevity + sum(precisions) / order)
