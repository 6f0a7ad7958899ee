"""A plain GPT to compare with: what anyone writes in an hour. Additive mask, full softmax, a cache that is concatenated."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm.lm.position_bias import PositionBias

Past = list[tuple[Tensor, Tensor]]  # keys and values (batch, heads, tokens, head_dim) of every layer


class PlainGpt(nn.Module):
    """Decoder-only, T5 bias as the mask of scaled_dot_product_attention, logits of the whole vocabulary everywhere."""

    def __init__(self, vocabulary: int, *, layers: int, heads: int, dim: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, dim)
        self.bias = PositionBias(heads, buckets=32, max_distance=128)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(dim),
                    nn.Linear(dim, 3 * dim, bias=False),
                    nn.Linear(dim, dim, bias=False),
                    nn.LayerNorm(dim),
                    nn.Linear(dim, feed_forward, bias=False),
                    nn.Linear(feed_forward, dim, bias=False),
                ]
            )
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Logits of the new tokens (batch, tokens) -> (batch, tokens, vocabulary), and the cache with them added."""
        x, new = self.embedding(tokens), tokens.size(1)
        before = past[0][0].size(2) if past else 0
        position = torch.arange(before + new, device=tokens.device)
        distance = position[before:, None] - position
        mask = self.bias(before + new)[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)
        present: Past = []
        for number, (norm, qkv, out, second_norm, up, down) in enumerate(self.layers):
            q, k, v = qkv(norm(x)).view(len(x), new, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            if past:
                k, v = torch.cat([past[number][0], k], dim=2), torch.cat([past[number][1], v], dim=2)
            present.append((k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
            x = x + out(mixed.transpose(1, 2).flatten(2))
            x = x + down(F.gelu(up(second_norm(x))))
        return self.head(self.norm(x)), present

    def loss(self, inputs: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Mean nats of the counted targets, over the whole vocabulary."""
        logits = self(inputs)[0].flatten(0, 1).float()
        return F.cross_entropy(logits, targets.masked_fill(~counted, -100).flatten())

    @torch.inference_mode()
    def generate(self, prefixes: Tensor, *, steps: int) -> Tensor:
        """(batch, steps) sampled after (batch, tokens)."""
        drawn, tokens, past = [], prefixes, None
        for _ in range(steps):
            logits, past = self(tokens, past)
            tokens = torch.multinomial(logits[:, -1].softmax(-1), 1)
            drawn.append(tokens)
        return torch.cat(drawn, dim=1)
