"""Loss balancer: every loss pulls on the reconstructed audio with its share, whatever its own scale."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


class LossBalancer(nn.Module):
    """Divides each loss's gradient by its running norm, then adds them up by their shares.

    A loss's scale then no longer matters, nor does its drift: feature matching shrinks a thousandfold while
    discriminators learn, and with fixed weights it first drowns and then starves. The gradient that results has a norm
    of about one per example; whatever follows (the decoder's backward pass, Adam) sees the same scale all along.

    Args:
        shares: of the losses, by name; only their ratios count.
        decay: of the running norms.

    Source: EnCodec (arXiv 2210.13438), section 3.4. There the norm is of the whole batch; ours is the mean over examples, so
    that batch size does not change the balance with losses that bypass the audio (commitment).
    """

    norms: Tensor
    weights: Tensor

    def __init__(self, shares: Mapping[str, float], *, decay: float = 0.99) -> None:
        super().__init__()
        if not shares or min(shares.values()) < 0 or not any(shares.values()):
            raise ValueError(f"shares of losses must be at least 0 and not all 0, got {dict(shares)}")
        self.shares, self.decay = dict(shares), decay
        self.register_buffer("norms", torch.zeros(len(shares)))
        self.register_buffer("weights", torch.zeros(len(shares)))  # of the running means: 1 - decay^steps

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient with respect to `output` (batch, samples), detached, of the same shape.

        Args:
            losses: scalars by name, each a function of `output`, a leaf that requires a gradient; the graph is kept.

        A gradient that is not finite gives one that is not finite, and leaves the running norms alone. Collective if
        distributed: norms are means over all ranks.
        """
        names = [name for name in self.shares if name in losses]
        gradients = [torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() for name in names]
        batch = output.size(0)
        norms = torch.stack([torch.linalg.vector_norm(gradient, dim=1).mean() * batch for gradient in gradients])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(norms)
            norms = norms / dist.get_world_size()
        positions = torch.tensor([list(self.shares).index(name) for name in names], device=norms.device)
        rate = (1 - self.decay) * norms.isfinite().all()  # a step that will be skipped leaves no trace
        self.norms[positions] = torch.lerp(self.norms[positions], norms.nan_to_num(0, 0, 0), rate)
        self.weights[positions] = torch.lerp(self.weights[positions], torch.ones_like(norms), rate)
        typical = self.norms[positions] / self.weights[positions].clamp(min=1e-12)
        total = sum(self.shares[name] for name in names) or 1.0
        balanced = torch.zeros_like(gradients[0])
        for name, gradient, norm in zip(names, gradients, typical, strict=True):
            balanced = balanced + gradient * (self.shares[name] / total / norm.clamp(min=1e-12))
        return balanced
