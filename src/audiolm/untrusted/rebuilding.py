"""A module from a configuration and weights that a stranger may have written: compared before memory is taken for it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

Module = TypeVar("Module", bound=nn.Module)

# A parameter may be registered again while a module is built (weight norm replaces one by two); most modules have some.
REGISTRATIONS_PER_WEIGHT, SPARE_REGISTRATIONS = 8, 200


def rebuilt(make: Callable[[], Module], weights: Mapping[str, Tensor], *, what: str) -> Module:
    """Make a module and fill it, or say why its weights are not those of its configuration.

    It is made twice: first on the `meta` device, where tensors have shapes but no memory, until it has more parameters than
    there are weights. Only where every shape fits is it made in earnest, so that it takes as much memory as the weights do.

    Args:
        make: makes the module from its configuration.
        weights: its state dict.
        what: the module and the file it comes from, for messages.

    Raises:
        ValueError: if the module cannot be made, or any weight is missing, superfluous, of another shape or no plain number.
    """
    strange = [name for name, tensor in weights.items() if tensor.is_complex() or tensor.is_quantized]
    if strange:
        raise ValueError(f"the weights of {what} hold {strange[0]!r}, which is complex or quantized")
    shell = outline(make, weights=len(weights), what=what)
    try:
        shell.load_state_dict({name: tensor.to("meta") for name, tensor in weights.items()}, assign=True)
        del shell
        module = make()
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights of {what} do not fit its configuration: {_last_line(error)}") from error
    return module


def outline(make: Callable[[], Module], *, weights: int, what: str) -> Module:
    """A module on the `meta` device: shapes without memory.

    Args:
        weights: how many there are in the file; a module that goes far beyond is not finished.

    Raises:
        ValueError: if it cannot be made.
    """
    try:
        with torch.device("meta"), limited(REGISTRATIONS_PER_WEIGHT * weights + SPARE_REGISTRATIONS):
            return make()
    except ValueError:
        raise
    except Exception as error:  # a public model's classes say in many ways that they cannot be made so
        raise ValueError(
            f"{what} cannot be made from its configuration ({type(error).__name__}: {_last_line(error)[:200]}): the file is "
            "damaged or of another version."
        ) from error


@contextmanager
def limited(registrations: int) -> Iterator[None]:
    """Stop the construction of modules after so many parameters and submodules: 10^9 layers take for ever.

    Raises:
        ValueError: naming the limit.
    """
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > registrations:
            raise ValueError(
                f"the configuration asks for more than {registrations} parts: far more than there are weights"
            )

    hooks = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
