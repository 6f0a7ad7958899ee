"""Which centroid is nearest to each frame: by faiss on its GPUs, by torch on CPUs, roughly in bf16 or exactly in fp32."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Engine = Literal["auto", "faiss", "torch"]
# frames (frames, dim), centroids (clusters, dim), scores that the frames had before (frames,) or None
# -> nearest centroid (frames,) and its score x · c - |c|² / 2, which is largest where the distance is least
Search = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]

PIECES = 3  # bf16 numbers whose sum is a float32 number
ALIGNED = 32  # columns; matrix units load whole blocks


def searches(engine: Engine, dim: int) -> tuple[Search, Search]:
    """A quick search, good enough to move centroids by, and an exact one (in float32).

    Args:
        engine: "auto" takes faiss if it has GPUs, else torch: on CPUs with bf16 matrix units faster than faiss, which
            knows float32 only, and as fast elsewhere.
    """
    faiss = _by_faiss(dim, needs_gpu=engine == "auto") if engine != "torch" else None
    if faiss is not None:
        return faiss, faiss
    capabilities = torch.cpu.get_capabilities()
    bf16 = any(capabilities.get(name) for name in ("amx_tile", "amx_bf16", "avx512_bf16"))
    return (by_bf16 if bf16 else by_float32), by_float32


def by_float32(frames: Tensor, centroids: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See `Search`."""
    best = (frames @ centroids.t()).sub_(centroids.square().sum(1) / 2).max(1)
    return best.indices, best.values


def by_bf16(frames: Tensor, centroids: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See `Search`: with one matrix product of bf16 numbers, summed in float32.

    Such a product comes rounded to bf16 as well, which near 500 knows steps of 4 only and would make the best few equal.
    So it computes score - before, which is small for them: further columns hold |c|² / 2 and `before` in three pieces each.
    Without `before` (the first iteration) the search is exact.
    """
    if before is None:
        return by_float32(frames, centroids)
    dim = frames.shape[1]
    columns = -(-(dim + 2 * PIECES) // ALIGNED) * ALIGNED
    left = torch.zeros(len(frames), columns, dtype=torch.bfloat16)
    right = torch.zeros(len(centroids), columns, dtype=torch.bfloat16)
    left[:, :dim], right[:, :dim] = frames, centroids
    left[:, dim : dim + PIECES], right[:, dim : dim + PIECES] = 1, _pieces(centroids.square().sum(1) / -2)
    left[:, dim + PIECES : dim + 2 * PIECES], right[:, dim + PIECES : dim + 2 * PIECES] = _pieces(-before), 1
    best = (left @ right.t()).max(1)
    return best.indices, before + best.values.float()


def _pieces(numbers: Tensor) -> Tensor:
    """(count, PIECES) bf16 whose sums are the numbers."""
    pieces = []
    for _ in range(PIECES):
        pieces.append(numbers.bfloat16())
        numbers = numbers - pieces[-1].float()
    return torch.stack(pieces, 1)


def _by_faiss(dim: int, *, needs_gpu: bool) -> Search | None:
    if needs_gpu and not torch.cuda.is_available():
        return None
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if needs_gpu and not gpus:
        return None
    flat = faiss.IndexFlatL2(dim)
    index = faiss.index_cpu_to_all_gpus(flat) if gpus else flat

    def search(frames: Tensor, centroids: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        index.reset()
        index.add(centroids.numpy())
        distances, nearest = index.search(frames.numpy(), 1)
        return torch.from_numpy(nearest[:, 0]), (frames.square().sum(1) - torch.from_numpy(distances[:, 0])) / 2

    return search
