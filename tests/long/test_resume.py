"""kill -9 at every moment of every stage, and start again: the run that was never killed, bit for bit. On two processes too.

Minutes: run with `make test-long`. What was seen is in docs/reliability.md.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kills import MOMENTS, differences, in_a_child, kill_options, last_state, logged

from audiolm.stages.failure import first_failure
from audiolm.stages.resume import resume_checkpoints
from audiolm.tokens.store import TokenStore

REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., None]
GO_ON = ("--trainer.precision", "32-true", "--ckpt_path", "last", "--resume.every_n_train_steps", "2")

# stage: its further options, and the steps to be killed at: before the first checkpoint, before and after what changes in it
STAGES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "codec": ((), (1, 3, 5, 9)),  # codebooks begin at step 1 of 12, discriminators at 7
    "encoder": (("--trainer.max_steps", "6"), (1, 5)),
    "detokenizer_codes": ((), (1, 5)),  # discriminators begin at step 4 of 6
    "detokenizer_units": ((), (5,)),
    "semantic": ((), (1, 6)),
    "coarse": ((), (6,)),
    "fine": ((), (6, 8)),  # 8: the last
}
LATE_CODEBOOKS = ("--model.init_args.codec.pool_factor", "20")  # the codebooks begin at step 6


@pytest.fixture(scope="session")
def never_stopped(
    chain: Path, run_stage_of: Run, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, tuple[str, ...]], Path]:
    """The root of a chain whose stage ran through, in a process of its own as the killed ones do."""
    made: dict[tuple[str, ...], Path] = {}

    def run(stage: str, options: tuple[str, ...]) -> Path:
        if (stage, *options) not in made:
            root = fresh(chain, tmp_path_factory.mktemp(stage), stage)
            assert in_a_child(lambda: run_stage_of(stage, root, *GO_ON, *options)) == 0
            made[(stage, *options)] = root
        return made[(stage, *options)]

    return run


def fresh(chain: Path, folder: Path, stage: str) -> Path:
    root = Path(shutil.copytree(chain, folder / "chain"))
    shutil.rmtree(root / stage, ignore_errors=True)
    return root


def assert_same(root: Path, reference: Path, stage: str) -> None:
    """Weights, optimizers, schedules, loop counts, best score; every logged value; what later stages take."""
    assert not differences(last_state(root / stage), last_state(reference / stage))
    ours, theirs = logged(root / stage), logged(reference / stage)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        missing = values.keys() - ours[name].keys()
        assert len(missing) <= 1, f"{name}: {missing}"  # the row of a checkpoint that the kill came right after
        assert all(ours[name][step] == values[step] for step in ours[name]), name
    best = [torch.load(p / stage / "best.ckpt", weights_only=True)["state_dict"] for p in (root, reference)]
    assert not differences(*best)


def cases() -> list[tuple[str, tuple[str, ...], str, int]]:
    found = []
    for stage, (options, steps) in STAGES.items():
        moments = (*MOMENTS, "between") if stage.startswith(("codec", "detok")) else MOMENTS
        found += [(stage, options, moment, step) for moment in moments for step in steps]
    return found + [("codec", LATE_CODEBOOKS, moment, 4) for moment in ("forward", "stepped", "renamed")]


@pytest.mark.parametrize(("stage", "options", "moment", "step"), cases())
def test_killed_and_started_again_it_is_the_run_that_was_never_killed(
    chain: Path,
    tmp_path: Path,
    run_stage_of: Run,
    never_stopped: Callable[..., Path],
    stage: str,
    options: tuple[str, ...],
    moment: str,
    step: int,
) -> None:
    root = fresh(chain, tmp_path, stage)
    killed = in_a_child(lambda: run_stage_of(stage, root, *GO_ON, *options, *kill_options(moment, step)))
    assert killed == -signal.SIGKILL
    assert in_a_child(lambda: run_stage_of(stage, root, *GO_ON, *options)) == 0
    assert_same(root, never_stopped(stage, options), stage)
    assert not list((root / stage).rglob(".*"))


def test_killed_again_and_again_it_still_is(
    chain: Path, tmp_path: Path, run_stage_of: Run, never_stopped: Callable[..., Path]
) -> None:
    root = fresh(chain, tmp_path, "codec")
    for moment, step in (
        ("stepped", 3),
        ("validation", 4),
        ("write", 5),
        ("between", 8),
        ("renamed", 10),
        ("forward", 11),
    ):
        killed = in_a_child(lambda m=moment, s=step: run_stage_of("codec", root, *GO_ON, *kill_options(m, s)))
        assert killed == -signal.SIGKILL
    assert in_a_child(lambda: run_stage_of("codec", root, *GO_ON)) == 0
    assert not differences(last_state(root / "codec"), last_state(never_stopped("codec", ()) / "codec"))


def test_a_tokenizer_that_was_killed_is_made_again_from_its_beginning(
    chain: Path, tmp_path: Path, run_stage_of: Run
) -> None:
    """One epoch without an optimizer: there is no state between two steps that would be worth a checkpoint."""
    root = fresh(chain, tmp_path, "tokenizer")
    kill = ["--trainer.callbacks+=kills.Kill", "--trainer.callbacks.moment=validation", "--trainer.callbacks.step=0"]
    killed = in_a_child(lambda: run_stage_of("tokenizer", root, *GO_ON, *kill))
    assert killed == -signal.SIGKILL
    assert in_a_child(lambda: run_stage_of("tokenizer", root, *GO_ON)) == 0
    states = [torch.load(p / "tokenizer" / "best.ckpt", weights_only=True)["state_dict"] for p in (root, chain)]
    assert not differences(*states)


def kill_after(appended: int) -> None:
    from kills import die

    from audiolm.stages import tokenize

    plain, done = tokenize.TokenStoreWriter.append, []

    def append(self, **arguments) -> None:
        if len(done) == appended:
            die()
        plain(self, **arguments)
        done.append(arguments["id"])

    tokenize.TokenStoreWriter.append = append


@pytest.mark.parametrize("appended", [0, 1, 7])
def test_tokenizing_that_was_killed_goes_on(chain: Path, tmp_path: Path, run_stage_of: Run, appended: int) -> None:
    root = fresh(chain, tmp_path, "tokens")

    def killed() -> None:
        kill_after(appended)
        run_stage_of("tokenize", root)

    assert in_a_child(killed) == -signal.SIGKILL
    assert in_a_child(lambda: run_stage_of("tokenize", root)) == 0
    ours, theirs = TokenStore(root / "tokens"), TokenStore(chain / "tokens")
    assert ours.ids == theirs.ids
    for row in range(len(ours)):
        assert torch.equal(ours.units(row), theirs.units(row))
        assert torch.equal(ours.codes(row), theirs.codes(row))


def start_two(stage: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    verb = "predict" if stage == "tokenize" else "fit"
    command = [sys.executable, "-m", "audiolm", verb, "-c", f"stages/{stage}.yaml"]
    command += ["-c", f"tests/tiny_stages/{stage}.yaml", "--root", str(root), "--trainer.accelerator", "cpu"]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.precision", "32-true", *arguments]
    places = [str(REPOSITORY / "tests"), str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and words, when all of its processes have ended: the pipe closes with the last."""
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


