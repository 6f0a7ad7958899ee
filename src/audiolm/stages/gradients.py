"""Gradients of a model whose parameters may be spread over processes."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def clip_by_norm(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients down so that the norm of all of them together is at most `largest`; returns the norm before, a scalar.

    Parameters may lie on different meshes (some split by FSDP alone, some by tensor parallelism too); the norm is that of the
    whole model, the same on every process.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    meshes: dict[object, list[Tensor]] = {}
    for parameter in with_gradient:
        gradient = cast(Tensor, parameter.grad)
        meshes.setdefault(gradient.device_mesh if isinstance(gradient, DTensor) else None, []).append(gradient)
    norms = [_whole(torch.nn.utils.get_total_norm(gradients)) for gradients in meshes.values()]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    scale = torch.clamp(largest / (norm + 1e-6), max=1.0)
    every = [gradient for gradients in meshes.values() for gradient in gradients]
    torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in every], scale)  # one call for all
    return norm


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
