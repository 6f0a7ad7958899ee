"""One run at a time in a folder; the lock goes with its process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audiolm import lock
from audiolm.files import set_aside
from audiolm.lock import FolderInUseError, holder, lock_path, only_one
from audiolm.verbs import run_verb

HOLD = """
import sys
from audiolm.lock import only_one
with only_one(sys.argv[1], what="lightning fit, codec stage"):
    if len(sys.argv) > 2:
        import os
        if os.fork() == 0:  # as a worker that reads data
            sys.stdin.read()
            sys.exit()
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "SLURM_JOB_ID": "45"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_by_name_and_a_kill_releases_the_lock(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "codec")
    words = rf"codec is in use \(lightning fit, codec stage: pid {process.pid} on .* since 20.*SLURM job 45\).*RUN=NAME"
    with pytest.raises(FolderInUseError, match=words), only_one(tmp_path / "codec", what="mine"):
        pass
    found = holder(tmp_path / "codec")
    assert found is not None
    assert (found.pid, found.slurm_job) == (process.pid, "45")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with only_one(tmp_path / "codec", what="mine"):
        assert holder(tmp_path / "codec").pid == os.getpid()
    assert holder(tmp_path / "codec") is None


def test_a_job_that_comes_back_on_another_node_waits_for_the_dead_ones_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_holder(tmp_path / "codec")

    def expire(_: float) -> None:
        process.kill()
        process.wait()

    monkeypatch.setattr(lock.time, "sleep", expire)
    monkeypatch.setenv("SLURM_JOB_ID", "45")
    with pytest.raises(FolderInUseError), only_one(tmp_path / "codec", what="beside it, on the same node"):
        pass
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "another")
    with only_one(tmp_path / "codec", what="mine"):
        assert process.returncode == -signal.SIGKILL


def test_a_worker_that_outlives_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "codec", "and a worker")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with only_one(tmp_path / "codec", what="mine"):
        pass
    process.stdin.close()  # ends the worker


def test_a_folder_may_be_set_aside_while_its_lock_is_held(tmp_path: Path) -> None:
    (tmp_path / "codec").mkdir()
    with only_one(tmp_path / "codec", what="one"):
        set_aside(tmp_path / "codec")
        with pytest.raises(FolderInUseError), only_one(tmp_path / "codec", what="two"):
            pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear to me")
    lock_path(tmp_path / "codec").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), only_one(tmp_path / "codec", what="one"):
        pass
    assert (tmp_path / "mine").read_text() == "dear to me"


def test_a_stage_and_a_verb_refuse_a_folder_in_use(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    before = sorted(file.name for file in (root / "fine").iterdir())
    with only_one(root / "fine", what="another"), pytest.raises(FolderInUseError, match="in use"):
        run_stage_of("fine", root, "--trainer.precision", "32-true", "--model.init_args.learning_rate", "0.5")
    assert sorted(file.name for file in (root / "fine").iterdir()) == before
    with only_one(root / "generator", what="another"), pytest.raises(FolderInUseError, match="generator is in use"):
        run_verb(["compose", "--root", str(root)])
