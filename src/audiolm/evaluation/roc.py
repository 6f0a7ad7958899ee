"""How well one number tells two kinds of audio apart: the curve, its area, the equal error rate, the calibration."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError, BinaryROC

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic: shares at every threshold, from the highest down."""

    false_positives: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    thresholds: NDArray[np.float64]  # the first is above every score
    area: float

    @property
    def equal_error_rate(self) -> float:
        """Where as large a share of one kind is taken for the other as the other way round, between the curve's points."""
        return _crossing(self.false_positives, 1 - self.true_positives, self.false_positives)

    @property
    def equal_error_threshold(self) -> float:
        """The score at which the error rates are equal."""
        return _crossing(
            self.false_positives, 1 - self.true_positives, np.append(self.thresholds[1], self.thresholds[1:])
        )


def roc(positives: ArrayLike, negatives: ArrayLike) -> Roc:
    """The curve of scores, of which positives should have the greater; torchmetrics computes it.

    Raises:
        ValueError: if there is none of either kind, or a score is not finite.
    """
    scores, labels = _labelled(positives, negatives)
    # torchmetrics takes values beyond [0, 1] for logits and rounds them; ranks say the same and are exact
    ordered, ranks = torch.unique(scores, return_inverse=True)
    normalized = ranks.double() / max(1, len(ordered) - 1)
    metric, area = BinaryROC(), BinaryAUROC()
    false, true, thresholds = metric(normalized, labels)
    places = (thresholds[1:] * max(1, len(ordered) - 1)).round().long()
    at = torch.cat([ordered[-1:] + 1, ordered[places]])
    return Roc(false.double().numpy(), true.double().numpy(), at.numpy(), float(area(normalized, labels)))


def calibration_error(probabilities: ArrayLike, truths: ArrayLike) -> float:
    """Expected calibration error: the mean distance of stated probability and frequency, over ten bins (torchmetrics).

    Args:
        probabilities: that a clip is of the positive kind.
        truths: whether it is; weigh them by repeating, if one kind is rarer than its prior.
    """
    metric = BinaryCalibrationError(n_bins=CALIBRATION_BINS, norm="l1")
    return float(metric(torch.as_tensor(np.asarray(probabilities)), torch.as_tensor(np.asarray(truths)).long()))


def _labelled(positives: ArrayLike, negatives: ArrayLike) -> tuple[Tensor, Tensor]:
    above, below = (torch.as_tensor(np.asarray(values, dtype=np.float64)) for values in (positives, negatives))
    if not len(above) or not len(below):
        raise ValueError(f"{len(above)} positive and {len(below)} negative scores cannot be compared: both are needed")
    scores = torch.cat([above, below])
    if not bool(scores.isfinite().all()):
        raise ValueError("a score is not finite: the model that gave it has gone wrong")
    return scores, torch.cat([torch.ones(len(above)), torch.zeros(len(below))]).long()


def _crossing(rising: NDArray[np.float64], falling: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """`values` where two curves meet, linear between points."""
    after = int(np.argmax(rising >= falling))  # the last point always is: there, all is taken for positive
    if after == 0:
        return float(values[0])
    gap_before, gap_after = (falling[at] - rising[at] for at in (after - 1, after))
    share = gap_before / (gap_before - gap_after)
    return float(values[after - 1] + share * (values[after] - values[after - 1]))
