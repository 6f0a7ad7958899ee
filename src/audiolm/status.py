"""How far a chain is: what its stages wrote, what SLURM says of its jobs, and what went wrong."""

import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from audiolm.evaluation.chain_record import absent_stages
from audiolm.files import read_json
from audiolm.slurm import JobState, SlurmError, Submitted, job_states, read_command, read_jobs

# The stages and what each makes, as in the Makefile (tests/test_status.py holds them together)
RESULTS = {
    "corpus": "manifest.jsonl",
    "codec": "codec/done.json",
    "encoder": "encoder/done.json",
    "tokenizer": "tokenizer/done.json",
    "tokens": "tokens/sealed.json",
    "semantic": "semantic/done.json",
    "coarse": "coarse/done.json",
    "fine": "fine/done.json",
    "generator": "generator/config.json",
    "samples": "samples/samples.json",
    "report": "report/index.html",
}
EVALUATION_STAGES = (  # what the paper's tables need besides
    *("residual_tokenizer", "detokenizer_units", "detokenizer_residual", "detokenizer_codes", "detokenizer_all_codes"),
    *("asr", "detector", "speaker"),
)
EXTRA_RESULTS = {  # of the baseline and the evaluation, looked at where they were begun
    "acoustic": "acoustic/done.json",
    "generator-acoustic": "generator-acoustic/config.json",
    **{stage: f"{stage}/done.json" for stage in EVALUATION_STAGES},
    "evaluation-stages": "generate-acoustic/generated.jsonl",
}
SILENT_SECONDS = 120.0  # a process on another machine that has noted nothing for so long is taken for dead
LOG_END_BYTES = 200_000
START_OF_JOB = r"^== [\w-]+: job \d+, start \d+, "  # the first line of stages/slurm.sbatch

State = Literal["done", "running", "pending", "failed", "cancelled", "stopped", "not started"]


@dataclass(frozen=True)
class StageStatus:
    """One stage of a chain.

    Args:
        why: where it runs, what it waits for, or how it ended, in SLURM's words.
        step, of: optimizer steps, or batches of stages that count those; None where nothing is known.
        seconds_left: of a running stage, by its speed since its last start.
        checkpoint_step, checkpoint_age_seconds: of the newest checkpoint to continue from.
        process_hours: processes times hours over all starts, what was lost to kills included.
        device: cpu or cuda, which says whether those are hours of CPU processes or of GPUs.
        error: the first line of the log of its last start (or of the stage's own note) that tells of an error.
    """

    stage: str
    state: State
    why: str = ""
    job: int | None = None
    start: int | None = None
    step: int | None = None
    of: int | None = None
    loss: float | None = None
    seconds_left: float | None = None
    checkpoint_step: int | None = None
    checkpoint_age_seconds: float | None = None
    process_hours: float | None = None
    device: str = "cpu"
    log: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class ChainStatus:
    """A chain: its stages in order, and what to do next, in sentences."""

    root: str
    stages: list[StageStatus]
    next: list[str]


def chain_status(root: Path) -> ChainStatus:
    """Look at a chain's folder, and at the queue if its stages were submitted.

    Raises:
        FileNotFoundError: if there is no chain.
    """
    if not root.is_dir() or not ((root / "chain.json").exists() or (root / "slurm.json").exists()):
        raise FileNotFoundError(
            f"{root} is no chain: there is no chain.json. `make train-all` starts one; RUN=NAME is in runs/NAME."
        )
    jobs = read_jobs(root)
    states, trouble = _ask_slurm(jobs)
    stages: list[StageStatus] = []
    absent = absent_stages(root)
    usual = [stage for stage in RESULTS if stage not in absent]
    for stage in [*usual, *(name for name in EXTRA_RESULTS if (root / name).is_dir() or name in jobs)]:
        stages.append(_stage_status(root, stage, jobs.get(stage), states, stages))
    return ChainStatus(str(root), stages, [*trouble, *_what_next(root, stages, submitted=bool(jobs))])


def _ask_slurm(jobs: dict[str, Submitted]) -> tuple[dict[int, JobState], list[str]]:
    if not jobs:
        return {}, []
    try:
        return job_states(job.job for job in jobs.values()), []
    except SlurmError as error:
        return {}, [f"What SLURM says of the jobs is missing here: {error}"]


