"""A run that was killed, asked to stop, or left with a damaged checkpoint, goes on as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from kills import die, differences, in_a_child, kill_options, last_state, logged

from audiolm.checksums import DamagedError, sidecar, verify
from audiolm.early_signal import note_sigusr1
from audiolm.stages import resume, tokenize
from audiolm.stages.base import follow_folder
from audiolm.stages.resume import ResumeCheckpoints, newest_valid, resume_checkpoints
from audiolm.stages.tokenize import TokenizeStage
from audiolm.tokens.store import TokenStore

Run = Callable[..., None]
GO_ON = ("--trainer.precision", "32-true", "--ckpt_path", "last")


def without(chain: Path, tmp_path: Path, stage: str) -> Path:
    """A chain in which a stage is still to be done."""
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / ("tokens" if stage == "tokenize" else stage))
    return root


def assert_as_never_stopped(root: Path, chain: Path, stage: str) -> None:
    assert not differences(last_state(root / stage), last_state(chain / stage))
    assert logged(root / stage) == logged(chain / stage)
    ours, theirs = (torch.load(p / stage / "best.ckpt", weights_only=True)["state_dict"] for p in (root, chain))
    assert not differences(ours, theirs)


@pytest.mark.parametrize(
    ("stage", "moment", "step"),
    [("codec", "between", 9), ("fine", "validation", 8), ("fine", "write", 4), ("coarse", "forward", 7)],
)
def test_a_killed_run_that_goes_on_is_the_run_that_was_never_killed(
    chain: Path, tmp_path: Path, run_stage_of: Run, stage: str, moment: str, step: int
) -> None:
    """Here a few; all stages and moments are in tests/long/test_resume.py."""
    root = without(chain, tmp_path, stage)
    assert in_a_child(lambda: run_stage_of(stage, root, *GO_ON, *kill_options(moment, step))) == -signal.SIGKILL
    run_stage_of(stage, root, *GO_ON)
    assert_as_never_stopped(root, chain, stage)
    assert not list((root / stage).rglob(".*"))  # of what the killed run left half-written


def assert_same_tokens(root: Path, chain: Path) -> None:
    ours, theirs = TokenStore(root / "tokens"), TokenStore(chain / "tokens")
    assert ours.ids == theirs.ids
    for row in range(len(ours)):
        assert torch.equal(ours.units(row), theirs.units(row))
        assert torch.equal(ours.codes(row), theirs.codes(row))


class Ask(L.Callback):
    """Sends its own process a signal when a step or an utterance begins, or a validation."""

    def __init__(self, number: int, at: int, moment: str = "step") -> None:
        self.number, self.at, self.moment = number, at, moment

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment == "step" and trainer.global_step + 1 == self.at:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment == "validation" and trainer.global_step >= self.at:
            os.kill(os.getpid(), self.number)

    def on_predict_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx + 1 == self.at:
            os.kill(os.getpid(), self.number)


def ask_options(number: int, at: int, moment: str = "step") -> list[str]:
    options = ["--trainer.callbacks+=test_resume.Ask", f"--trainer.callbacks.number={int(number)}"]
    return [*options, f"--trainer.callbacks.at={at}", f"--trainer.callbacks.moment={moment}"]


@pytest.mark.parametrize(
    ("number", "moment", "status"),
    [(signal.SIGTERM, "step", 143), (signal.SIGUSR1, "validation", 138), (signal.SIGINT, "step", 130)],
)
def test_a_run_that_is_asked_to_stop_saves_that_step_and_goes_on_from_it(
    chain: Path,
    tmp_path: Path,
    run_stage_of: Run,
    capfd: pytest.CaptureFixture[str],
    number: int,
    moment: str,
    status: int,
) -> None:
    root, at = without(chain, tmp_path, "fine"), 3 if moment == "step" else 4
    never = ("--resume.every_n_train_steps", "100")
    with pytest.raises(SystemExit) as ended:
        run_stage_of("fine", root, *GO_ON, *never, *ask_options(number, at, moment))
    assert ended.value.code == status
    at += moment == "validation"  # the validation is finished, and the step after it
    assert [path.name for path in resume_checkpoints(root / "fine" / "resume")] == [f"step-{at:08}.ckpt"]
    assert f"saved at step {at}; the same command goes on from there" in capfd.readouterr().out
    assert not (root / "fine" / "done.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run_stage_of("fine", root, *GO_ON)
    assert_as_never_stopped(root, chain, "fine")


def test_sigusr1_requeues_a_slurm_job_and_sigterm_does_not(
    chain: Path, tmp_path: Path, run_stage_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "45")
    root = without(chain, tmp_path, "fine")
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with pytest.raises(SystemExit):
            run_stage_of("fine", root, *GO_ON, *ask_options(number, 3 if number == signal.SIGTERM else 5))
    assert (tmp_path / "asked").read_text() == "requeue 45\n"


def test_a_process_that_tokenizes_requeues_its_job_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that ends takes the others with it: srun ends them all."""
    asked: list[int] = []
    monkeypatch.setattr(resume, "requeue_slurm_job", lambda number: asked.append(number) or "")
    callback = ResumeCheckpoints()
    callback.stop.signal_number = signal.SIGUSR1
    with pytest.raises(SystemExit):
        callback.on_predict_batch_end(SimpleNamespace(is_global_zero=False), None)
    assert asked == [signal.SIGUSR1]


