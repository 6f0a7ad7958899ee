"""Warm-up and cosine."""

import pytest

from audiolm.lm.schedule import warmup_cosine


def test_it_rises_to_one_and_falls_to_the_floor_where_it_stays() -> None:
    factor = warmup_cosine(warmup_steps=10, total_steps=110, floor=0.2)
    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factor(10) == pytest.approx(1)
    assert factor(60) == pytest.approx(0.6)
    assert factor(110) == pytest.approx(0.2)
    assert factor(1000) == pytest.approx(0.2)
    falling = [factor(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_a_short_run_warms_up_for_at_most_its_first_tenth() -> None:
    factor = warmup_cosine(warmup_steps=1000, total_steps=100)
    assert factor(9) == factor(10) == 1
    assert warmup_cosine(warmup_steps=1000, total_steps=1)(0) == 1


@pytest.mark.parametrize("wrong", [{"warmup_steps": -1}, {"total_steps": 0}, {"floor": 1.5}])
def test_impossible_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        warmup_cosine(**{"warmup_steps": 1, "total_steps": 10, **wrong})
