"""`audiolm evaluate prosody` and `diversity`: what is measured where, their folders, restarts, and their errors."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer, tones_and_noise
from torch import Tensor

from audiolm.audio import write_audio
from audiolm.evaluation import prosody_table
from audiolm.evaluation.clips import folder_clips
from audiolm.evaluation.diversity_table import TITLES, measure_diversity
from audiolm.evaluation.measured_folder import exceeds, pool, read_rows
from audiolm.evaluation.passage_measures import Measured, measure_passage, titles
from audiolm.evaluation.passages import Passage, continuations, real_passages
from audiolm.evaluation.prosody_table import measure_prosody
from audiolm.files import write_json
from audiolm.verbs import run_verb

RATE = 16000


def tone(hz: float, seconds: float, *, amplitude: float = 0.3) -> Tensor:
    return amplitude * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE)


def write_continuation(folder: Path, id_: str, before: Tensor, after: Tensor, **changes: Any) -> None:
    """As the generate stage writes one."""
    audio = torch.cat([before, after])
    write_audio(folder / f"{id_}.wav", audio, sample_rate_hz=RATE)
    row = {"id": id_, "mode": "continue", "generator": "g", "sampling": {}, "seed": 0}
    row |= {"prompt_sha256": id_, "prompt_start": 0, "prompt_file_samples": len(before)}
    write_json(folder / f"{id_}.wav.json", row | {"prompt_samples": len(before), "samples": len(audio)} | changes)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Three continuations of 1 s by 1.5 s."""
    folder = tmp_path / "generate"
    for number in range(3):
        audio = tones_and_noise(40000, seed=100 + number)
        write_continuation(folder, f"speaker/{number}", audio[:16000], audio[16000:])
    return folder


def values_of(passage: Passage, *, music: bool = False) -> dict[str, float | None]:
    return {row.measure: row.value for row in measure_passage(passage, music=music)}


def test_a_voice_that_jumps_an_octave_and_6_db_at_the_seam_is_measured_so(tmp_path: Path) -> None:
    write_continuation(tmp_path, "a", tone(220, 1, amplitude=0.2), tone(110, 1.5, amplitude=0.4))
    values = values_of(continuations([tmp_path])[0])
    assert values["f0_before_hz"] == pytest.approx(220, rel=0.01)
    assert values["f0_after_hz"] == pytest.approx(110, rel=0.01)
    assert values["f0_step_semitones"] == pytest.approx(12, abs=0.1)
    assert values["seam_loudness_step_db"] == pytest.approx(6.02, abs=0.1)
    assert values["level_step_db"] == pytest.approx(6.02, abs=0.1)
    assert values["silence_share_after"] == 0
    assert values["voiced_share_after"] == 1


def test_silence_after_a_prompt_has_no_pitch_and_the_row_says_why(tmp_path: Path) -> None:
    write_continuation(tmp_path, "a", tone(220, 1), torch.zeros(RATE))
    rows = {row.measure: row for row in measure_passage(continuations([tmp_path])[0], music=False)}
    assert (rows["f0_after_hz"].value, rows["f0_after_hz"].why_empty) == (None, "no voice")
    assert (rows["level_step_db"].value, rows["level_step_db"].why_empty) == (None, "silence")
    assert rows["silence_share_after"].value == 1
    music = {row.measure: row for row in measure_passage(continuations([tmp_path])[0], music=True)}
    assert (music["same_key"].value, music["same_key"].why_empty) == (None, "no key")
    assert music["tempo_after_bpm"].why_empty == "no regular beat"
    assert set(music) == set(titles(music=True))


