"""Cache: the keys and values of all layers, preallocated, for decoding one token at a time."""

import torch
from torch import Tensor

from audiolm.lm.attention import Attend


class Cache:
    """Keys and values of every layer for `batch` rows of up to `capacity` tokens.

    Rows end together: shorter prompts have padding on the left, masked here, so that a step writes one column for all.
    Keys are stored with tokens last, which the one-token product reads fastest.

    Args:
        bias: (heads, capacity), the position bias of the distances 0 to capacity - 1.
    """

    def __init__(self, *, layers: int, batch: int, head_dim: int, bias: Tensor) -> None:
        heads, capacity = bias.shape
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
        """The attention of one layer in a step: it stores the new key and value, and reads all so far."""
        keys, values = self._keys[layer], self._values[layer]

        def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            last = self.tokens - 1
            keys[:, :, last] = key.flatten(0, 2)
            values[:, last] = value.flatten(0, 2)
            flat = query.flatten(0, 1)
            scale = flat.size(-1) ** -0.5
            scores = torch.baddbmm(self._step_bias, flat, keys[:, :, : self.tokens], alpha=scale)
            return torch.bmm(torch.softmax(scores, dim=-1), values[:, : self.tokens]).view(query.shape)

        return attention
