"""Slow, obvious versions that the tests compare against."""

import torch
from torch import Tensor


def residual_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Codes (batch, levels, frames) of latents (batch, dim, frames), one frame and one level at a time."""
    batch, _, frames = latents.shape
    codes = torch.zeros(batch, len(codebooks), frames, dtype=torch.int64)
    for row in range(batch):
        for frame in range(frames):
            residual = latents[row, :, frame]
            for level, codebook in enumerate(codebooks):
                codes[row, level, frame] = int((codebook - residual).square().sum(1).argmin())
                residual = residual - codebook[codes[row, level, frame]]
    return codes


def ema_step(
    latents: Tensor, codebooks: Tensor, counts: Tensor, sums: Tensor, *, active: Tensor, decay: float
) -> Tensor:
    """One step of the codebooks' moving averages, entry by entry: changes counts and sums, gives the new codebooks."""
    codes = residual_codes(latents, codebooks)
    updated = codebooks.clone()
    for level in range(len(codebooks)):
        for entry in range(codebooks.size(1)):
            members = []
            for row in range(latents.size(0)):
                for frame in range(latents.size(2)):
                    if level < int(active[row]) and int(codes[row, level, frame]) == entry:
                        earlier = [codebooks[q][codes[row, q, frame]] for q in range(level)]
                        members.append(latents[row, :, frame] - sum(earlier, torch.zeros(latents.size(1))))
            counts[level, entry] = decay * counts[level, entry] + (1 - decay) * len(members)
            sums[level, entry] = decay * sums[level, entry] + (1 - decay) * sum(members, torch.zeros(latents.size(1)))
            updated[level, entry] = sums[level, entry] / counts[level, entry]
    return updated
