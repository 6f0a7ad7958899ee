"""Telling a frame's own code from those of other frames: the contrastive loss of wav2vec 2.0 and w2v-BERT."""

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.processes import ALONE, Draws, Processes

ROUNDING = 1e-4  # of scores: how far those of the same code may lie apart


def contrastive_loss(
    context: Tensor,
    targets: Tensor,
    masked: Tensor,
    *,
    draws: Draws,
    distractors: int = 100,
    temperature: float = 0.1,
    processes: Processes = ALONE,
) -> tuple[Tensor, Tensor]:
    """Mean loss over masked frames of finding the right target among those of other masked frames of the same row.

    Args:
        context: (batch, frames, dim): what the network makes of the masked audio.
        targets: (batch, frames, dim): the quantized latents.
        masked: (batch, frames) bool. Rows with fewer than two masked frames have no distractors and do not count.
        draws: of the rows, on their device.
        distractors: per frame, drawn with replacement. One with the target's own code counts as wrong, as in CPC and in the
            paper's equation: wav2vec 2.0's code leaves it out, and then one code for everything is the easiest solution.
        processes: that share the batch. Collective.

    Returns:
        loss and accuracy, scalars, this process's part of the mean over all processes' frames; zero if no row has two masked
        frames.

    Source: wav2vec 2.0 (arXiv 2006.11477), equation 3: cosine similarity, temperature 0.1, 100 distractors.
    """
    counts = masked.sum(1)
    used = masked & (counts > 1)[:, None]
    similarity = F.normalize(context.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).transpose(1, 2)
    rows, own = torch.nonzero(used, as_tuple=True)
    order = torch.argsort(~masked, dim=1, stable=True)  # a row's masked frames, in front
    place = (masked.cumsum(1) - 1)[rows, own]  # a frame's place among them
    uniform = draws.uniform(masked.shape[1], distractors)[rows, own]
    drawn = (uniform * (counts[rows] - 1)[:, None]).long()
    drawn = drawn + (drawn >= place[:, None])  # every other masked frame of the row with equal probability
    others = order[rows[:, None], drawn]
    wrong = similarity[rows[:, None], own[:, None], others]
    scores = torch.cat([similarity[rows, own, own][:, None], wrong], dim=1) / temperature
    correct = (scores[:, :1] > scores[:, 1:] + ROUNDING).all(1).float().sum()  # the same code is never beaten
    loss = F.cross_entropy(scores, torch.zeros_like(rows), reduction="sum")
    return processes.part_of_mean(loss, len(rows)), processes.part_of_mean(correct, len(rows))
