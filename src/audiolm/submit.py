"""`make … SLURM=1`: the stages that are not up to date become jobs, each waiting for those it needs."""

import contextlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.slurm import (
    SlurmError,
    Submitted,
    partition_has_gpus,
    partition_nodes,
    queued,
    read_jobs,
    run_slurm,
    write_jobs,
)

SCRIPT = "stages/slurm.sbatch"
WITH_GPU = ("samples",)  # stages without a trainer that use one all the same


@dataclass(frozen=True)
class PlannedStage:
    """A stage as the Makefile has it: its name, the stages it needs, its configurations (none: no trainer)."""

    name: str
    needs: tuple[str, ...]
    configs: tuple[Path, ...]


@dataclass(frozen=True)
class Shape:
    """What a job asks for: nodes, processes and GPUs per node."""

    nodes: int
    devices: int
    gpus: int

    @property
    def processes(self) -> int:
        """Over all nodes."""
        return self.nodes * self.devices


@dataclass(frozen=True)
class ClusterOptions:
    """Where and how jobs run, in sbatch's words; "" leaves it to the cluster.

    Args:
        gpus: GPUs per node; "" asks for one a process where the partition has any.
        cpus: CPUs per process.
        extra: whatever else sbatch takes.
    """

    partition: str = ""
    time: str = ""
    account: str = ""
    gpus: str = ""
    cpus: str = ""
    extra: str = ""

    def arguments(self) -> list[str]:
        """For sbatch, but for the shape."""
        named = {"partition": self.partition, "time": self.time, "account": self.account, "cpus-per-task": self.cpus}
        return [f"--{name}={value}" for name, value in named.items() if value] + shlex.split(self.extra)


def submit(target: str, *, root: Path, options: ClusterOptions, knobs: list[str]) -> dict[str, Submitted]:
    """Submit a stage and, before it, every stage it needs that is not up to date.

    Args:
        target: the stage wanted, such as report.
        root: the chain's folder.
        knobs: the Makefile's, NAME=VALUE; the jobs run `make STAGE` with the same.

    Returns:
        The jobs submitted, by stage; none if the stage is up to date. They are remembered in `<root>/slurm.json`.

    Raises:
        SlurmError: if jobs of this chain are still queued or running, naming them; if a stage asks for more nodes than there
            are; if sbatch is not there or refuses. Then nothing of this submission stays in the queue.
        ValueError: if nobody says how many processes a stage has.
    """
    known = read_jobs(root)
    _require_idle(root, known)
    stages = [stage for stage in _stages_for(target, knobs) if not _up_to_date(stage.name, knobs)]
    gpus = _gpus_per_process(options) if stages else 0
    shapes = {stage.name: _shape(stage, knobs, options, gpus_per_process=gpus) for stage in stages}
    _require_nodes(shapes, options)
    command = _command(target, options, knobs)
    submitted: dict[str, Submitted] = {}
    try:
        for stage in stages:
            needs = {name: submitted[name].job for name in stage.needs if name in submitted}
            submitted[stage.name] = _sbatch(stage, shapes[stage.name], needs, root=root, options=options, knobs=knobs)
            write_jobs(root, {**known, **submitted}, command=command)
    except BaseException:
        if submitted:
            with contextlib.suppress(SlurmError):
                run_slurm("scancel", *(str(job.job) for job in submitted.values()))
            write_jobs(root, known, command=command)
        raise
    return submitted


def _require_idle(root: Path, known: dict[str, Submitted]) -> None:
    alive = queued(job.job for job in known.values()) if known else {}
    busy = [
        f"{job.stage} (job {job.job}, {alive[job.job].state.lower()})" for job in known.values() if job.job in alive
    ]
    if busy:
        raise SlurmError(
            f"{root} has jobs in the queue already: {', '.join(busy)}. `audiolm status` shows how far they are; to submit "
            f"again, wait for them or end them: scancel {' '.join(map(str, alive))}"
        )


def _require_nodes(shapes: dict[str, Shape], options: ClusterOptions) -> None:
    """SLURM takes a job that waits for another without counting its nodes; it would then wait for ever."""
    stage = max(shapes, key=lambda name: shapes[name].nodes, default="")
    elsewhere = "SBATCH_PARTITION" in os.environ or "SBATCH_CLUSTERS" in os.environ
    if not stage or shapes[stage].nodes == 1 or options.extra or elsewhere:  # sbatch's own words may name other nodes
        return
    nodes, wanted = None, shapes[stage].nodes
    with contextlib.suppress(SlurmError):  # where sinfo does not answer, sbatch may still
        nodes = partition_nodes(options.partition)
    if nodes is not None and wanted > nodes:
        where = f"partition {options.partition}" if options.partition else "the default partition"
        raise SlurmError(
            f"The {stage} stage asks for {wanted} nodes, and {where} has {nodes}: its job would wait for ever. Give "
            f"NODES={nodes} or fewer, or another PARTITION (sinfo shows them)."
        )


