"""Chains on a real SLURM cluster of two nodes: to the end, preempted, with a node that dies, with a stage that fails."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from clone import Clone
from cluster import Cluster, wait_until

pytestmark = pytest.mark.timeout(1200)


def resumable(root: Path) -> bool:
    """Whether a codec has a checkpoint to continue from."""
    return any((root / "codec" / "resume").glob("*.ckpt")) or (root / "codec" / "last.ckpt").exists()


def test_the_chain_runs_over_two_nodes_and_is_then_up_to_date(clone: Clone) -> None:
    jobs = clone.submit("train-all", run="whole", preset="tiny")
    stages = [
        "corpus",
        "codec",
        "encoder",
        "tokenizer",
        "tokens",
        "semantic",
        "coarse",
        "fine",
        "generator",
        "samples",
        "report",
    ]
    assert list(jobs) == stages
    refused = clone.make("train-all", "SLURM=1", "NODES=2", "DEVICES=1", "PRESET=tiny", "RUN=whole", check=False)
    assert refused.returncode != 0
    assert f"report (job {jobs['report']}" in refused.stderr
    clone.status("whole")
    clone.wait_for(jobs["generator"], "COMPLETED", "FAILED", "CANCELLED")
    clone.status("whole")
    assert clone.wait_for(jobs["report"], "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    status = clone.status("whole")
    assert {name: stage["state"] for name, stage in status["stages"].items()} == dict.fromkeys(stages, "done")
    for stage in ("codec", "encoder", "tokenizer", "tokens", "semantic", "coarse", "fine"):
        assert json.loads((clone.root("whole") / stage / "done.json").read_text())["processes"] == 2
    assert clone.submit("train-all", run="whole", preset="tiny") == {}


@pytest.fixture(scope="module")
def straight(clone: Clone) -> Path:
    """A codec that was never interrupted."""
    job = clone.submit("codec", run="straight", preset="long")["codec"]
    assert clone.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED"
    return clone.root("straight") / "codec"


def assert_went_on(clone: Clone, run: str, straight: Path, *, starts: int) -> None:
    """The codec of `run` did not begin again, and ends in the weights of the one that was never interrupted."""
    folder = clone.root(run) / "codec"
    assert (
        json.loads((folder / "done.json").read_text())["steps"]
        == json.loads((straight / "done.json").read_text())["steps"]
    )
    assert json.loads((folder / "heartbeat.json").read_text())["start"] == starts
    logs = [list(csv.DictReader(path.open())) for path in sorted(folder.glob("log/version_*/metrics.csv"))]
    first_steps = [min(int(row["step"]) for row in log) for log in logs]
    assert len(first_steps) == starts
    assert first_steps[0] == 0
    assert all(step >= 4 for step in first_steps[1:]), first_steps  # where the first checkpoint was
    ours, theirs = (torch.load(f / "best.ckpt", weights_only=True)["state_dict"] for f in (folder, straight))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("how", ["signal", "requeue"])
def test_a_preempted_stage_goes_on_from_its_step(clone: Clone, cluster: Cluster, straight: Path, how: str) -> None:
    job = clone.submit("codec", run=how, preset="long")["codec"]
    wait_until(lambda: resumable(clone.root(how)), what="a checkpoint", seconds=180)
    if how == "signal":  # what comes before a time limit
        cluster.command("scancel", "--signal=USR1", str(job))
    else:
        cluster.command("scontrol", "requeue", str(job))
    clone.hurry(job)
    clone.status(how)
    assert clone.wait_for(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    assert_went_on(clone, how, straight, starts=2)


def test_when_a_node_dies_its_stage_goes_on_when_there_is_one_again(
    clone: Clone, cluster: Cluster, straight: Path
) -> None:
    job = clone.submit("codec", run="dead", preset="long")["codec"]
    wait_until(lambda: resumable(clone.root("dead")), what="a checkpoint", seconds=180)
    cluster.kill_node("n2")
    try:
        clone.status("dead")
        clone.wait_for(job, "PENDING", seconds=120)
        clone.status("dead")
    finally:
        cluster.start_node("n2")
    clone.hurry(job)
    assert clone.wait_for(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    clone.status("dead")
    assert_went_on(clone, "dead", straight, starts=2)


def test_when_a_stage_fails_those_behind_it_are_cancelled_and_the_same_command_finishes(clone: Clone) -> None:
    codec = clone.folder / "stages" / "mended" / "codec.yaml"
    right = codec.read_text()
    codec.write_text(right.replace("levels: 4", "levels: 0"))
    jobs = clone.submit("tokens", run="fails", preset="mended")
    assert clone.wait_for(jobs["codec"], "COMPLETED", "FAILED", "CANCELLED") == "FAILED"
    assert clone.wait_for(jobs["tokens"], "COMPLETED", "FAILED", "CANCELLED") == "CANCELLED"
    clone.wait_for(jobs["tokenizer"], "COMPLETED")
    status = clone.status("fails")
    states = {name: stage["state"] for name, stage in status["stages"].items() if name in jobs}
    assert states == {
        "corpus": "done",
        "codec": "failed",
        "encoder": "done",
        "tokenizer": "done",
        "tokens": "cancelled",
    }
    assert "levels" in status["stages"]["codec"]["error"]
    assert status["stages"]["tokens"]["why"] == "needs codec"
    assert any("make tokens SLURM=1" in words for words in status["next"])
    codec.write_text(right)
    again = clone.submit("tokens", run="fails", preset="mended")
    assert list(again) == ["codec", "tokens"]
    assert clone.wait_for(again["tokens"], "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"


def test_what_sbatch_refuses_is_said_in_its_own_words_and_leaves_nothing_queued(clone: Clone, cluster: Cluster) -> None:
    refused = clone.make("codec", "SLURM=1", "NODES=3", "DEVICES=1", "PRESET=tiny", "RUN=refused", check=False)
    assert refused.returncode != 0
    assert "Node count specification invalid" in refused.stderr or "Requested node configuration" in refused.stderr
    assert (
        subprocess.run(
            ["squeue", "-h", "-n", "audiolm-refused-corpus"], env=cluster.environment, capture_output=True
        ).stdout
        == b""
    )
