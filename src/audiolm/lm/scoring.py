"""Scoring: how likely a model finds given sequences, in nats, over the ids that are legal at each position."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout, TokenBatch, TokenSequence, collate, remove_repeats

LOGITS_AT_ONCE = 2**22  # float64 numbers: 32 MB, however long the sequences and however many


@dataclass(frozen=True)
class Scores:
    """Log likelihoods of some sequences, in the order in which they were given.

    Attributes:
        sum: (sequences,) float64, at most 0: log likelihood in nats of all scored tokens.
        tokens: (sequences,) int64: how many tokens were scored.
    """

    sum: Tensor
    tokens: Tensor

    @property
    def per_token(self) -> Tensor:
        """(sequences,) float64: the sum divided by the tokens scored, so that long and short ones compare."""
        return self.sum / self.tokens


def log_likelihood(
    model: Transformer, layout: StageLayout, sequences: Sequence[TokenSequence], *, batch_size: int = 16
) -> Scores:
    """Score sequences: the sum over their targets of the logarithm of the model's probability of each.

    As in training, probabilities are normalised over the ids that are legal at a position: the end token takes its share
    where it may stand, a repeated unit has none. Conditioning is not scored; lay sequences out with `true_end=False` to
    leave the end token out as well. Sequences of similar length go side by side, padded on the right, where causality keeps
    padding from every token: a score does not depend on batch mates, up to the rounding of matrix products.

    Args:
        sequences: from `layout.sequence`, of any lengths; longer than the training window too, because the position bias
            reaches any distance (the model has not seen such lengths, though).
        batch_size: sequences at a time. Less needs less memory.

    Raises:
        ValueError: if there are no sequences, the batch size is not positive, or the model has another vocabulary.
    """
    if not sequences or batch_size < 1:
        raise ValueError(f"there is nothing to score: {len(sequences)} sequences, {batch_size} at a time")
    layout.require_vocabulary(model.vocabulary)
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number].inputs))
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    device, was_training = model.head.weight.device, model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for at in range(0, len(order), batch_size):
                rows = order[at : at + batch_size]
                sums[rows] = _sums(model, layout, collate([sequences[row] for row in rows]).to(device)).cpu()
    finally:
        model.train(was_training)
    return Scores(sums, torch.tensor([int((sequence.phases >= 0).sum()) for sequence in sequences]))


def after(layout: StageLayout, given: Tensor, units: Tensor) -> TokenSequence:
    """Units (n,) laid out behind those of a prompt (m,), of which none is scored; the end token is left out.

    Raises:
        ValueError: if no unit is left to be scored: all are the prompt's last one.
    """
    sequence = layout.sequence(torch.cat([given, units]), None, true_end=False)
    phases = sequence.phases.clone()
    phases[: len(remove_repeats(given))] = -1
    if not (phases >= 0).any():
        raise ValueError(
            f"{len(units)} units after {len(given)} only go on with the last of those: nothing is to be scored"
        )
    return replace(sequence, phases=phases)


def _sums(model: Transformer, layout: StageLayout, batch: TokenBatch) -> Tensor:
    """(batch,) float64: the log likelihoods of a batch's rows."""
    hidden = model.hidden(batch.inputs)
    sums = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    for phase in range(layout.phases):
        start, stop = layout.legal_range(phase)
        rows, columns = (batch.phases == phase).nonzero(as_tuple=True)
        at_once = max(1, LOGITS_AT_ONCE // (stop - start))
        for row, column in zip(rows.split(at_once), columns.split(at_once), strict=True):
            logits = model.head_logits(hidden[row, column], start, stop).double()
            allowed = layout.allowed(phase, batch.inputs[row, column], may_end=True)
            nats = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
            sums.index_add_(0, row, nats.gather(1, batch.targets[row, column, None] - start).squeeze(1))
    return sums
