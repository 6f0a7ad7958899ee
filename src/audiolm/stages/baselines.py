"""What a language model has to beat: n-gram cross-entropies on its own validation tokens. And how fast units come."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from audiolm.lm.ngram import NgramBaselines
from audiolm.tokens.layout import StageLayout, TokenSequence, remove_repeats
from audiolm.tokens.windows import Window, Windows


def measure_baselines(
    layout: StageLayout, train: Windows, validation: Iterable[list[TokenSequence]], *, most_tokens: int
) -> dict[str, Any]:
    """Count n-grams on training windows and score validation sequences with them.

    Args:
        layout: of the stage.
        train: windows of the training split, of the stage's length.
        validation: batches of sequences, the ones that the model is validated on.
        most_tokens: training targets counted at most.

    Returns:
        Plain numbers: `unigram` and `bigram` in nats per token, both also per phase; how many tokens were counted and scored;
        `units_per_second`, without repeats, of the training windows counted.
    """
    baselines, units, seconds, counted = NgramBaselines(layout), 0, 0.0, 0
    for window in _windows_to_count(layout, train, most_tokens):
        tokens = train.read(window)
        sequence = layout.sequence(tokens.units, tokens.codes, true_end=tokens.true_end)
        baselines.count(sequence)
        counted += int((sequence.phases >= 0).sum())
        units += len(remove_repeats(tokens.units))
        seconds += len(tokens.units) / layout.spec.semantic_rate_hz
        if counted >= most_tokens:
            break
    score = baselines.score(sequence for batch in validation for sequence in batch)
    scored = score.counted.sum()
    return {
        "train_tokens": counted,
        "validation_tokens": int(scored),
        "unigram": float(score.unigram.sum() / scored),
        "bigram": float(score.bigram.sum() / scored),
        "unigram_per_phase": (score.unigram / score.counted).tolist(),
        "bigram_per_phase": (score.bigram / score.counted).tolist(),
        "units_per_second": units / seconds,
    }


def _windows_to_count(layout: StageLayout, train: Windows, most_tokens: int) -> Iterator[Window]:
    """The whole training split once, if that is few enough tokens; else random windows without end."""
    tokens = int(train.blocks.sum()) * max(train.units_per_block, train.frames_per_block * layout.phases)
    if tokens <= 2 * most_tokens:
        yield from train.all()
        return
    random = np.random.default_rng(0)
    while True:
        yield from train.draw(random, 256)
