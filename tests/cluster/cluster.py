"""A real SLURM cluster of a few nodes on this machine, with ports, keys and folders of its own; needs root."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ["slurm-wlm", "munge"]
PATIENCE_SECONDS = 60


class ClusterError(RuntimeError):
    """The cluster did not do what was waited for; the message ends with its logs."""


def install() -> None:
    """Install SLURM and munge from the distribution's packages where they are missing, and say so."""
    if all(shutil.which(command) for command in ("slurmctld", "slurmd", "sbatch", "munged", "mungekey")):
        return
    print(f"installing {' and '.join(PACKAGES)} (apt-get)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def wait_until(true: Callable[[], object], *, what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for something to become true.

    Raises:
        ClusterError: if it does not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise ClusterError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


class Cluster:
    """Nodes n1, n2, … of one CPU each in the partition `main`.

    Args:
        folder: of its own; everything it writes is there.
        nodes: how many.
    """

    def __init__(self, folder: Path, *, nodes: int = 2) -> None:
        self.folder, self.nodes = folder, [f"n{number + 1}" for number in range(nodes)]
        self.config = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need to find this cluster, and no other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "MUNGE"))}
        return {**kept, "SLURM_CONF": str(self.config)}

    def start(self) -> None:
        """Start munged, the controller and the nodes; return when all nodes are idle."""
        for name in ("state", "log", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        munge = self.folder / "munge"
        subprocess.run(["mungekey", "--create", f"--keyfile={munge}/key"], check=True)
        self.config.write_text(self._configuration())
        guard = [sys.executable, __file__, str(self.folder)]  # it ends all when its input ends, that is, when we do
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        files = [
            f"--{name}={munge}/{file}"
            for name, file in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"))
        ]
        files += [f"--{name}={munge}/{file}" for name, file in (("log-file", "log"), ("seed-file", "seed"))]
        self._run("munged", ["munged", "--foreground", "--force", *files])
        wait_until((munge / "socket").exists, what="munged listens")
        self._run("slurmctld", ["slurmctld", "-D", "-f", str(self.config)])
        for node in self.nodes:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """Start a node's daemon, and wait until jobs may run there."""
        self._run(node, ["slurmd", "-D", "-f", str(self.config), "-N", node])
        self.wait_for_node(node, "idle")

    def wait_for_node(self, node: str, state: str) -> None:
        """Wait for a node to be idle, down, …"""
        wait_until(
            lambda: state in self.command("sinfo", "-h", "-n", node, "-o", "%T", check=False), what=f"{node} is {state}"
        )

    def kill_node(self, node: str) -> None:
        """As a power cut does: its daemon and everything that runs there end at once, and nobody is told."""
        daemon = self._daemons.pop(node)
        found = processes_with(f"SLURM_CONF={self.config}", f"SLURMD_NODENAME={node}")
        for number in (signal.SIGSTOP, signal.SIGKILL):  # else a step daemon might still tell how its tasks ended
            for process in sorted({daemon.pid, *found}):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
        daemon.wait()

    def command(self, *words: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        result = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and result.returncode:
            raise ClusterError(f"{' '.join(words)}: {result.stderr.strip()}")
        return result.stdout.strip()

    def state(self, job: int) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, …"""
        return self.fact(job, "JobState")

    def fact(self, job: int, name: str) -> str:
        """One of the facts that `scontrol show job` prints."""
        said = self.command("scontrol", "--oneliner", "show", "job", str(job))
        return next(word.partition("=")[2] for word in said.split() if word.startswith(f"{name}="))

    def stop(self) -> None:
        """End daemons, jobs and all they started, and remove the folder."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
        for daemon in self._daemons.values():
            daemon.wait()

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("log/*")
        )

    def _run(self, name: str, command: list[str]) -> None:
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _configuration(self) -> str:
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(len(self.nodes) + 1)
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[-1]}",
            "SlurmUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder}/munge/socket",
            "CredType=cred/munge",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool-%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SchedulerParameters=sched_interval=5,bf_interval=5",
            "ReturnToService=2",
            "MpiDefault=none",
            "JobRequeue=1",
            "MinJobAge=3600",
            "KillWait=5",
            "SlurmdTimeout=10",  # so soon is a dead node known to be dead
            *(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
                for node, port in zip(self.nodes, ports, strict=False)
            ),
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        return "\n".join(lines) + "\n"


def processes_with(*marks: str) -> set[int]:
    """Processes that carry all these words in their environment, and the step daemons of SLURM that look after them."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if {mark.encode() for mark in marks} <= set((entry / "environ").read_bytes().split(b"\0")):
                found.add(int(entry.name))
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if "slurmstepd" in Path(f"/proc/{parent}/comm").read_text():
                    found.add(parent)
    return found - {os.getpid()}


def end_when_input_ends(folder: Path) -> None:
    """Wait for the end of our input; then end every process of the cluster in `folder`, and remove that."""
    sys.stdin.read()
    for _ in range(10):  # what is just being started, too
        for process in (left := processes_with(f"SLURM_CONF={folder}/slurm.conf")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    end_when_input_ends(Path(sys.argv[1]))
