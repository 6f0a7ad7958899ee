"""Chains on a real SLURM cluster of two nodes: to the end, preempted, with a node that dies, with a stage that fails."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from clone import Clone
from cluster import Cluster, wait_until

from audiolm.evaluation.curves import read_curves

pytestmark = pytest.mark.timeout(2400)


def resumable(root: Path) -> bool:
    """Whether a codec has a checkpoint to continue from."""
    return any((root / "codec" / "resume").glob("*.ckpt")) or (root / "codec" / "last.ckpt").exists()


@pytest.fixture(scope="module")
def whole(clone: Clone) -> Path:
    """A chain's folder; `test_the_chain_runs…` is the test of it."""
    root = clone.root("whole")
    assert (root / "report" / "index.html").exists(), "the chain did not finish"
    return root


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
    for stage in ("tokens", "semantic", "generator"):
        clone.wait_for(jobs[stage], "COMPLETED", "FAILED", "CANCELLED", seconds=900)
        clone.status("whole")
    assert clone.wait_for(jobs["report"], "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    status = clone.status("whole")
    assert {name: stage["state"] for name, stage in status["stages"].items()} == dict.fromkeys(stages, "done")
    for stage in ("codec", "encoder", "tokenizer", "tokens", "semantic", "coarse", "fine"):
        assert json.loads((clone.root("whole") / stage / "done.json").read_text())["processes"] == 2
    assert clone.submit("train-all", run="whole", preset="tiny") == {}


def test_a_language_model_under_fsdp_runs_over_two_nodes_and_speaks(clone: Clone, whole: Path) -> None:
    """After the chain: its coarse stage again, divided over the nodes, and the generator with it."""
    folder = whole / "coarse"
    ddp = read_curves(folder / "log")["train/loss"].values
    shutil.rmtree(folder)
    jobs = clone.submit("samples", "STRATEGY=fsdp", run="whole", preset="tiny")
    assert list(jobs) == ["coarse", "generator", "samples"]
    assert clone.wait_for(jobs["samples"], "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    assert "coarse: strategy fsdp is FSDP2" in clone.log(jobs["coarse"])
    assert json.loads((folder / "done.json").read_text())["processes"] == 2
    assert (folder / "best.ckpt").is_dir()  # a shard of each process
    fsdp = read_curves(folder / "log")["train/loss"].values
    print(f"coarse, loss by step: ddp {ddp.round(4).tolist()}, fsdp {fsdp.round(4).tolist()}")
    assert ddp.tolist() == pytest.approx(fsdp.tolist(), rel=0.01)  # bfloat16 is rounded elsewhere


@pytest.fixture(scope="module")
def straight(clone: Clone) -> Path:
    """A codec that was never interrupted."""
    job = clone.submit("codec", run="straight", preset="long")["codec"]
    assert clone.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED"
    return clone.root("straight") / "codec"


def assert_went_on(clone: Clone, run: str, straight: Path, *, at_least: int = 4) -> None:
    """The codec of `run` started twice, the second time not from the beginning, and ends in the uninterrupted one's weights.

    Args:
        at_least: the step of its first checkpoint.
    """
    folder = clone.root(run) / "codec"
    done, straight_done = (json.loads((f / "done.json").read_text()) for f in (folder, straight))
    assert done["steps"] == straight_done["steps"]
    assert json.loads((folder / "heartbeat.json").read_text())["start"] == 2
    logs = [list(csv.DictReader(path.open())) for path in sorted(folder.glob("log/version_*/metrics.csv"))]
    first_steps = [min(int(row["step"]) for row in log) for log in logs]
    assert first_steps[0] == 0
    assert len(first_steps) == 2
    (log,) = folder.parent.glob("slurm/codec-*.log")
    went_on_from = int(re.findall(r"Restored all states .*/step-(\d+)\.ckpt", log.read_text())[-1])
    assert went_on_from >= at_least
    ours, theirs = (torch.load(f / "best.ckpt", weights_only=True)["state_dict"] for f in (folder, straight))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    print(f"{run}: went on from step {went_on_from}; {len(theirs)} tensors equal those of the uninterrupted run")


@pytest.mark.parametrize("how", ["signal", "early", "requeue"])
def test_a_preempted_stage_goes_on_from_its_step(clone: Clone, cluster: Cluster, straight: Path, how: str) -> None:
    """`signal`: what comes before a time limit. `early`: it comes before the first step."""
    job = clone.submit("codec", run=how, preset="long")["codec"]
    if how == "early":
        wait_until(lambda: "Seed set to" in clone.log(job), what="its imports are done", seconds=300)
    else:
        wait_until(lambda: resumable(clone.root(how)), what="a checkpoint", seconds=300)
    command = ["scontrol", "requeue"] if how == "requeue" else ["scancel", "--signal=USR1"]
    print("$", *command, job)
    cluster.command(*command, str(job))
    clone.wait_for_restart(job, hurry=True)
    assert clone.wait_for(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    clone.status(how)
    if how == "early":
        assert "SIGUSR1 while starting" in clone.log(job)
    assert_went_on(clone, how, straight, at_least=1 if how == "early" else 4)


def test_when_a_node_dies_its_stage_goes_on_when_there_is_one_again(
    clone: Clone, cluster: Cluster, straight: Path
) -> None:
    job = clone.submit("codec", run="dead", preset="long")["codec"]
    wait_until(lambda: resumable(clone.root("dead")), what="a checkpoint", seconds=300)
    print("n2 dies")
    cluster.kill_node("n2")
    try:
        clone.status("dead")
        clone.wait_for(job, "PENDING", seconds=180)
        clone.status("dead")
    finally:
        cluster.start_node("n2")
        print("n2 is there again")
    clone.wait_for_restart(job, hurry=False)
    assert clone.wait_for(job, "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    clone.status("dead")
    assert_went_on(clone, "dead", straight)


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
    said = ["SLURM=1", "DEVICES=1", "PRESET=tiny", "RUN=refused"]
    refused = clone.make("codec", *said, "NODES=2", "PARTITION=nowhere", check=False)
    assert refused.returncode != 0
    assert "invalid partition specified: nowhere" in refused.stderr
    assert cluster.command("squeue", "--noheader", "--format=%i", "--name=audiolm-refused-corpus") == ""


def test_more_nodes_than_there_are_are_refused_or_shown_by_status(clone: Clone, cluster: Cluster) -> None:
    said = ["SLURM=1", "DEVICES=1", "NODES=3", "PRESET=tiny", "RUN=three"]
    refused = clone.make("codec", *said, "PARTITION=main", check=False)
    assert refused.returncode != 0
    assert "codec stage asks for 3 nodes, and partition main has 2" in refused.stderr
    clone.make("codec", *said, "SBATCH=--partition=main")  # where only SLURM can tell
    try:
        wait_until(lambda: clone.status("three")["stages"]["corpus"]["state"] == "done", what="corpus", seconds=300)
        wait_until(
            lambda: clone.status("three")["stages"]["codec"]["why"] not in ("Dependency", "None", ""),
            what="the codec's job has a reason to wait",
        )
        codec = clone.status("three")["stages"]["codec"]
        assert (codec["state"], codec["why"]) in (("pending", "PartitionConfig"), ("pending", "PartitionNodeLimit"))
    finally:
        cluster.command("scancel", "--name=audiolm-three-codec")
