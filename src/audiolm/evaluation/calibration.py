"""How sure a classifier may be: what its scores have to be divided by, measured on recordings that it did not train on."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

TEMPERATURES = 2.0 ** (torch.arange(-40, 41) / 8)  # 1/32 to 32, a twelfth apart; 1 is among them


class HeldOutScores(Metric):
    """Accuracy and cross entropy of scores, and the temperature at which the latter is lowest. Of all processes.

    A fitted temperature changes no answer; it makes the probability of the answers as large as they are often right. It is one
    number, so that recordings it was fitted on may still be used to measure accuracy.

    Source: temperature scaling, Guo et al. (arXiv 1706.04599), section 4.2, on a grid.
    """

    losses: Tensor
    right: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", torch.zeros(len(TEMPERATURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, classes: Tensor, weights: Tensor) -> None:
        """Count crops.

        Args:
            scores: (batch, classes) logits, uncalibrated.
            classes: (batch,) the right ones.
            weights: (batch,) how much each counts.
        """
        for number, temperature in enumerate(TEMPERATURES.tolist()):
            losses = F.cross_entropy(scores.float() / temperature, classes, reduction="none")
            self.losses[number] += (losses * weights).sum()
        self.right += ((scores.argmax(-1) == classes) * weights).sum()
        self.weight += weights.sum()

    def compute(self) -> dict[str, Tensor]:
        """() each: `temperature`; `loss` in nats with it, `uncalibrated_loss` without; `accuracy`."""
        losses = self.losses / self.weight
        best = losses.argmin()
        return {
            "loss": losses[best].float(),
            "uncalibrated_loss": losses[TEMPERATURES.tolist().index(1.0)].float(),
            "accuracy": (self.right / self.weight).float(),
            "temperature": TEMPERATURES.to(best.device)[best],
        }
