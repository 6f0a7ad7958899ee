"""Next-token loss in nats, over the ids that are legal at each position."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout, TokenBatch


@dataclass(frozen=True)
class NextTokenLoss:
    """Sums, so that batches and processes add up to an exact mean: nats.sum() / counted.sum()."""

    nats: Tensor  # (phases,) float: negative log likelihood of the counted targets of each phase
    counted: Tensor  # (phases,) int64: their number


def next_token_loss(model: Transformer, layout: StageLayout, batch: TokenBatch) -> NextTokenLoss:
    """Loss of one batch: per phase, only the legal slice of the head is computed.

    Normalised over legal ids, an untrained model starts near ln N (6.93 for 1024). Conditioning and padding carry no
    loss; in the semantic stage the previous unit, which cannot come again, takes no probability.
    """
    nats = [phase_nats.sum() for _, phase_nats in nats_by_phase(model, layout, batch)]
    counted = [(batch.phases == phase).sum() for phase in range(layout.phases)]
    return NextTokenLoss(nats=torch.stack(nats), counted=torch.stack(counted))


def nats_by_phase(model: Transformer, layout: StageLayout, batch: TokenBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """For each phase: the flat positions of its targets in the batch (n,), and their nats (n,) float."""
    hidden = model.hidden(batch.inputs).flatten(0, 1)
    inputs, targets, phases = batch.inputs.flatten(), batch.targets.flatten(), batch.phases.flatten()
    positions = [(phases == phase).nonzero().squeeze(1) for phase in range(layout.phases)]
    # one gather for all phases: its backward pass is one scatter
    parts = hidden.index_select(0, torch.cat(positions)).split([len(part) for part in positions])
    for phase, (position, part) in enumerate(zip(positions, parts, strict=True)):
        start, stop = layout.legal_range(phase)
        logits = model.head_logits(part, start, stop).float()
        if layout.repeats_are_illegal:
            logits = logits.masked_fill(~layout.allowed(phase, inputs[position], may_end=True), -torch.inf)
        yield position, F.cross_entropy(logits, targets[position] - start, reduction="none")
