"""The baseline without units: it continues as the hierarchy does, says what it cannot do, and has a folder of its own."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, tiny_generator, tones_and_noise

from audiolm.files import write_json
from audiolm.generator import AudioLM, Sampling, StageSampling
from audiolm.generator.codes import CodeWriter
from audiolm.generator.folder import GeneratorError, generator_digest
from audiolm.generator.rows import Draws, Row
from audiolm.generator.streams import RandomStream
from audiolm.lm import decoding
from audiolm.lm.sampling import sample_next
from audiolm.verbs import run_verb

WINDOWS = (1.0, 0.8, 0.3)  # of units (unused), codes, fine chunks


@pytest.fixture(scope="module")
def generator() -> AudioLM:
    return tiny_generator(acoustic_only=True)


@pytest.fixture(scope="module")
def sliding() -> AudioLM:
    return tiny_generator(windows=WINDOWS, acoustic_only=True, double=True)


def written_slowly(generator: AudioLM, codes: torch.Tensor, *, frames: int, seed: int, id_: str) -> torch.Tensor:
    """Coarse codes (coarse levels, frames): one token after the other from the uncached model, window by window.

    A window holds the last half window of codes, in whole blocks of two frames; all of them if they are not more.
    """
    stage = generator.stages["acoustic"]
    window = round(stage.window_seconds * 50) // 2 * 2
    numbers = RandomStream(seed, id_, "acoustic").draw(frames * SPEC.coarse_levels).tolist()
    coarse = codes[: SPEC.coarse_levels]
    used = 0
    while coarse.shape[1] < frames:
        done = coarse.shape[1]
        context = coarse if frames <= window or done <= window // 2 else coarse[:, -(window // 2 // 2 * 2) :]
        new = frames - done if frames <= window else min(window - context.shape[1], frames - done)
        tokens = [0] + [
            2 + level * SPEC.codebook_size + int(context[level, frame])
            for frame in range(context.shape[1])
            for level in range(SPEC.coarse_levels)
        ]
        drawn: list[list[int]] = [[] for _ in range(SPEC.coarse_levels)]
        for _ in range(new):
            for level in range(SPEC.coarse_levels):
                allowed = torch.zeros(stage.layout.vocabulary, dtype=torch.bool)
                first = 2 + level * SPEC.codebook_size
                allowed[first : first + SPEC.codebook_size] = True
                logits = stage.model(torch.tensor([tokens]))[:, -1]
                uniform = torch.tensor([numbers[used]], dtype=torch.float64)
                tokens.append(int(sample_next(logits, allowed=allowed, sampling=Sampling(0.8), uniform=uniform)))
                drawn[level].append(tokens[-1] - first)
                used += 1
        coarse = torch.cat([coarse, torch.tensor(drawn)], dim=1)
    return coarse


@pytest.mark.parametrize("prompt_frames", [0, 6, 30, 70])
def test_codes_are_those_of_the_uncached_loop_across_all_windows(sliding: AudioLM, prompt_frames: int) -> None:
    codes = torch.randint(SPEC.codebook_size, (SPEC.levels, prompt_frames), generator=torch.Generator().manual_seed(1))
    frames = prompt_frames + 65
    none = torch.zeros(0, dtype=torch.int64)
    row = Row("a", none, 0, codes, codes[: SPEC.coarse_levels], frames, frames * SPEC.hop_samples)
    with torch.inference_mode():
        CodeWriter(sliding.stages["acoustic"], [row], draws=Draws(5, StageSampling())).write()
        expected = written_slowly(sliding, codes, frames=frames, seed=5, id_="a")
    assert torch.equal(row.coarse, expected)


@settings(deadline=None, max_examples=10)
@given(seconds=st.floats(0.01, 1.5), prompt_samples=st.sampled_from([1700, 8000, 8001, 20000]))
def test_seconds_asked_for_are_delivered_to_the_sample_and_the_prompt_keeps_its_codes(
    sliding: AudioLM, seconds: float, prompt_samples: int
) -> None:
    prompt = tones_and_noise(prompt_samples)
    result = sliding.continue_([prompt], seconds=seconds)[0]
    assert result.prompt_samples == prompt_samples // 640 * 640  # as the hierarchy cuts it
    assert len(result.audio) == result.prompt_samples + round(seconds * 16000)
    assert result.codes.shape == (SPEC.levels, math.ceil(len(result.audio) / 320))
    frames = result.prompt_samples // 320
    assert torch.equal(result.codes[:, :frames], sliding.codec.encode(prompt[None, : result.prompt_samples])[0])
    assert len(result.units) == 0


def test_a_continuation_is_a_function_of_seed_id_and_prompt(generator: AudioLM) -> None:
    prompt = tones_and_noise(8000)
    first = generator.continue_([prompt], seconds=0.5, seed=3, ids=["a"])[0].audio
    assert torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=3, ids=["a"])[0].audio)
    assert not torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=4, ids=["a"])[0].audio)
    assert not torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=3, ids=["b"])[0].audio)


def test_a_batch_is_as_one_by_one_and_a_stream_as_both(sliding: AudioLM) -> None:
    prompts = [tones_and_noise(samples, seed=samples) for samples in (4000, 9000, 20000)]
    together = sliding.continue_(prompts, seconds=1.1, ids=["a", "b", "c"])
    for name, prompt, expected in zip("abc", prompts, together, strict=True):
        alone = sliding.continue_([prompt], seconds=1.1, ids=[name])[0]
        assert torch.equal(alone.codes, expected.codes)
        streamed = torch.cat(list(sliding.stream(prompt, seconds=1.1, id=name)))
        assert torch.allclose(streamed, expected.audio[expected.prompt_samples :], atol=1e-5)


def test_it_speaks_freely_and_may_end_early(sliding: AudioLM) -> None:
    results = sliding.unconditional(seconds=1.5, count=3)
    assert [len(result.audio) for result in results] == [24000] * 3
    assert len({tuple(result.codes.flatten().tolist()) for result in results}) == 3
    eager = tiny_generator(windows=WINDOWS, acoustic_only=True)
    stage = eager.stages["acoustic"]
    with torch.no_grad():
        stage.model.head.weight[stage.layout.end_id] *= 0
    sampling = StageSampling(coarse=Sampling(5))
    ended = eager.unconditional(seconds=3.0, count=6, sampling=sampling, stop_at_end=True)
    assert any(len(result.audio) < 48000 for result in ended)


def test_no_window_is_longer_than_the_one_it_was_trained_on(sliding: AudioLM, monkeypatch: pytest.MonkeyPatch) -> None:
    longest, real = [0], decoding.Decoder.__init__

    def watched(self, transformer, layout, prefixes, *, steps, **arguments):
        if layout.stage == "acoustic":
            longest[0] = max(longest[0], max(map(len, prefixes)) + steps)
        real(self, transformer, layout, prefixes, steps=steps, **arguments)

    monkeypatch.setattr(decoding.Decoder, "__init__", watched)
    sliding.continue_([tones_and_noise(32000)], seconds=3.0)
    assert longest[0] == 40 * SPEC.coarse_levels + 1  # 0.8 s, and the begin token


def test_what_needs_units_is_refused_with_the_remedy(generator: AudioLM) -> None:
    audio = tones_and_noise(8000)
    for wanted in (
        lambda: generator.resynthesize([audio]),
        lambda: generator.log_likelihood([torch.tensor([1, 2])]),
        lambda: generator.log_likelihood_of_audio([audio]),
    ):
        with pytest.raises(ValueError, match=r"needs units, and this generator is acoustic only.*make generator"):
            wanted()


def test_stages_that_make_no_generator_are_refused() -> None:
    hierarchy, baseline = tiny_generator(), tiny_generator(acoustic_only=True)
    common = {"spec": SPEC, "codec": baseline.codec}
    mixed = hierarchy.stages | baseline.stages
    with pytest.raises(ValueError, match="coarse, fine, semantic or acoustic, fine, got acoustic, coarse, fine, sem"):
        AudioLM(**common, stages=mixed, tokenizer=hierarchy.tokenizer, units_per_second=11.3)
    with pytest.raises(ValueError, match="a hierarchy has a tokenizer"):
        AudioLM(**common, stages=hierarchy.stages, tokenizer=None, units_per_second=None)
    with pytest.raises(ValueError, match="an acoustic-only generator has neither"):
        AudioLM(**common, stages=baseline.stages, tokenizer=hierarchy.tokenizer, units_per_second=11.3)


@pytest.fixture(scope="module")
def trained(chain: Path, run_stage_of: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain with an acoustic stage, and its two generators."""
    root = Path(shutil.copytree(chain, tmp_path_factory.mktemp("baseline") / "chain"))
    run_stage_of("acoustic", root, "--trainer.precision", "32-true")
    run_verb(["compose", "--acoustic-only", "--root", str(root)])
    return root


