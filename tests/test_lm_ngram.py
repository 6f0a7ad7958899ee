"""Unigram and bigram baselines: against the loop, normalised, and near a known entropy."""

import hypothesis.strategies as st
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings

from audiolm.lm import ngram
from audiolm.lm.ngram import NgramBaselines
from audiolm.tokens.layout import Stage, StageLayout, TokenSequence
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec(clusters=4, codebook_size=3, levels=5, coarse_levels=2)
stages = st.sampled_from(["semantic", "coarse", "fine", "acoustic"])


def random_sequences(layout: StageLayout, *, count: int, seed: int) -> list[TokenSequence]:
    random = torch.Generator().manual_seed(seed)
    sequences = []
    for number in range(count):
        frames = int(torch.randint(1, 12, (1,), generator=random))
        units = torch.randint(layout.spec.clusters, (frames,), generator=random)
        codes = torch.randint(layout.spec.codebook_size, (layout.spec.levels, frames), generator=random)
        sequences.append(layout.sequence(units, codes, true_end=number % 2 == 0))
    return sequences


def pairs(layout: StageLayout, sequence: TokenSequence) -> list[tuple[int, int]]:
    return [
        (phase, target - layout.legal_range(phase)[0])
        for phase, target in zip(sequence.phases.tolist(), sequence.targets.tolist(), strict=True)
        if phase >= 0
    ]


@settings(deadline=None, max_examples=40)
@given(stage=stages, train=st.integers(0, 6), seed=st.integers(0, 999), pending=st.sampled_from([1, 20, 10_000]))
def test_scores_agree_with_the_loop_however_counting_is_cut_up(
    stage: Stage, train: int, seed: int, pending: int
) -> None:
    layout = StageLayout(SPEC, stage)
    seen, scored = (random_sequences(layout, count=n, seed=s) for n, s in ((train, seed), (3, seed + 1000)))
    baselines = NgramBaselines(layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "PENDING_TARGETS", pending)
        for sequence in seen:
            baselines.count(sequence)
        score = baselines.score(scored)
    unigram, bigram, counted = reference.ngram_nats(
        [pairs(layout, sequence) for sequence in seen],
        [pairs(layout, sequence) for sequence in scored],
        widths=[stop - start for start, stop in map(layout.legal_range, range(layout.phases))],
        repeats=stage != "semantic",
    )
    assert score.unigram.tolist() == pytest.approx(unigram)
    assert score.bigram.tolist() == pytest.approx(bigram)
    assert score.counted.tolist() == counted


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine", "acoustic"])
def test_both_distributions_sum_to_one_over_the_legal_ids(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    baselines = NgramBaselines(layout)
    for sequence in random_sequences(layout, count=3, seed=0):
        baselines.count(sequence)
    for context in range(layout.spec.clusters if stage == "semantic" else layout.spec.codebook_size):
        unigram = bigram = 0.0
        start, stop = layout.legal_range(0)
        first = start + context + (stage == "coarse")  # there the end token comes first
        before = [first] + [layout.legal_range(phase)[1] - 1 for phase in range(1, layout.phases)]
        for target in range(start, stop):
            if stage == "semantic" and target == first:
                continue
            targets = torch.tensor([*before, target])
            phases = torch.arange(len(targets)) % layout.phases
            whole = baselines.score([TokenSequence(targets, targets, phases)])
            part = baselines.score([TokenSequence(targets[:-1], targets[:-1], phases[:-1])])
            unigram += (part.unigram[0] - whole.unigram[0]).exp().item()
            bigram += (part.bigram[0] - whole.bigram[0]).exp().item()
        assert (unigram, bigram) == (pytest.approx(1), pytest.approx(1))


def test_the_bigram_approaches_the_entropy_of_a_bigram_source_and_the_unigram_does_not() -> None:
    layout = StageLayout(TokenSpec(clusters=8, codebook_size=8, levels=1, coarse_levels=1), "coarse")
    random = np.random.default_rng(0)
    table = random.dirichlet(np.full(8, 0.3), size=8)  # P(next code | code)
    codes = [0]
    for uniform in random.random(100_000):
        codes.append(min(int((table[codes[-1]].cumsum() <= uniform).sum()), 7))
    stationary = np.bincount(codes, minlength=8) / len(codes)
    entropy = -(stationary[:, None] * table * np.log(np.maximum(table, 1e-300))).sum()
    windows = [
        layout.sequence(torch.tensor([0]), torch.tensor(codes[start : start + 1000])[None], true_end=False)
        for start in range(0, 100_000, 1000)
    ]
    baselines = NgramBaselines(layout)
    for window in windows[:80]:
        baselines.count(window)
    score = baselines.score(windows[80:])
    assert score.bigram.item() / score.counted.item() == pytest.approx(entropy, abs=0.02)  # 20,000 draws
    assert score.unigram.item() / score.counted.item() > entropy + 0.3


def test_an_untrained_baseline_is_uniform_over_the_legal_ids() -> None:
    layout = StageLayout(SPEC, "semantic")
    sequence = layout.sequence(torch.tensor([0, 1, 2]), None, true_end=True)
    score = NgramBaselines(layout).score([sequence])
    expected = np.log(5) + 3 * np.log(4)  # units and end; then without the previous unit
    assert (score.unigram.item(), score.bigram.item()) == (pytest.approx(expected), pytest.approx(expected))
