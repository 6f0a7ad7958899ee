"""A two-node SLURM cluster for the session, and a copy of the repository in which chains are trained."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, install, wait_until

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Up and idle; taken down at the end, whatever happens."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM cluster of one's own needs root")
    install()
    folder = Path(tempfile.mkdtemp(prefix="audiolm-slurm-"))
    folder.chmod(0o755)  # munge's clients look into it
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@dataclass(frozen=True)
class Clone:
    """A copy of the repository with presets of its own, whose jobs run on the cluster."""

    folder: Path
    cluster: Cluster
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        """For `make` and everything it starts."""
        path = os.pathsep.join([f"{self.folder}/src", str(self.folder)])
        return {**self.cluster.environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

    def make(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`make WORDS` over two nodes, in the virtual environment of the tests."""
        knobs = [f"DATA={self.data}", f"BIN={Path(sys.executable).parent}"]
        result = subprocess.run(
            ["make", *words, *knobs], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def submit(self, target: str, *, run: str, preset: str) -> dict[str, int]:
        """`make TARGET SLURM=1 …`; the jobs by stage."""
        said = self.make(
            target, "SLURM=1", "NODES=2", "DEVICES=1", "PARTITION=main", f"PRESET={preset}", f"RUN={run}",
            "SECONDS_OF_SPEECH=0.5",
        )  # fmt: skip
        print(said.stdout)
        rows = [line.split() for line in said.stdout.splitlines() if " job " in line]
        return {row[0]: int(row[2].rstrip(":")) for row in rows}

    def root(self, run: str) -> Path:
        """A chain's folder."""
        return self.folder / "checkpoints" / "runs" / run

    def status(self, run: str) -> dict[str, Any]:
        """`audiolm status --json`, the stages by name."""
        command = [sys.executable, "-m", "audiolm", "status", "--root", f"checkpoints/runs/{run}"]
        print(subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True).stdout)
        said = subprocess.check_output([*command, "--json"], cwd=self.folder, env=self.environment, text=True)
        status = json.loads(said)
        return {**status, "stages": {stage["stage"]: stage for stage in status["stages"]}}

    def wait_for(self, job: int, *states: str, seconds: float = 600) -> str:
        """Wait until a job is in one of these states, and return it; say what its log says if it never is."""
        try:
            wait_until(lambda: self.cluster.state(job) in states, what=f"job {job} is {states}", seconds=seconds)
        finally:
            if self.cluster.state(job) not in states:
                log = Path(self.cluster.fact(job, "StdOut"))
                print(self.cluster.command("squeue"), log.read_text()[-5000:] if log.is_file() else "no log")
        return self.cluster.state(job)

    def hurry(self, job: int) -> None:
        """A job that was queued again waits two minutes before it starts; not here."""
        wait_until(lambda: self.cluster.state(job) == "PENDING", what=f"job {job} waits again")
        self.cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(scope="session")
def clone(cluster: Cluster, tone_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With the presets `tiny`, of a few steps a stage, and `long`, whose codec has some hundred."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "lightning.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("src", "datamodules", "stages"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    tiny = REPOSITORY / "tests" / "tiny_stages"
    for preset in ("tiny", "long", "mended"):
        shutil.copytree(tiny, folder / "stages" / preset)
    codec = folder / "stages" / "long" / "codec.yaml"
    codec.write_text(
        codec.read_text()
        .replace("max_steps: 12,", "max_steps: 60,")
        .replace("val_check_interval: 4", "val_check_interval: 20")
    )
    return Clone(folder, cluster, tone_corpus)
