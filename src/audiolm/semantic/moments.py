"""Mean and deviation of an endless stream of feature frames, merged exactly over any number of streams."""

import torch
from torch import Tensor


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