def test_no_process_of_a_job_ends_before_the_job_is_requeued(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    monkeypatch.setattr(resume, "requeue_slurm_job", lambda number: happened.append("requeued") or "")
    callback = ResumeCheckpoints()
    callback._stopping = signal.SIGUSR1
    strategy = SimpleNamespace(barrier=lambda name: happened.append(name))
    for first in (True, False):
        with pytest.raises(SystemExit):
            callback.on_train_batch_start(SimpleNamespace(is_global_zero=first, strategy=strategy), None)
    assert happened == ["requeued", "told", "told"]


def test_a_job_that_saves_nothing_is_not_requeued_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(resume, "requeue_slurm_job", lambda number: asked.append(number) or "")
    callback = ResumeCheckpoints()
    for restarts in range(5):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        callback._tell("it has saved nothing yet", saved=False)
    assert len(asked) == resume.FRUITLESS_RESTARTS
    assert "Not queued again" in capsys.readouterr().out
    callback._tell("saved at step 3", saved=True)
    assert len(asked) == resume.FRUITLESS_RESTARTS + 1


STARTS = """
import os, signal, sys
from pathlib import Path
from types import ModuleType
from audiolm.cli import main

class Importing(ModuleType):  # in the place of what takes long to import
    def __getattr__(self, name):
        if name != "run_stage":
            raise AttributeError(name)
        os.kill(os.getpid(), signal.SIGUSR1)
        from audiolm.stages.interruption import StopRequest
        stop = StopRequest()
        stop.watch(ctrl_c=False)
        print("asked by", stop.signal_number)
        stop.release()
        os.kill(os.getpid(), signal.SIGUSR1)
        return lambda *_: print("still here")

sys.modules["audiolm.stage_cli"] = Importing("audiolm.stage_cli")
sys.argv = ["lightning", "fit"]
main()
"""


def test_sigusr1_during_imports_ends_nothing_and_is_not_forgotten() -> None:
    ended = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"asked by {signal.SIGUSR1}\nstill here\n"), ended.stderr


