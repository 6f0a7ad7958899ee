"""kill -9 at every moment of every stage, and start again: the run that was never killed, bit for bit. On two processes too.

Minutes: run with `make test-long`. What was seen is in docs/reliability.md.
"""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Outcome, run, stage_command
from kills import differences, in_a_child, kill_options, last_state, logged

from audiolm.stages.failure import first_failure
from audiolm.stages.resume import resume_checkpoints
from audiolm.tokens.store import TokenStore

Run = Callable[..., None]
GO_ON = ("--trainer.precision", "32-true", "--ckpt_path", "last", "--resume.every_n_train_steps", "2")

# stage: its further options, and the moments to be killed at, in which step of each: before the first checkpoint (of step 2),
# before and after what changes in the stage
STAGES: dict[str, tuple[tuple[str, ...], dict[str, tuple[int, ...]]]] = {
    "codec": (  # codebooks begin at step 1 of 12, discriminators at 7
        (),
        {"forward": (1, 9), "between": (5, 9), "stepped": (3,), "validation": (5,), "write": (1, 9), "renamed": (5,)},
    ),
    "encoder": (
        ("--trainer.max_steps", "6"),
        {"forward": (1, 5), "stepped": (3,), "validation": (1,), "write": (5,), "renamed": (1,)},
    ),
    "detokenizer_codes": (  # discriminators begin at step 4 of 6
        (),
        {"forward": (5,), "between": (5,), "stepped": (1,), "validation": (5,), "write": (3,), "renamed": (3,)},
    ),
    "detokenizer_units": ((), {"between": (5,), "write": (5,)}),
    "speaker": (
        ("--trainer.max_steps", "6"),
        {"forward": (1, 5), "stepped": (3,), "validation": (3,), "write": (5,), "renamed": (1,)},
    ),
    "asr": (("--trainer.max_steps", "6"), {"forward": (1, 5), "stepped": (3,), "validation": (3,), "write": (5,)}),
    "acoustic": ((), {"forward": (6,), "write": (6,)}),
    "semantic": ((), {"forward": (1,), "stepped": (6,), "validation": (1,), "write": (1,), "renamed": (6,)}),
    "coarse": ((), {"forward": (6,), "write": (6,), "renamed": (6,)}),
    "fine": ((), {"forward": (6,), "stepped": (8,), "validation": (8,), "write": (8,), "renamed": (8,)}),  # 8: the last
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
    found = [
        (stage, options, moment, step)
        for stage, (options, moments) in STAGES.items()
        for moment, steps in moments.items()
        for step in steps
    ]
    return found + [("codec", LATE_CODEBOOKS, moment, 4) for moment in ("forward", "renamed")]


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


def on_two(stage: str, root: Path, *options: str) -> Outcome:
    return run(stage_command(stage, root, "--resume.every_n_train_steps", "2", *options), processes=2)


@pytest.fixture(scope="session")
def two_never_stopped(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, ...], Path] = {}

    def run_through(stage: str, *options: str) -> Path:
        if (stage, *options) not in made:
            root = fresh(chain, tmp_path_factory.mktemp(f"two-{stage}"), stage)
            assert_finished(on_two(stage, root, *options))
            made[(stage, *options)] = root
        return made[(stage, *options)]

    return run_through


def assert_finished(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.screen[-3000:]


def assert_killed_with_its_peer(outcome: Outcome, *, rank: int) -> None:
    """None outlives the other, and the one that is left says that it lost somebody."""
    if rank == 0:
        assert outcome.signal == signal.SIGKILL, outcome.screen[-3000:]
        return
    assert outcome.code == 1, outcome.screen[-3000:]
    assert "lost another process" in outcome.screen or "SIGKILL without a word" in outcome.screen, outcome.screen[
        -3000:
    ]


@pytest.mark.parametrize(
    ("stage", "moment", "rank"),
    [
        ("codec", "forward", 1),
        ("codec", "write", 0),
        ("fine", "forward", 1),
        ("fine", "stepped", 0),
        ("fine", "write", 0),
    ],
)
def test_two_processes_of_which_one_is_killed_end_and_go_on(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[..., Path], stage: str, moment: str, rank: int
) -> None:
    root = fresh(chain, tmp_path, stage)
    began = time.monotonic()
    assert_killed_with_its_peer(on_two(stage, root, *kill_options(moment, 5, rank=rank)), rank=rank)
    assert time.monotonic() - began < 120
    assert_finished(on_two(stage, root))
    assert not differences(last_state(root / stage), last_state(two_never_stopped(stage) / stage))


FSDP = ("--trainer.strategy", "fsdp", "--model.init_args.transformer.dropout", "0")
ROUNDING = 2e-6  # of losses near 3, in float32, as in tests/test_parallel.py


@pytest.mark.parametrize(("moment", "rank"), [("forward", 1), ("write", 0), ("write", 1), ("renamed", 0)])
def test_two_processes_that_share_a_model_go_on_as_two_or_as_one_when_one_was_killed(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[..., Path], moment: str, rank: int
) -> None:
    root, undisturbed = fresh(chain, tmp_path, "fine"), two_never_stopped("fine", *FSDP) / "fine"
    assert_killed_with_its_peer(on_two("fine", root, *FSDP, *kill_options(moment, 5, rank=rank)), rank=rank)
    alone = Path(shutil.copytree(root, tmp_path / "alone"))
    assert_finished(on_two("fine", root, *FSDP))
    assert not differences(last_state(root / "fine"), last_state(undisturbed))
    assert not list((root / "fine").rglob(".*"))

    assert_finished(run(stage_command("fine", alone, "--model.init_args.transformer.dropout", "0")))
    ours, theirs = logged(alone / "fine"), logged(undisturbed)
    for name in ("train/loss", "validation/loss"):
        assert ours[name] == pytest.approx({step: theirs[name][step] for step in ours[name]}, abs=ROUNDING)
    assert len({4, 5, 6, 7} - ours["train/loss"].keys()) <= 1  # the row of a checkpoint that the kill came right after


@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("ddp", 1), ("fsdp", 0), ("fsdp", 1)])
def test_the_first_cause_is_on_top_when_one_of_two_fails(chain: Path, tmp_path: Path, strategy: str, rank: int) -> None:
    root = fresh(chain, tmp_path, "fine")
    fails = ["--trainer.callbacks+=failing.Fails", f"--trainer.callbacks.rank={rank}", "--trainer.callbacks.step=3"]
    began = time.monotonic()
    outcome = on_two("fine", root, "--trainer.strategy", strategy, *fails)
    assert outcome.code == 1, outcome.screen[-3000:]
    assert time.monotonic() - began < 90
    failure = first_failure(root / "fine")
    assert failure is not None
    assert (failure.rank, failure.step) == (rank, 3)
    assert "ZeroDivisionError: the fault of this test" in failure.message
    if rank == 1:
        said = f"rank 1 on {failure.host} failed first, at step 3: ZeroDivisionError: the fault of this test"
        assert said in outcome.screen, outcome.screen[-3000:]
    assert_finished(on_two("fine", root, "--trainer.strategy", strategy))
    assert first_failure(root / "fine") is None


