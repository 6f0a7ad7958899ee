"""BEST-RQ's targets: the nearest of random codes to a random projection of the spectrum. Nothing of it is trained."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from audiolm.semantic.conformer import SUBSAMPLING


class RandomProjectionQuantizer(nn.Module):
    """Ids of frames: four normalised spectra are stacked, projected at random, and the nearest of random codes is named.

    Args:
        bins: mel bins of a spectrum.
        codes: codebook size.
        code_dim: of the projection.
        seed: of projection and codes.

    Source: BEST-RQ (arXiv 2202.01855), section 3.1: Xavier projection, normal codes, both of unit length; 8192 codes of 16.
    """

    projection: Tensor
    codebook: Tensor

    def __init__(self, *, bins: int, codes: int, code_dim: int = 16, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        projection = torch.empty(SUBSAMPLING * bins, code_dim)
        nn.init.xavier_normal_(projection, generator=random)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(torch.randn(codes, code_dim, generator=random), dim=-1))

    @torch.no_grad()
    def forward(self, spectra: Tensor) -> Tensor:
        """Ids (batch, frames) int64 of normalised spectra (batch, 4 frames, bins)."""
        with torch.autocast(spectra.device.type, enabled=False):
            stacked = rearrange(
                spectra.float(), "batch (frames steps) bins -> batch frames (steps bins)", steps=SUBSAMPLING
            )
            return (F.normalize(stacked @ self.projection, dim=-1) @ self.codebook.t()).argmax(-1)
