"""How fast ABX is, on items and features made up for it."""

from fractions import Fraction
from itertools import product

import torch

from audiolm.evaluation.abx import AbxResult, AbxSettings, measure_abx
from audiolm.evaluation.abx_items import Item


def measure_abx_speed(
    *,
    speakers: int = 40,
    contexts: int = 19,
    phones: int = 3,
    repetitions: int = 4,
    frames: tuple[int, int] = (4, 15),
    dim: int = 39,
    device: str = "cpu",
    seed: int = 0,
) -> AbxResult:
    """Measure ABX within context on noise; `triples_per_s` of the result is the speed.

    By default 9120 items and 1.7 million triples, about as many as LibriSpeech dev-clean has at `max_size_group` 10.

    Args:
        repetitions: items of each phone, context and speaker.
        frames: least and greatest number of frames of an item.
    """
    random = torch.Generator().manual_seed(seed)
    items, features, rate_hz = [], {}, 100
    for speaker, context in product(range(speakers), range(contexts)):
        stem, end = f"{speaker}-{context}", 0
        for phone, _ in product(range(phones), range(repetitions)):
            start, end = end, end + int(torch.randint(frames[0], frames[1] + 1, (), generator=random))
            times = Fraction(start, rate_hz), Fraction(end, rate_hz)
            items.append(Item(stem, *times, str(phone), str(context), "", str(speaker)))
        features[stem] = torch.randn(end, dim, generator=random)
    return measure_abx(
        items, features.__getitem__, rate_hz=rate_hz, settings=AbxSettings(contexts=("within",)), device=device
    )