def _make(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "--no-print-directory", *arguments, "READY="]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _stages_for(target: str, knobs: list[str]) -> list[PlannedStage]:
    """The stages that `target` needs, itself last; the graph is the Makefile's."""
    result = _make(["graph", *knobs])
    rows = [line.split("|") for line in result.stdout.splitlines() if line.count("|") == 2]
    if result.returncode or not rows:
        raise ValueError(f"make graph: {result.stderr.strip()} (SLURM=1 works in a clone of the repository)")
    stages = [
        PlannedStage(name, tuple(needs.split()), tuple(map(Path, configs.split()))) for name, needs, configs in rows
    ]
    wanted = {target}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= set(stage.needs)
    return [stage for stage in stages if stage.name in wanted]


def _up_to_date(stage: str, knobs: list[str]) -> bool:
    """Make's own answer; `-o chain`, because what runs every time is never up to date."""
    result = _make(["--question", "--old-file=chain", stage, *knobs])
    if result.returncode not in (0, 1):
        raise ValueError(f"make --question {stage}: {result.stderr.strip()}")
    return result.returncode == 0


def _gpus_per_process(options: ClusterOptions) -> int:
    return int(not options.gpus and partition_has_gpus(options.partition))


def _shape(stage: PlannedStage, knobs: list[str], options: ClusterOptions, *, gpus_per_process: int) -> Shape:
    """The knobs' nodes and processes, else the configurations'; one process where there is no trainer."""
    if not stage.configs:
        return Shape(
            1, 1, int(options.gpus not in ("", "0") or bool(gpus_per_process)) if stage.name in WITH_GPU else 0
        )
    given = dict(knob.split("=", 1) for knob in knobs)
    trainer = _trainer_settings(stage.configs)
    nodes = _count(given.get("NODES") or trainer.get("num_nodes", 1))
    devices = _count(given.get("DEVICES") or trainer.get("devices"))
    if not nodes or not devices:
        said = f"DEVICES={given['DEVICES']}" if given.get("DEVICES") else f"devices: {trainer.get('devices')}"
        raise ValueError(
            f"How many processes the {stage.name} stage has on each node is not said: {said}, {nodes or 'no'} nodes. A job "
            f"has to ask for them: give DEVICES=N (and NODES=N), or trainer: {{devices: N}} in {stage.configs[-1]}."
        )
    return Shape(nodes, devices, int(options.gpus) if options.gpus else gpus_per_process * devices)


def _trainer_settings(configs: tuple[Path, ...]) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = {}
    for path in configs:
        settings |= (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("trainer") or {}
    return settings


def _count(value: Any) -> int:
    """How many a configuration's number, or list of devices, means; 0 where that depends on the machine, such as `auto`."""
    if isinstance(value, list):
        return len(value)
    return int(value) if str(value).isdigit() else 0


def _sbatch(
    stage: PlannedStage, shape: Shape, needs: dict[str, int], *, root: Path, options: ClusterOptions, knobs: list[str]
) -> Submitted:
    logs = root / "slurm"
    logs.mkdir(parents=True, exist_ok=True)
    chain = "" if root.name == "checkpoints" else f"{root.name}-"
    command = [
        "sbatch",
        "--parsable",
        f"--job-name=audiolm-{chain}{stage.name}",
        f"--output={logs}/{stage.name}-%j.log",
    ]
    command += [f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.devices}"]
    command += [f"--gres=gpu:{shape.gpus}"] if shape.gpus else []
    if needs:
        command += [f"--dependency=afterok:{':'.join(map(str, needs.values()))}", "--kill-on-invalid-dep=yes"]
    said = run_slurm(*command, *options.arguments(), SCRIPT, stage.name, *knobs)
    job = int(said.strip().splitlines()[-1].split(";")[0])
    return Submitted(stage.name, job, f"{logs}/{stage.name}-{job}.log", shape.processes, needs)


def _command(target: str, options: ClusterOptions, knobs: list[str]) -> str:
    """What a user types to submit again what is left."""
    cluster = {"PARTITION": options.partition, "TIME": options.time, "ACCOUNT": options.account, "GPUS": options.gpus}
    cluster |= {"CPUS": options.cpus, "SBATCH": options.extra}
    words = [*knobs, *(f"{name}={value}" for name, value in cluster.items() if value)]
    return shlex.join(["make", "train-all" if target == "report" else target, "SLURM=1", *words])
