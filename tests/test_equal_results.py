"""Two processes with the same global batch give the losses of one, for every stage that trains on audio."""

import socket
from pathlib import Path
from typing import Any

import equal_results
import lightning as L
import pytest
import torch
import torch.multiprocessing as mp

from audiolm.corpus import prepare
from audiolm.processes import ALONE
from audiolm.stages.global_batch import share_batches
from datamodules import LibriLightDataModule

TOLERANCE = 2e-6  # relative: float32 sums in another order, over up to ten steps; measured: 2.4e-7


@pytest.fixture(scope="module")
def runs(tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every stage trained by one process, and by each of two."""
    corpus, one, two = (tmp_path_factory.mktemp(name) for name in ("prepared", "one", "two"))
    prepare(tone_corpus, corpus)
    alone = equal_results.train_all(corpus, one, given=one, processes=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(equal_results.train_rank, args=(corpus, two, one, port), nprocs=2)
    return alone, [torch.load(two / f"{rank}.pt") for rank in (0, 1)]


def test_what_processes_share_is_what_one_has_of_the_whole_batch(runs: Any) -> None:
    whole, ranks = equal_results.shared(ALONE), [rank["shared"] for rank in runs[1]]
    for rank in ranks:
        for name in ("gathered", "previous", "draws"):
            assert torch.equal(rank[name], whole[name]), name
        torch.testing.assert_close(rank["mean"], whole["mean"])  # float64: the default tolerance is 1e-7
    torch.testing.assert_close(sum(rank["part"] for rank in ranks) / 2, whole["part"])
    torch.testing.assert_close(torch.cat([rank["gradient"] for rank in ranks]), whole["gradient"])


def test_a_quantizer_learns_on_two_processes_what_it_learns_on_one(runs: Any) -> None:
    whole = equal_results.quantized(ALONE)
    assert int(whole["replaced 11"].sum()) > 3  # entries have died
    assert len(whole["pool 1"]) == 80  # of 100: what a run would resume with
    for rank in (rank["quantizer"] for rank in runs[1]):
        for name, value in whole.items():  # sums of float32 in another order
            torch.testing.assert_close(rank[name], value, rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(rank["pool 1"], whole["pool 1"])


def differences(one: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float]:
    """The largest relative difference of each logged number over all steps; absolute of numbers below 1."""
    assert [entry.keys() for entry in one] == [entry.keys() for entry in other]
    worst: dict[str, float] = {}
    for ours, theirs in zip(one, other, strict=True):
        for name, value in ours.items():
            difference = abs(value - theirs[name]) / max(1.0, abs(value))
            worst[name] = max(worst.get(name, 0.0), difference)
    return worst


@pytest.mark.parametrize("stage", equal_results.STAGES)
def test_losses_are_those_of_one_process(runs: Any, stage: str) -> None:
    alone, (first, _) = runs
    worst = differences(alone[stage]["losses"], first[stage]["losses"])
    assert len(alone[stage]["losses"]) > equal_results.STEPS.get(stage, 1)
    for name, difference in worst.items():
        assert difference < TOLERANCE, f"{name}: {difference}"


@pytest.mark.parametrize("stage", equal_results.STAGES)
def test_weights_and_buffers_are_equal_on_both_processes(runs: Any, stage: str) -> None:
    _, (first, second) = runs
    for name, value in first[stage]["weights"].items():
        assert torch.equal(value, second[stage]["weights"][name]), name


def test_a_stage_that_does_not_add_up_gradients_refuses_micro_batches(tmp_path: Path) -> None:
    data = LibriLightDataModule(view="waveform", batch_size=4, micro_batch_size=2, root=str(tmp_path))
    codec = equal_results.stage("codec", tmp_path, given=tmp_path)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(
        ValueError, match=r"CodecStage does not add up gradients.*micro_batch_size \(2\).*Set it to null"
    ):
        share_batches(trainer, codec, data)
