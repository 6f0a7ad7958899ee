"""The learned quantizer of w2v-BERT's contrastive module: a choice among codes by Gumbel softmax."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm.processes import ALONE, Processes


class Centring(nn.Module):
    """Takes the mean over frames from (frames, dim): that of the global batch in training, its running average afterwards.

    What all frames have in common would choose the same code for all of them: one code was in use after 100 steps.
    """

    mean: Tensor

    def __init__(self, dim: int, *, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, x: Tensor, *, processes: Processes = ALONE) -> Tensor:
        if not self.training:
            return x - self.mean
        mean = processes.mean_of_rows(x)
        self.mean.lerp_(torch.where(mean.isfinite(), mean, self.mean).detach(), self.momentum)  # a bad step is skipped
        return x - mean


class GumbelQuantizer(nn.Module):
    """Chooses one of `codes` vectors for every frame; the choice is made hard, its gradient soft.

    Args:
        dim: of the latents.
        codes: codebook size.
        code_dim: of the vectors.

    Source: wav2vec 2.0 (arXiv 2006.11477), section 2 and appendix B, with one codebook as in w2v-BERT (arXiv 2108.06209):
    the temperature falls from 2 to 0.5 by a factor per step. Centring the latents is ours.
    """

    def __init__(self, *, dim: int, codes: int, code_dim: int) -> None:
        super().__init__()
        self.centre = Centring(dim)
        self.scores = nn.Linear(dim, codes)
        nn.init.normal_(self.scores.weight, std=1.0)
        nn.init.zeros_(self.scores.bias)
        self.codebook = nn.Parameter(torch.rand(codes, code_dim))

    def forward(
        self, latents: Tensor, *, temperature: float, noise: Tensor | None = None, processes: Processes = ALONE
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize latents (frames, dim).

        Args:
            temperature: of the Gumbel softmax.
            noise: (frames, codes) exponential draws of mean 1 that make the choice random; None: none, as in evaluation.
            processes: that share the batch; each has its own frames. Collective.

        Returns:
            vectors (frames, code_dim); ids (frames,) int64, without the noise; mean probabilities (codes,) over the frames of
            all processes, for the diversity loss.
        """
        scores = self.scores(self.centre(latents.float(), processes=processes)).float()
        ids = scores.argmax(-1)
        shares = processes.mean_of_rows(scores.softmax(-1))
        if noise is not None:
            soft = ((scores - noise.log()) / temperature).softmax(-1)  # -log of an exponential draw is a Gumbel one
            choice = F.one_hot(soft.argmax(-1), soft.shape[-1]) + soft - soft.detach()
            return choice @ self.codebook.float(), ids, shares
        return self.codebook[ids].float(), ids, shares


def annealed_temperature(step: int, *, first: float = 2.0, last: float = 0.5, decay: float = 0.999995) -> float:
    """Temperature of the Gumbel softmax at a step."""
    return max(last, first * math.pow(decay, step))


def diversity_loss(shares: Tensor) -> Tensor:
    """How far mean probabilities (codes,) are from even use, in [0, 1): (codes - perplexity) / codes."""
    entropy = -(shares * shares.clamp(min=1e-9).log()).sum()
    return (len(shares) - entropy.exp()) / len(shares)
