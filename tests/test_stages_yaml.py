"""Every stage YAML is a command that works: it parses, and runs at tiny size; what it names must exist."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from audiolm.cli import base_config

REPOSITORY = Path(__file__).parents[1]
YAMLS = sorted((REPOSITORY / "stages").rglob("*.yaml"))
PRESETS = ["paper", "small", "demo"]
STAGES = ["codec", "encoder", "tokenizer", "tokenize", "semantic", "coarse", "fine", "acoustic"]
RECOGNISERS = ["asr"]
OF_TABLE_1 = ["residual_tokenizer", "detokenizer_units", "detokenizer_codes", "detokenizer_all_codes"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_configures_every_stage(preset: str) -> None:
    folder = REPOSITORY / "stages" / ("" if preset == "paper" else preset)
    assert {path.stem for path in folder.glob("*.yaml")} >= set(STAGES)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_stage_yaml_opens_with_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    if path.parent.name == "stages":
        assert "reads" in first
        assert "writes" in first


@pytest.mark.parametrize("stage", STAGES + OF_TABLE_1 + RECOGNISERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_stage_of_every_preset_runs_at_tiny_size(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], preset: str, stage: str
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / ("tokens" if stage == "tokenize" else stage), ignore_errors=True)
    run_stage_of(stage, root, presets=() if preset == "paper" else (preset,))
    assert (root / ("tokens" if stage == "tokenize" else stage) / "done.json").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_residual_units_are_decoded_in_every_preset(
    residual_chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], preset: str
) -> None:
    root = Path(shutil.copytree(residual_chain, tmp_path / "chain"))
    run_stage_of("detokenizer_residual", root, presets=() if preset == "paper" else (preset,))
    assert (root / "detokenizer_residual" / "done.json").exists()


def test_residual_units_have_the_papers_bitrate() -> None:
    tokenizer = yaml.safe_load((REPOSITORY / "stages" / "tokenizer.yaml").read_text())
    residual = yaml.safe_load((REPOSITORY / "stages" / "residual_tokenizer.yaml").read_text())
    arguments = residual["model"]["init_args"]
    assert arguments["levels"] * 10 * 25 == 6000  # 10 bits of 1024, 25 Hz
    for name in ("clusters", "max_frames"):
        assert arguments[name] == tokenizer["model"]["init_args"][name]
    assert (residual["data"], residual["trainer"]) == (tokenizer["data"], tokenizer["trainer"])  # the same frames


@pytest.mark.parametrize(("preset", "entries"), [("piano", 16384), ("piano-demo", 1024)])
def test_piano_has_three_levels_and_no_fine_stage(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], preset: str, entries: int
) -> None:
    folder = REPOSITORY / "stages" / preset
    assert {path.stem for path in folder.glob("*.yaml")} == set(STAGES) - {"fine"}
    codec = yaml.safe_load((folder / "codec.yaml").read_text())["model"]["init_args"]["codec"]
    assert (codec["levels"], codec["codebook_size"]) == (3, entries)
    assert yaml.safe_load((folder / "tokenize.yaml").read_text())["model"]["init_args"] == {"coarse_levels": 3}
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    shutil.rmtree(root / "codec")
    run_stage_of("codec", root, presets=(preset,))
    assert (root / "codec" / "done.json").exists()
    run_stage_of("acoustic", root, presets=(preset,))
    assert (root / "acoustic" / "done.json").exists()


def test_the_baseline_differs_from_the_coarse_stage_in_its_units_alone() -> None:
    """Same model, window, optimizer and steps: what a comparison finds is due to the units."""
    for preset in ("", "demo", "small", "piano", "piano-demo"):
        folder = REPOSITORY / "stages" / preset
        coarse, acoustic = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("coarse", "acoustic"))
        if not preset:
            assert acoustic["model"]["init_args"].pop("stage") == "acoustic"
            assert coarse["model"]["init_args"].pop("stage") == "coarse"
        assert acoustic == coarse


def test_the_piano_of_minutes_trains_its_codec_without_discriminators() -> None:
    config = yaml.safe_load((REPOSITORY / "stages" / "piano-demo" / "codec.yaml").read_text())
    assert config["model"]["init_args"]["discriminator_start"] > config["trainer"]["max_steps"]


def test_without_data_a_stage_says_what_to_run(
    tmp_path: Path, run_stage_of: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from audiolm.cli import errors_in_words

    missing = {
        "codec": "audiolm prepare",
        "encoder": "audiolm prepare",
        "tokenizer": "make encoder",
        "fine": "make tokens",
    }
    for stage, word in missing.items():
        with pytest.raises(SystemExit) as exit_, errors_in_words():
            run_stage_of(stage, tmp_path)
        assert exit_.value.code == 1
        assert word in capsys.readouterr().err


def test_a_key_that_does_not_exist_is_refused_by_name(
    chain: Path, run_stage_of: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_stage_of("fine", chain, "--model.init_args.learning_rat", "1")
    assert exit_.value.code != 0
    assert "learning_rat" in capsys.readouterr().err


def test_the_base_configuration_is_found_from_anywhere_or_missed_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        base_config(["fit", "-c", str(REPOSITORY / "stages" / "demo" / "fine.yaml")]) == REPOSITORY / "lightning.yaml"
    )
    (tmp_path / "lightning.yaml").write_text("trainer: {}")
    (tmp_path / "mine").mkdir()
    assert base_config(["fit", "-c", "mine/fine.yaml"]) == tmp_path / "lightning.yaml"
    (tmp_path / "lightning.yaml").unlink()
    monkeypatch.setattr("audiolm.cli.__file__", str(tmp_path / "site" / "packages" / "cli.py"))
    with pytest.raises(FileNotFoundError, match="lightning.yaml"):
        base_config(["fit"])


def test_the_paper_presets_have_the_papers_numbers() -> None:
    sizes = {"layers": 12, "heads": 16, "dim": 1024, "feed_forward": 4096, "dropout": 0.1}
    for stage, seconds in (("semantic", 30), ("coarse", 10), ("fine", 3)):
        config = yaml.safe_load((REPOSITORY / "stages" / f"{stage}.yaml").read_text())
        assert config["model"]["init_args"]["transformer"] == sizes
        assert config["data"]["init_args"]["window_seconds"] == seconds
        assert config["trainer"]["max_steps"] == 1_000_000
    codec = yaml.safe_load((REPOSITORY / "stages" / "codec.yaml").read_text())["model"]["init_args"]["codec"]
    assert (codec["channels"], codec["strides"], codec["levels"], codec["codebook_size"]) == (
        32,
        [2, 4, 5, 8],
        12,
        1024,
    )