@pytest.mark.parametrize("stage", ["codec", "fine"])
@pytest.mark.parametrize(("moment", "rank"), [("forward", 1), ("stepped", 0), ("write", 0)])
def test_two_processes_of_which_one_is_killed_end_and_go_on(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[[str], Path], stage: str, moment: str, rank: int
) -> None:
    root = fresh(chain, tmp_path, stage)
    options = ("--ckpt_path", "last", "--resume.every_n_train_steps", "2")
    began = time.monotonic()
    status, said = finished(start_two(stage, root, *options, *kill_options(moment, 5, rank=rank)))
    assert time.monotonic() - began < 120
    assert status != 0
    if rank == 1:
        assert "lost another process" in said or "SIGKILL without a word" in said, said[-3000:]
    status, said = finished(start_two(stage, root, *options))
    assert status == 0, said[-3000:]
    assert not differences(last_state(root / stage), last_state(two_never_stopped(stage) / stage))


@pytest.fixture(scope="session")
def two_never_stopped(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def run(stage: str) -> Path:
        if stage not in made:
            made[stage] = fresh(chain, tmp_path_factory.mktemp(f"two-{stage}"), stage)
            status, said = finished(start_two(stage, made[stage], "--resume.every_n_train_steps", "2"))
            assert status == 0, said[-3000:]
        return made[stage]

    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_cause_is_on_top_when_one_of_two_fails(chain: Path, tmp_path: Path, rank: int) -> None:
    root = fresh(chain, tmp_path, "fine")
    options = ["--trainer.callbacks+=failing.Fails", f"--trainer.callbacks.rank={rank}", "--trainer.callbacks.step=3"]
    began = time.monotonic()
    status, said = finished(start_two("fine", root, *options))
    assert status == 1, said[-3000:]
    assert time.monotonic() - began < 90
    failure = first_failure(root / "fine")
    assert failure is not None
    assert (failure.rank, failure.step) == (rank, 3)
    assert "ZeroDivisionError: the fault of this test" in failure.message
    if rank == 1:
        assert f"rank 1 on {failure.host} failed first, at step 3: ZeroDivisionError: the fault of this test" in said
    status, said = finished(start_two("fine", root, "--ckpt_path", "last"))
    assert status == 0, said[-3000:]
    assert first_failure(root / "fine") is None


def test_a_process_that_stays_away_is_waited_for_only_so_long(chain: Path, tmp_path: Path) -> None:
    root = fresh(chain, tmp_path, "fine")
    options = ["--trainer.callbacks+=failing.StaysAway", "--collective_timeout_minutes", "0.1"]
    status, said = finished(start_two("fine", root, *options))
    assert status == 1, said[-3000:]
    assert "lost another process" in said or "failed first" in said, said[-3000:]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_two_processes_stop_at_the_same_step_when_the_first_is_asked(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[[str], Path], number: int, status: int
) -> None:
    root = fresh(chain, tmp_path, "fine")
    asked = [
        "--trainer.callbacks+=failing.Asked",
        f"--trainer.callbacks.number={int(number)}",
        "--trainer.callbacks.step=3",
    ]
    ended, said = finished(start_two("fine", root, "--resume.every_n_train_steps", "100", *asked))
    assert ended == status, said[-3000:]
    (path,) = resume_checkpoints(root / "fine" / "resume")
    assert f"saved at step {int(path.stem[5:])}; the same command goes on from there" in said
    assert int(path.stem[5:]) in (3, 4, 5)
    ended, said = finished(start_two("fine", root, "--ckpt_path", "last", "--resume.every_n_train_steps", "2"))
    assert ended == 0, said[-3000:]
    assert not differences(last_state(root / "fine"), last_state(two_never_stopped("fine") / "fine"))


def test_two_processes_that_tokenize_stop_when_the_first_is_asked(chain: Path, tmp_path: Path) -> None:
    root = fresh(chain, tmp_path, "tokens")
    asked = ["--trainer.callbacks+=failing.Asked", f"--trainer.callbacks.number={int(signal.SIGTERM)}"]
    status, said = finished(start_two("tokenize", root, *asked, "--trainer.callbacks.step=2"))
    assert status == 143, said[-3000:]
    status, said = finished(start_two("tokenize", root))
    assert status == 0, said[-3000:]
    assert TokenStore(root / "tokens").ids == TokenStore(chain / "tokens").ids


def test_two_processes_pass_over_a_damaged_checkpoint_alike(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[[str], Path]
) -> None:
    root = Path(shutil.copytree(two_never_stopped("fine"), tmp_path / "chain"))
    newest = resume_checkpoints(root / "fine" / "resume")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (root / "fine" / "done.json").unlink()
    status, said = finished(start_two("fine", root, "--ckpt_path", "last", "--resume.every_n_train_steps", "2"))
    assert status == 0, said[-3000:]
    assert said.count("step-00000008.ckpt is damaged") == 1
    assert not differences(last_state(root / "fine"), last_state(two_never_stopped("fine") / "fine"))
