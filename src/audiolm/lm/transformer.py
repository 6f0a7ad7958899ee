"""Transformer: the decoder-only language model of every stage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, layer_norm, nn
from torch.utils.checkpoint import checkpoint

from audiolm.lm.attention import Attend, AttentionKind, causal_attention
from audiolm.lm.cache import Cache, StaticCache
from audiolm.lm.position_bias import PositionBias
from audiolm.lm.rotary import Rotary, rotate
from audiolm.lm.step import StepWeights, step
from audiolm.untrusted.values import require_types

Positions = Literal["t5", "rope"]


@dataclass(frozen=True)
class TransformerConfig:
    """Size of a language model; the defaults are the paper's.

    Raises:
        ValueError: for sizes that do not fit together.

    Source: AudioLM, section IV-B. The paper is silent on buckets, maximum distance and activation: T5's and GELU here.
    """

    layers: int = 12
    heads: int = 16
    dim: int = 1024
    feed_forward: int = 4096
    dropout: float = 0.1  # on embeddings and residual branches, in training only; never on attention weights
    positions: Positions = "t5"  # a learned bias by distance, as in the paper; or rotary, without weights
    buckets: int = 32  # of the bias
    max_distance: int = 128  # tokens; everything farther shares one bias per head

    def __post_init__(self) -> None:
        require_types(self)
        if min(self.layers, self.heads, self.dim, self.feed_forward) < 1 or self.dim % self.heads:
            raise ValueError(
                f"layers, heads, dim and feed_forward must be positive and heads must divide dim, got {self.layers}, "
                f"{self.heads}, {self.dim} and {self.feed_forward}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 to less than 1, got {self.dropout}")
        if self.buckets < 2 or self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"buckets must be at least 2 and max_distance more than half of them, got {self.buckets} and "
                f"{self.max_distance}"
            )
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions must be one of {get_args(Positions)}, got {self.positions!r}")
        if self.positions == "rope" and self.dim // self.heads % 2:
            raise ValueError(f"rotary positions need heads of even width, got {self.dim} / {self.heads}")


class Block(nn.Module):
    """Attention and feed-forward, each normalised first and added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(
            config.dim, 3 * config.dim, bias=False
        )  # (heads, 3, head_dim): by heads it splits
        self.attention_output = nn.Linear(config.dim, config.dim, bias=False)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward_input = nn.Linear(config.dim, config.feed_forward, bias=False)
        self.feed_forward_output = nn.Linear(config.feed_forward, config.dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """(batch, tokens, dim) -> the same; `attend` mixes the tokens: training, prefill and step differ only there."""
        batch, tokens, dim = x.shape
        qkv = self.query_key_value(self.attention_norm(x)).view(batch, tokens, -1, 3, dim // self.heads)  # of its heads
        mixed = attend(*qkv.permute(3, 0, 2, 1, 4).unbind(0))
        x = x + self.dropout(self.attention_output(mixed.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.feed_forward_input(self.feed_forward_norm(x)))
        return x + self.dropout(self.feed_forward_output(hidden))

    def step_weights(self) -> StepWeights:
        """The weights by name, for `step`: looking them up in modules takes longer than using them."""
        norms = (self.attention_norm.weight, self.attention_norm.bias, self.feed_forward_norm.weight)
        linears = (self.query_key_value, self.attention_output, self.feed_forward_input, self.feed_forward_output)
        return StepWeights(self.heads, *norms, self.feed_forward_norm.bias, *(linear.weight.t() for linear in linears))


class Transformer(nn.Module):
    """Decoder-only Transformer with a T5-style position bias shared by its layers (or rotary positions), and an untied head.

    Initialised as GPT-2 is (standard deviation 0.02, output projections divided by the root of their number); the head
    is smaller, so that the first loss is near the logarithm of the number of legal ids.

    Args:
        config: sizes.
        vocabulary: number of ids, `StageLayout.vocabulary`.
        attention: how attention is computed, not what: see `causal_attention`.
        activation_checkpointing: keep only each block's input for the backward pass and compute the block again there:
            less memory, more time, the same gradients.

    Raises:
        ValueError: for an unknown kind of attention.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: int,
        *,
        attention: AttentionKind = "auto",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if attention not in get_args(AttentionKind):
            raise ValueError(f"attention must be one of {get_args(AttentionKind)}, got {attention!r}")
        self.attention: AttentionKind = attention
        self.activation_checkpointing = activation_checkpointing
        self.config = config
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, config.dim)
        self.position_bias = self.rotary = None
        if config.positions == "t5":
            self.position_bias = PositionBias(config.heads, buckets=config.buckets, max_distance=config.max_distance)
        else:
            self.rotary = Rotary(config.dim // config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, vocabulary, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.own_heads: Callable[[Tensor], Tensor] = lambda bias: bias  # tensor parallelism: this process's heads of it
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                branches = 2 * config.layers if name.endswith("output.weight") else 1
                nn.init.normal_(weight, std=0.02 * branches**-0.5)
        nn.init.normal_(self.head.weight, std=0.2 * config.dim**-0.5)  # logits of deviation 0.2: 0.02 nats over ln V

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits over the whole vocabulary: tokens (batch, tokens) int64 -> (batch, tokens, vocabulary).

        For inspection and tests: training and decoding ask `head_logits` for the legal ids only.
        """
        return self.head_logits(self.hidden(tokens), 0, self.vocabulary)

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head reads at every position: tokens (batch, tokens) int64 -> (batch, tokens, dim)."""
        attend = self._attention(tokens.size(1))
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, attend, use_reentrant=False)  # dropout draws the same numbers again
            else:
                x = block(x, attend)
        return self.norm(x)

    def _attention(self, tokens: int) -> Attend:
        """Attention among the tokens 0 to tokens - 1 of every row, which know where they stand."""
        attend = causal_attention(self._bias(tokens), kind=self.attention)
        return self._turning(torch.arange(tokens, device=self.head.weight.device)[None])(attend)

    def _bias(self, tokens: int) -> Tensor | None:
        return None if self.position_bias is None else self.own_heads(self.position_bias(tokens))

    def _turning(self, positions: Tensor) -> Callable[[Attend], Attend]:
        """What turns queries and keys at positions (batch or 1, tokens) before they attend, if positions are rotary."""
        if self.rotary is None:
            return lambda attend: attend
        angles = self.rotary(positions)
        return lambda attend: lambda q, k, v: attend(rotate(q, *angles), rotate(k, *angles), v)

    def compile_blocks(self, *, backend: str = "inductor") -> None:
        """Let torch.compile make the blocks' code, for any number of tokens; parameters and their names stay.

        Args:
            backend: of torch.compile.
        """
        for block in self.blocks:
            block.compile(dynamic=True, backend=backend)

    def head_logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Logits of the ids [start, stop) only: hidden (..., dim) -> (..., stop - start)."""
        return F.linear(hidden, self.head.weight[start:stop])

    def new_cache(self, batch: int, capacity: int, *, static: bool = False) -> Cache:
        """An empty cache for `batch` rows of up to `capacity` tokens, prompts included; `static`: a `StaticCache`."""
        head_dim = self.config.dim // self.config.heads
        bias = self._bias(capacity)
        if bias is None:
            bias = self.head.weight.new_zeros(self.config.heads, capacity)
        kind = StaticCache if static else Cache
        return kind([cast(Block, b).step_weights() for b in self.blocks], batch=batch, head_dim=head_dim, bias=bias)

    def prefill(self, tokens: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Read prompts into an empty cache.

        Args:
            tokens: (batch, tokens) int64, padded on the left; what stands in the padding does not matter.
            lengths: (batch,) int64, tokens of each row without padding, at least 1.
            cache: from `new_cache`.

        Returns:
            (batch, dim): what the head reads at each row's last token.

        Raises:
            ValueError: if the cache is in use, or made for other sizes.
        """
        batch, width = tokens.shape
        if cache.tokens or cache.batch != batch or cache.capacity < width:
            raise ValueError(
                f"prompts of {batch} x {width} tokens need an empty cache of {batch} rows and at least that many "
                f"columns; this one has {cache.batch} rows, {cache.tokens} of {cache.capacity} columns used"
            )
        # Padding moves to the right, where causality keeps it from every token: no mask, the very path of training.
        padding = width - lengths[:, None]
        column = torch.arange(width, device=tokens.device)
        x = self.embedding(tokens.gather(1, (column + padding) % width))
        attention, turn = causal_attention(self._bias(width), kind=self.attention), self._turning(column[None])
        cache.begin(lengths, tokens=width)
        back = ((column - padding) % width)[:, None, :, None]

        def attend_and_store(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache.store(layer, *(x.gather(2, back.expand_as(x)) for x in (keys, values)))
            return attention(queries, keys, values)

        for layer, block in enumerate(self.blocks):  # noqa: B007 - read by attend_and_store
            x = block(x, turn(attend_and_store))
        return self.norm(x[torch.arange(batch, device=x.device), lengths - 1])

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Read one more token (batch,) per row: what the head reads there, (batch, dim).

        Raises:
            ValueError: if the cache is full.
        """
        if cache.tokens == cache.capacity:
            raise ValueError(f"the cache is full ({cache.capacity} tokens): make it hold prompt and steps together")
        cache.advance()
        turn = None if self.rotary is None else self._turning(cache.positions)
        x = F.embedding(tokens, self.embedding.weight)
        for layer, weights in enumerate(cache.weights):
            attend = cache.attend(layer)
            x = step(x, weights, attend if turn is None else turn(attend))
        return layer_norm(x, (self.config.dim,), self.norm.weight, self.norm.bias)

    def lay_out_for_decoding(self) -> None:
        """Store the weights of the blocks' linear maps transposed, which a product with one row reads up to a third faster
        on a CPU. Their values, shapes and names stay; a state dict saved from here holds strided tensors."""
        for block in self.blocks:
            for linear in block.children():
                if isinstance(linear, nn.Linear):
                    linear.weight.data = linear.weight.data.t().contiguous().t()
