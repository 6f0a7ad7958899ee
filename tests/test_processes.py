"""Two processes do what one does: every utterance tokenized once, and equal weights on every rank."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audiolm.tokens.store import TokenStore

REPOSITORY = Path(__file__).parents[1]


def run_on_two(verb: str, stage: str, root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "audiolm", verb]
    command += ["-c", f"stages/{stage}.yaml", "-c", f"tests/tiny_stages/{stage}.yaml", "--root", str(root)]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    command += ["--trainer.precision", "32-true", *arguments]
    path = os.pathsep.join(filter(None, [str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_two_processes_tokenize_every_utterance_once_and_alike(chain: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / "tokens")
    run_on_two("predict", "tokenize", root)
    one, two = TokenStore(chain / "tokens"), TokenStore(root / "tokens")
    assert len(list((root / "tokens" / "parts").glob("rank*.jsonl"))) == 2
    assert two.ids == one.ids
    for row in range(len(one)):
        assert torch.equal(one.units(row), two.units(row))
        assert torch.equal(one.codes(row), two.codes(row))


@pytest.mark.parametrize("stage", ["codec", "encoder", "tokenizer", "fine"])
def test_two_processes_train_one_model(chain: Path, tmp_path: Path, stage: str) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / stage)
    run_on_two("fit", stage, root, "--trainer.callbacks+=processes.RankWeights")
    ranks = [torch.load(root / stage / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys()
    differing = [name for name in ranks[0] if not torch.equal(ranks[0][name], ranks[1][name])]
    assert not differing