def test_a_signal_that_came_before_the_first_step_stops_the_run_after_it(
    chain: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    root, before = without(chain, tmp_path, "fine"), signal.getsignal(signal.SIGUSR1)
    try:
        note_sigusr1()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(SystemExit) as ended:
            run_stage_of("fine", root, *GO_ON, "--resume.every_n_train_steps", "100")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.value.code == 138
    assert [path.name for path in resume_checkpoints(root / "fine" / "resume")] == ["step-00000001.ckpt"]
    run_stage_of("fine", root, *GO_ON)
    assert_as_never_stopped(root, chain, "fine")


def test_tokenizing_that_is_asked_to_stop_finishes_its_utterance_and_goes_on(
    chain: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    root = without(chain, tmp_path, "tokenize")
    with pytest.raises(SystemExit) as ended:
        run_stage_of("tokenize", root, *ask_options(signal.SIGTERM, 4))
    assert ended.value.code == 143
    assert sum(len(part.read_text().splitlines()) for part in (root / "tokens" / "parts").glob("*.jsonl")) == 4
    assert not (root / "tokens" / "sealed.json").exists()
    run_stage_of("tokenize", root)
    assert_same_tokens(root, chain)


def test_the_newest_are_kept_and_a_damaged_one_is_named_and_passed_over(
    chain: Path, tmp_path: Path, run_stage_of: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    root = without(chain, tmp_path, "fine")
    often = ("--resume.every_n_train_steps", "2", "--resume.keep", "3")
    run_stage_of("fine", root, *GO_ON, *often)
    paths = resume_checkpoints(root / "fine" / "resume")
    assert [path.name for path in paths] == [f"step-{step:08}.ckpt" for step in (4, 6, 8)]
    assert all(verify(path) for path in paths)
    content = bytearray(paths[2].read_bytes())
    content[len(content) // 2] ^= 1
    paths[2].write_bytes(content)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    sidecar(paths[1]).unlink()
    (root / "fine" / "done.json").unlink()
    run_stage_of("fine", root, *GO_ON, *often)
    said = capsys.readouterr().out
    for name in ("step-00000008.ckpt is damaged", "step-00000006.ckpt cannot be read as a checkpoint"):
        assert name in said
    assert all(verify(path) for path in resume_checkpoints(root / "fine" / "resume"))
    assert_as_never_stopped(root, chain, "fine")


def test_where_all_are_damaged_nothing_is_deleted_and_the_remedy_is_said(
    chain: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    for path in resume_checkpoints(root / "fine" / "resume"):
        path.write_bytes(b"half")
    before = sorted(file.name for file in (root / "fine" / "resume").iterdir())
    with pytest.raises(DamagedError, match=r"None of the 2 checkpoints .*Nothing was deleted.*move .*fine away"):
        run_stage_of("fine", root, *GO_ON)
    assert sorted(file.name for file in (root / "fine" / "resume").iterdir()) == before
    assert newest_valid(tmp_path / "nowhere") is None
    (tmp_path / "last.ckpt").write_bytes(b"of before")
    with pytest.raises(DamagedError, match=r"last\.ckpt is of an earlier version.*Move .* away"):
        newest_valid(tmp_path / "resume")


def test_checkpoints_come_by_minutes_too(
    chain: Path, tmp_path: Path, run_stage_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            clock[0] += 20.0  # seconds, at every look
            return clock[0]

    monkeypatch.setattr(resume, "time", Clock)
    saved: list[int] = []
    save = ResumeCheckpoints._save
    monkeypatch.setattr(
        ResumeCheckpoints, "_save", lambda self, trainer: (saved.append(trainer.global_step), save(self, trainer))
    )
    root = without(chain, tmp_path, "fine")
    options = ("--resume.every_n_train_steps", "null", "--resume.every_minutes", "1.5")
    run_stage_of("fine", root, *GO_ON, *options)
    assert 2 <= len(saved) < 8
    assert saved[-1] == 8  # and the last step in any case
    assert_as_never_stopped(root, chain, "fine")


class UnreadableFile(L.Callback):
    """A file that cannot be read when the sixth batch is asked for."""

    def setup(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        plain = trainer.datamodule.on_before_batch_transfer

        def fails(batch: Any, number: int) -> Any:
            if trainer.global_step == 5:
                raise OSError("gone.flac cannot be read")
            return plain(batch, number)

        trainer.datamodule.on_before_batch_transfer = fails


def test_one_process_that_fails_between_two_steps_has_saved_the_last(
    chain: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    root = without(chain, tmp_path, "fine")
    with pytest.raises(OSError, match="gone.flac"):
        run_stage_of("fine", root, *GO_ON, "--trainer.callbacks+=test_resume.UnreadableFile")
    assert [path.name for path in resume_checkpoints(root / "fine" / "resume")][-1] == "step-00000005.ckpt"
    run_stage_of("fine", root, *GO_ON)
    assert_as_never_stopped(root, chain, "fine")


def test_the_best_score_is_remembered_where_the_chain_was_moved() -> None:
    state = {
        "dirpath": "/old/fine",
        "best_model_path": "/old/fine/best.ckpt",
        "kth_best_model_path": "/old/fine/best.ckpt",
        "last_model_path": "",
        "best_k_models": {"/old/fine/best.ckpt": torch.tensor(1.0)},
    }
    follow_folder({"ModelCheckpoint{…}": state, "StageRecord": {"seconds": 1.0}}, "/new/fine")
    assert state["dirpath"] == "/new/fine"
    assert list(state["best_k_models"]) == [state["best_model_path"]] == ["/new/fine/best.ckpt"]


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_train_steps": None, "every_minutes": None},
        {"keep": 0},
        {"every_minutes": 0.0},
        {"every_n_train_steps": 0},
    ],
)
def test_settings_that_would_save_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="resume: "):
        ResumeCheckpoints(**options)


def test_a_child_that_dies_is_seen_to() -> None:
    """The tests above mean something only if a kill is one."""
    assert in_a_child(die) == -signal.SIGKILL


def test_who_has_tokenized_its_share_waits_longer_than_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of days of work, processes are hours apart."""
    groups: list[Any] = []
    monkeypatch.setattr(tokenize.dist, "barrier", lambda group=None: groups.append(group))
    TokenizeStage.on_predict_end(SimpleNamespace(_writer=None, _patient="patient", global_rank=1))
    assert groups == ["patient"]
