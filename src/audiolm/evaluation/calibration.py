"""How sure a classifier may be: what its scores have to be divided by, measured on recordings that it did not train on."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

TEMPERATURES = 2.0 ** (torch.arange(-40, 41) / 8)  # 1/32 to 32, a twelfth apart; 1 is among them


class HeldOutScores(Metric):
    """Accuracy and cross entropy of scores, and the temperature at which the latter is lowest. Of all processes.

    A fitted temperature changes no answer; it makes the probability of the answers as large as they are often right. It is one
    number, so that recordings it was fitted on may still be used to measure accuracy. Classes that are told apart without a
    mistake would ask for probabilities of one. But n crops of a class cannot show that fewer than about one in n is mistaken,
    so the fit is against probabilities of (n + 1) / (n + classes) for the right class and 1 / (n + classes) for each other one.

    Source: temperature scaling, Guo et al. (arXiv 1706.04599), section 4.2, on a grid; targets as in Platt, "Probabilistic
    outputs for support vector machines" (1999), section 2.2.
    """

    losses: Tensor
    spread: Tensor
    classes: Tensor
    right: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", torch.zeros(len(TEMPERATURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("spread", torch.zeros(len(TEMPERATURES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("classes", torch.tensor(2), dist_reduce_fx="max")
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
            surprise = -F.log_softmax(scores.float() / temperature, dim=-1)  # of every class, were it the right one
            self.losses[number] += (surprise.gather(1, classes[:, None])[:, 0] * weights).sum()
            self.spread[number] += (surprise.mean(1) * weights).sum()
        self.classes.fill_(scores.shape[1])
        self.right += ((scores.argmax(-1) == classes) * weights).sum()
        self.weight += weights.sum()

    def compute(self) -> dict[str, Tensor]:
        """() each: `temperature`; `loss` in nats with it, `uncalibrated_loss` without; `accuracy`."""
        losses, classes = self.losses / self.weight, self.classes.double()
        doubt = classes / (self.weight / classes + classes)  # shared by all classes
        best = ((1 - doubt) * losses + doubt * self.spread / self.weight).argmin()
        return {
            "loss": losses[best].float(),
            "uncalibrated_loss": losses[TEMPERATURES.tolist().index(1.0)].float(),
            "accuracy": (self.right / self.weight).float(),
            "temperature": TEMPERATURES.to(best.device)[best],
        }
