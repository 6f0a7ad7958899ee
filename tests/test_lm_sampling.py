"""Drawing a token: the exact distribution, never an illegal id."""

import hypothesis.strategies as st
import pytest
import reference
import torch
from hypothesis import given, settings

from audiolm.lm.sampling import Sampling, require_drawn, sample_next

LARGEST = 1 - 2**-53


@settings(deadline=None)
@given(
    ids=st.integers(1, 30),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.0, 1.0, 10.0, 300.0]),
    temperature=st.sampled_from([0.05, 0.6, 1.0, 3.0]),
    uniform=st.one_of(st.sampled_from([0.0, LARGEST]), st.floats(0, 1, exclude_max=True)),
)
def test_a_draw_agrees_with_the_loop_and_is_legal(
    ids: int, seed: int, scale: float, temperature: float, uniform: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(1, ids, generator=random)
    allowed = torch.rand(ids, generator=random) < 0.5
    allowed[torch.randint(ids, (1,), generator=random)] = True
    exact = (logits[0].double().masked_fill(~allowed, -torch.inf) / temperature).softmax(0)
    drawn = sample_next(
        logits, allowed=allowed, sampling=Sampling(temperature), uniform=torch.tensor([uniform], dtype=torch.float64)
    )
    assert allowed[drawn]
    edges = torch.cumsum(exact, 0)
    if (edges - uniform).abs().min() > 1e-12:  # nearer to an edge, rounding may decide
        assert drawn.item() == reference.draw(exact.tolist(), uniform)


@pytest.mark.parametrize("uniform", [0.0, LARGEST])
@pytest.mark.parametrize("ids", [3, 1024, 16384])
def test_the_extreme_uniforms_draw_the_first_and_the_last_legal_id(uniform: float, ids: int) -> None:
    allowed = torch.ones(ids, dtype=torch.bool)
    allowed[0] = allowed[-1] = False
    logits = torch.randn(64, ids, generator=torch.Generator().manual_seed(0))
    drawn = sample_next(
        logits, allowed=allowed, sampling=Sampling(), uniform=torch.full((64,), uniform, dtype=torch.float64)
    )
    assert (drawn == (1 if uniform == 0 else ids - 2)).all()


def test_top_k_keeps_the_k_likeliest_and_top_p_the_fewest_that_reach_p() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    grid = torch.linspace(0, LARGEST, 1001, dtype=torch.float64)

    def reachable(**limits: float) -> set[int]:
        drawn = sample_next(
            logits.expand(1001, 4),
            allowed=torch.tensor([True, True, True, True]),
            sampling=Sampling(**limits),
            uniform=grid,
        )
        return set(drawn.tolist())

    assert reachable() == {0, 1, 2, 3}
    assert reachable(top_k=1) == {1}
    assert reachable(top_k=2) == {1, 3}
    assert reachable(top_k=9) == {0, 1, 2, 3}
    assert reachable(top_p=1e-9) == {1}
    assert reachable(top_p=0.39) == {1}
    assert reachable(top_p=0.41) == {1, 3}
    assert reachable(top_p=0.71) == {1, 2, 3}
    assert reachable(top_p=1.0) == {0, 1, 2, 3}
    assert reachable(top_k=3, top_p=0.5) == {1, 3}


def test_no_mask_is_the_mask_that_allows_all() -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    every = sample_next(logits, allowed=torch.ones(9, dtype=torch.bool), sampling=Sampling(), uniform=uniform)
    assert torch.equal(sample_next(logits, sampling=Sampling(), uniform=uniform), every)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sampling(**wrong)


def test_a_row_that_cannot_be_drawn_is_marked_and_the_others_are_drawn() -> None:
    logits = torch.zeros(3, 4)
    logits[1] = torch.nan
    allowed = torch.ones(3, 4, dtype=torch.bool)
    allowed[2] = False
    drawn = sample_next(logits, allowed=allowed, sampling=Sampling(), uniform=torch.zeros(3, dtype=torch.float64))
    assert drawn.tolist() == [0, -1, -1]
    require_drawn(drawn[:1] < 0)
    with pytest.raises(ValueError, match="no allowed id, or its logits are not finite"):
        require_drawn(drawn < 0)
