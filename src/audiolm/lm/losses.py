"""Next-token loss in nats, over the ids that are legal at each position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.lm.cross_entropy import summed_nats
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
    loss; in the semantic stage the previous unit, which cannot come again, takes no probability. The logits are never
    all in memory: see `summed_nats`.
    """
    inputs, targets, phases = batch.inputs.flatten(), batch.targets.flatten(), batch.phases.flatten()
    positions = [(phases == phase).nonzero().squeeze(1) for phase in range(layout.phases)]
    # one gather for all phases: its backward pass is one scatter
    hidden = model.hidden(batch.inputs).flatten(0, 1).index_select(0, torch.cat(positions))
    ranges = [layout.legal_range(phase) for phase in range(layout.phases)]  # side by side: one slice, one gradient
    heads = model.head.weight[ranges[0][0] : ranges[-1][1]].split([stop - start for start, stop in ranges])
    nats = []
    for phase, part in enumerate(hidden.split([len(position) for position in positions])):
        start = ranges[phase][0]
        illegal = layout.illegal(inputs[positions[phase]])
        nats.append(
            summed_nats(
                part,
                heads[phase],
                targets[positions[phase]] - start,
                illegal=None if illegal is None else illegal - start,
            )
        )
    counted = torch.tensor([len(position) for position in positions], device=inputs.device)
    return NextTokenLoss(nats=torch.stack(nats), counted=counted)
