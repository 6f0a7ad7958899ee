"""Health: what is bad for long is said, what is normal is not."""

import torch

from audiolm.codec.health import TrainingHealth


def watch(losses: list[float], *, silence: float = 4.0) -> list[str]:
    health = TrainingHealth(levels=1)
    return [said for loss in losses if (said := health.observe_loss(loss, silence))]


def test_a_loss_that_falls_and_wobbles_is_healthy() -> None:
    torch.manual_seed(0)
    noise = (0.3 * torch.rand(500)).tolist()
    assert not watch([4.0 / (1 + 0.05 * step) + 0.5 + noise[step] for step in range(500)])


def test_a_rise_by_half_when_discriminators_start_is_healthy() -> None:
    assert not watch([1.0] * 200 + [1.5] * 300)


def test_a_single_spike_is_forgiven() -> None:
    assert not watch([1.0] * 100 + [50.0] + [1.0] * 100)


def test_an_explosion_is_said_with_both_numbers() -> None:
    said = watch([1.0] * 100 + [3.0] * 60)
    assert said
    assert "exploded" in said[0]
    assert "down to 1" in said[0]


def test_a_codec_no_better_than_silence_is_said() -> None:
    said = watch([4.1] * 100)
    assert said
    assert "learned nothing" in said[0]
    assert not watch([4.1] * 60)  # not before there was time to learn


def usage(entries: int, *, frames: int, size: int = 100) -> torch.Tensor:
    counts = torch.zeros(1, size, dtype=torch.int64)
    counts[0, :entries] = frames // entries
    return counts


def test_silent_audio_is_said_to_be_silent() -> None:
    health = TrainingHealth(levels=0, grace=5, patience=5)
    said = [health.observe_loss(0.07, 0.001) for _ in range(40)]
    assert "nearly silent" in (said[-1] or "")
    assert health.hears_silence


def test_a_codebook_collapses_when_few_entries_are_used_for_three_intervals() -> None:
    health = TrainingHealth(levels=1)
    for interval in (1, 2):
        said, judged = health.observe_usage(usage(4, frames=1000))
        assert not said, interval
        assert judged.all()
    said, _ = health.observe_usage(usage(4, frames=1000))
    assert said == ["Level 1 has collapsed: of its 100 entries only 4.0 are in effective use."]
    assert not health.observe_usage(usage(6, frames=1002))[0]
    assert not health.observe_usage(usage(4, frames=1000))[0]  # it begins anew


def test_few_frames_are_not_judged() -> None:
    health = TrainingHealth(levels=1)
    for _ in range(5):
        said, judged = health.observe_usage(usage(4, frames=996))
        assert not said
        assert not judged.any()


def test_it_resumes() -> None:
    first = TrainingHealth(levels=1)
    losses = [1.0] * 100 + [3.0] * 15
    for loss in losses:
        assert not first.observe_loss(loss, 4.0)
    second = TrainingHealth(levels=1)
    second.load_state_dict(first.state_dict())
    steps = [next(n for n in range(50) if health.observe_loss(3.0, 4.0)) for health in (first, second)]
    assert steps[0] == steps[1]
