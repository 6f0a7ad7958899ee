"""The share of a step that is spent waiting for data is what was waited, and a long wait is warned of with a remedy."""

import warnings
from types import SimpleNamespace

import pytest

from audiolm.stages import data_wait
from audiolm.stages.data_wait import LONG_STRETCH_STEPS, DataWait


class Module:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: list[float] = []

    def log(self, name: str, value: float, **_: object) -> None:
        assert name == "train/data_wait"
        self.logged.append(value)


def train(
    monkeypatch: pytest.MonkeyPatch, *, steps: int, wait_seconds: float, interrupt: str = ""
) -> tuple[list[float], list[str]]:
    """Steps of one second with a pause before each, by a clock of our own; what was logged and warned of."""
    now = 0.0
    monkeypatch.setattr(data_wait, "time", SimpleNamespace(perf_counter=lambda: now))
    trainer, module, callback = SimpleNamespace(datamodule=SimpleNamespace(workers=3)), Module(), DataWait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_train_start(trainer, module)
        for step in range(steps):
            now += wait_seconds
            callback.on_train_batch_start(trainer, module, None, step)
            now += 1.0
            callback.on_train_batch_end(trainer, module, None, None, step)
            if interrupt and step % 5 == 0:
                getattr(callback, interrupt)(trainer, module, *([{}] if "save" in interrupt else []))
                now += 100.0
    return module.logged, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("wait_seconds", [0.0, 0.02, 0.5])
def test_the_logged_share_is_that_of_the_waiting(monkeypatch: pytest.MonkeyPatch, wait_seconds: float) -> None:
    logged, _ = train(monkeypatch, steps=20, wait_seconds=wait_seconds)
    assert len(logged) == 19  # the first batch of a run is waited for while workers start
    assert logged == pytest.approx([wait_seconds / (1 + wait_seconds)] * 19)


@pytest.mark.parametrize("interrupt", ["on_validation_start", "on_save_checkpoint"])
def test_validations_and_checkpoints_are_no_waiting(monkeypatch: pytest.MonkeyPatch, interrupt: str) -> None:
    logged, _ = train(monkeypatch, steps=20, wait_seconds=0.25, interrupt=interrupt)
    assert logged == pytest.approx([0.2] * len(logged))
    assert len(logged) == 19 - 4


def test_a_long_wait_is_warned_of_once_with_the_setting_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, steps=LONG_STRETCH_STEPS, wait_seconds=0.5)[1] == []
    (warning,) = train(monkeypatch, steps=3 * LONG_STRETCH_STEPS, wait_seconds=0.5)[1]
    assert "33%" in warning
    assert "data.init_args.workers (3 now)" in warning
    assert train(monkeypatch, steps=3 * LONG_STRETCH_STEPS, wait_seconds=0.04)[1] == []
