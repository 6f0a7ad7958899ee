"""Every way of computing a step teaches the same: equal loss curves from one seed on the same data."""

from typing import Any

import pytest
import torch
from flex_on_cpu import flex_on_cpu  # noqa: F401 - a fixture

from audiolm.lm.losses import next_token_loss
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.tokens.layout import StageLayout, TokenBatch, collate
from audiolm.tokens.spec import TokenSpec

LAYOUT = StageLayout(TokenSpec(clusters=20, codebook_size=16, levels=4, coarse_levels=2), "coarse")
TINY = TransformerConfig(layers=2, heads=2, dim=16, feed_forward=32, dropout=0.0, buckets=8, max_distance=12)


def batches(count: int) -> list[TokenBatch]:
    """Patterns that can be learnt in part: units that count on, codes that follow them with some noise."""
    random = torch.Generator().manual_seed(0)
    sequences = []
    for _ in range(2 * count):
        frames = int(torch.randint(20, 35, (1,), generator=random))
        units = (torch.arange(frames) + torch.randint(20, (1,), generator=random)) % 20
        noise = torch.randint(4, (4, 2 * frames), generator=random)
        codes = (units.repeat_interleave(2) + noise) % 16
        sequences.append(LAYOUT.sequence(units, codes, true_end=False))
    return [collate(sequences[at : at + 2]) for at in range(0, len(sequences), 2)]


def loss_curve(
    *,
    steps: int,
    dtype: torch.dtype = torch.float64,
    config: TransformerConfig = TINY,
    backend: str | None = None,
    **options: Any,
) -> list[float]:
    torch.manual_seed(0)
    model = Transformer(config, LAYOUT.vocabulary, **options).to(dtype)
    if backend:
        model.compile_blocks(backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    torch.manual_seed(1)
    curve = []
    for batch in batches(steps):
        loss = next_token_loss(model, LAYOUT, batch)
        mean = loss.nats.sum() / loss.counted.sum()
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        curve.append(mean.item())
    return curve


@pytest.fixture(scope="module")
def reference_curve() -> list[float]:
    return loss_curve(steps=200, attention="reference")


def test_the_reference_learns(reference_curve: list[float]) -> None:
    assert sum(reference_curve[-10:]) / 10 < reference_curve[0] - 0.5


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}])
def test_200_steps_of_blockwise_attention_follow_the_reference(
    reference_curve: list[float], options: dict[str, Any]
) -> None:
    ours = loss_curve(steps=200, attention="blockwise", **options)
    assert ours == pytest.approx(reference_curve, abs=1e-9)  # float64: only rounding is left; measured 1e-15


def test_200_steps_in_float32_follow_the_reference_in_float64(reference_curve: list[float]) -> None:
    ours = loss_curve(steps=200, dtype=torch.float32, attention="blockwise")
    assert ours == pytest.approx(reference_curve, abs=1e-4)  # measured 1e-6


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_50_steps_of_flex_attention_follow_the_reference(reference_curve: list[float]) -> None:
    ours = loss_curve(steps=50, attention="flex")  # its plain version needs 0.2 s a step
    assert ours == pytest.approx(reference_curve[:50], abs=1e-9)


def test_activation_checkpointing_draws_the_same_dropout_again() -> None:
    config = TransformerConfig(**{**vars(TINY), "dropout": 0.3})
    curves = [loss_curve(steps=20, config=config, activation_checkpointing=kept) for kept in (False, True)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-12)


def test_compiled_and_checkpointed_blocks_follow_too(reference_curve: list[float]) -> None:
    ours = loss_curve(steps=2, backend="eager", activation_checkpointing=True)  # traced, not made into machine code
    assert ours == pytest.approx(reference_curve[:2], abs=1e-9)


def test_compiling_keeps_the_names_of_the_weights() -> None:
    model = Transformer(TINY, LAYOUT.vocabulary)
    names = list(model.state_dict())
    model.compile_blocks(backend="eager")
    assert list(model.state_dict()) == names
