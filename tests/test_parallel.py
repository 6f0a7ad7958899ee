"""Processes that share a step learn what one process learns from it; whoever goes on from whose checkpoint."""

import csv
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import DamagedError
from audiolm.generator import AudioLM
from audiolm.generator.folder import compose
from audiolm.sharded_files import flatten, is_sharded, read_tensors
from audiolm.stages import sharded_checkpoint
from audiolm.stages.strategy import strategy_of

REPOSITORY = Path(__file__).parents[1]
ROUNDING = 2e-6  # of losses near 3, in float32


def fit(stage: str, root: Path, *arguments: str, processes: int, strategy: str, verb: str = "fit") -> str:
    """Train (or validate) a tiny stage without dropout; what it said."""
    command = [
        sys.executable,
        "-m",
        "audiolm",
        verb,
        "-c",
        f"stages/{stage}.yaml",
        "-c",
        f"tests/tiny_stages/{stage}.yaml",
    ]
    command += ["--root", str(root), "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    command += ["--trainer.devices", str(processes), "--trainer.strategy", strategy]
    command += ["--model.init_args.transformer.dropout", "0", *arguments]
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout + result.stderr


def losses(root: Path, stage: str, name: str = "train/loss") -> dict[int, float]:
    """Logged losses by step, of all versions of the log; later ones count."""
    found = {}
    for file in sorted((root / stage / "log").glob("version_*/metrics.csv")):
        found |= {int(row["step"]): float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)}
    return found


def fresh(chain: Path, folder: Path, stage: str) -> Path:
    root = Path(shutil.copytree(chain, folder))
    shutil.rmtree(root / stage)
    return root


