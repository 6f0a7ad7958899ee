"""Log likelihoods: the product of the model's probabilities, whoever else is scored, and what training minimises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, TRANSFORMER, tiny_generator, tones_and_noise

from audiolm.generator import AudioLM
from audiolm.lm import scoring
from audiolm.lm.losses import next_token_loss
from audiolm.lm.scoring import log_likelihood
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import Stage, StageLayout, TokenSequence, collate, remove_repeats

STAGES: list[Stage] = ["semantic", "coarse", "fine", "acoustic"]


def toy(layout: StageLayout) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TRANSFORMER, layout.vocabulary).double()
    torch.nn.init.normal_(model.head.weight)
    return model


def sequences_of(layout: StageLayout, *frames: int, true_end: bool = False) -> list[TokenSequence]:
    random = torch.Generator().manual_seed(0)
    return [
        layout.sequence(
            torch.randint(SPEC.clusters, (count,), generator=random),
            torch.randint(SPEC.codebook_size, (SPEC.levels, count), generator=random),
            true_end=true_end,
        )
        for count in frames
    ]


def probability_one_by_one(model: Transformer, layout: StageLayout, sequence: TokenSequence) -> float:
    """The product of the model's probabilities of every target, each from a pass of its own over what came before."""
    product = 1.0
    for place, phase in enumerate(sequence.phases.tolist()):
        if phase < 0:
            continue
        logits = model(sequence.inputs[None, : place + 1])[0, -1]
        start, stop = layout.legal_range(phase)
        previous = int(sequence.inputs[place])
        legal = [i for i in range(start, stop) if not (layout.stage == "semantic" and i == previous)]
        chosen = legal.index(int(sequence.targets[place]))
        product *= float(torch.softmax(logits[legal], 0)[chosen])
    return product


