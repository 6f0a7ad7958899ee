"""Mean and deviation of an endless stream of feature frames, merged exactly over any number of streams."""

import warnings

import torch
from torch import Tensor

CONSTANT = 1e-6  # a deviation below this share of the mean is rounding of float32, no information


class FeatureMoments:
    """Counts, means and sums of squared deviations of every dimension, in float64.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._squares = torch.zeros(dim, dtype=torch.float64)  # of deviations from the mean

    def add(self, frames: Tensor) -> None:
        """Take in frames (count, dim).

        Raises:
            ValueError: if some are not finite.
        """
        if not bool(torch.isfinite(frames).all()):
            raise ValueError(
                f"{int((~torch.isfinite(frames)).any(1).sum())} of {len(frames)} feature frames hold NaN or infinity: the "
                "encoder's training has diverged, or its weights are damaged. Take another checkpoint of the encoder."
            )
        if len(frames):
            frames = frames.double().cpu()
            mean = frames.mean(0)
            self._merge(len(frames), mean, (frames - mean).square().sum(0))

    def merge(self, other: "FeatureMoments") -> None:
        """Take in everything that `other` has seen."""
        self._merge(other.count, other._mean, other._squares)

    @property
    def mean(self) -> Tensor:
        """(dim,) float64."""
        return self._mean.clone()

    @property
    def deviation(self) -> Tensor:
        """(dim,) float64: root of the mean squared deviation; frames normalised by it have variance 1, not n / (n - 1)."""
        return (self._squares / max(1, self.count)).sqrt()

    def as_tensor(self) -> Tensor:
        """(1 + 2 dim,) float64, to be sent; `from_tensor` is the inverse."""
        return torch.cat([torch.tensor([self.count], dtype=torch.float64), self._mean, self._squares])

    @classmethod
    def from_tensor(cls, values: Tensor) -> "FeatureMoments":
        """See `as_tensor`."""
        moments = cls((len(values) - 1) // 2)
        moments.count = int(values[0])
        moments._mean, moments._squares = values[1:].double().clone().chunk(2)
        return moments

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if not count:
            return
        total = self.count + count
        step = mean - self._mean
        self._mean = self._mean + step * (count / total)
        self._squares = self._squares + squares + step.square() * (self.count * count / total)
        self.count = total


def usable_deviation(moments: FeatureMoments, *, heard: bool, clusters: int) -> Tensor:
    """The deviation (dim,) to divide by: dimensions that never change are left alone.

    Args:
        moments: of all frames seen.
        heard: whether any recording was not silent.
        clusters: how many will be made of the frames.

    Raises:
        ValueError: if there are fewer frames than clusters, only silent recordings, or only equal frames.
    """
    if moments.count < clusters:
        raise ValueError(
            f"{moments.count} feature frames were seen, too few for {clusters} clusters: at least one frame per cluster is "
            "needed, 50 or more are advisable. Lower `clusters`, raise trainer.limit_train_batches, or add recordings."
        )
    if not heard:
        raise ValueError(
            "All recordings that were read are silent (nothing above -80 dB of full scale): there is nothing to cluster. "
            "Check the recordings of the train split: a wrong channel or a failed conversion leaves files of zeros."
        )
    deviation = moments.deviation
    constant = deviation <= CONSTANT * moments.mean.abs() + torch.finfo(torch.float32).tiny
    if bool(constant.all()):
        raise ValueError(
            f"All {moments.count} feature frames are equal: no dimension has any variance. The encoder ignores its input "
            "(collapsed in training, or its weights are damaged): take another checkpoint or layer."
        )
    if bool(constant.any()):
        warnings.warn(
            f"{int(constant.sum())} of {len(constant)} feature dimensions never change: they are shifted, not scaled.",
            stacklevel=2,
        )
    return torch.where(constant, 1.0, deviation)