def test_a_chord_that_goes_on_keeps_its_chroma_and_key(tmp_path: Path) -> None:
    c, f_sharp = (
        sum(tone(root * ratio, 1.0, amplitude=0.2) for ratio in (1, 5 / 4, 3 / 2)) for root in (261.63, 369.99)
    )
    write_continuation(tmp_path / "on", "a", c, c)
    write_continuation(tmp_path / "off", "a", c, f_sharp)
    on, off = (values_of(continuations([tmp_path / name])[0], music=True) for name in ("on", "off"))
    assert on["chroma_similarity"] == pytest.approx(1, abs=1e-3)
    assert (on["same_key"], off["same_key"]) == (1, 0)
    assert off["chroma_similarity"] < 0.2
    assert off["key_similarity"] < 0 < on["key_similarity"]


def test_real_stretches_are_as_long_as_continuations_and_fall_elsewhere_with_another_seed(
    generated: Path, tone_corpus: Path
) -> None:
    like = [passage.within(before_seconds=0.5, after_seconds=0.6) for passage in continuations([generated])]
    clips = folder_clips(tone_corpus)
    real, too_short = real_passages(clips, like, seed=3)
    assert (len(real), too_short) == (3, 0)
    for passage in real:
        assert (passage.before_seconds, passage.after_seconds) == pytest.approx((0.5, 0.6))
        before, after = passage.read(sample_rate_hz=RATE)
        assert (len(before), len(after)) == (8000, 9600)
    assert real == real_passages(clips, like, seed=3)[0]
    assert [p.seam for p in real] != [p.seam for p in real_passages(clips, like, seed=4)[0]]
    more, _ = real_passages(clips[:2], like, places=2)
    assert [passage.path for passage in more] == [clips[0].path, clips[1].path, clips[0].path]
    assert len({passage.id for passage in more}) == 3


def test_recordings_too_short_are_counted_and_when_all_are_it_is_an_error(generated: Path, tone_corpus: Path) -> None:
    like = continuations([generated])  # 2.5 s; the corpus has 1.5 to 2.25 s
    with pytest.raises(
        ValueError, match=r"none of 12 real recordings.*1 \+ 1.5 s.*longest has 2.2 s.*--before-seconds"
    ):
        real_passages(folder_clips(tone_corpus), like)
    cut = [passage.within(before_seconds=None, after_seconds=0.75) for passage in like]
    real, too_short = real_passages(folder_clips(tone_corpus), cut)
    assert 0 < too_short < 12
    assert all(passage.after_seconds == 0.75 for passage in real)


def test_how_often_one_kind_exceeds_the_other_counts_every_pair() -> None:
    assert exceeds([2, 3], [1, 1]) == 1
    assert exceeds([1], [1, 1]) == 0.5
    assert exceeds([1, 4], [0, 2, 5]) == pytest.approx((1 + 2) / 6)
    assert exceeds([], [1]) is None


def test_means_and_standard_errors_by_hand() -> None:
    rows = [Measured(str(n), "continuation", "m", value) for n, value in enumerate((1.0, 2.0, 6.0))]
    rows += [Measured("x", "continuation", "m", None, "no voice"), Measured("r", "real", "m", 2.0)]
    ours, real = pool(rows, ["m"])
    assert (ours.mean, ours.files, ours.empty, ours.why_empty) == (3, 3, 1, "1 x no voice")
    assert ours.standard_error == pytest.approx(np.sqrt(7 / 3))
    assert ours.exceeds_real == pytest.approx((0 + 0.5 + 1) / 3)
    assert (real.mean, real.standard_error, real.exceeds_real) == (2, None, None)


def measured(generated: Path, tone_corpus: Path, out: Path, **about: Any) -> prosody_table.ProsodyTable:
    passages = [passage.within(before_seconds=0.5, after_seconds=0.6) for passage in continuations([generated])]
    real, _ = real_passages(folder_clips(tone_corpus), passages)
    return measure_prosody(passages, real, out, music=False, about=about)


