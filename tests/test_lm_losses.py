"""The next-token loss: what counts, over which ids, and that padding changes nothing."""

from dataclasses import replace

import pytest
import torch

from audiolm.lm.losses import next_token_loss
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.tokens.layout import Stage, StageLayout, TokenBatch, TokenSequence, collate
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec(clusters=6, codebook_size=5, levels=5, coarse_levels=2)
STAGES: list[Stage] = ["semantic", "coarse", "fine", "acoustic"]


def toy(layout: StageLayout) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(layers=1, heads=2, dim=8, feed_forward=16, dropout=0.0), layout.vocabulary)
    torch.nn.init.normal_(model.head.weight)
    return model.double()


def crops(layout: StageLayout) -> list[TokenSequence]:
    random = torch.Generator().manual_seed(0)
    return [
        layout.sequence(
            torch.randint(6, (frames,), generator=random),
            torch.randint(5, (5, frames), generator=random),
            true_end=frames == 4,
        )
        for frames in (9, 4, 6)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_is_the_sum_over_counted_targets_normalised_over_legal_ids(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout)
    nats, counted = [0.0] * layout.phases, [0] * layout.phases
    for sequence in crops(layout):
        logits = model(sequence.inputs[None])[0]
        for place, phase in enumerate(sequence.phases.tolist()):
            if phase < 0:
                continue
            start, stop = layout.legal_range(phase)
            legal = [
                token for token in range(start, stop) if not (stage == "semantic" and token == sequence.inputs[place])
            ]
            chosen = legal.index(int(sequence.targets[place]))
            nats[phase] -= logits[place, legal].log_softmax(0)[chosen].item()
            counted[phase] += 1
    loss = next_token_loss(model, layout, collate(crops(layout)))
    assert loss.nats.tolist() == pytest.approx(nats, rel=1e-5)  # the loss itself is taken in float32
    assert loss.counted.tolist() == counted


@pytest.mark.parametrize("stage", STAGES)
def test_neither_padding_nor_what_stands_in_it_changes_loss_or_gradients(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout)

    def gradients(batches: list[TokenBatch]) -> list[torch.Tensor]:
        model.zero_grad()
        losses = torch.stack([next_token_loss(model, layout, batch).nats for batch in batches]).sum(0)
        losses.sum().backward()
        return [losses.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]

    batch = collate(crops(layout))
    padding = torch.arange(batch.inputs.size(1)) >= batch.lengths[:, None]
    noise = torch.randint(layout.vocabulary, batch.inputs.shape, generator=torch.Generator().manual_seed(1))
    other = TokenBatch(
        torch.where(padding, noise, batch.inputs), batch.targets, batch.phases, batch.lengths, batch.step_targets
    )
    assert padding.any()
    one_by_one = gradients([collate([sequence]) for sequence in crops(layout)])
    for variant in (batch, other):
        for ours, expected in zip(gradients([variant]), one_by_one, strict=True):
            assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-5)  # float32 inside the loss


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_conditioning_carries_no_loss(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    sequence = crops(layout)[0]
    conditioning = int((sequence.phases == -1).sum())
    loss = next_token_loss(toy(layout), layout, collate([sequence]))
    assert conditioning > 0
    assert int(loss.counted.sum()) == len(sequence.targets) - conditioning == 9 * layout.phases


def test_training_teaches_a_tiny_model_its_sequence() -> None:
    layout = StageLayout(SPEC, "coarse")
    batch = collate(crops(layout))
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(layers=2, heads=2, dim=32, feed_forward=64, dropout=0.0), layout.vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(120):
        loss = next_token_loss(model, layout, batch)
        optimizer.zero_grad()
        (loss.nats.sum() / loss.counted.sum()).backward()
        optimizer.step()
    assert loss.nats.sum() / loss.counted.sum() < 0.1


@pytest.mark.parametrize("stage", STAGES)
def test_the_nats_of_a_target_depend_on_no_token_after_its_input(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    batch = collate(crops(layout)[:1])
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(layers=2, heads=2, dim=16, feed_forward=32, dropout=0.0), layout.vocabulary)
    place = int(batch.counted[0].nonzero()[len(batch.counted[0].nonzero()) // 2])
    phases = torch.full_like(batch.phases, -1)
    phases[0, place] = batch.phases[0, place]
    embedded: list[torch.Tensor] = []
    model.embedding.register_forward_hook(
        lambda _, __, output: embedded.append(output.detach().requires_grad_()) or embedded[-1]
    )
    next_token_loss(model, layout, replace(batch, phases=phases)).nats.sum().backward()
    gradient = embedded[0].grad
    assert gradient is not None
    assert gradient[0, : place + 1].abs().sum(-1).all()
    assert not gradient[0, place + 1 :].any()
