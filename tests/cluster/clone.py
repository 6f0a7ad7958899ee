"""A copy of the repository whose `make … SLURM=1` submits to the test cluster."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster, wait_until


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
        wait_until(lambda: int(self.cluster.fact(job, "Restarts")), what=f"job {job} is queued again")
        self.cluster.command(
            "scontrol", "update", f"JobId={job}", "StartTime=now", check=False
        )  # unless it runs already