def test_a_killed_run_goes_on_and_ends_in_the_same_files(
    generated: Path, tone_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(generated, tone_corpus, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    out = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", out)
    for name in ("pooled.json", "prosody.svg"):
        (out / name).unlink()
    (out / "files.csv").write_bytes(whole["files.csv"][: len(whole["files.csv"]) // 2])  # amid a line
    asked: list[str] = []

    def note(passage: Passage, *, music: bool) -> list[Measured]:
        asked.append(passage.id)
        return measure_passage(passage, music=music)

    monkeypatch.setattr(prosody_table, "measure_passage", note)
    measured(generated, tone_corpus, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert 0 < len(asked) < 6


def test_other_audio_or_settings_are_not_mixed(generated: Path, tone_corpus: Path, tmp_path: Path) -> None:
    measured(generated, tone_corpus, tmp_path / "out", seed=0)
    with pytest.raises(ValueError, match=r"seed differ.*not mixed"):
        measured(generated, tone_corpus, tmp_path / "out", seed=1)
    write_continuation(generated, "speaker/0", tone(200, 1), tone(100, 1.5))
    with pytest.raises(ValueError, match="passages_digest differ"):
        measured(generated, tone_corpus, tmp_path / "out", seed=0)


def test_the_frechet_distance_of_continuations_is_of_what_follows_the_seam(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    hiss = [0.1 * torch.randn(2 * RATE, generator=random) for _ in range(4)]
    for number in range(2):
        write_continuation(tmp_path / "generate", str(number), hiss[number][:RATE], tone(300, 1))
        write_audio(tmp_path / "real" / f"{number}.wav", hiss[2 + number], sample_rate_hz=RATE)
    passages = continuations([tmp_path / "generate"])
    real, _ = real_passages(folder_clips(tmp_path / "real"), passages)
    distances = prosody_table.frechet_distances(passages, real)
    alike = 0.02 * distances["continuation_to_real"]  # noise of a second and other noise: samples differ a little
    assert distances["prompt_to_real"] < alike
    assert distances["real_half_to_half"] < alike
    assert prosody_table.frechet_distances(passages, []) == {}


def test_an_edited_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "files.csv").write_text("file,kind,measure,value,why_empty\na,real,m,high,\n")
    with pytest.raises(ValueError, match="line 2 of"):
        read_rows(tmp_path / "files.csv", rows_per_file=1)


def test_the_verb_writes_rows_means_and_a_picture(
    generated: Path, tone_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "prosody", str(generated), "--data", str(tone_corpus), "--out", str(tmp_path / "out")]
    run_verb([*command, "--before-seconds", "0.5", "--after-seconds", "0.6"])
    with open(tmp_path / "out" / "files.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows if row["kind"] == "continuation"} == {f"speaker/{n}.wav" for n in range(3)}
    assert len(rows) == 6 * len(titles(music=False))
    result = json.loads((tmp_path / "out" / "pooled.json").read_text())
    assert set(result["whole"]) == {
        f"frechet_{n}" for n in ("continuation_to_real", "prompt_to_real", "real_half_to_half")
    }
    assert {row["measure"] for row in result["rows"]} == set(titles(music=False))
    assert (tmp_path / "out" / "prosody.svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "loudness step at the seam" in printed
    assert "Log-mel Fréchet distance, real half to half" in printed


def test_the_verb_reads_what_samples_wrote(chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(chain / "samples"), "--root", str(chain), "--out", str(tmp_path / "prosody")]
    run_verb(["evaluate", "prosody", "--music", *command])
    assert "chroma similarity" in capsys.readouterr().out
    run_verb(["evaluate", "diversity", *command[:-1], str(tmp_path / "diversity"), "--device", "cpu"])
    result = json.loads((tmp_path / "diversity" / "pooled.json").read_text())
    assert {row["measure"] for row in result["rows"]} == set(TITLES)
    assert result["settings"]["continuations"] == 2


def test_the_same_audio_from_two_seeds_has_self_bleu_1_of_the_same_prompt(generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated, tmp_path / "again")
    passages = continuations([generated, tmp_path / "again"])
    table = measure_diversity(tiny_tokenizer(), passages, [], tmp_path / "out", about={})
    means = {row.measure: row.mean for row in table.pooled}
    assert means["self_bleu_same_prompt"] == pytest.approx(1)
    assert means["self_bleu_across"] < 1
    assert 0 < table.whole["continuation_entropy_bits"] <= np.log2(12)


def test_units_follow_the_seam_only_and_a_killed_run_finds_the_same(generated: Path, tmp_path: Path) -> None:
    passages, tokenizer = continuations([generated]), tiny_tokenizer()
    measure_diversity(tokenizer, passages, [], tmp_path / "out", about={})
    lines = (tmp_path / "out" / "units.jsonl").read_text().splitlines()
    before, after = passages[0].read(sample_rate_hz=tokenizer.sample_rate_hz)
    units = tokenizer.encode(torch.from_numpy(np.concatenate([before, after]))[None])[0][
        tokenizer.rate_hz :
    ]  # 1 s of prompt
    assert json.loads(lines[0])["units"] == torch.unique_consecutive(units).tolist()
    files = (tmp_path / "out" / "files.csv").read_bytes()
    (tmp_path / "out" / "units.jsonl").write_text(lines[0] + "\n" + lines[1][:20])
    measure_diversity(tokenizer, passages, [], tmp_path / "out", about={})
    assert (tmp_path / "out" / "units.jsonl").read_text().splitlines() == lines
    assert (tmp_path / "out" / "files.csv").read_bytes() == files


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "without description": (
        lambda folder: [p.unlink() for p in folder.rglob("*.json")] and None,
        "holds no continuation",
    ),
    "without audio": (lambda folder: (folder / "speaker/1.wav").unlink(), "described, but is not there"),
    "unconditional": (
        lambda folder: write_continuation(
            folder, "b", tone(200, 1), tone(200, 1), prompt_samples=0, mode="unconditional"
        ),
        "has no prompt",
    ),
    "resynthesized": (
        lambda folder: write_continuation(folder, "b", tone(200, 1), tone(200, 1), prompt_samples=2 * RATE),
        "says nothing after its prompt",
    ),
    "cut": (lambda folder: write_continuation(folder, "b", tone(200, 1), tone(200, 1), samples=5), "described as 5"),
    "no number": (
        lambda folder: write_continuation(folder, "b", tone(200, 1), tone(200, 1), samples=None),
        "does not say",
    ),
    "a stub": (lambda folder: write_continuation(folder, "b", tone(200, 1), tone(200, 0.1)), "0.100 s on one side"),
    "two generators": (
        lambda folder: write_continuation(folder, "b", tone(200, 1), tone(200, 1), generator="h"),
        "different generators",
    ),
    "nameless": (
        lambda folder: write_json(folder / "speaker/1.wav.json", {"prompt_samples": 16000, "samples": 40000}),
        "has no id",
    ),
    "a list": (lambda folder: write_json(folder / "speaker/1.wav.json", [1]), "describes no audio"),
    "no samples": (lambda folder: write_json(folder / "samples.json", {"items": []}), "lists no continuation"),
    "a way out": (
        lambda folder: write_json(folder / "samples.json", {"items": [{"continuation": "../x"}]}),
        "below its folder",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_cannot_be_measured_says_why(name: str, generated: Path) -> None:
    change, message = BAD[name]
    change(generated)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        continuations([generated])


def test_options_that_make_no_sense_are_errors(generated: Path, tone_corpus: Path, tmp_path: Path) -> None:
    command = ["evaluate", "prosody", str(generated), "--root", str(tmp_path / "none")]
    for extra, message in (
        (["--after-seconds", "0.1"], "--after-seconds must be at least 0.3"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--without-real", "--data", str(tone_corpus)], "compares with nothing"),
        ([], "--without-real"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run_verb([*command, *extra])
    with pytest.raises(ValueError, match="named twice"):
        run_verb([*command[:3], str(generated), *command[3:]])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run_verb(["evaluate", "prosody", str(tmp_path / "nowhere")])
