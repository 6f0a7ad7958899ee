"""Recorded steps: CUDA graphs, so that a decoding step costs one launch instead of hundreds."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from audiolm.lm.cache import StaticCache

WARM_UP_STEPS = 2  # libraries choose and load their kernels in the first calls, which cannot be recorded


def can_record(device: torch.device) -> bool:
    """Whether a device records what it is given to do."""
    return device.type == "cuda"


class RecordedSteps:
    """Records a decoding step the first time each phase comes, and replays it from then on.

    Args:
        cache: whose columns the step fills.
        step: does one step of a phase with tensors that stay where they are: it must not wait for the device, nor depend on
            numbers that only the host knows.
        state: the tensors that a step changes, the cache's aside.
    """

    def __init__(self, cache: StaticCache, step: Callable[[int], None], *, state: Sequence[Tensor]) -> None:
        # not to keep alive who keeps this: cache and graphs are to go when the decoder goes, not when garbage is collected
        self._step = weakref.WeakMethod(step)
        self.cache, self.state = cache, state
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._device = state[0].device
        with torch.cuda.device(self._device):
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, phase: int) -> None:
        """Do one step."""
        with torch.cuda.device(self._device):
            if phase not in self._graphs:
                self._graphs[phase] = self._record(phase)
            self._graphs[phase].replay()
        self.cache.tokens += 1

    def _record(self, phase: int) -> torch.cuda.CUDAGraph:
        step = self._step()
        assert step is not None, "the decoder, which calls this, is gone"
        before = [tensor.clone() for tensor in self.state]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_STEPS):
                step(phase)
                self.cache.go_back()
        torch.cuda.current_stream().wait_stream(self._stream)
        for tensor, value in zip(self.state, before, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        tokens = self.cache.tokens
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            step(phase)
        self.cache.tokens = tokens  # recording does nothing but record
        return graph
