"""From the errors of cells to one figure: averages as Libri-Light takes them, and an interval over speakers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation.abx_cells import CellErrors
from audiolm.evaluation.abx_items import Context
from audiolm.evaluation.abx_tasks import Group, Speakers

RESAMPLINGS = 1000


@dataclass(frozen=True)
class PairError:
    """Of one ordered pair of phones: the mean of its speakers' errors, and all triples."""

    phone_a: str
    phone_b: str
    error: float
    triples: int


@dataclass(frozen=True)
class AbxScore:
    """One ABX figure, as a fraction (papers print it times 100).

    Attributes:
        error: mean over ordered pairs of phones; None where nothing can be compared.
        interval: 95 % by bootstrap over the speakers of A and B; None below two speakers.
        speaker_errors: of each speaker of A and B, the mean over pairs of phones.
        pairs: every ordered pair of phones that has a triple.
    """

    context: Context
    speakers: Speakers
    error: float | None
    interval: tuple[float, float] | None
    triples: int
    cells: int
    speaker_errors: dict[str, float]
    pairs: tuple[PairError, ...]


def pool_cells(
    cells: CellErrors, groups: Sequence[Group], *, context: Context, speakers: Speakers, seed: int
) -> AbxScore:
    """Average over contexts (and X's speakers) per speaker and ordered pair of phones, then over speakers, then over pairs."""
    names = sorted({group.speaker for group in groups})
    phones = sorted({group.phone for group in groups})
    a, b, triples = cells.a.numpy(), cells.b.numpy(), cells.triples.numpy()
    speaker_of = np.array([names.index(group.speaker) for group in groups], dtype=np.int64)
    phone_of = np.array([phones.index(group.phone) for group in groups], dtype=np.int64)
    if not len(a):
        return AbxScore(context, speakers, None, None, 0, 0, {}, ())
    codes, pair = np.unique(phone_of[a] * len(phones) + phone_of[b], return_inverse=True)
    place = speaker_of[a] * len(codes) + pair
    size = len(names) * len(codes)
    counts = np.bincount(place, minlength=size).reshape(len(names), -1)
    sums = np.bincount(place, weights=cells.error.numpy(), minlength=size).reshape(len(names), -1)
    errors = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)  # (speakers, pairs)
    heard = counts > 0
    pair_errors = errors.sum(0) / heard.sum(0)
    pair_triples = np.bincount(pair, weights=triples).astype(np.int64)
    of_speakers = {
        name: float(row[has].mean()) for name, row, has in zip(names, errors, heard, strict=True) if has.any()
    }
    return AbxScore(
        context,
        speakers,
        float(pair_errors.mean()),
        _interval(errors, heard, seed=seed),
        int(triples.sum()),
        len(a),
        of_speakers,
        tuple(
            PairError(phones[code // len(phones)], phones[code % len(phones)], float(error), int(count))
            for code, error, count in zip(codes, pair_errors, pair_triples, strict=True)
        ),
    )


def _interval(errors: NDArray[np.float64], heard: NDArray[np.bool_], *, seed: int) -> tuple[float, float] | None:
    """95 % of the figures when as many speakers are drawn with replacement; pairs nobody drawn has do not count."""
    speakers = np.flatnonzero(heard.any(1))
    if len(speakers) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(speakers), size=(RESAMPLINGS, len(speakers)))
    times = np.stack([np.bincount(draw, minlength=len(speakers)) for draw in draws]).astype(float)
    sums, counts = times @ errors[speakers], times @ heard[speakers]  # (resamplings, pairs)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    low, high = np.quantile(means.sum(1) / (counts > 0).sum(1), [0.025, 0.975])
    return float(low), float(high)
