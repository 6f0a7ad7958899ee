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
        print(f"$ make {' '.join(words)}", result.stdout + result.stderr, sep="\n")
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def submit(self, target: str, *more: str, run: str, preset: str) -> dict[str, int]:
        """`make TARGET SLURM=1 …`, and what is given more; the jobs by stage."""
        said = self.make(
            target, "SLURM=1", "NODES=2", "DEVICES=1", "PARTITION=main", f"PRESET={preset}", f"RUN={run}",
            "SECONDS_OF_SPEECH=0.5", *more,
        )  # fmt: skip
        rows = [line.split() for line in said.stdout.splitlines() if " job " in line]
        return {row[0]: int(row[2].rstrip(":")) for row in rows}

    def root(self, run: str) -> Path:
        """A chain's folder."""
        return self.folder / "checkpoints" / "runs" / run

    def status(self, run: str) -> dict[str, Any]:
        """`audiolm status --json`, the stages by name."""
        command = [sys.executable, "-m", "audiolm", "status", "--root", f"checkpoints/runs/{run}"]
        print(f"$ audiolm {' '.join(command[3:])}")
        print(subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True).stdout)
        said = subprocess.check_output([*command, "--json"], cwd=self.folder, env=self.environment, text=True)
        status = json.loads(said)
        return {**status, "stages": {stage["stage"]: stage for stage in status["stages"]}}

    def log(self, job: int) -> str:
        """What a job has printed so far."""
        path = Path(self.cluster.fact(job, "StdOut"))
        return path.read_text(errors="replace") if path.is_file() else ""

    def wait_for(self, job: int, *states: str, seconds: float = 600) -> str:
        """Wait until a job is in one of these states, and return it; say what its log says if it never is."""
        try:
            wait_until(lambda: self.cluster.state(job) in states, what=f"job {job} is {states}", seconds=seconds)
        finally:
            if self.cluster.state(job) not in states:
                print(self.cluster.command("squeue"), self.log(job)[-5000:])
        return self.cluster.state(job)

    def wait_for_restart(self, job: int, *, hurry: bool) -> None:
        """Wait until a job was queued again; it waits two minutes before it starts.

        Args:
            hurry: start it at once. Not after a node died: what the controller could not tell that node of the first start
                (to end the step) it tells it a minute later, and a second start, whose step has the same number, would
                be ended by it. The two minutes are there for that.
        """
        wait_until(lambda: int(self.cluster.fact(job, "Restarts")), what=f"job {job} is queued again", seconds=180)
        if hurry:
            wait_until(lambda: self._starts_now(job), what=f"job {job} starts again", seconds=180)

    def _starts_now(self, job: int) -> bool:
        self.cluster.command(
            "scontrol", "update", f"JobId={job}", "StartTime=now", check=False
        )  # unless it ends just now
        return self.cluster.state(job) in ("RUNNING", "COMPLETED", "FAILED")
