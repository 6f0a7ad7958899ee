"""Submission without SLURM: its commands are scripts that write down what they are asked and say what they are told to."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from audiolm.cli import errors_in_words
from audiolm.slurm import JobState, SlurmError, job_states, partition_has_gpus, queued, read_jobs
from audiolm.submit import ClusterOptions, submit
from audiolm.verbs import run_verb

REPOSITORY = Path(__file__).parents[1]
KNOBS = ["PRESET=demo", "RUN=never-made", "NODES=2", "DEVICES=8"]
STAGES = [
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

Fake = Callable[[str, str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """`fake(command, script)` puts a command on the path; each call is noted in `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(REPOSITORY)

    def put(command: str, script: str) -> None:
        note = f'printf "%q " {command} "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls\n'
        (folder / command).write_text(f"#!/usr/bin/env bash\n{note}{script}\n")
        (folder / command).chmod(0o755)

    put("sbatch", f"echo x >> {tmp_path}/count; echo $((100 + $(wc -l < {tmp_path}/count)))")
    for command, script in (
        ("squeue", ""),
        ("sacct", "exit 1"),
        ("scontrol", "exit 1"),
        ("sinfo", "echo 'main*|(null)'"),
        ("scancel", ""),
    ):
        put(command, script)
    return put


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[str], list[list[str]]]:
    """The calls of one command so far, word by word."""

    def read(command: str) -> list[list[str]]:
        lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return [words[1:] for words in map(shlex.split, lines) if words[0] == command]

    return read


def test_every_stage_becomes_a_job_that_waits_for_those_it_needs(tmp_path: Path, fake: Fake, calls: Callable) -> None:
    options = ClusterOptions(
        partition="gpu", time="1-0", account="us", gpus="8", cpus="6", extra="--qos=long --exclude=a,b"
    )
    jobs = submit("report", root=tmp_path / "chain", options=options, knobs=KNOBS)
    assert list(jobs) == STAGES  # without the baseline, which is asked for by name
    needs = {stage: list(job.needs) for stage, job in jobs.items()}
    assert needs["codec"] == needs["encoder"] == ["corpus"]
    assert needs["tokens"] == ["codec", "tokenizer"]
    assert needs["semantic"] == needs["coarse"] == needs["fine"] == ["tokens"]
    assert needs["generator"] == ["semantic", "coarse", "fine"]
    by_stage = {words[words.index("stages/slurm.sbatch") + 1]: words for words in calls("sbatch")}
    tokens = by_stage["tokens"]
    assert f"--dependency=afterok:{jobs['codec'].job}:{jobs['tokenizer'].job}" in tokens
    for word in ("--kill-on-invalid-dep=yes", "--nodes=2", "--ntasks-per-node=8", "--gres=gpu:8", "--partition=gpu"):
        assert word in tokens
    for word in ("--time=1-0", "--account=us", "--cpus-per-task=6", "--qos=long", "--exclude=a,b"):
        assert word in tokens
    assert tokens[tokens.index("stages/slurm.sbatch") :] == ["stages/slurm.sbatch", "tokens", *KNOBS]
    assert not any(word.startswith("--dependency") for word in by_stage["corpus"])
    assert {"--nodes=1", "--ntasks-per-node=1"} <= set(by_stage["corpus"])
    assert not any(word.startswith("--gres") for word in by_stage["corpus"])
    assert "--gres=gpu:1" in by_stage["samples"]
    assert read_jobs(tmp_path / "chain") == jobs


def test_gpus_are_asked_for_where_the_partition_has_some(tmp_path: Path, fake: Fake, calls: Callable) -> None:
    fake("sinfo", "printf 'cpu*|(null)\\na100|gpu:a100:4(S:0-1)\\n'")
    assert partition_has_gpus("a100")
    assert partition_has_gpus("cpu,a100")
    assert not partition_has_gpus("")
    submit("codec", root=tmp_path, options=ClusterOptions(partition="a100"), knobs=KNOBS)
    assert "--gres=gpu:8" in calls("sbatch")[1]
    submit("codec", root=tmp_path / "2", options=ClusterOptions(partition="a100", gpus="0"), knobs=KNOBS)
    assert not any(word.startswith("--gres") for word in calls("sbatch")[3])


def test_more_nodes_than_a_partition_has_are_refused_before_anything_waits_for_them(
    tmp_path: Path, fake: Fake, calls: Callable
) -> None:
    answers = "*%G*) printf 'cpu*|(null)\\nbig|(null)\\n';; *%D*) printf 'cpu*|1\\nbig|4\\n';;"
    fake("sinfo", f'case "$*" in {answers} esac')
    for partition, named in (("cpu", "partition cpu has 1"), ("", "the default partition has 1")):
        with pytest.raises(SlurmError, match=rf"encoder stage asks for 2 nodes, and {named}.*NODES=1"):
            submit("encoder", root=tmp_path, options=ClusterOptions(partition=partition), knobs=KNOBS)
    assert calls("sbatch") == []
    assert list(submit("corpus", root=tmp_path / "1", options=ClusterOptions(), knobs=KNOBS)) == ["corpus"]
    for number, options in enumerate(
        (ClusterOptions("cpu,big"), ClusterOptions("hidden"), ClusterOptions(extra="-p big"))
    ):
        assert list(submit("codec", root=tmp_path / f"{number}", options=options, knobs=KNOBS)) == ["corpus", "codec"]


def test_processes_come_from_the_yaml_where_no_knob_says_them(tmp_path: Path, fake: Fake) -> None:
    for name in ("Makefile", "lightning.yaml"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "stages" / "mine").mkdir(parents=True)
    (tmp_path / "stages" / "codec.yaml").write_text("trainer: {devices: 4, num_nodes: 2}\n")
    overlay = tmp_path / "stages" / "mine" / "codec.yaml"
    overlay.write_text("trainer: {num_nodes: 3}\n")
    os.chdir(tmp_path)
    assert (
        submit("codec", root=tmp_path / "a", options=ClusterOptions(), knobs=["PRESET=mine"])["codec"].processes == 12
    )
    overlay.write_text("trainer: {devices: [0, 1]}\n")
    assert submit("codec", root=tmp_path / "b", options=ClusterOptions(), knobs=["PRESET=mine"])["codec"].processes == 4
    overlay.write_text("trainer: {devices: auto}\n")
    with pytest.raises(ValueError, match=r"codec stage.*devices: auto.*DEVICES=N.*stages/mine/codec.yaml"):
        submit("codec", root=tmp_path / "c", options=ClusterOptions(), knobs=["PRESET=mine"])
    with pytest.raises(ValueError, match="DEVICES=auto"):
        submit("codec", root=tmp_path / "c", options=ClusterOptions(), knobs=["PRESET=mine", "DEVICES=auto"])
    assert not (tmp_path / "c").exists()


def test_what_is_up_to_date_by_make_is_not_submitted_again(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    (clone / "stages").mkdir(parents=True)
    for name in (
        "Makefile",
        "lightning.yaml",
        *(f"stages/{path.name}" for path in (REPOSITORY / "stages").glob("*.yaml")),
    ):
        (clone / name).write_bytes((REPOSITORY / name).read_bytes())
    monkeypatch.chdir(clone)
    root, knobs = clone / "checkpoints", ["PRESET=paper", "DATA=/some", "DEVICES=1"]
    for name in ("manifest.jsonl", "codec/done.json", "encoder/done.json", "tokenizer/done.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    os.utime(root / "manifest.jsonl", (0, 0))
    for path in [clone / "lightning.yaml", *(clone / "stages").iterdir()]:
        os.utime(path, (0, 0))
    os.utime(root / "encoder" / "done.json", (1, 1))
    assert list(submit("tokens", root=root, options=ClusterOptions(), knobs=knobs)) == ["tokens"]
    os.utime(clone / "stages" / "codec.yaml")
    os.utime(root / "codec" / "done.json", (1, 1))
    jobs = submit("tokens", root=root, options=ClusterOptions(), knobs=knobs)
    assert {stage: list(job.needs) for stage, job in jobs.items()} == {"codec": [], "tokens": ["codec"]}
    assert submit("encoder", root=root, options=ClusterOptions(), knobs=knobs) == {}


def test_a_chain_with_jobs_in_the_queue_is_refused_by_name(tmp_path: Path, fake: Fake, calls: Callable) -> None:
    submit("encoder", root=tmp_path, options=ClusterOptions(), knobs=KNOBS)
    fake("squeue", "printf '7|RUNNING|elsewhere\\n102|PENDING|(Dependency)\\n9_[1-4]|PENDING|(Priority)\\n'")
    assert queued([101, 102]) == {102: JobState("PENDING", "Dependency")}
    with pytest.raises(SlurmError, match=r"encoder \(job 102, pending\).*scancel 102"):
        submit("encoder", root=tmp_path, options=ClusterOptions(), knobs=KNOBS)
    assert len(calls("sbatch")) == 2


def test_sbatchs_refusal_comes_first_and_takes_back_what_was_submitted(
    tmp_path: Path, fake: Fake, calls: Callable
) -> None:
    fake(
        "sbatch",
        '[ "$4" != "" ]; case "$*" in *encoder*) echo "sbatch: error: no such account" >&2; exit 1;; esac; echo 55',
    )
    with pytest.raises(SlurmError, match="^sbatch: error: no such account"):
        submit("encoder", root=tmp_path, options=ClusterOptions(), knobs=KNOBS)
    assert calls("scancel") == [["55"]]
    assert read_jobs(tmp_path) == {}


def test_without_slurm_the_missing_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("audiolm.slurm.shutil.which", lambda command: None)
    with pytest.raises(SystemExit), errors_in_words():
        run_verb(["submit", "codec", "--root", str(tmp_path), "--gpus", "0", "--knobs", *KNOBS])
    assert "sbatch: there is no such command here" in capsys.readouterr().err


def test_jobs_are_asked_after_in_the_queue_the_accounts_and_the_controller(fake: Fake, calls: Callable) -> None:
    fake("squeue", "echo '1|RUNNING|n[1-2]'")
    fake("sacct", "printf '2|CANCELLED by 0|0:0\\n'")
    fake("scontrol", '[ "$4" = 3 ] && echo "JobId=3 JobState=TIMEOUT Reason=TimeLimit ExitCode=0:1" || exit 1')
    states = job_states([1, 2, 3, 4])
    assert {job: state.state for job, state in states.items()} == {1: "RUNNING", 2: "CANCELLED", 3: "TIMEOUT"}
    assert states[1].alive
    assert not states[3].alive


def test_what_the_tables_need_is_submitted_with_the_chain_before_it(tmp_path: Path, fake: Fake) -> None:
    jobs = submit("evaluation-stages", root=tmp_path / "chain", options=ClusterOptions(), knobs=KNOBS)
    assert list(jobs)[: STAGES.index("generator") + 1] == STAGES[: STAGES.index("generator") + 1]
    assert {"samples", "report"}.isdisjoint(jobs)
    assert set(jobs["detokenizer_residual"].needs) == {"residual_tokenizer"}
    assert set(jobs["detector"].needs) == {"generator"}
    last = jobs["evaluation-stages"].needs
    assert set(jobs) - set(last) - {"evaluation-stages"} == set(STAGES[: STAGES.index("generator") + 1])
    assert set(submit("speaker", root=tmp_path / "one", options=ClusterOptions(), knobs=KNOBS)) == {"corpus", "speaker"}


def test_make_hands_its_knobs_to_the_submission() -> None:
    command = [
        "make",
        "--no-print-directory",
        "--dry-run",
        "train-all",
        "SLURM=1",
        "NODES=2",
        "DEVICES=8",
        "PARTITION=gpu",
    ]
    plan = subprocess.run([*command, "DATA=/a b", "SBATCH=--qos=x -v"], cwd=REPOSITORY, capture_output=True, text=True)
    words = shlex.split(
        plan.stdout.splitlines()[-1].strip()
        if "\\" not in plan.stdout
        else plan.stdout[plan.stdout.index(".venv/bin/audiolm submit") :]
    )
    assert words[1:3] == ["submit", "report"]
    assert "--sbatch=--qos=x -v" in words
    assert {"DATA=/a b", "NODES=2", "DEVICES=8", "BIN=.venv/bin"} <= set(words[words.index("--knobs") :])
    wrong = subprocess.run(["make", "--dry-run", "codec", "SLURM=yes"], cwd=REPOSITORY, capture_output=True, text=True)
    assert wrong.returncode != 0
    assert "SLURM=yes is not known" in wrong.stderr


def test_a_job_runs_make_with_srun_before_the_trainers_command(tmp_path: Path, fake: Fake) -> None:
    fake(
        "scontrol",
        'case "$2" in hostnames) printf "n1\\nn2\\n";; *) echo "NodeName=n1 NodeAddr=10.0.0.7 NodeHostName=h";; esac',
    )
    fake("make", 'printf "%s\\n" "$@"; env | grep -E "^(MASTER_ADDR|GLOO|SRUN_CPUS)" || true')
    job = {
        "SLURM_JOB_ID": "5",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_CPUS_PER_TASK": "6",
    }
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
    }
    said = subprocess.run(
        ["bash", "stages/slurm.sbatch", "coarse", "DATA=/a b"],
        env=environment | job,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    launch = "LAUNCH=srun --kill-on-bad-exit=1 --export=ALL,OMP_NUM_THREADS=6"
    assert lines[1:6] == ["--no-print-directory", "coarse", "DATA=/a b", "READY=", launch]
    assert sorted(lines[6:]) == ["MASTER_ADDR=10.0.0.7", "SRUN_CPUS_PER_TASK=6"]
    (tmp_path / "bin" / "make").unlink()
    command = ["make", "--dry-run", "--always-make", "codec", "RUN=x", "LAUNCH=srun", "BIN=bin"]
    plan = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    launched = [line for line in plan.splitlines() if line.startswith("srun ")]
    assert len(launched) == 1
    assert launched[0].startswith("srun bin/lightning fit -c stages/codec.yaml")
    assert "srun bin/audiolm" not in plan


def test_the_chain_remembers_its_jobs_in_plain_json(tmp_path: Path, fake: Fake) -> None:
    submit("codec", root=tmp_path, options=ClusterOptions(partition="p"), knobs=KNOBS)
    remembered = json.loads((tmp_path / "slurm.json").read_text())
    assert remembered["command"] == "make codec SLURM=1 PRESET=demo RUN=never-made NODES=2 DEVICES=8 PARTITION=p"
    assert [job["stage"] for job in remembered["jobs"]] == ["corpus", "codec"]


def test_a_run_of_two_words_is_refused_before_make_takes_them_for_two_folders() -> None:
    said = subprocess.run(["make", "-n", "clean", "RUN=my run"], cwd=REPOSITORY, capture_output=True, text=True)
    assert said.returncode
    assert "a run's name has no spaces" in said.stderr


def test_the_baseline_is_submitted_by_name_with_what_it_needs(tmp_path: Path, fake: Fake) -> None:
    jobs = submit("generator-acoustic", root=tmp_path / "chain", options=ClusterOptions(), knobs=KNOBS)
    before = STAGES[: STAGES.index("tokens") + 1]
    assert list(jobs) == [*before, "fine", "acoustic", "generator-acoustic"]
    assert set(jobs["generator-acoustic"].needs) == {"acoustic", "fine"}
    assert set(jobs["acoustic"].needs) == {"tokens"}
