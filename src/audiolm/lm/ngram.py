"""Unigram and bigram baselines: what a language model must beat before its loss means anything."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audiolm.tokens.layout import StageLayout, TokenSequence

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PENDING_TARGETS = 4_000_000  # targets kept as they came before they are sorted into counts: 64 MB


@dataclass(frozen=True)
class NgramScore:
    """Sums over the scored targets of each phase; divide by `counted` for nats per token. All (phases,) float64."""

    unigram: Tensor  # nats
    bigram: Tensor  # nats
    counted: Tensor  # targets


class NgramBaselines:
    """Counts from training tokens, scored on other tokens, over the same ids and targets as the model's loss.

    A target's context is the target one cycle of phases before it: the previous unit, or the code of the same level in
    the previous frame. The first targets of a window have none and are scored by the unigram. With c counts, n their
    sum and t the number of different ids seen (Witten and Bell, 1991):

        unigram(id)           = (c(id) + t / legal ids) / (n + t)
        bigram(id | context)  = (c(context, id) + t(context) unigram(id)) / (n(context) + t(context))

    Where repeats are illegal, the unigram is normalised again without the previous unit.
    """

    def __init__(self, layout: StageLayout) -> None:
        self.layout = layout
        self._starts = np.array([layout.legal_range(phase)[0] for phase in range(layout.phases)])
        self._widths = np.array([layout.legal_range(phase)[1] for phase in range(layout.phases)]) - self._starts
        self._width = int(self._widths.max())
        self._unigrams: Integers = np.zeros((layout.phases, self._width), dtype=np.int64)
        self._keys: Integers = np.zeros(0, dtype=np.int64)  # sorted (phase, context, id) as one number
        self._counts: Integers = np.zeros(0, dtype=np.int64)
        self._pending: list[tuple[Integers, Integers]] = []
        self._pending_targets = 0

    def count(self, sequence: TokenSequence) -> None:
        """Add one training sequence."""
        phases, ids = self._targets(sequence)
        self._pending.append((phases, ids))
        self._pending_targets += len(ids)
        if self._pending_targets >= PENDING_TARGETS:
            self._fold()

    def score(self, sequences: Iterable[TokenSequence]) -> NgramScore:
        """Score sequences with what has been counted so far."""
        self._fold()
        contexts = self._keys // self._width  # (phase, context)
        size = self.layout.phases * self._width
        context_sums = np.bincount(contexts, weights=self._counts, minlength=size)
        context_types = np.bincount(contexts, minlength=size)
        unigram_probabilities = self._unigram_probabilities()
        unigram_nats, bigram_nats, counted = (np.zeros(self.layout.phases) for _ in range(3))
        for sequence in sequences:
            phases, ids = self._targets(sequence)
            unigram = unigram_probabilities[phases, ids]
            bigram = unigram.copy()
            cycle = self.layout.phases
            context = phases[cycle:] * self._width + ids[:-cycle]
            if self.layout.repeats_are_illegal:
                unigram[cycle:] /= 1 - unigram_probabilities[phases[cycle:], ids[:-cycle]]
            seen = self._lookup(context * self._width + ids[cycle:])
            types = context_types[context]
            share = (seen + types * unigram[cycle:]) / np.maximum(context_sums[context] + types, 1)
            bigram[cycle:] = np.where(types > 0, share, unigram[cycle:])
            unigram_nats += np.bincount(phases, weights=-np.log(unigram), minlength=cycle)
            bigram_nats += np.bincount(phases, weights=-np.log(bigram), minlength=cycle)
            counted += np.bincount(phases, minlength=cycle)
        return NgramScore(*(torch.from_numpy(sums) for sums in (unigram_nats, bigram_nats, counted)))

    def _targets(self, sequence: TokenSequence) -> tuple[Integers, Integers]:
        """Phases of the targets that carry loss, and their ids from 0 within the phase's legal range."""
        phases = sequence.phases.numpy()
        carries_loss = phases >= 0
        phases = phases[carries_loss]
        return phases, sequence.targets.numpy()[carries_loss] - self._starts[phases]

    def _fold(self) -> None:
        """Sort what is pending into the counts. Pairs are kept sparsely: few of 16384 x 16384 ever occur."""
        if not self._pending:
            return
        cycle = self.layout.phases
        phases = np.concatenate([phases for phases, _ in self._pending])
        ids = np.concatenate([ids for _, ids in self._pending])
        np.add.at(self._unigrams, (phases, ids), 1)
        lengths = np.array([len(ids) for _, ids in self._pending])
        within = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = np.flatnonzero(within >= cycle)
        keys = (phases[at] * self._width + ids[at - cycle]) * self._width + ids[at]
        new_keys, new_counts = np.unique(keys, return_counts=True)
        self._keys, inverse = np.unique(np.concatenate([self._keys, new_keys]), return_inverse=True)
        counts = np.bincount(inverse, weights=np.concatenate([self._counts, new_counts]), minlength=len(self._keys))
        self._counts = counts.astype(np.int64)  # exact: float64 counts up to 2^53
        self._pending, self._pending_targets = [], 0

    def _unigram_probabilities(self) -> Floats:
        sums = self._unigrams.sum(1, keepdims=True)
        types = (self._unigrams > 0).sum(1, keepdims=True)
        smoothed = (self._unigrams + types / self._widths[:, None]) / np.maximum(sums + types, 1)
        return np.where(sums > 0, smoothed, 1 / self._widths[:, None])

    def _lookup(self, keys: Integers) -> Integers:
        if not len(self._keys):
            return np.zeros_like(keys)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._counts[place], 0)
