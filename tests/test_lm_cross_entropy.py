"""Cross-entropy by chunks equals the plain one, and logits of all rows are never in memory."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from audiolm.lm.cross_entropy import summed_nats


def random_inputs(
    *, rows: int, ids: int, dim: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden rows, weight, targets, and illegal ids that are never the target and often no id of the head at all."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(ids, dim, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(ids, (rows,), generator=random)
    illegal = torch.randint(-2, ids + 2, (rows,), generator=random)
    return hidden, weight, targets, torch.where(illegal == targets, ids + 1, illegal)


def plain_nats(hidden: Tensor, weight: Tensor, targets: Tensor, *, illegal: Tensor | None) -> Tensor:
    logits = hidden @ weight.t()
    if illegal is not None:
        logits = logits.masked_fill(torch.arange(len(weight)) == illegal[:, None], -torch.inf)
    return F.cross_entropy(logits, targets, reduction="sum")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 20),
    ids=st.integers(2, 9),
    dim=st.integers(1, 5),
    chunk_rows=st.integers(1, 21),
    with_illegal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_value_and_both_gradients_equal_the_plain_version(
    rows: int, ids: int, dim: int, chunk_rows: int, with_illegal: bool, seed: int
) -> None:
    hidden, weight, targets, illegal = random_inputs(rows=rows, ids=ids, dim=dim, dtype=torch.float64, seed=seed)
    closed = illegal if with_illegal else None
    ours = summed_nats(hidden, weight, targets, illegal=closed, chunk_rows=chunk_rows)
    expected = plain_nats(hidden, weight, targets, illegal=closed)
    assert torch.allclose(ours, expected, rtol=1e-12, atol=1e-12)
    # 0.3: the backward pass multiplies by what comes in
    gradients = torch.autograd.grad(0.3 * ours, (hidden, weight))
    for gradient, truth in zip(gradients, torch.autograd.grad(0.3 * expected, (hidden, weight)), strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-12, atol=1e-12)


def test_in_float32_it_is_as_near_to_the_truth_as_the_plain_version() -> None:
    inputs = random_inputs(rows=500, ids=300, dim=32, dtype=torch.float32)
    hidden, weight, targets, illegal = inputs
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    truth = plain_nats(*exact, targets, illegal=illegal)
    ours = summed_nats(hidden, weight, targets, illegal=illegal, chunk_rows=64)
    assert ours.item() == pytest.approx(truth.item(), rel=1e-6)
    for gradient, expected in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(truth, exact), strict=True
    ):
        assert (gradient - expected).norm() / expected.norm() < 2e-6  # measured 3e-7


def test_under_autocast_products_are_bfloat16_and_sums_and_weight_gradients_float32() -> None:
    hidden, weight, targets, illegal = random_inputs(rows=500, ids=300, dim=32, dtype=torch.float32)
    results = []
    for nats in (summed_nats, plain_nats):
        with torch.autocast("cpu", torch.bfloat16):
            value = nats(hidden, weight, targets, illegal=illegal)
        results.append((value, *torch.autograd.grad(value, (hidden, weight))))
    ours, plain = results
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    truth = plain_nats(*exact, targets, illegal=illegal)
    assert [tensor.dtype for tensor in ours] == [torch.float32] * 3
    assert ours[0].item() == pytest.approx(truth.item(), rel=1e-3)
    for gradient, theirs, expected in zip(ours[1:], plain[1:], torch.autograd.grad(truth, exact), strict=True):
        error, plain_error = ((x - expected).norm() / expected.norm() for x in (gradient, theirs))
        assert error < 0.01  # bfloat16 keeps 8 bits; measured 0.004
        assert error < 1.2 * plain_error


def test_a_narrow_hidden_state_gives_a_float32_sum_over_many_chunks() -> None:
    hidden, weight, targets, _ = random_inputs(rows=2000, ids=8, dim=4, dtype=torch.bfloat16)
    ours = summed_nats(hidden, weight, targets, chunk_rows=10)
    assert ours.dtype == torch.float32
    truth = plain_nats(hidden.double(), weight.double(), targets, illegal=None)
    assert ours.item() == pytest.approx(truth.item(), rel=2e-3)  # the logits are rounded, their sum is not
    ours.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)


def test_an_illegal_id_takes_no_probability_and_no_gradient() -> None:
    hidden, weight, targets, _ = random_inputs(rows=6, ids=4, dim=3, dtype=torch.float64)
    illegal = (targets + 1) % 4
    with torch.no_grad():
        weight[2] = 100 * hidden[0]  # the likeliest of all
    every = torch.full_like(targets, 2)
    nats = summed_nats(hidden, weight, torch.where(targets == 2, 1, targets), illegal=every)
    nats.backward()
    assert nats.isfinite()
    assert weight.grad is not None
    assert not weight.grad[2].any()
    outside = summed_nats(hidden, weight, targets, illegal=torch.full_like(illegal, 4))
    assert torch.equal(outside, summed_nats(hidden, weight, targets))


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes, and counts matrix products."""

    elements, products = 0, 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        self.products += operation is torch.ops.aten.mm.default
        return result


def test_no_tensor_of_rows_times_ids_is_ever_made() -> None:
    hidden, weight, targets, illegal = random_inputs(rows=320, ids=100, dim=4, dtype=torch.float32)
    largest = {}
    for name, nats in (("ours", summed_nats), ("plain", plain_nats)):
        with Watch() as mode:
            options = {"chunk_rows": 16} if name == "ours" else {}
            nats(hidden, weight, targets, illegal=illegal, **options).backward()
        largest[name] = mode.elements
    assert largest == {"ours": 16 * 100, "plain": 320 * 100}


def test_without_gradients_none_are_made() -> None:
    hidden, weight, targets, _ = random_inputs(rows=20, ids=5, dim=40, dtype=torch.float32)
    with torch.no_grad(), Watch() as mode:
        nats = summed_nats(hidden, weight, targets, chunk_rows=2)
    assert mode.products == 10  # one per chunk; gradients would take two more
    assert not nats.requires_grad
    assert torch.equal(nats, summed_nats(hidden, weight, targets, chunk_rows=2).detach())
