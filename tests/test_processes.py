"""Two processes do what one does: every utterance tokenized once, and equal weights on every rank."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tones_and_noise

from audiolm.audio import write_audio
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


def test_two_processes_generate_what_one_does(chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]) -> None:
    prompts = tmp_path / "prompts"
    for number in range(5):  # three batches of at most two: one process has one batch less than the other
        audio = tones_and_noise(9000 + 1500 * number, seed=number)
        write_audio(prompts / f"{number}.wav", audio, sample_rate_hz=16000)
    arguments = ("--model.prompts", str(prompts), "--trainer.precision", "32-true", "--model.out")
    run_stage_of("generate", chain, *arguments, str(tmp_path / "one"), verb="predict")
    run_on_two("predict", "generate", chain, *arguments, str(tmp_path / "two"))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).glob("*.wav")} for name in ("one", "two"))
    assert len(one) == 5
    assert one == two
    assert json.loads((tmp_path / "two" / "done.json").read_text())["processes"] == 2
    assert len((tmp_path / "two" / "generated.jsonl").read_text().splitlines()) == 5


def test_what_stops_the_first_process_from_generating_stops_all_with_its_words(chain: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "prompts" / "silent.wav", torch.zeros(16000), sample_rate_hz=16000)
    arguments = ("--model.prompts", str(tmp_path / "prompts"), "--model.out", str(tmp_path / "out"))
    with pytest.raises(AssertionError, match="1 of 1 prompts cannot be used"):
        run_on_two("predict", "generate", chain, *arguments)


@pytest.mark.parametrize("stage", ["codec", "encoder", "tokenizer", "fine"])
def test_two_processes_train_one_model(chain: Path, tmp_path: Path, stage: str) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / stage)
    run_on_two("fit", stage, root, "--trainer.callbacks+=processes.RankWeights")
    ranks = [torch.load(root / stage / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys()
    differing = [name for name in ranks[0] if not torch.equal(ranks[0][name], ranks[1][name])]
    assert not differing
