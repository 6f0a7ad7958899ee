"""Cache: the keys and values of all layers, preallocated, for decoding one token at a time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from audiolm.lm.attention import Attend
from audiolm.lm.step import StepWeights


class Cache:
    """Keys and values of every layer for `batch` rows of up to `capacity` tokens.

    Rows end together: shorter prompts have padding on the left, masked here, so that a step writes one column for all.
    Keys are stored with tokens last, which the one-token product reads fastest.

    Args:
        weights: of every layer's block.
        bias: (heads, capacity), the position bias of the distances 0 to capacity - 1.
    """

    def __init__(self, weights: Sequence[StepWeights], *, batch: int, head_dim: int, bias: Tensor) -> None:
        heads, capacity = bias.shape
        self.weights, layers = weights, len(weights)
        self.batch, self.capacity = batch, capacity
        self.tokens = 0  # columns in use, padding included
        self._keys = [bias.new_zeros(batch * heads, head_dim, capacity) for _ in range(layers)]
        self._values = [bias.new_zeros(batch * heads, capacity, head_dim) for _ in range(layers)]
        self._bias = bias.flip(1).repeat(batch, 1)[:, None]  # the last n columns: distances n - 1 to 0
        self._padding: Tensor | None = None  # (batch * heads, 1, capacity), -inf where a row has no token
        self._padded = torch.zeros(
            batch, 1, dtype=torch.int64, device=bias.device
        )  # columns before a row's first token
        self._step_bias = self._bias[..., :0]

    @property
    def heads(self) -> int:
        """Attention heads per row."""
        return len(self._bias) // self.batch

    @property
    def positions(self) -> Tensor:
        """(batch, 1) where the token of this step stands in its row, counted from 0 without padding."""
        return self.tokens - 1 - self._padded

    def begin(self, lengths: Tensor, *, tokens: int) -> None:
        """Note the prompts' lengths (batch,), the longest of them `tokens`; `store` then fills each layer."""
        self.tokens = tokens
        self._padded = tokens - lengths[:, None]
        if bool((lengths < tokens).any()):
            column = torch.arange(self.capacity, device=lengths.device)
            padded = (column < self._padded).repeat_interleave(self.heads, dim=0)[:, None]
            self._padding = torch.zeros_like(self._bias).masked_fill_(padded, -torch.inf)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Fill the first columns of a layer from (batch, heads, tokens, head_dim)."""
        self._keys[layer][:, :, : self.tokens] = keys.flatten(0, 1).transpose(1, 2)
        self._values[layer][:, : self.tokens] = values.flatten(0, 1)

    def advance(self) -> None:
        """Open one more column, for the token of this step."""
        self.tokens += 1
        self._step_bias = self._bias[..., self.capacity - self.tokens :]
        if self._padding is not None:
            self._step_bias = self._step_bias + self._padding[..., : self.tokens]

    def attend(self, layer: int) -> Attend:
        """The attention of one layer in a step: it stores the new key and value, and reads all so far.

        It gives (batch * heads, 1, head_dim).
        """

        def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._write(layer, key, value)
            flat = query.flatten(0, 1)
            scores = torch.baddbmm(self._step_bias, flat, keys, alpha=flat.size(-1) ** -0.5)
            return torch.bmm(torch.softmax(scores, dim=-1), values)

        return attention

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store a step's key and value (batch, heads, 1, head_dim). All so far: (…, head_dim, n) and (…, n, head_dim)."""
        keys, values, last = self._keys[layer], self._values[layer], self.tokens - 1
        keys[:, :, last] = key.flatten(0, 2)
        values[:, last] = value.flatten(0, 2)
        return keys[:, :, : self.tokens], values[:, : self.tokens]


class StaticCache(Cache):
    """The same cache with shapes that never change: which column is next is a number on the device.

    A step attends over the whole capacity, so it can be recorded once (`recording.py`) and replayed for every token. That
    costs reading unused columns and saves launching hundreds of kernels: worth it on a GPU only.
    """

    def __init__(self, weights: Sequence[StepWeights], *, batch: int, head_dim: int, bias: Tensor) -> None:
        super().__init__(weights, batch=batch, head_dim=head_dim, bias=bias)
        self._column = torch.zeros(1, dtype=torch.int64, device=bias.device)  # of the token of this step
        self._columns = torch.arange(self.capacity, device=bias.device)
        self._ramp = F.pad(self._bias, (0, self.capacity - 1), value=-torch.inf)  # then the columns still to come

    @property
    def positions(self) -> Tensor:
        """See `Cache.positions`."""
        return self._column - self._padded

    def begin(self, lengths: Tensor, *, tokens: int) -> None:
        """See `Cache.begin`."""
        super().begin(lengths, tokens=tokens)
        self._column.fill_(tokens - 1)

    def advance(self) -> None:
        """See `Cache.advance`."""
        self.tokens += 1
        self._column += 1
        self._step_bias = self._ramp.index_select(-1, self._columns + (self.capacity - 1 - self._column))
        if self._padding is not None:
            self._step_bias = self._step_bias + self._padding

    def go_back(self) -> None:
        """Take the last step back: the next one will overwrite what it stored."""
        self.tokens -= 1
        self._column -= 1

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(2, self._column, key.flatten(0, 1).transpose(1, 2))
        values.index_copy_(1, self._column, value.flatten(0, 1))
        return keys, values
