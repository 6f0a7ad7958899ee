"""Random streams: every utterance owns one per stage, derived from the seed and its id, never from its batch mates."""

import hashlib

import torch
from torch import Tensor


class RandomStream:
    """Uniform numbers in [0, 1), float64, always on the CPU: the same for every device and every batch.

    Args:
        seed: of the whole generation.
        names: what the stream belongs to, such as an utterance's id and a stage.
    """

    def __init__(self, seed: int, *names: str | int) -> None:
        digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)

    def draw(self, count: int) -> Tensor:
        """(count,) the next numbers."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)