@pytest.fixture(scope="module")
def alone(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fine stage as one process trains it."""
    root = fresh(chain, tmp_path_factory.mktemp("alone") / "chain", "fine")
    fit("fine", root, processes=1, strategy="auto")
    return root


@pytest.mark.parametrize(
    ("processes", "strategy", "arguments"),
    [
        (2, "ddp", ()),
        (2, "fsdp", ()),
        (2, "fsdp", ("--tensor_parallel_size", "2", "--model.init_args.activation_checkpointing", "true")),
        (1, "auto", ("--data.init_args.micro_batch_size", "1")),
    ],
)
def test_the_losses_are_those_of_one_process(
    chain: Path, alone: Path, tmp_path: Path, processes: int, strategy: str, arguments: tuple[str, ...]
) -> None:
    root = fresh(chain, tmp_path / "chain", "fine")
    said = fit("fine", root, *arguments, processes=processes, strategy=strategy)
    assert losses(root, "fine") == pytest.approx(losses(alone, "fine"), abs=ROUNDING)
    assert losses(root, "fine", "validation/loss") == pytest.approx(
        losses(alone, "fine", "validation/loss"), abs=ROUNDING
    )
    assert len(losses(root, "fine")) == 8
    assert "A step: 2 windows = " in said
    ours, theirs = (load_stage_checkpoint(r / "fine" / "best.ckpt", stage="fine").weights for r in (root, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    assert is_sharded(root / "fine" / "best.ckpt") == (strategy == "fsdp")


def test_fsdp_trains_in_bfloat16_on_cpus_too(chain: Path, alone: Path, tmp_path: Path) -> None:
    root = fresh(chain, tmp_path / "chain", "fine")
    fit("fine", root, "--trainer.precision", "bf16-mixed", processes=2, strategy="fsdp")
    assert losses(root, "fine") == pytest.approx(losses(alone, "fine"), rel=0.01)  # 8 bits of mantissa: 0.4 %


def test_one_process_goes_on_from_what_two_wrote_and_the_generator_takes_it(
    chain: Path, alone: Path, tmp_path: Path
) -> None:
    root = fresh(chain, tmp_path / "chain", "fine")
    half = ("--trainer.callbacks+=parallel_runs.StopAfterFour",)
    fit("fine", root, *half, processes=2, strategy="fsdp")
    assert sorted(losses(root, "fine")) == [0, 1, 2, 3]
    fit("fine", root, "--ckpt_path", "last", processes=1, strategy="auto")
    assert losses(root, "fine") == pytest.approx(losses(alone, "fine"), abs=ROUNDING)
    best = root / "fine" / "best.ckpt"
    shutil.rmtree(root / "fine")
    fit("fine", root, processes=2, strategy="fsdp")
    assert is_sharded(best)
    fit("fine", root, "--ckpt_path", str(best), processes=2, strategy="fsdp", verb="validate")
    compose(root, root / "generator")
    assert len(AudioLM.from_pretrained(root / "generator").unconditional(seconds=0.4, count=1)[0].audio) == 6400


def test_a_part_of_a_sharded_checkpoint_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").mkdir()
    torch.save({}, tmp_path / "best.ckpt" / "values.pt")
    (tmp_path / "best.ckpt" / "shard-00001.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"best\.ckpt cannot be read.*damaged, or a part of it is missing"):
        read_tensors(tmp_path / "best.ckpt", prefix="state_dict/")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (OSError("the disk is gone"), r"step\.ckpt could not be written by all processes: process 1: the disk is gone"),
    ],
)
def test_a_process_that_cannot_write_its_part_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    """torch's own is a BaseException, which nobody who records or explains failures would see."""

    def refuse(state: Any, *, storage_writer: Any) -> None:
        raise CheckpointException("save", {1: (error, StackSummary())})

    monkeypatch.setattr(sharded_checkpoint.dcp, "save", refuse)
    monkeypatch.setattr(sharded_checkpoint.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(sharded_checkpoint.dist, "barrier", lambda: None)
    with pytest.raises(OSError, match=words):
        sharded_checkpoint.write({"state_dict": {}}, tmp_path / "step.ckpt")
    assert not list(tmp_path.iterdir())


def test_flattened_names_lead_back_to_every_leaf() -> None:
    assert flatten({"a": {"b.c": 1, "d": {}}, "e": [2]}) == {"a/b.c": 1, "a/d": {}, "e": [2]}


def test_the_word_fsdp_means_ddp_for_stages_that_every_process_holds_whole() -> None:
    assert strategy_of("fsdp", stage="codec", shards=False, tensor_parallel_size=1) == "ddp"
    sharded = strategy_of("fsdp", stage="fine", shards=True, tensor_parallel_size=2)
    assert sharded["init_args"] == {"tensor_parallel_size": 2}
    assert strategy_of("auto", stage="fine", shards=True, tensor_parallel_size=1) == "auto"
    with pytest.raises(ValueError, match="fsdp alone can share layers"):
        strategy_of("ddp", stage="fine", shards=True, tensor_parallel_size=2)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded_linear() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    """A matrix divided among the processes, with an optimizer that has taken a step; and a buffer that is a view."""
    model = torch.nn.Linear(4, 6)
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_sharded_checkpoint_is_read_back_with_its_views_and_refused_with_nan_or_damage(
    group: None, tmp_path: Path
) -> None:
    model, optimizer = sharded_linear()
    path = tmp_path / "step.ckpt"

    def write() -> None:
        states = [get_optimizer_state_dict(model, optimizer)]
        state = {"state_dict": get_model_state_dict(model), "optimizer_states": states, "global_step": 3}
        sharded_checkpoint.write(state, path)

    write()
    expected = model.weight.full_tensor().clone()
    torch.nn.init.zeros_(model.weight)
    assert sharded_checkpoint.read_into(path, model, [optimizer])["global_step"] == 3
    assert torch.equal(model.weight.full_tensor(), expected)
    assert torch.equal(sharded_checkpoint.read(path)["state_dict"]["turned"], torch.arange(6.0).view(2, 3).t())
    torch.nn.init.constant_(model.weight, float("nan"))
    write()
    with pytest.raises(ValueError, match=r"step\.ckpt holds NaN or infinite weights, such as weight"):
        sharded_checkpoint.read_into(path, model, [optimizer])
    part = next(path.glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(DamagedError, match="is damaged"):
        sharded_checkpoint.read_into(path, model, [optimizer])
