"""The commands a user types: chain stamps, errors in words, Make's targets, and what the README promises."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tones_and_noise

from audiolm.audio import write_audio
from audiolm.chain import ChainError, check_chain
from audiolm.cli import errors_in_words
from audiolm.devices import choose_device
from audiolm.verbs import run_verb

REPOSITORY = Path(__file__).parents[1]


def test_a_chain_belongs_to_one_corpus_and_one_preset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    root = tmp_path / "root"
    check_chain(root, data=str(data), preset="demo", configs=REPOSITORY)
    check_chain(root, data=str(data), preset="demo", configs=REPOSITORY)
    others = ({"data": "", "preset": "demo"}, {"data": str(data), "preset": "small"})
    for other in (*others, {"data": str(data), "preset": "demo", "codec": "facebook/encodec_24khz"}):
        with pytest.raises(ChainError, match="RUN=NAME"):
            check_chain(root, **other, configs=REPOSITORY)
    stamp = json.loads((root / "chain.json").read_text())
    assert stamp["data"] == str(data)
    assert "stages/demo/codec.yaml" in stamp["configs"]


def test_a_chain_stamped_before_there_were_other_codecs_goes_on(tmp_path: Path) -> None:
    check_chain(tmp_path, data="", preset="demo", configs=REPOSITORY)
    stamp = json.loads((tmp_path / "chain.json").read_text())
    del stamp["codec"]
    (tmp_path / "chain.json").write_text(json.dumps(stamp))
    with pytest.raises(ChainError, match=r"CODEC=\(trained here\) there, some/codec now"):
        check_chain(tmp_path, data="", preset="demo", codec="some/codec", configs=REPOSITORY)
    check_chain(tmp_path, data="", preset="demo", configs=REPOSITORY)


def test_data_that_is_not_there_and_presets_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        check_chain(tmp_path, data="nowhere", preset="demo", configs=REPOSITORY)
    with pytest.raises(ChainError, match="huge"):
        check_chain(tmp_path, data="", preset="huge", configs=REPOSITORY)
    assert not (tmp_path / "chain.json").exists()


def test_errors_are_one_message_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_, errors_in_words():
        raise ValueError("what, why, and what to do")
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("error: what, why, and what to do")


def test_an_error_of_a_nested_setting_shows_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), errors_in_words():
        try:
            raise ValueError("the inner reason")
        except ValueError as inner:
            raise ValueError("Does not validate against any of the Union subtypes") from inner
    assert "error: the inner reason" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (torch.zeros(16000), "silent"),
        (tones_and_noise(1000), "at least 100 ms"),
        (None, "not audio|cannot be read|Cannot"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_with_the_reason(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: torch.Tensor | None, word: str
) -> None:
    prompt = tmp_path / "prompt.wav"
    if content is None:
        prompt.write_bytes(b"these are words, not sounds")
    else:
        write_audio(prompt, content, sample_rate_hz=16000)
    with pytest.raises(SystemExit) as exit_, errors_in_words():
        run_verb(
            ["generate", "--generator", str(chain / "generator"), "--prompt", str(prompt), "--out", str(tmp_path / "o")]
        )
    message = capsys.readouterr().err
    assert exit_.value.code == 1
    assert "prompt.wav" in message
    assert re.search(word, message), message
    assert not (tmp_path / "o").exists()


def test_a_missing_generator_names_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), errors_in_words():
        run_verb(["generate", "--generator", str(tmp_path), "--prompt", "a.wav", "--out", str(tmp_path / "o")])
    assert "audiolm compose" in capsys.readouterr().err


def test_every_way_to_generate_writes_wav_files_of_the_asked_length(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.flac", tones_and_noise(16000), sample_rate_hz=16000)
    common = ["generate", "--generator", str(chain / "generator"), "--out", str(tmp_path / "out"), "--seed", "3"]
    run_verb([*common, "--prompt", str(tmp_path / "a.flac"), str(tmp_path / "b.flac"), "--seconds", "0.5"])
    run_verb([*common, "--seconds", "0.5", "--count", "2"])
    run_verb([*common, "--say", str(tmp_path / "a.flac"), "--voice", str(tmp_path / "b.flac")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a-seed3.wav",
        "b-seed3.wav",
        "free-0-seed3.wav",
        "free-1-seed3.wav",
    }
    assert "1.50 s, of which 1.00 s are the prompt" in capsys.readouterr().out
    with pytest.raises(ValueError, match="one of them"):
        run_verb([*common, "--say", "a.wav", "--prompt", "b.wav"])


def test_a_stage_runs_without_its_progress_bar(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data.manifest", str(chain / "manifest.jsonl"), "--trainer.max_steps", "2"]
    arguments += ["--trainer.val_check_interval", "1", "--trainer.precision", "32-true"]
    run_stage_of("codec", tmp_path / "shown", *arguments)
    assert "codec     step 2/2" in capsys.readouterr().out
    run_stage_of("codec", tmp_path / "hidden", *arguments, "--trainer.enable_progress_bar", "false")
    assert "step" not in capsys.readouterr().out
    assert (tmp_path / "hidden" / "codec" / "done.json").exists()


def make(*arguments: str) -> str:
    result = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_make_help_lists_the_targets_and_knobs() -> None:
    text = make("help")
    for word in (
        "train-all",
        "test",
        "codec",
        "tokens",
        "report",
        "DATA=",
        "PRESET=",
        "CODEC=",
        "RUN=",
        "DEVICES=",
        "STRATEGY=",
    ):
        assert word in text


def test_make_trains_up_to_a_stage_and_no_further() -> None:
    plan = make("--dry-run", "--always-make", "semantic", "RUN=never-made")
    assert "stages/semantic.yaml -c stages/demo/semantic.yaml" in plan
    assert "--root checkpoints/runs/never-made" in plan
    assert "stages/coarse.yaml" not in plan


def test_make_passes_the_knobs_on() -> None:
    plan = make("--dry-run", "--always-make", "fine", "PRESET=paper", "DEVICES=8", "NODES=2", "STRATEGY=ddp", "RUN=x")
    assert "-c stages/fine.yaml --root checkpoints/runs/x" in plan
    assert "--trainer.devices 8 --trainer.num_nodes 2 --trainer.strategy ddp" in plan


def test_make_evaluation_comes_after_the_report_and_passes_its_knobs_on() -> None:
    plan = make("--dry-run", "--always-make", "evaluation", "RUN=x", "ITEMS=a.item", "AUDIO=b c", "EVALUATE=--limit 3")
    command = 'evaluate paper --root checkpoints/runs/x --items "a.item" --audio "b c"'
    assert plan.index("audiolm report --root checkpoints/runs/x") < plan.index(command)
    assert "--limit 3" in plan[plan.index(command) :]
    assert "evaluate paper" not in make("--dry-run", "--always-make", "train-all", "RUN=x")


def test_a_public_codec_takes_the_place_of_the_trained_one() -> None:
    plan = make("--dry-run", "--always-make", "tokens", "CODEC=some/codec", "PRESET=small", "RUN=x")
    assert '--preset small --codec "some/codec"' in plan
    assert "fit -c stages/codec_pretrained.yaml --root" in plan
    assert '--model.name "some/codec"' in plan
    assert "stages/codec.yaml" not in plan
    assert "-c stages/tokenize.yaml -c stages/small/tokenize.yaml" in plan


def test_mfcc_take_the_place_of_the_encoder() -> None:
    for target in ("tokenizer", "asr"):
        plan = make("--dry-run", "--always-make", target, "ENCODER=mfcc", "RUN=x")
        [line] = [line for line in plan.splitlines() if f"fit -c stages/{target}.yaml" in line]
        words = shlex.split(line)
        # a null for one field of it is refused
        assert json.loads(words[words.index("--model.encoder") + 1]) == {"kind": "mfcc", "name": None, "layer": None}
        assert "--model.encoder.layer" not in words
        assert "stages/encoder.yaml" not in plan  # none is trained that nothing hears
    assert "--model.fine_tune false" in line  # nor can one that is not trained here learn


@pytest.mark.parametrize("preset", ["demo", "small", "paper", "piano", "piano-demo"])
def test_what_the_tables_need_is_configured_in_every_preset(preset: str) -> None:
    plan = make("--dry-run", "--always-make", "evaluation-stages", "RUN=x", f"PRESET={preset}", "DATA=d")
    configs = re.findall(r"-c (stages/\S+)", plan)
    assert {"stages/residual_tokenizer.yaml", "stages/detector.yaml", "stages/acoustic.yaml"} <= set(configs)
    assert not [config for config in configs if not (REPOSITORY / config).is_file()]
    assert ("stages/demo/detector.yaml" in configs) == preset.endswith("demo")
    spoken = [line for line in plan.splitlines() if re.search(r"--model.out \S+/generate(-acoustic)?\b", line)]
    assert plan.index("fit -c stages/detector.yaml") < plan.index("compose --root checkpoints/runs/x --detector")
    assert len(spoken) == 2
    for line in spoken:  # the paper's prompts of piano
        assert ("--model.prompt_seconds 4" in line) == preset.startswith("piano")


def test_what_slurm_does_not_run_says_so() -> None:
    words = ["make", "--no-print-directory", "evaluation", "SLURM=1"]
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode
    assert "without SLURM=1" in result.stderr


def test_the_readmes_commands_exist() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", text)) - {"and"} <= targets
    for config in re.findall(r"-c (\S+\.yaml)", text):
        assert (REPOSITORY / config).is_file(), config
    for verb in set(re.findall(r"^\s+(?:\S*/)?audiolm ([a-z-]+)", text, flags=re.MULTILINE)):
        with pytest.raises(SystemExit) as exit_:
            run_verb([verb, "--help"])
        assert exit_.value.code == 0
    for page in re.findall(r"\]\(([\w/.-]+)\)", text):
        assert (REPOSITORY / page).exists(), page


def test_the_module_is_the_command_and_hands_trainer_verbs_on() -> None:
    for arguments, word in ((["--help"], "demo-corpus"), (["fit", "--help"], "--root")):
        result = subprocess.run(
            [sys.executable, "-m", "audiolm", *arguments], capture_output=True, text=True, cwd=REPOSITORY
        )
        assert result.returncode == 0
        assert word in result.stdout


@pytest.mark.parametrize("name", ["gpu0", "cuda:99", "mps", "meta"])
@pytest.mark.parametrize(
    "words",
    [
        ["detect", "AUDIO", "--generator", "GENERATOR"],
        ["generate", "--generator", "GENERATOR", "--out", "OUT"],
        ["evaluate", "detector", "--root", "OUT"],
        ["evaluate", "speaker", "--root", "OUT"],
        ["evaluate", "asr", "--root", "OUT"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_device_that_is_not_there_is_refused_by_name(words: list[str], name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--device {name} .*give auto, cpu, cuda"):
        run_verb([word.replace("OUT", str(tmp_path / "out")) for word in words] + ["--device", name])
    assert not (tmp_path / "out").exists()


def test_auto_and_the_cpu_are_always_there() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
