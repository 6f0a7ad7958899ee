"""Rotary positions: queries and keys turned by an angle that grows with their position, so that scores see distances."""

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """The alternative to a learned bias by distance (`positions: rope`). It has no weights.

    Args:
        head_dim: width of a head; even.
        base: the slowest pair of dimensions turns once in about 2 pi base tokens.

    Source: RoFormer (arXiv 2104.09864), section 3.2; pairs are (i, i + head_dim / 2), as in Llama.
    """

    def __init__(self, head_dim: int, *, base: float = 10000.0) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions (batch or 1, tokens): each (batch or 1, 1, tokens, head_dim / 2) float64."""
        exponents = torch.arange(0, self.head_dim, 2, device=positions.device).double() / self.head_dim
        angles = positions.double()[:, None, :, None] * self.base**-exponents
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn queries or keys (batch, heads, tokens, head_dim); computed in at least float32, given back in their dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    cosines, sines = cosines.to(wide), sines.to(wide)
    first, second = x.to(wide).chunk(2, dim=-1)
    turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    return turned.to(x.dtype)