@pytest.mark.parametrize("stage", STAGES)
@torch.no_grad()
def test_a_score_is_the_logarithm_of_the_product_of_the_models_probabilities(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout).eval()
    sequences = sequences_of(layout, 5, 1, 9)
    scores = log_likelihood(model, layout, sequences)
    for score, sequence in zip(scores.sum.tolist(), sequences, strict=True):
        assert score == pytest.approx(math.log(probability_one_by_one(model, layout, sequence)), rel=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_scores_are_minus_the_training_loss(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout).eval()
    sequences = sequences_of(layout, 7, 3, 12, true_end=True)
    scores, loss = log_likelihood(model, layout, sequences), next_token_loss(model, layout, collate(sequences))
    assert float(scores.sum.sum()) == pytest.approx(-loss.nats.sum().item(), rel=1e-5)  # the loss is taken in float32
    assert int(scores.tokens.sum()) == int(loss.counted.sum())


@given(frames=st.lists(st.integers(1, 20), min_size=1, max_size=7), batch_size=st.integers(1, 8))
@settings(deadline=None, max_examples=20)
def test_batched_is_one_by_one_in_the_order_given(frames: list[int], batch_size: int) -> None:
    layout = StageLayout(SPEC, "coarse")
    model, sequences = toy(layout), sequences_of(layout, *frames)
    together = log_likelihood(model, layout, sequences, batch_size=batch_size)
    for number, sequence in enumerate(sequences):
        alone = log_likelihood(model, layout, [sequence])
        assert float(together.sum[number]) == pytest.approx(float(alone.sum), rel=1e-12)  # float64
        assert int(together.tokens[number]) == int(alone.tokens)
        assert float(together.per_token[number]) == pytest.approx(float(alone.sum) / int(alone.tokens), rel=1e-12)


def test_batched_is_one_by_one_in_float32_up_to_rounding() -> None:
    layout = StageLayout(SPEC, "semantic")
    model, sequences = toy(layout).float(), sequences_of(layout, 3, 40, 17)
    alone = torch.cat([log_likelihood(model, layout, [sequence]).sum for sequence in sequences])
    assert torch.allclose(log_likelihood(model, layout, sequences).sum, alone, rtol=1e-5)  # float32 has 7 digits


def test_logits_are_computed_in_chunks_and_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = StageLayout(SPEC, "semantic")
    model, sequences = toy(layout), sequences_of(layout, 30, 40)
    expected = log_likelihood(model, layout, sequences)
    sizes, real = [], Transformer.head_logits

    def watched(self: Transformer, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        sizes.append(hidden.shape[0])
        return real(self, hidden, start, stop)

    monkeypatch.setattr(Transformer, "head_logits", watched)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 5 * (SPEC.clusters + 1))
    assert torch.allclose(log_likelihood(model, layout, sequences).sum, expected.sum, rtol=1e-12)
    assert max(sizes) == 5
    assert sum(sizes) == int(expected.tokens.sum())


def test_the_models_mode_comes_back_and_dropout_plays_no_part() -> None:
    layout = StageLayout(SPEC, "semantic")
    model = toy(layout).train()
    model.dropout.p = 0.5
    sequences = sequences_of(layout, 9)
    assert torch.equal(log_likelihood(model, layout, sequences).sum, log_likelihood(model, layout, sequences).sum)
    assert model.training


@pytest.fixture(scope="module")
def generator() -> AudioLM:
    return tiny_generator()


def test_repeats_are_removed_and_the_end_token_is_not_scored(generator: AudioLM) -> None:
    units = torch.tensor([3, 3, 3, 1, 1, 7, 3])
    scores = generator.log_likelihood([units, torch.tensor([3, 1, 7, 3]), torch.tensor([5])])
    assert scores.tokens.tolist() == [4, 4, 1]
    assert float(scores.sum[0]) == pytest.approx(float(scores.sum[1]), rel=1e-6)
    # nothing is known yet: a unit or the end, 13 ids, which an untrained model finds about equally likely
    assert float(scores.per_token[2]) == pytest.approx(-math.log(SPEC.clusters + 1), rel=0.2)


@torch.no_grad()
def test_all_continuations_of_a_prefix_and_the_end_share_one_probability(generator: AudioLM) -> None:
    prefix = [2, 9, 4]
    units = [torch.tensor([*prefix, unit]) for unit in range(SPEC.clusters) if unit != prefix[-1]]
    total = float(torch.logsumexp(generator.log_likelihood(units).sum, 0))
    shorter = float(generator.log_likelihood([torch.tensor(prefix)]).sum)
    stage = generator.stages["semantic"]
    logits = stage.model(stage.layout.prefix(torch.tensor(prefix))[None])[0, -1, : SPEC.clusters + 1].double()
    logits[prefix[-1]] = -torch.inf
    end = float(logits.softmax(0)[stage.layout.end_id])
    assert math.exp(total - shorter) == pytest.approx(1 - end, rel=1e-5)


def test_a_sequence_longer_than_the_window_is_scored_whole(generator: AudioLM) -> None:
    longest = round(30 * generator.units_per_second)
    units = torch.arange(2 * longest) % SPEC.clusters
    assert int(generator.log_likelihood([units]).tokens) == 2 * longest


def test_audio_is_scored_as_its_units_are(generator: AudioLM) -> None:
    recordings = [tones_and_noise(samples, seed=samples) for samples in (30000, 5000, 12345)]
    units = [generator.tokenizer.encode(recording[None])[0] for recording in recordings]
    scores, expected = generator.log_likelihood_of_audio(recordings, batch_size=2), generator.log_likelihood(units)
    assert scores.tokens.tolist() == expected.tokens.tolist() == [len(remove_repeats(row)) for row in units]
    assert torch.allclose(scores.sum, expected.sum, rtol=1e-5)


def test_long_recordings_are_tokenized_in_the_tokenizers_windows(generator: AudioLM) -> None:
    recordings = [tones_and_noise(16000 * 31), tones_and_noise(16000, seed=1)]
    units = [generator.tokenizer.encode(recording[None])[0] for recording in recordings]
    scores = generator.log_likelihood_of_audio(recordings)
    assert torch.allclose(scores.sum, generator.log_likelihood(units).sum, rtol=1e-5)


def test_what_cannot_be_scored_is_refused_with_the_reason(generator: AudioLM) -> None:
    good = torch.tensor([1, 2])
    for units, word in (
        ([], "nothing to score"),
        ([good, good[:0]], "no frames"),
        ([good, torch.tensor([SPEC.clusters])], r"\[0, 12\)"),
        ([torch.tensor([-1])], r"\[0, 12\)"),
        ([good[None]], "dimension"),
    ):
        with pytest.raises(ValueError, match=word):
            generator.log_likelihood(units)
    with pytest.raises(ValueError, match="silent"):
        generator.log_likelihood_of_audio([torch.zeros(16000)])
    with pytest.raises(ValueError, match="nothing to score"):
        generator.log_likelihood_of_audio([])
    layout = StageLayout(SPEC, "coarse")
    with pytest.raises(ValueError, match="different token specs"):
        log_likelihood(generator.stages["semantic"].model, layout, sequences_of(layout, 3))
