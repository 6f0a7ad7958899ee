"""What `audiolm status` says of chains in every state, and the sign of life it reads."""

import errno
import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from audiolm.files import write_json
from audiolm.slurm import JobState, SlurmError, Submitted, write_jobs
from audiolm.stages.heartbeat import Heartbeat
from audiolm.status import EVALUATION_STAGES, EXTRA_RESULTS, RESULTS, ChainStatus, StageStatus, chain_status
from audiolm.status_table import duration, print_status, status_json
from audiolm.verbs import run_verb

REPOSITORY = Path(__file__).parents[1]
BEAT = {
    "stage": "codec", "state": "running", "error": None, "step": 40, "of": 100, "loss": 1.25, "seconds_left": 600.0,
    "processes": 4, "process_seconds": 7200.0, "device": "cuda", "host": "elsewhere", "pid": 1,
    "slurm_job": None, "start": 1,
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A chain that was just begun."""
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo", "codec": "", "encoder": ""})
    return tmp_path


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[int, JobState]:
    """What SLURM says of jobs; a test fills it."""
    states: dict[int, JobState] = {}
    monkeypatch.setattr("audiolm.status.job_states", lambda jobs: {job: states[job] for job in jobs if job in states})
    return states


def beat(root: Path, **facts: Any) -> None:
    write_json(root / "codec" / "heartbeat.json", {**BEAT, "time": time.time(), **facts})


def codec_of(root: Path) -> StageStatus:
    return next(stage for stage in chain_status(root).stages if stage.stage == "codec")


def submitted(root: Path, **needs: list[str]) -> dict[str, Submitted]:
    """Jobs 1, 2, … that need each other so."""
    numbers = {stage: number + 1 for number, stage in enumerate(needs)}
    jobs = {
        stage: Submitted(
            stage, numbers[stage], str(root / "slurm" / f"{stage}.log"), 16, {n: numbers[n] for n in needs[stage]}
        )
        for stage in needs
    }
    write_jobs(root, jobs, command="make train-all SLURM=1 NODES=2 DEVICES=8")
    return jobs


def test_the_stages_and_their_results_are_the_makefiles() -> None:
    words = ["make", "--no-print-directory", "--dry-run", "--always-make", "-p", "train-all", "RUN=x"]
    database = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines()
    made = dict(
        line.removeprefix("made.").split(" := $(ROOT)/")
        for line in (REPOSITORY / "Makefile").read_text().splitlines()
        if line.startswith("made.")  # the evaluation's are made by a rule
    )
    evaluation = {stage: f"{stage}/done.json" for stage in EVALUATION_STAGES}
    assert made | evaluation | {"evaluation-stages": "generate-acoustic/generated.jsonl"} == RESULTS | EXTRA_RESULTS
    assert f"EVALUATION_STAGES := {' '.join(EVALUATION_STAGES)}" in database
    assert f"STAGES := {' '.join(RESULTS)}" in database
    assert "EXTRA_STAGES := acoustic generator-acoustic" in database


def test_a_chain_without_a_trained_encoder_or_a_fine_stage_does_not_wait_for_them(root: Path) -> None:
    assert [stage.stage for stage in chain_status(root).stages] == list(RESULTS)
    for chain, missing in (
        ({"encoder": "mfcc", "preset": "demo"}, "encoder"),
        ({"encoder": "", "preset": "piano"}, "fine"),
        ({"encoder": "", "preset": "piano-demo"}, "fine"),
    ):
        write_json(root / "chain.json", chain)
        assert [stage.stage for stage in chain_status(root).stages] == [stage for stage in RESULTS if stage != missing]


def test_the_baseline_is_looked_at_where_it_was_begun(root: Path) -> None:
    assert "acoustic" not in [stage.stage for stage in chain_status(root).stages]
    write_json(root / "acoustic" / "done.json", {"steps": 600, "seconds": 7.0})
    last = chain_status(root).stages[-1]
    assert (last.stage, last.state, last.step) == ("acoustic", "done", 600)


def test_a_finished_chain_is_done_and_says_where_to_listen(chain: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    write_json(root / "chain.json", {"preset": "demo"})
    (root / "report").mkdir()
    (root / "report" / "index.html").write_text("")
    status = chain_status(root)
    assert {stage.state for stage in status.stages} == {"done"}
    assert status.next == [f"All done. Listen: {root}/report/index.html"]
    codec = next(stage for stage in status.stages if stage.stage == "codec")
    done = json.loads((root / "codec" / "done.json").read_text())
    assert (codec.step, codec.of, codec.checkpoint_step) == (done["steps"], done["steps"], done["steps"])
    assert codec.loss is not None
    assert 0.5 * done["seconds"] <= 3600 * (codec.process_hours or 0) <= 2 * done["seconds"]
    tokens = next(stage for stage in status.stages if stage.stage == "tokens")
    assert tokens.step == tokens.of == 12


def test_a_local_run_lives_as_long_as_its_process(root: Path) -> None:
    beat(root, host=socket.gethostname(), pid=os.getpid())
    codec = codec_of(root)
    assert (codec.state, codec.step, codec.of, codec.loss) == ("running", 40, 100, 1.25)
    assert codec.process_hours == 2.0
    assert codec.seconds_left == pytest.approx(600, abs=5)
    child = subprocess.Popen(["true"])
    child.wait()
    beat(root, host=socket.gethostname(), pid=child.pid)
    assert (codec_of(root).state, codec_of(root).why) == ("stopped", "killed")
    assert "the same make command" in chain_status(root).next[-1]
    beat(root)
    assert codec_of(root).state == "running"
    beat(root, time=time.time() - 1000)
    assert codec_of(root).state == "stopped"


def test_a_local_failure_shows_its_own_words(root: Path) -> None:
    beat(root, state="failed", error="ValueError: no such thing")
    assert codec_of(root).error == "ValueError: no such thing"
    assert "codec failed: ValueError: no such thing" in chain_status(root).next


def test_the_newest_checkpoint_to_continue_from_counts(root: Path) -> None:
    beat(root)
    assert codec_of(root).checkpoint_step is None
    for step, age in ((50, 90), (75, 60)):
        path = root / "codec" / "resume" / f"step-{step:08}.ckpt"
        path.mkdir(parents=True)  # a sharded one is a folder
        os.utime(path, (time.time() - age,) * 2)
    (root / "codec" / "resume" / ".step-00000080.ckpt.part").write_text("")
    codec = codec_of(root)
    assert (codec.checkpoint_step, round(codec.checkpoint_age_seconds or 0, -1)) == (75, 60)


def test_jobs_in_the_queue_are_pending_or_running_whatever_the_files_say(root: Path, said: dict[int, JobState]) -> None:
    submitted(root, codec=[], encoder=["codec"])
    said |= {1: JobState("RUNNING", "n[1-2]"), 2: JobState("PENDING", "Dependency")}
    beat(root, slurm_job="1", start=3, time=time.time() - 1000)
    (root / "codec" / "done.json").write_text("{}")
    by_name = {stage.stage: stage for stage in chain_status(root).stages}
    assert (by_name["codec"].state, by_name["codec"].why, by_name["codec"].start) == ("running", "n[1-2]", 3)
    assert (by_name["encoder"].state, by_name["encoder"].why) == ("pending", "Dependency")
    assert by_name["fine"].state == "not started"
    assert chain_status(root).next == []


def test_a_failed_job_shows_its_log_and_cancels_those_behind_it(root: Path, said: dict[int, JobState]) -> None:
    jobs = submitted(root, codec=[], tokens=["codec"], semantic=["tokens"])
    said |= {1: JobState("FAILED", "exit code 1:0"), 2: JobState("CANCELLED"), 3: JobState("CANCELLED")}
    log = Path(jobs["codec"].log)
    log.parent.mkdir()
    log.write_text(
        "== codec\nTraceback (most recent call last):\nerror: The disk is full.\n(AUDIOLM_DEBUG=1 …)\nmake: *** Error 1\n"
    )
    status = chain_status(root)
    by_name = {stage.stage: stage for stage in status.stages}
    assert [by_name[name].state for name in jobs] == ["failed", "cancelled", "cancelled"]
    assert (by_name["tokens"].why, by_name["semantic"].why) == ("needs codec", "needs tokens")
    assert by_name["codec"].error == "error: The disk is full."
    assert status.next[0] == f"codec failed (FAILED, exit code 1:0): error: The disk is full.  [{log}]"
    assert "make train-all SLURM=1 NODES=2 DEVICES=8" in status.next[1]
    time_limit = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT now DUE TO TIME LIMIT ***"
    for lines, error in (
        ("torch.OutOfMemoryError: CUDA\nsrun: error: n1: task 0: Exited", "torch.OutOfMemoryError: CUDA"),
        (f"step 5\n{time_limit}\nbye", time_limit),
        ("nothing but this\n\n", "nothing but this"),
        ("error: rank 1 failed first\nSIGTERM: finishing\nerror: Rank 0 lost\nsrun: error: x", "error: rank 1 failed first"),
        ("== codec: job 7, start 1, 2 nodes\nerror: a\n== codec: job 7, start 2, 2 nodes\nerror: b\nerror: c", "error: b"),
        ("== generator-acoustic: job 7, start 1, 2 nodes\nerror: a\n== generator-acoustic: job 7, start 2, 2\nb\n", "b"),
    ):  # fmt: skip
        log.write_text(lines)
        assert codec_of(root).error == error


def test_without_the_queue_the_files_still_tell(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(root, codec=[])
    beat(root, state="stopped", slurm_job="1")

    def refuse(jobs: Any) -> None:
        raise SlurmError("squeue: there is no such command here.")

    monkeypatch.setattr("audiolm.status.job_states", refuse)
    assert codec_of(root).state == "stopped"
    assert "squeue: there is no such command" in chain_status(root).next[0]


def test_a_job_that_nobody_can_be_asked_about_lives_by_its_sign_of_life(root: Path) -> None:
    """Submitted by hand, or looked at from a machine without SLURM."""
    beat(root, slurm_job="77")
    assert codec_of(root).state == "running"
    beat(root, slurm_job="77", time=time.time() - 1000)
    assert codec_of(root).state == "stopped"


def test_the_table_holds_every_stage_and_the_json_everything(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = StageStatus("codec", "running", "n[1-2]", 12, 2, 40, 100, 1.25, 4000.0, 30, 70.0, 2.5, "cuda")
    status = ChainStatus("there", [stage, StageStatus("encoder", "failed")], ["do this"])
    console = Console(width=132, record=True, file=io.StringIO())
    print_status(status, console)
    text = console.export_text()
    for word in (
        "codec",
        "running",
        "12",
        "40 / 100",
        "1.250",
        "1 h 07 min",
        "step 30, 70 s ago",
        "2.50 GPU",
        "n[1-2]",
        "start 2",
        "do this",
    ):
        assert word in text
    assert "0 of 2 stages done, 2.50 GPU hours" in text
    assert json.loads(status_json(status))["stages"][0]["loss"] == 1.25
    run_verb(["status", "--root", str(root), "--json"])
    assert [stage["stage"] for stage in json.loads(capsys.readouterr().out)["stages"]] == list(RESULTS)
    with pytest.raises(FileNotFoundError, match="make train-all"):
        run_verb(["status", "--root", str(root / "none")])
    assert [duration(seconds) for seconds in (5, 150, 3700, 200000)] == ["5 s", "2 min", "1 h 02 min", "2 d 7 h"]


def test_hours_add_up_over_starts_and_a_full_disk_stops_nothing(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / "semantic")
    quick = tmp_path / "quick.yaml"
    quick.write_text(yaml.safe_dump({"trainer": {"max_steps": 4}}))
    run_stage_of("semantic", root, "--config", str(quick))
    first = json.loads((root / "semantic" / "heartbeat.json").read_text())
    assert (first["state"], first["step"], first["of"]) == ("done", 4, 4)
    write_json(root / "semantic" / "heartbeat.json", {**first, "process_seconds": 5000.0})
    run_stage_of("semantic", root, "--ckpt_path", "last")
    second = json.loads((root / "semantic" / "heartbeat.json").read_text())
    assert (second["state"], second["step"], second["of"]) == ("done", 8, 8)
    assert 5000 < second["process_seconds"] < 5100

    def full(path: Path, value: Any) -> None:
        raise OSError(errno.ENOSPC, "The disk is full")

    monkeypatch.setattr("audiolm.stages.heartbeat.write_json", full)
    shutil.rmtree(root / "semantic")
    run_stage_of("semantic", root, "--config", str(quick))
    assert (root / "semantic" / "done.json").exists()
    assert not (root / "semantic" / "heartbeat.json").exists()


def test_a_running_stage_notes_now_and_then_and_an_error_in_the_end(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / "semantic")
    noted: list[dict[str, Any]] = []
    monkeypatch.setattr("audiolm.stages.heartbeat.write_json", lambda path, value: noted.append(value))
    monkeypatch.setattr(Heartbeat, "on_train_batch_start", _fail_at_step_5, raising=False)
    monkeypatch.setattr("audiolm.stage_cli.Heartbeat", lambda: Heartbeat(seconds_between=0.0))
    with pytest.raises(Exception, match="a step like no other"):
        run_stage_of("semantic", root)
    running = [note for note in noted if note["state"] == "running"]
    assert [note["step"] for note in running if note["step"]][:1] == [1]
    assert running[-1]["step"] == 5
    assert running[-1]["seconds_left"] >= 0  # tenths of a second: tiny steps may round to none
    assert (noted[-1]["state"], noted[-1]["error"]) == ("failed", "ValueError: a step like no other")


def _fail_at_step_5(self: Heartbeat, trainer: Any, *_: Any) -> None:
    if trainer.global_step == 5:
        raise ValueError("a step like no other")
