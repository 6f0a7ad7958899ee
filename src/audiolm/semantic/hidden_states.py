"""Hidden states of a Transformer of transformers, no deeper than asked for."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


def hidden_states(encoder: nn.Module, x: Tensor, inside: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Run the encoder of a HuBERT, WavLM, wav2vec 2.0 or w2v-BERT 2.0 and take what goes between its blocks.

    `output_hidden_states` keeps every layer in memory and runs all of them; this keeps those asked for, and stops at the
    deepest.

    Args:
        encoder: the model's `encoder`, with its blocks in `layers`.
        x: (batch, frames, dim), projected features. May be overwritten.
        inside: (batch, frames) bool, which frames are real; the others come last in a row and have no influence.
        layers: 0 is the input of the first block, n the output of block n, before any norm that follows the last.

    Returns:
        (batch, frames, dim) per layer; frames that are not real hold anything.
    """
    blocks, found = encoder.layers, {}

    def keep(number: int) -> Callable[..., None]:
        def hook(block: nn.Module, arguments: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output  # WavLM adds its position bias

        return hook

    def keep_input(block: nn.Module, arguments: Any) -> None:
        found[0] = arguments[0]

    assert isinstance(blocks, nn.ModuleList), f"{type(encoder).__name__} has no list of blocks"
    hooks = [blocks[number - 1].register_forward_hook(keep(number)) for number in set(layers) - {0}]
    hooks.append(blocks[0].register_forward_pre_hook(keep_input))
    hooks += _silenced_batch_norm(encoder, inside)
    encoder.layers = blocks[: max(1, *layers)]
    try:
        encoder(x, attention_mask=None if bool(inside.all()) else inside)
    finally:
        encoder.layers = blocks
        for hook in hooks:
            hook.remove()
    return [found[layer] for layer in layers]


def _silenced_batch_norm(encoder: nn.Module, inside: Tensor) -> list[Any]:
    """Some HuBERTs (of 25 Hz) shift their positional convolution's input: what follows the end would be heard as a constant,
    where a recording alone has zeros."""
    batch_norm = getattr(getattr(encoder, "pos_conv_embed", None), "batch_norm", None)
    if batch_norm is None:
        return []
    return [batch_norm.register_forward_hook(lambda module, arguments, output: output * inside[:, None])]
