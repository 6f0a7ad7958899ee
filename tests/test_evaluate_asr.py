"""`audiolm evaluate asr`: pooled error rates by hand, restarts, other people's folders, and what is refused."""

import csv
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tones_and_noise, write_tiny_checkpoint, write_tiny_generator
from torch import Tensor
from torchmetrics.text import CharErrorRate, WordErrorRate

from audiolm.audio import write_audio
from audiolm.evaluation import asr_table
from audiolm.evaluation.asr_results import GSLM, condition_rates, write_asr
from audiolm.evaluation.asr_table import Heard, measure_asr, normalised_references, read_heard, require_letters
from audiolm.evaluation.clips import folder_clips
from audiolm.evaluation.error_rates import edits_of, normaliser, pooled_rate
from audiolm.generator.folder import generator_digest
from audiolm.recognition.network import CtcNetwork, HeadConfig
from audiolm.recognition.recogniser import Recogniser, TrainedRecogniser
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.verbs import run_verb

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "another", "cat"]


class Scripted(Recogniser):
    """Says what it is told to, in turn."""

    name, digest, sample_rate_hz, decoding = "scripted", "d", 16000, "none"
    characters = frozenset("abcdefghijklmnopqrstuvwxyz ")

    def __init__(self, texts: list[str]) -> None:
        self.texts: Iterator[str] = iter(texts)
        self.heard: list[int] = []

    def transcribe(self, audio: Tensor) -> str:
        self.heard.append(len(audio))
        return next(self.texts)


def test_error_rates_are_pooled_not_averaged() -> None:
    one, two = edits_of("a b c d", "a x c"), edits_of("e", "e f g")
    assert (one.word_edits, one.words) == (2, 4)  # b -> x, d is missing
    assert (one.character_edits, one.characters) == (3, 7)
    assert (two.word_edits, two.words) == (2, 1)
    rate = pooled_rate([2, 2], [4, 1], utterances=["1", "2"])
    assert (rate.value, rate.edits, rate.length) == (4 / 5, 4, 5)  # the mean of both would be 1.25
    assert rate.low == pytest.approx(2 / 4)
    assert rate.high == 2
    with pytest.raises(ValueError, match="empty reference"):
        edits_of("", "a")
    with pytest.raises(ValueError, match="no reference"):
        pooled_rate([], [], utterances=[])


def test_torchmetrics_agrees() -> None:
    draw = random.Random(0)
    pairs = [tuple(" ".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(2)) for _ in range(30)]
    pairs.append(("all is lost", ""))
    edits = [edits_of(reference, hypothesis) for reference, hypothesis in pairs]
    references, hypotheses = zip(*pairs, strict=True)
    names = [str(number) for number in range(len(pairs))]
    wer = pooled_rate([e.word_edits for e in edits], [e.words for e in edits], utterances=names)
    cer = pooled_rate([e.character_edits for e in edits], [e.characters for e in edits], utterances=names)
    assert wer.value == pytest.approx(float(WordErrorRate()(hypotheses, references)), abs=1e-6)
    assert cer.value == pytest.approx(float(CharErrorRate()(hypotheses, references)), abs=1e-6)
    assert wer.low is not None
    assert wer.high is not None
    assert wer.low < wer.value < wer.high


