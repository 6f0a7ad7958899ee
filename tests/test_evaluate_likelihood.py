"""`audiolm evaluate likelihood`: scores against the loop, means and tests by hand, restarts, and its errors."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, tiny_generator, tones_and_noise, write_tiny_generator
from torch import Tensor

from audiolm.audio import read_audio, write_audio
from audiolm.evaluation import unit_likelihoods
from audiolm.evaluation.passages import continuations
from audiolm.evaluation.unit_likelihood_table import compare
from audiolm.evaluation.unit_likelihoods import UnitLikelihood, measure_unit_likelihoods
from audiolm.files import write_json
from audiolm.generator import AudioLM
from audiolm.tokens.layout import remove_repeats
from audiolm.verbs import run_verb

RATE, PROMPT, WHOLE = 16000, 9600, 24000


@pytest.fixture(scope="module")
def judge() -> AudioLM:
    return tiny_generator()


def one_by_one(judge: AudioLM, given_units: list[int], units: list[int]) -> tuple[float, int]:
    """Log likelihood and number of the units after the given ones: one pass of the model for each."""
    said, nats, count = [], 0.0, 0
    model = judge.stages["semantic"].model
    for place, unit in enumerate([*given_units, *units]):
        if said and unit == said[-1]:
            continue
        if place >= len(given_units):
            logits = model(torch.tensor([[SPEC.clusters + 1, *said]]))[0, -1, : SPEC.clusters + 1].double()
            if said:
                logits[said[-1]] = -torch.inf
            nats, count = nats + float(logits.log_softmax(0)[unit]), count + 1
        said.append(unit)
    return nats, count


@settings(deadline=None, max_examples=30)
@given(
    before=st.lists(st.integers(0, SPEC.clusters - 1), min_size=1, max_size=8),
    units=st.lists(st.integers(0, SPEC.clusters - 1), min_size=1, max_size=8),
)
def test_the_likelihood_of_units_given_others_is_the_loops_and_that_of_all_without_that_of_those(
    judge: AudioLM, before: list[int], units: list[int]
) -> None:
    with torch.inference_mode():
        nats, count = one_by_one(judge, before, units)
    pair = torch.tensor(before), torch.tensor(units)
    if not count:
        with pytest.raises(ValueError, match="nothing is to be scored"):
            judge.log_likelihood([pair[1]], given=[pair[0]])
        return
    scores = judge.log_likelihood([pair[1]], given=[pair[0]])
    assert int(scores.tokens) == count
    assert float(scores.sum) == pytest.approx(nats, abs=1e-4)
    both = judge.log_likelihood([torch.cat(pair), pair[0]])
    assert float(both.sum[0] - both.sum[1]) == pytest.approx(nats, abs=1e-4)


def write_continuation(folder: Path, id_: str, audio: Tensor, *, recording: Path) -> None:
    """As the generate stage writes one."""
    write_audio(folder / f"{id_}.wav", audio, sample_rate_hz=RATE)
    row = {"id": id_, "mode": "continue", "generator": folder.name, "sampling": {}, "prompt_start": 0}
    row |= {"prompt_sha256": hashlib.sha256(recording.read_bytes()).hexdigest(), "prompt_file_samples": PROMPT}
    write_json(folder / f"{id_}.wav.json", row | {"prompt_samples": PROMPT, "samples": len(audio)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three recordings, two folders of continuations of them, and a second seed of the first; a generator."""
    for number in range(3):
        audio = tones_and_noise(WHOLE + 4000, seed=number)
        path = tmp_path / "recordings" / f"{number}.flac"
        write_audio(path, audio, sample_rate_hz=RATE)
        for place, name in enumerate(("hierarchy", "seed-1", "acoustic")):
            other = tones_and_noise(WHOLE - PROMPT, seed=10 + 5 * place + number)
            write_continuation(tmp_path / name, str(number), torch.cat([audio[:PROMPT], other]), recording=path)
    for path in (tmp_path / "seed-1").glob("*.json"):
        write_json(path, json.loads(path.read_text()) | {"generator": "hierarchy"})
    write_tiny_generator(tmp_path / "generator")
    return tmp_path


@pytest.fixture
def evaluate(data: Path) -> Callable[..., Path]:
    def run(*arguments: str) -> Path:
        common = ["--root", str(data), "--device", "cpu", "--out", str(data / "out")]
        run_verb(["evaluate", "likelihood", *arguments, *common])
        return data / "out"

    return run


