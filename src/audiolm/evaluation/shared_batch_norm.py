"""Batch normalisation whose statistics are those of the whole step, however many processes share it."""

import torch
from torch import Tensor, nn

from audiolm.processes import Processes


class SharedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the rows of all processes: a step's result does not depend on how many there are.

    torch's SyncBatchNorm is for GPUs only. All processes must have equally many rows.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (batch, channels, height, width) per channel. While training, collective."""
        processes = Processes.current()
        if not self.training or processes.count == 1:
            return super().forward(values)
        with torch.autocast(values.device.type, enabled=False):
            return self._shared(values.float(), processes)

    def _shared(self, values: Tensor, processes: Processes) -> Tensor:
        number = values.numel() // values.size(1) * processes.count
        mean = processes.sum(values.sum((0, 2, 3))) / number
        centred = values - mean[:, None, None]
        variance = processes.sum(centred.square().sum((0, 2, 3))) / number
        self._follow(mean.detach(), variance.detach() * (number / max(1, number - 1)))
        scale, shift = self.weight, self.bias
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
        return normalised if scale is None else normalised * scale[:, None, None] + shift[:, None, None]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this step."""
        assert isinstance(self.running_mean, Tensor) and isinstance(self.running_var, Tensor)  # noqa: PT018
        assert isinstance(self.num_batches_tracked, Tensor) and self.momentum is not None  # noqa: PT018
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)