def test_samplings_of_one_utterance_are_drawn_together() -> None:
    apart = pooled_rate([0, 1] * 8, [1] * 16, utterances=[str(n) for n in range(16)])
    together = pooled_rate([0, 1] * 8, [1] * 16, utterances=[str(n // 2) for n in range(16)])
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low < 0.5 < apart.high
    assert (together.low, together.high) == (0.5, 0.5)


def test_one_utterance_says_nothing_of_others() -> None:
    rate = pooled_rate([1, 2], [4, 4], utterances=["a", "a"])  # two samplings of it
    assert (rate.value, rate.low, rate.high) == (3 / 8, None, None)


def test_texts_meet_in_whispers_spelling() -> None:
    english, basic = normaliser("english"), normaliser("basic")
    assert english("It's TWENTY-ONE, um, cats!") == english("IT IS 21 CATS") == "it is 21 cats"
    assert basic("It's Fun.") == "it s fun"
    with pytest.raises(ValueError, match=r"1 of 2 references are empty.*b \('Um\.'\)"):
        normalised_references({"a": "Yes.", "b": "Um."}, "english")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for number in range(3):
        write_audio(tmp_path / "audio" / f"u{number}.wav", tones_and_noise(12000, seed=number), sample_rate_hz=16000)
    (tmp_path / "audio" / "t.tsv").write_text("utterance\ttext\nu0\tTHE CAT\nu1\tA MAT\nu2\tON AND ON\n")
    return tmp_path / "audio"


REFERENCES = {"u0.wav": "the cat", "u1.wav": "a mat", "u2.wav": "on and on"}


def measured(audio: Path, out: Path, texts: list[str], **changes: Any) -> list[Heard]:
    clips = folder_clips(audio)
    options: dict[str, Any] = {"spelling": "english", "about": {}, **changes}
    return measure_asr(Scripted(texts), {"original": [clips], "mine": [clips, clips]}, REFERENCES, out, **options)


TEXTS = ["The cat.", "A mat", "on and on", "the hat", "a mat", "on", "", "a mat", "on and on on"]


def test_rows_and_pooled_rates_of_every_condition(audio: Path, tmp_path: Path) -> None:
    rows = measured(audio, tmp_path / "out", TEXTS)
    by_condition = {result.condition: result for result in condition_rates(rows)}
    original, mine = by_condition["original"], by_condition["mine"]
    assert original.wer is not None
    assert mine.wer is not None
    assert original.wer.value == 0
    assert (mine.wer.edits, mine.wer.length) == (1 + 0 + 2 + 2 + 0 + 1, 2 * 7)
    assert (mine.samplings, mine.files) == (2, 3)
    assert by_condition[GSLM].wer is None
    assert by_condition["acoustic"].paper == (0.034, 0.060)
    results = write_asr(
        tmp_path / "out", rows, spelling="english", decoding="none", settings={"a": 1}, notes=["Noted."]
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    states = {row["condition"]: row["state"] for row in summary["rows"]}
    assert states["gslm"] == states["acoustic"] == "not run"
    assert summary["note"].endswith("Noted.")
    assert (tmp_path / "out" / "wer.svg").read_text().startswith("<?xml")
    assert len(results) == 5


def test_a_killed_run_goes_on_and_ends_in_the_same_file(audio: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole = measured(audio, tmp_path / "whole", TEXTS)
    content = (tmp_path / "whole" / "files.csv").read_bytes()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "files.csv").write_bytes(content[: content.index(b"mine,0,a mat") + 5])  # amid a line
    scripted = Scripted(TEXTS[4:])
    clips = folder_clips(audio)
    conditions = {"original": [clips], "mine": [clips, clips]}
    again = measure_asr(scripted, conditions, REFERENCES, tmp_path / "cut", spelling="english", about={})
    assert again == whole
    assert len(scripted.heard) == 5
    assert (tmp_path / "cut" / "files.csv").read_bytes() == content
    assert read_heard(tmp_path / "cut" / "files.csv") == whole


def test_other_audio_references_or_recognisers_are_not_mixed(audio: Path, tmp_path: Path) -> None:
    measured(audio, tmp_path / "out", TEXTS)
    with pytest.raises(ValueError, match="spelling differ"):
        measured(audio, tmp_path / "out", TEXTS, spelling="basic")
    write_audio(audio / "u1.wav", tones_and_noise(13000, seed=9), sample_rate_hz=16000)
    with pytest.raises(ValueError, match="clips differ"):
        measured(audio, tmp_path / "out", TEXTS)
    (tmp_path / "out" / "files.csv").write_text("file,condition\nx,y\n")
    with pytest.raises(ValueError, match="line 2 of"):
        read_heard(tmp_path / "out" / "files.csv")


def test_audio_is_resampled_to_what_the_recogniser_hears(audio: Path, tmp_path: Path) -> None:
    clips, scripted = folder_clips(audio), Scripted(["a"] * 3)
    scripted.sample_rate_hz = 8000  # type: ignore[misc]
    measure_asr(scripted, {"original": [clips]}, REFERENCES, tmp_path / "out", spelling="english", about={})
    assert scripted.heard == [6000] * 3
    scripted.longest_seconds = 0.5
    with pytest.raises(ValueError, match=r"lasts 0.8 s; the recogniser scripted hears 0.5 s"):
        measure_asr(scripted, {"original": [clips]}, REFERENCES, tmp_path / "b", spelling="english", about={})


def test_a_recogniser_of_another_script_is_refused_with_an_excerpt() -> None:
    require_letters(Scripted([]), REFERENCES)
    with pytest.raises(ValueError, match=r"none of the letters.*' abcdef.*'кот'"):
        require_letters(Scripted([]), {"u": "кот"})


@pytest.fixture(scope="module")
def chain_with_recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generator and a recogniser, both random, and recordings with transcripts."""
    root = tmp_path_factory.mktemp("asr")
    write_tiny_generator(root / "generator")
    torch.manual_seed(0)
    network = CtcNetwork(MfccEncoder(), HeadConfig(dim=8, layers=1)).eval()
    (root / "asr").mkdir()
    write_tiny_checkpoint(root / "asr" / "best.ckpt", "asr", network, network.config_dict())
    lines = []
    for number, samples in enumerate((20000, 24000, 8000)):
        audio = tones_and_noise(samples, seed=number)
        write_audio(root / "data" / "7" / "1" / f"7-1-000{number}.flac", audio, sample_rate_hz=16000)
        lines.append(f"7-1-000{number} {' '.join(WORDS[: 3 + number]).upper()}\n")
    (root / "data" / "7" / "1" / "7-1.trans.txt").write_text("".join(lines))
    return root


def verb(root: Path, out: Path, *options: str) -> None:
    common = ["--root", str(root), "--data", str(root / "data"), "--out", str(out), "--device", "cpu"]
    run_verb(["evaluate", "asr", *common, "--least-seconds", "1", "--samplings", "2", *options])


def test_the_verb_generates_recognises_and_says_what_the_paper_has(
    chain_with_recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, other = chain_with_recogniser, tmp_path / "other"
    for number in range(3):
        write_audio(other / f"7-1-000{number}.wav", tones_and_noise(16000, seed=number), sample_rate_hz=24000)
    verb(root, tmp_path / "out", "--audio-folder", f"gslm={other}")
    printed = capsys.readouterr().out
    assert printed.count("2 of 3 recordings are 1 to 10 s long") == 1
    assert "gslm: 1 recordings" in printed
    assert "greedy CTC" in printed
    with open(tmp_path / "out" / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {
        name: sum(row["condition"] == name for row in rows)
        for name in ("original", "reconstruction", "acoustic", "gslm")
    }
    assert counts == {"original": 2, "reconstruction": 2, "acoustic": 4, "gslm": 2}
    assert {row["file"] for row in rows} == {"7/1/7-1-0000.flac", "7/1/7-1-0001.flac"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["generator"] == generator_digest(root / "generator")
    assert {row["condition"]: row["state"] for row in summary["rows"]} == dict.fromkeys(counts, "measured")
    assert summary["rows"][2]["wer_length"] == 2 * (3 + 4)
    write_tiny_generator(tmp_path / "another")
    weights = load_file(tmp_path / "another" / "fine.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "another" / "fine.safetensors")
    for options, differs in (
        (["--spelling", "basic"], "spelling"),
        (["--limit", "1"], "references"),
        (["--conditions", "original", "reconstruction", "--audio-folder", f"gslm={other}"], "conditions"),
        (["--audio-folder", f"gslm={other}", "--generator", str(tmp_path / "another")], "generator"),
    ):
        with pytest.raises(ValueError, match=differs):
            verb(root, tmp_path / "out", *options, "--audio", str(tmp_path / "audio"))
    assert not (tmp_path / "audio").exists()  # refused before anything is generated


def test_recordings_that_a_recogniser_would_cut_are_named_before_anything_is_generated(
    chain_with_recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedRecogniser, "longest_seconds", 1.4)
    with pytest.raises(ValueError, match=r"7-1-0001.flac lasts 1.5 s"):
        verb(chain_with_recogniser, tmp_path / "out", "--audio", str(tmp_path / "audio"))
    assert not (tmp_path / "audio").exists()


def test_a_folder_alone_is_scored_with_all_its_recordings(
    chain_with_recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = chain_with_recogniser
    folder, transcripts = root / "data" / "7" / "1", tmp_path / "more.tsv"
    rows = [f"7-1-000{number}\tthe cat" for number in range(4)]
    transcripts.write_text("\n".join(["utterance\ttext", *rows]) + "\n")
    verb(root, tmp_path / "out", "--conditions", "--audio-folder", f"mine={folder}", "--transcripts", str(transcripts))
    printed = capsys.readouterr().out
    assert "1 of 4 transcripts have no recording" in printed
    assert "not run" in printed


@pytest.mark.parametrize(
    ("spoil", "options", "says"),
    [
        (lambda f: None, ["--audio-folder", "gslm"], "must be NAME=FOLDER"),
        (lambda f: None, ["--audio-folder", "acoustic=x"], "must be NAME=FOLDER"),
        (lambda f: None, ["--conditions"], "nothing to recognise"),
        (lambda f: (f / "7-1-0000.wav").unlink(), ["--audio-folder", "x=FOLDER"], "1 of 2 recordings are not in"),
        (lambda f: shutil.copytree(f, f / "b"), ["--audio-folder", "x=FOLDER"], "have one stem"),
        (
            lambda f: (f / "t.tsv").write_text("utterance\ttext\n7-1-0000\tA CAT\n"),
            ["--transcripts", "FOLDER/t.tsv"],
            r"1 of 2 recordings have no transcript.*7-1-0001",
        ),
        (
            lambda f: (f / "t.tsv").write_text("utterance\ttext\n7-1-0000\tкот\n7-1-0001\tкот\n"),
            ["--transcripts", "FOLDER/t.tsv"],
            "none of the letters",
        ),
        (
            lambda f: (f / "t.tsv").write_text("utterance\ttext\n7-1-0000\t[noise]\n7-1-0001\tA CAT\n"),
            ["--transcripts", "FOLDER/t.tsv"],
            "1 of 2 references are empty",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_generated(
    chain_with_recogniser: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], Any],
    options: list[str],
    says: str,
) -> None:
    folder = tmp_path / "folder"
    for number in range(2):
        write_audio(folder / f"7-1-000{number}.wav", tones_and_noise(16000, seed=number), sample_rate_hz=16000)
    spoil(folder)
    monkeypatch.setattr(asr_table, "append_rows", lambda *_: pytest.fail("something was recognised"))
    with pytest.raises(ValueError, match=says):
        verb(chain_with_recogniser, tmp_path / "out", *(option.replace("FOLDER", str(folder)) for option in options))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.csv"))