def folders(data: Path) -> list[str]:
    return [f"hierarchy={data / 'hierarchy'}", f"hierarchy={data / 'seed-1'}", str(data / "acoustic")]


def test_the_verb_scores_every_file_as_the_loop_does(
    evaluate: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = evaluate(*folders(data), "--data", str(data / "recordings"))
    judge = AudioLM.from_pretrained(data / "generator")
    rows = {(row.system, row.file): row for row in unit_likelihoods.read_unit_likelihoods(out / "files.csv")}
    assert len(rows) == 12  # 2 seeds of 3, 3, and 3 real
    for name, file, path in (
        ("hierarchy", "2:1.wav", data / "seed-1" / "1.wav"),
        ("acoustic", "0.wav", data / "acoustic" / "0.wav"),
        ("real", "2.flac", data / "recordings" / "2.flac"),
    ):
        audio = read_audio(path, sample_rate_hz=RATE)[:WHOLE]
        if name == "real":
            audio = judge.codec.decode(judge.codec.encode(audio[None]))[0, :WHOLE]
        units = judge.tokenizer.encode(audio[None])[0].tolist()
        with torch.inference_mode():
            nats, count = one_by_one(judge, units[: PROMPT // 640], units[PROMPT // 640 :])
        assert rows[name, file].units == count
        assert rows[name, file].log_likelihood == pytest.approx(nats, abs=1e-3)
    summary = json.loads((out / "summary.json").read_text())
    assert [row["system"] for row in summary["rows"]] == ["hierarchy", "acoustic", "real"]
    assert [row["files"] for row in summary["rows"]] == [6, 3, 3]
    assert [(row["first"], row["second"]) for row in summary["differences"]] == [
        ("hierarchy", "acoustic"),
        ("hierarchy", "real"),
        ("acoustic", "real"),
    ]
    assert "The judge is the hierarchy's own" in summary["note"]
    assert {path.name for path in out.iterdir()} == {
        "settings.json",
        "files.csv",
        "summary.json",
        "summary.csv",
        "differences.csv",
        "likelihood.svg",
    }
    printed = capsys.readouterr().out
    assert "Prompt by prompt" in printed
    assert "hierarchy − acoustic" in printed


def test_means_differences_and_sign_test_by_hand() -> None:
    rows = [
        UnitLikelihood("a", "1", "x", 2, -2.0),
        UnitLikelihood("a", "2", "x", 4, -12.0),  # another seed of x: -1 and -3, mean -2
        UnitLikelihood("a", "3", "y", 1, -4.0),
        UnitLikelihood("a", "4", "z", 1, -1.0),
        UnitLikelihood("b", "1", "x", 1, -3.0),
        UnitLikelihood("b", "2", "y", 1, -4.0),
        UnitLikelihood("b", "3", "z", 0, None),
    ]
    table = compare(rows)
    a, b = table.systems
    assert a.per_unit == pytest.approx(-7 / 3)
    assert a.standard_error == pytest.approx(math.sqrt(((1 / 3) ** 2 + (5 / 3) ** 2 + (4 / 3) ** 2) / 2 / 3))
    assert a.pooled_per_unit == pytest.approx(-19 / 8)
    assert (a.prompts, a.files, a.empty, a.units) == (3, 4, 0, 8)
    assert (b.prompts, b.files, b.empty, b.per_unit) == (2, 2, 1, -3.5)
    (pair,) = table.differences
    assert (pair.prompts, pair.first_likelier, pair.second_likelier) == (2, 1, 0)  # y is equal
    assert pair.difference == pytest.approx(0.5)
    assert pair.standard_error == pytest.approx(0.5)
    assert pair.p_two_sided == 1


def test_ten_of_ten_prompts_are_significant() -> None:
    rows = [UnitLikelihood(s, str(n), str(n), 1, -1.0 - (s == "b")) for s in "ab" for n in range(10)]
    assert compare(rows).differences[0].p_two_sided == pytest.approx(2 / 2**10)


def test_a_killed_run_goes_on_and_gives_the_same(
    evaluate: Callable[..., Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = evaluate(*folders(data), "--without-real")
    whole = (out / "files.csv").read_bytes()
    (out / "files.csv").write_bytes(whole[: len(whole) * 2 // 3])  # in the middle of a row
    scored, real = [], unit_likelihoods._scored
    monkeypatch.setattr(unit_likelihoods, "_scored", lambda *given: scored.append(given) or real(*given))
    evaluate(*folders(data), "--without-real")
    assert 0 < len(scored) < 9
    assert (out / "files.csv").read_bytes() == whole
    with pytest.raises(ValueError, match="holds measurements of other things: systems differ"):
        evaluate(str(data / "acoustic"), "--without-real")
    (out / "files.csv").write_bytes(whole.replace(b"acoustic,0.wav", b"acoustic", 1))
    with pytest.raises(ValueError, match=r"line \d+ of .* cannot be read"):
        evaluate(*folders(data), "--without-real")


def test_a_continuation_that_only_holds_its_last_unit_has_no_likelihood(judge: AudioLM, tmp_path: Path) -> None:
    recording = tmp_path / "r.flac"
    write_audio(recording, tones_and_noise(PROMPT), sample_rate_hz=RATE)
    write_continuation(tmp_path / "still", "0", tones_and_noise(WHOLE), recording=recording)
    passages = continuations([tmp_path / "still"])
    constant = tiny_generator()
    assert constant.tokenizer is not None
    constant.tokenizer.centroids[0, 1:] = 1e6
    rows = measure_unit_likelihoods(constant, {"still": passages}, tmp_path / "out", about={})
    assert (rows[0].units, rows[0].log_likelihood, rows[0].per_unit) == (0, None, None)
    assert compare(rows).systems[0].per_unit is None


def test_what_cannot_be_compared_is_refused(evaluate: Callable[..., Path], data: Path) -> None:
    hierarchy, acoustic = str(data / "hierarchy"), str(data / "acoustic")
    (data / "acoustic" / "2.wav.json").unlink()
    with pytest.raises(ValueError, match=r"do not continue the same prompts \(acoustic lacks 1 of 3\)"):
        evaluate(hierarchy, acoustic, "--without-real")
    with pytest.raises(ValueError, match="are of none of the 3 real recordings"):
        evaluate(hierarchy, "--data", str(data / "seed-1"))
    with pytest.raises(FileNotFoundError, match=r"manifest.jsonl is not there, whose test split"):
        evaluate(hierarchy)
    with pytest.raises(ValueError, match="needs a name"):
        evaluate(f"real={hierarchy}", "--without-real")
    with pytest.raises(ValueError, match="two folders are called hierarchy"):
        evaluate(hierarchy, hierarchy, "--without-real")
    with pytest.raises(ValueError, match="--limit must be at least 1"):
        evaluate(hierarchy, "--without-real", "--limit", "0")
    assert not (data / "out").exists()


def test_recordings_that_end_too_early_are_counted_or_refused(
    evaluate: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(number: int) -> None:
        path = data / "recordings" / f"{number}.flac"
        write_audio(path, tones_and_noise(WHOLE - 100, seed=number), sample_rate_hz=RATE)
        described = data / "hierarchy" / f"{number}.wav.json"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        write_json(described, json.loads(described.read_text()) | {"prompt_sha256": sha256})

    cut(0)
    out = evaluate(str(data / "hierarchy"), "--data", str(data / "recordings"))
    assert "1 of 3 recordings end before" in capsys.readouterr().out
    assert [row["prompts"] for row in json.loads((out / "summary.json").read_text())["rows"]] == [3, 2]
    cut(1)
    cut(2)
    with pytest.raises(ValueError, match="all 3 recordings end before"):
        evaluate(str(data / "hierarchy"), "--data", str(data / "recordings"))


def test_an_acoustic_only_judge_is_refused(judge: AudioLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a log likelihood needs units"):
        measure_unit_likelihoods(tiny_generator(acoustic_only=True), {}, tmp_path / "out", about={})


def test_repeats_across_the_seam_are_one_unit(judge: AudioLM) -> None:
    assert len(remove_repeats(torch.tensor([1, 1, 2]))) == 2
    scores = judge.log_likelihood([torch.tensor([2, 2, 3])], given=[torch.tensor([1, 2])])
    alone = judge.log_likelihood([torch.tensor([3])], given=[torch.tensor([1, 2])])
    assert scores.tokens.tolist() == [1]
    assert torch.allclose(scores.sum, alone.sum)
