"""A tiny chain, made once: a corpus of tones and noise, every stage trained for a few steps, a generator, samples."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tones_and_noise

from audiolm.audio import write_audio
from audiolm.corpus import prepare

REPOSITORY = Path(__file__).parents[1]
STAGES = ("codec", "encoder", "tokenizer", "tokenize", "semantic", "coarse", "fine")

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers, two files of 1.5 to 3 s each, as a plain folder of audio, with a table of transcripts."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [f"speaker{speaker}/{number}\tTONE {'AB'[number]}" for speaker in range(6) for number in range(2)]
    (folder / "utterances.tsv").write_text("\n".join(["utterance\ttext", *rows, ""]))
    for speaker in range(6):
        for number in range(2):
            audio = tones_and_noise(24000 + 2000 * (speaker + number), seed=10 * speaker + number)
            write_audio(folder / f"speaker{speaker}" / f"{number}.flac", audio, sample_rate_hz=16000)
    return folder


@pytest.fixture(scope="session")
def run_stage_of() -> Callable[..., None]:
    """Runs `lightning fit|predict` in this process: paper configuration, overlays, tiny overlay, further arguments."""
    from audiolm.stage_cli import run_stage

    def run(stage: str, root: Path, *arguments: str, presets: tuple[str, ...] = (), verb: str = "") -> None:
        verb = verb or ("predict" if stage == "tokenize" else "fit")
        configs = [REPOSITORY / "stages" / f"{stage}.yaml"]
        configs += [REPOSITORY / "stages" / preset / f"{stage}.yaml" for preset in presets]
        configs += [REPOSITORY / "tests" / "tiny_stages" / f"{stage}.yaml"]
        command = [verb, *(part for config in configs for part in ("-c", str(config))), "--root", str(root)]
        run_stage(REPOSITORY / "lightning.yaml", [*command, "--trainer.accelerator", "cpu", *arguments])

    return run


@pytest.fixture(scope="session")
def chain(tone_corpus: Path, run_stage_of: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a complete tiny chain. Do not change it: copy it."""
    from audiolm.evaluation.samples import write_samples
    from audiolm.generator.folder import compose

    root = tmp_path_factory.mktemp("chain")
    prepare(tone_corpus, root)
    for stage in STAGES:
        run_stage_of(stage, root, "--trainer.precision", "32-true")
    compose(root, root / "generator")
    write_samples(root, seconds=0.5, prompt_seconds=0.5, count=2)
    return root


@pytest.fixture(scope="session")
def residual_chain(chain: Path, run_stage_of: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chain with residual units. Do not change it: copy it."""
    root = Path(shutil.copytree(chain, tmp_path_factory.mktemp("residual") / "chain"))
    run_stage_of("residual_tokenizer", root, "--trainer.precision", "32-true")
    return root
