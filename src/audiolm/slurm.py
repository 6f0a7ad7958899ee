"""What SLURM knows of jobs, and what a chain remembers of its own: `<root>/slurm.json`."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from audiolm.files import read_json, write_json

# What squeue shows of jobs that are still to come, running or on their way out
ALIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "SIGNALING",
}
ALIVE |= {"SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "RESV_DEL_HOLD"}


class SlurmError(ValueError):
    """SLURM is not there, or refuses. The message begins with its own words."""


@dataclass(frozen=True)
class Submitted:
    """A job of a chain, as it was submitted.

    Args:
        job: SLURM's number.
        needs: the numbers of the jobs it waits for, by stage.
        log: its log file, of all its starts.
        processes: in all, over its nodes.
    """

    stage: str
    job: int
    log: str
    processes: int
    needs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT …, and why or where."""

    state: str
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it may still do something."""
        return self.state in ALIVE


def run_slurm(*command: str) -> str:
    """Run one of SLURM's commands and return what it prints.

    Raises:
        SlurmError: if there is no such command, or it fails; its own words come first.
    """
    if shutil.which(command[0]) is None:
        raise SlurmError(
            f"{command[0]}: there is no such command here. SLURM=1 wants a machine from which jobs are submitted (a login "
            "node); without it, everything runs on this machine."
        )
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"{command[0]} did not answer within 120 s. Is the cluster's controller up (scontrol ping)?"
        ) from None
    if result.returncode:
        raise SlurmError(
            f"{(result.stderr or result.stdout).strip()}\n({' '.join(command[:1])} ended with {result.returncode})"
        )
    return result.stdout


def read_jobs(root: Path) -> dict[str, Submitted]:
    """The jobs that were last submitted for a chain, by stage; none if there are none."""
    path = root / "slurm.json"
    if not path.exists():
        return {}
    return {row["stage"]: Submitted(**row) for row in read_json(path, made_by="make train-all SLURM=1")["jobs"]}


def read_command(root: Path) -> str:
    """The command that submitted them."""
    return str(read_json(root / "slurm.json", made_by="make train-all SLURM=1")["command"])


def write_jobs(root: Path, jobs: dict[str, Submitted], *, command: str) -> None:
    """Remember a chain's jobs, and the command to submit them again."""
    write_json(root / "slurm.json", {"command": command, "jobs": [asdict(job) for job in jobs.values()]})


def queued(jobs: Iterable[int]) -> dict[int, JobState]:
    """Which of these jobs are in the queue, waiting or running.

    Raises:
        SlurmError: if squeue is not there or does not answer.
    """
    wanted, found = set(jobs), {}
    for line in run_slurm("squeue", "--noheader", "--format=%i|%T|%R").splitlines():
        number, state, reason = line.split("|", 2)
        if number.isdigit() and int(number) in wanted:
            found[int(number)] = JobState(state, "" if reason == "(None)" else reason.strip("()"))
    return found


def job_states(jobs: Iterable[int]) -> dict[int, JobState]:
    """What has become of these jobs, as far as the queue, the accounting or the controller's memory still know.

    Raises:
        SlurmError: if squeue is not there or does not answer. The others may be missing: not every cluster keeps accounts.
    """
    wanted = set(jobs)
    states = {number: state for number, state in queued(wanted).items() if state.alive}
    for ask in (_of_accounting, _of_controller):
        missing = wanted - states.keys()
        if missing:
            states |= ask(missing)
    return states


def _of_accounting(jobs: set[int]) -> dict[int, JobState]:
    try:
        numbers = ",".join(map(str, sorted(jobs)))
        lines = run_slurm("sacct", "-nPX", "--format=JobID,State,ExitCode", f"--jobs={numbers}").splitlines()
    except SlurmError:
        return {}
    rows = [line.split("|") for line in lines if line.partition("|")[0].isdigit()]
    # "CANCELLED by 1000"; a job that was requeued has one row, its last
    return {int(number): JobState(state.split()[0], f"exit code {code}") for number, state, code in rows}


def _of_controller(jobs: set[int]) -> dict[int, JobState]:
    found = {}
    for number in sorted(jobs):
        try:
            said = run_slurm("scontrol", "--oneliner", "show", "job", str(number))
        except SlurmError:
            continue  # forgotten after MinJobAge
        facts = dict(re.findall(r"(\w+)=(\S*)", said))
        found[number] = JobState(facts.get("JobState", ""), f"exit code {facts.get('ExitCode', '?')}")
    return found


def partition_has_gpus(partition: str) -> bool:
    """Whether nodes of a partition (or of some of several, or of the default one) have GPUs.

    Args:
        partition: as for sbatch; "" for the cluster's default.
    """
    return any(re.search(r"\bgpu\b", resources) for resources in _of_partitions(partition, "%G"))


def partition_nodes(partition: str) -> int | None:
    """How many nodes a partition has (of several, the largest), working or not; None if sinfo shows none of this name.

    Args:
        partition: as for sbatch; "" for the cluster's default.
    """
    return max((int(nodes) for nodes in _of_partitions(partition, "%D") if nodes.isdigit()), default=None)


def _of_partitions(partition: str, field: str) -> list[str]:
    """What sinfo says in one of its fields, line by line, of the partitions named."""
    names = set(filter(None, partition.split(",")))
    lines = [line.split("|", 1) for line in run_slurm("sinfo", "--noheader", f"--format=%P|{field}").splitlines()]
    return [said for name, said in lines if (name.rstrip("*") in names if names else name.endswith("*"))]