def test_the_stage_is_composed_into_a_folder_that_speaks(trained: Path) -> None:
    folder = trained / "generator-acoustic"
    names = {path.name for path in folder.iterdir()}
    assert names == {"codec.safetensors", "acoustic.safetensors", "fine.safetensors", "config.json", "README.md"}
    model, card = AudioLM.from_pretrained(folder), (folder / "README.md").read_text()
    assert model.acoustic_only
    assert "the paper's baseline" in card
    assert "| acoustic |" in card
    assert "semantic" not in card
    hierarchy = AudioLM.from_pretrained(trained / "generator")
    assert model.spec == hierarchy.spec
    assert generator_digest(folder) != generator_digest(trained / "generator")
    prompt = tones_and_noise(9000)
    theirs, ours = (speaker.continue_([prompt], seconds=0.5)[0] for speaker in (hierarchy, model))
    assert theirs.prompt_samples == ours.prompt_samples
    frames = ours.prompt_samples // 320
    assert torch.equal(theirs.codes[:, :frames], ours.codes[:, :frames])  # the same prompt, through the same codec


def test_the_generate_stage_takes_it_and_refuses_what_needs_units(
    trained: Path, run_stage_of: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from audiolm.cli import errors_in_words

    folder = str(trained / "generator-acoustic")
    options = ("--model.generator", folder, "--model.out", str(tmp_path / "out"), "--model.prompt_seconds", "0.5")
    run_stage_of("generate", trained, *options, "--model.seconds", "0.4", verb="predict")
    rows = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.wav.json")]
    assert rows
    assert {row["generator"] for row in rows} == {generator_digest(Path(folder))}
    options = ("--model.generator", folder, "--model.out", str(tmp_path / "again"), "--model.mode", "resynthesize")
    with pytest.raises((SystemExit, ValueError)), errors_in_words():
        run_stage_of("generate", trained, *options, verb="predict")
    assert "acoustic only" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_folder_that_is_neither_kind_is_refused(trained: Path, tmp_path: Path) -> None:
    whole = json.loads((trained / "generator-acoustic" / "config.json").read_text())
    hierarchy = json.loads((trained / "generator" / "config.json").read_text())
    for changes, complaint in (
        ({"tokenizer": hierarchy["tokenizer"], "units_per_second": 9.0}, "unknown .*tokenizer"),
        ({"stages": whole["stages"] | {"coarse": hierarchy["stages"]["coarse"]}}, "has the stages"),
        ({"stages": {"fine": whole["stages"]["fine"]}}, "lacks or misnames .*tokenizer"),
        ({"stages": 3}, "lacks or misnames .*stages"),
    ):
        folder = Path(shutil.copytree(trained / "generator-acoustic", tmp_path / "folder", dirs_exist_ok=True))
        write_json(folder / "config.json", whole | changes)
        with pytest.raises(GeneratorError, match=complaint):
            AudioLM.from_pretrained(folder)


def test_without_an_acoustic_stage_compose_says_what_to_run(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make acoustic"):
        run_verb(["compose", "--acoustic-only", "--root", str(chain), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_both_generators_are_judged_and_heard_side_by_side(
    trained: Path, run_stage_of: Callable[..., None], tmp_path: Path
) -> None:
    """The commands of the README, from prompts to the likelihood of units and the page for raters."""
    folders = {"hierarchy": "generator", "acoustic-only": "generator-acoustic"}
    for name, generator in folders.items():
        options = ("--model.generator", str(trained / generator), "--model.out", str(tmp_path / name))
        run_stage_of("generate", trained, *options, "--model.seconds", "0.5", verb="predict")
    paths = [str(tmp_path / name) for name in folders]
    run_verb(
        ["evaluate", "likelihood", *paths, "--root", str(trained), "--device", "cpu", "--out", str(tmp_path / "l")]
    )
    summary = json.loads((tmp_path / "l" / "summary.json").read_text())
    assert [row["system"] for row in summary["rows"]] == ["hierarchy", "acoustic-only", "real"]
    assert len({row["prompts"] for row in summary["rows"]}) == 1
    arguments = ["--a", paths[0], "--b", paths[1], "--seconds", "0.9", "--seed", "1", "--out", str(tmp_path / "test")]
    run_verb(["evaluate", "listening-test", "make", *arguments])
    assert (tmp_path / "test" / "listening-test.html").exists()
    items = json.loads((tmp_path / "test" / "key.json").read_text())["items"]
    assert len(items) == summary["rows"][0]["files"]


def test_a_chain_whose_levels_are_all_coarse_has_both_generators_and_results(
    chain: Path, run_stage_of: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for piano: no fine stage anywhere."""
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    for stage in ("tokens", "semantic", "coarse", "fine"):
        shutil.rmtree(root / stage)
    run_stage_of("tokenize", root, "--model.coarse_levels", str(SPEC.levels))
    for stage in ("semantic", "coarse", "acoustic"):
        run_stage_of(stage, root, "--trainer.precision", "32-true")
    for options in ([], ["--acoustic-only"]):
        run_verb(["compose", "--root", str(root), *options])
    for name in ("generator", "generator-acoustic"):
        model = AudioLM.from_pretrained(root / name)
        assert "fine" not in model.stages
        result = model.continue_([tones_and_noise(9000)], seconds=0.5)[0]
        assert len(result.audio) == result.prompt_samples + 8000
    run_verb(["results", "--root", str(root)])
    printed = capsys.readouterr().out
    assert "| acoustic |" in printed
    assert "| fine |" not in printed