def test_a_process_that_stays_away_is_waited_for_only_so_long(chain: Path, tmp_path: Path) -> None:
    root = fresh(chain, tmp_path, "fine")
    options = ["--trainer.callbacks+=failing.StaysAway", "--collective_timeout_minutes", "0.1"]
    outcome = on_two("fine", root, *options)
    assert outcome.code == 1, outcome.screen[-3000:]
    assert "lost another process" in outcome.screen or "failed first" in outcome.screen, outcome.screen[-3000:]


@pytest.mark.parametrize(
    ("strategy", "number", "status"),
    [("ddp", signal.SIGTERM, 143), ("ddp", signal.SIGUSR1, 138), ("fsdp", signal.SIGUSR1, 138)],
)
def test_two_processes_stop_at_the_same_step_when_the_first_is_asked(
    chain: Path, tmp_path: Path, two_never_stopped: Callable[..., Path], strategy: str, number: int, status: int
) -> None:
    options = FSDP if strategy == "fsdp" else ()
    root = fresh(chain, tmp_path, "fine")
    asked = [
        "--trainer.callbacks+=failing.Asked",
        f"--trainer.callbacks.number={int(number)}",
        "--trainer.callbacks.step=3",
    ]
    outcome = on_two("fine", root, *options, "--resume.every_n_train_steps", "100", *asked)
    assert outcome.code == status, outcome.screen[-3000:]
    (path,) = resume_checkpoints(root / "fine" / "resume")
    assert f"saved at step {int(path.stem[5:])}; the same command goes on from there" in outcome.screen
    assert int(path.stem[5:]) in (3, 4, 5)
    assert_finished(on_two("fine", root, *options))
    assert not differences(last_state(root / "fine"), last_state(two_never_stopped("fine", *options) / "fine"))


def test_two_processes_that_tokenize_stop_when_the_first_is_asked(chain: Path, tmp_path: Path) -> None:
    root = fresh(chain, tmp_path, "tokens")
    asked = ["--trainer.callbacks+=failing.Asked", f"--trainer.callbacks.number={int(signal.SIGTERM)}"]
    outcome = run(stage_command("tokenize", root, *asked, "--trainer.callbacks.step=2"), processes=2)
    assert outcome.code == 143, outcome.screen[-3000:]
    assert_finished(run(stage_command("tokenize", root), processes=2))
    assert TokenStore(root / "tokens").ids == TokenStore(chain / "tokens").ids


@pytest.mark.parametrize("options", [(), FSDP], ids=["ddp", "fsdp"])
def test_two_processes_pass_over_a_damaged_checkpoint_alike(
    tmp_path: Path, two_never_stopped: Callable[..., Path], options: tuple[str, ...]
) -> None:
    undisturbed = two_never_stopped("fine", *options)
    root = Path(shutil.copytree(undisturbed, tmp_path / "chain"))
    newest = resume_checkpoints(root / "fine" / "resume")[-1]
    part = sorted(newest.glob("shard-*"))[-1] if newest.is_dir() else newest
    part.write_bytes(part.read_bytes()[:1000])
    (root / "fine" / "done.json").unlink()
    outcome = on_two("fine", root, *options)
    assert_finished(outcome)
    assert outcome.screen.count(f"{part} is damaged") == 1, outcome.screen
    assert not differences(last_state(root / "fine"), last_state(undisturbed / "fine"))
