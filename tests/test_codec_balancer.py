"""The balancer: shares are what they say, whatever the scale; bad steps leave no trace."""

import pytest
import torch

from audiolm.codec.balancer import LossBalancer


def output_of(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_a_loss_pulls_with_its_share_whatever_its_scale() -> None:
    output = output_of()
    first, second = (torch.randn(50, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for scale in (1e-6, 1.0, 1e6):
        losses = {"a": scale * (output * first).sum(1).mean(), "b": (output * second).sum(1).mean()}
        pull = LossBalancer({"a": 3.0, "b": 1.0})(losses, output) * len(output)
        expected = 0.75 * first / first.norm() + 0.25 * second / second.norm()
        torch.testing.assert_close(pull, expected.expand_as(pull), rtol=1e-4, atol=1e-6)


def test_the_pull_per_example_does_not_depend_on_the_batch() -> None:
    direction = torch.randn(50)
    for batch in (1, 4):
        output = output_of(batch)
        pull = LossBalancer({"a": 1.0})({"a": (output * direction).sum(1).mean()}, output)
        torch.testing.assert_close(pull.norm(dim=1), torch.full((batch,), 1 / batch))


def test_a_gradient_is_measured_against_its_running_norm() -> None:
    balancer, output = LossBalancer({"a": 1.0}, decay=0.9), output_of(1)
    for _ in range(200):
        balancer({"a": output.sum()}, output)
    spike = balancer({"a": 100 * output.sum()}, output)
    assert 9.0 < spike.norm() < 9.3  # 100 / (0.9 + 0.1 * 100) = 9.17


def test_shares_of_absent_losses_do_not_weaken_the_others() -> None:
    output = output_of(1)
    pull = LossBalancer({"a": 1.0, "b": 9.0})({"a": output.sum()}, output)
    torch.testing.assert_close(pull.norm(), torch.tensor(1.0))


def test_a_gradient_that_is_not_finite_shows_and_leaves_the_norms_alone() -> None:
    balancer, output = LossBalancer({"a": 1.0}), output_of(1)
    balancer({"a": output.sum()}, output)
    before = balancer.state_dict()["norms"].clone()
    assert not balancer({"a": output.sum() * float("nan")}, output).isfinite().all()
    assert torch.equal(balancer.norms, before)
    torch.testing.assert_close(balancer({"a": output.sum()}, output).norm(), torch.tensor(1.0))


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        LossBalancer(shares)