def _stage_status(
    root: Path, stage: str, job: Submitted | None, states: dict[int, JobState], before: list[StageStatus]
) -> StageStatus:
    beat, done = _read(root / stage / "heartbeat.json"), _read(root / stage / "done.json")
    said = states.get(job.job) if job else None
    state, why = _state((root / (RESULTS | EXTRA_RESULTS)[stage]).exists(), beat, said)
    if state == "cancelled" and job:
        ended = [past.stage for past in before if past.stage in job.needs and past.state in ("failed", "cancelled")]
        why = f"needs {', '.join(ended)}" if ended else why
    running = state == "running"
    seconds = beat.get("process_seconds", done.get("seconds", 0.0) * done.get("processes", 1))
    checkpoint_step, age = _checkpoint(root / stage)
    log = job.log if job and Path(job.log).is_file() else None
    ours = job is not None and str(job.job) == str(beat.get("slurm_job"))
    return StageStatus(
        stage=stage,
        state=state,
        why=why,
        job=job.job if job else None,
        start=beat.get("start") if ours else None,
        step=beat.get("step", done.get("steps")),
        of=beat.get("of", done.get("steps")),
        loss=beat.get("loss", done.get("validation_loss")),
        seconds_left=max(0.0, beat["seconds_left"] - _age(beat))
        if running and beat.get("seconds_left") is not None
        else None,
        checkpoint_step=checkpoint_step,
        checkpoint_age_seconds=age,
        process_hours=seconds / 3600 if seconds else None,
        device=beat.get("device", "cpu"),
        log=log,
        error=(_first_error(Path(log)) if log else None) or beat.get("error") if state == "failed" else None,
    )


def _state(finished: bool, beat: dict[str, Any], said: JobState | None) -> tuple[State, str]:
    """What a stage's result, its last sign of life and SLURM together mean."""
    if said and said.alive:
        return ("pending" if said.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else "running"), said.reason
    if beat.get("state") == "running" and (said is None or not beat.get("slurm_job")) and _lives(beat):
        return "running", f"process {beat['pid']} on {beat['host']}"
    if finished:
        return "done", ""
    if said and said.state == "CANCELLED":
        return "cancelled", said.reason
    if said:
        return "failed", f"{said.state}, {said.reason}"
    if beat.get("state") == "failed":
        return "failed", ""
    if beat:
        return "stopped", "killed" if beat["state"] == "running" else ""
    return "not started", ""


def _lives(beat: dict[str, Any]) -> bool:
    if beat["host"] != socket.gethostname():
        return _age(beat) < SILENT_SECONDS
    try:
        os.kill(beat["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _age(beat: dict[str, Any]) -> float:
    return max(0.0, time.time() - beat["time"])


def _checkpoint(folder: Path) -> tuple[int | None, float | None]:
    """Step and age in seconds of the newest checkpoint to continue from."""
    found = list(folder.glob("resume/step-*.ckpt"))
    if not found:
        return None, None
    newest = max(found, key=lambda path: path.stat().st_mtime)
    named = re.search(r"step-(\d+)", newest.name)
    return int(named[1]) if named else None, max(0.0, time.time() - newest.stat().st_mtime)


def _first_error(log: Path) -> str | None:
    """The line of a log that tells why its last start failed: our own words before Python's, Python's before SLURM's.

    Of several such lines the first: the processes that were well end after the one that was not, and say so. Without any,
    the log's last line.
    """
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - LOG_END_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if re.search(START_OF_JOB, line)]
    lines = lines[starts[-1] :] if starts else lines
    for pattern in (
        r"^error: ",
        r"^(\w+\.)*\w*(Error|Exception)\b",
        r"\*\*\* .* CANCELLED|(srun|slurmstepd|make)\S*: .*(error|Error)",
    ):
        matching = [line for line in lines if re.search(pattern, line)]
        if matching:
            return matching[0]
    return lines[-1] if lines else None


def _read(path: Path) -> dict[str, Any]:
    """A note that may be missing, or be no note at all."""
    try:
        value = read_json(path, made_by="a stage")
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _what_next(root: Path, stages: list[StageStatus], *, submitted: bool) -> list[str]:
    again = read_command(root) if submitted else "the same make command"
    said = [
        f"{stage.stage} failed{f' ({stage.why})' if stage.why else ''}: {stage.error or 'it left no word'}"
        + (f"  [{stage.log}]" if stage.log else "")
        for stage in stages
        if stage.state == "failed"
    ]
    alive = [stage for stage in stages if stage.state in ("running", "pending")]
    if all(stage.state == "done" for stage in stages):
        return [f"All done. Listen: {root / RESULTS['report']}"]
    if said and alive:
        return [*said, f"When the jobs that still run have ended: {again} (finished stages are kept)"]
    return (
        said
        if alive
        else [*said, f"To go on: {again} (finished stages are kept, begun ones continue from their checkpoint)"]
    )
