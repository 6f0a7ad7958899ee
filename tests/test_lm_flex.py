"""Flex attention, in the plain version that torch has of it, equals the reference; its kernel needs a GPU."""

import pytest
import torch
from flex_on_cpu import flex_on_cpu  # noqa: F401 - a fixture
from test_lm_attention import random_inputs
from torch import Tensor

from audiolm.lm import flex
from audiolm.lm.attention import AttentionKind, causal_attention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def output_and_gradients(inputs: tuple[Tensor, ...], *, kind: AttentionKind) -> list[Tensor]:
    queries, keys, values, bias = inputs
    output = causal_attention(bias, kind=kind)(queries, keys, values)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output, *torch.autograd.grad((output * weight.to(output.dtype)).sum(), inputs)]


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.parametrize("tokens", [1, 127, 128, 150])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 5e-5)])
def test_flex_equals_the_reference_in_output_and_all_four_gradients(
    tokens: int, dtype: torch.dtype, atol: float
) -> None:
    inputs = random_inputs(batch=2, heads=3, tokens=tokens, head_dim=8, dtype=dtype)
    plain = output_and_gradients(inputs, kind="reference")
    for ours, expected in zip(output_and_gradients(inputs, kind="flex"), plain, strict=True):
        assert torch.allclose(ours, expected, atol=atol)  # rounding; measured 1e-5 in the bias gradient of float32


def test_masks_are_shared_by_lengths_between_multiples_of_the_block_and_bounded() -> None:
    flex._causal_mask.cache_clear()
    for tokens in (1, 100, 128, 129):
        inputs = [
            tensor.detach()
            for tensor in random_inputs(batch=1, heads=1, tokens=tokens, head_dim=4, dtype=torch.float32)
        ]
        flex.flex_attention_with(inputs[3])(*inputs[:3])
    assert flex._causal_mask.cache_info().currsize == 2
    assert flex._causal_mask.cache_info().maxsize == flex.CACHED_MASKS


@pytest.mark.usefixtures("flex_on_cpu")
def test_a_mask_first_made_in_inference_serves_training_too() -> None:
    flex._causal_mask.cache_clear()
    inputs = random_inputs(batch=1, heads=1, tokens=40, head_dim=4, dtype=torch.float32)
    with torch.inference_mode():
        causal_attention(inputs[3], kind="flex")(*inputs[:3])
    plain = output_and_gradients(inputs, kind="reference")
    for ours, expected in zip(output_and_gradients(inputs, kind="flex"), plain, strict=True):
        assert torch.allclose(ours, expected, atol=5e-5)


def test_auto_is_flex_on_cuda_only_where_the_bias_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bias:
        """What `auto` looks at, without a GPU."""

        def __init__(self, device: str, *, requires_grad: bool) -> None:
            self.device, self.requires_grad = torch.device(device), requires_grad

        def size(self, _: int) -> int:
            return 100

    from audiolm.lm.attention import _fastest_kind

    assert _fastest_kind(Bias("cuda", requires_grad=True)) == "flex"
    assert _fastest_kind(Bias("cuda", requires_grad=False)) == "reference"
    assert _fastest_kind(Bias("cpu", requires_grad=True)) == "blockwise"
    assert _fastest_kind(Bias("mps", requires_grad=True)) == "reference"
