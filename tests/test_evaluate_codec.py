"""`audiolm evaluate codec`: perceptual measures, the table over files and levels, its folder, and its errors."""

import csv
import json
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_codec, tones_and_noise
from torch import Tensor

from audiolm.audio import AudioError, resample, write_audio
from audiolm.checkpoint import HEADER, header
from audiolm.codec.codec import Codec
from audiolm.codec.soundstream import SoundStream
from audiolm.corpus import prepare
from audiolm.demo_corpus.voices import demo_voices, synthesize
from audiolm.evaluation import perceptual
from audiolm.evaluation.clips import folder_clips, split_clips
from audiolm.evaluation.codec_measures import REAL_TIME, Settings
from audiolm.evaluation.codec_results import pool, read_rows
from audiolm.evaluation.codec_table import measure_codec
from audiolm.evaluation.perceptual import NotMeasurableError
from audiolm.evaluation.which_codec import load_codec
from audiolm.verbs import run_verb

QUICK = Settings(levels=(1, 2, 3), measures=("si_sdr", "mel"))  # needs no package


class Staircase(Codec):
    """Rounds every sample; each level has steps an eighth as high as those before."""

    def __init__(self, *, offset: float = 0.0, rate_hz: int = 16000) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor(offset))
        self.rate_hz, self.encoded = rate_hz, 0

    sample_rate_hz = property(lambda self: self.rate_hz)  # type: ignore[assignment]
    hop_samples, levels, codebook_size = 1, 3, 8  # type: ignore[assignment]

    def encode(self, audio: Tensor) -> Tensor:
        self._check_audio(audio)
        self.encoded += 1
        whole = ((audio.clamp(-1, 0.999) + 1) * 256).long()  # 0 to 511: three digits of base 8
        return torch.stack([whole // 64, whole // 8 % 8, whole % 8], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        self._check_codes(codes)
        heights = torch.tensor([64.0, 8.0, 1.0])[: codes.size(1), None]
        return ((codes * heights).sum(1) + heights.min() / 2) / 256 - 1 + self.offset

    def embed(self, codes: Tensor) -> Tensor:
        return self.decode(codes)[:, None]

    def config_dict(self) -> dict[str, Any]:
        return {"kind": "staircase", "rate_hz": self.rate_hz}


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """(samples,) some 2 s of a synthetic voice at 16 kHz."""
    audio, rate = synthesize("We went home before the rain began.", demo_voices(1)[0])
    return resample(audio, from_hz=rate, to_hz=16000)


@pytest.fixture
def folder(tmp_path: Path, speech: Tensor) -> Path:
    """Three short files, one of them at another rate."""
    write_audio(tmp_path / "audio" / "a.wav", speech[:16000], sample_rate_hz=16000)
    write_audio(tmp_path / "audio" / "deeper" / "b.flac", speech[8000:24000], sample_rate_hz=16000)
    write_audio(tmp_path / "audio" / "c.wav", tones_and_noise(11025, seed=3), sample_rate_hz=22050)
    return tmp_path / "audio"


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "files.csv", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------ perceptual measures


def needed(measure: str) -> Callable[[Tensor, Tensor], float]:
    pytest.importorskip({"stoi": "pystoi"}.get(measure, measure), reason="the extra `evaluation` is not installed")
    return getattr(perceptual, measure)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("measure", "best"), [("visqol", 5.0), ("pesq", 4.64), ("stoi", 1.0)])
def test_equal_signals_score_best_and_noise_lowers_the_score(measure: str, best: float, speech: Tensor) -> None:
    function = needed(measure)
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    scores = [function(speech + level * noise, speech) for level in (0, 1e-3, 1e-2, 1e-1)]
    assert scores[0] == pytest.approx(best, abs=0.01)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.1


@pytest.mark.parametrize("measure", ["visqol", "pesq", "stoi"])
def test_silence_and_snippets_are_refused_instead_of_scored(measure: str, speech: Tensor) -> None:
    function, silence = needed(measure), torch.zeros_like(speech)
    for estimate, reference, word in (
        (silence, speech, "reconstruction is silent"),
        (speech, silence, "reference is silent"),  # ViSQOL's own answer is 5.0
        (speech[8000:11000], speech[8000:11000], "0.25|speech"),
    ):
        with pytest.raises(NotMeasurableError, match=word):
            function(estimate, reference)
    with pytest.raises(ValueError, match="one shape"):
        function(speech[:-1], speech)


def test_pesq_refuses_clips_that_would_end_the_process() -> None:
    long = tones_and_noise(61 * 16000)
    with pytest.raises(NotMeasurableError, match="longer than 60 s"):
        needed("pesq")(long, long)


def test_the_mapping_of_visqol_is_the_one_that_was_asked_for(speech: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("visqol")
    noisy = speech + 0.01 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    scaled = perceptual.visqol(noisy, speech)
    unscaled = perceptual.visqol(noisy, speech, mapping="polynomial-unscaled")
    assert scaled == pytest.approx(1.245063 * unscaled)  # the factor that takes equal signals to 5.0
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None if "litert" in name else object())
    with pytest.raises(ValueError, match="visqol-python\\[lattice\\]"):
        perceptual.require_packages(["visqol"], mapping="lattice")


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pesq \(package pesq\).*pip install "audiolm\[evaluation\]"'):
        perceptual.require_packages(["si_sdr", "pesq"])
    perceptual.require_packages(["si_sdr", "mel"])


# ------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("workers", [1, 2])
def test_more_levels_score_higher_and_pooled_numbers_are_the_means_of_the_files(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    for measure in ("visqol", "pesq", "stoi"):
        needed(measure)
    settings = Settings(levels=(1, 2, 3)) if workers == 1 else QUICK
    out = tmp_path / "out"
    measure_codec(Staircase(), folder_clips(folder), out, settings=settings, workers=workers)
    rows, pooled = table(out), json.loads((out / "pooled.json").read_text())
    assert [row["file"] for row in rows[:: 3 * len(settings.columns)]] == ["a.wav", "c.wav", "deeper/b.flac"]
    assert len(rows) == 3 * 3 * len(settings.columns)
    values = defaultdict(list)
    for row in rows:
        assert (row["value"] == "") == (row["why_empty"] != "")
        if row["value"]:
            values[int(row["levels"]), row["measure"]].append(float(row["value"]))
    for row in pooled["rows"]:
        numbers = values[row["levels"], row["measure"]]
        assert row["bitrate_bps"] == row["levels"] * 3 * 16000
        if row["measure"] == "real_time_factor":  # of all seconds together: a very short clip says nothing
            seconds = [float(one["seconds"]) for one in rows if one["measure"] == row["measure"]][
                :: len(settings.levels)
            ]
            weighted = sum(a * b for a, b in zip(numbers, seconds, strict=True)) / sum(seconds)
            assert row["mean"] == pytest.approx(weighted)
            continue
        assert row["mean"] == pytest.approx(statistics.mean(numbers))
        assert row["clips"] == len(numbers) == 3 - row["empty"]
        if len(numbers) > 1:
            assert row["standard_error"] == pytest.approx(statistics.stdev(numbers) / len(numbers) ** 0.5)
    means = {key: statistics.mean(numbers) for key, numbers in values.items()}
    for name in settings.measures:
        rising = [means[levels, name] for levels in (1, 2, 3)]
        assert rising == sorted(rising, reverse=name == "mel")
    with open(out / "pooled.csv", newline="") as file:
        assert [float(row["mean"]) for row in csv.DictReader(file)] == [row["mean"] for row in pooled["rows"]]
    picture = (out / "measures.svg").read_text()
    assert all(title in picture for title in pooled["titles"].values())


def test_clips_without_a_value_are_counted_with_the_reason(tmp_path: Path, speech: Tensor) -> None:
    needed("pesq")
    write_audio(tmp_path / "audio" / "good.wav", speech, sample_rate_hz=16000)
    write_audio(tmp_path / "audio" / "short.wav", speech[8000:8050], sample_rate_hz=16000)
    write_audio(tmp_path / "audio" / "silent.wav", torch.zeros(16000), sample_rate_hz=16000)
    settings = Settings(levels=(3,), measures=("pesq", "si_sdr"))
    pooled = measure_codec(Staircase(), folder_clips(tmp_path / "audio"), tmp_path / "out", settings=settings)
    by_name = {row.measure: row for row in pooled}
    assert (by_name["pesq"].clips, by_name["pesq"].empty) == (1, 2)
    assert by_name["pesq"].why_empty == "1 x shorter than 0.25 s; 1 x the reference is silent"
    assert by_name["pesq"].standard_error is None
    assert (by_name["si_sdr"].clips, by_name["si_sdr"].empty) == (2, 1)
    assert by_name[REAL_TIME].clips == 3


def test_measures_of_a_codec_at_another_rate_compare_at_16_khz(tmp_path: Path, speech: Tensor) -> None:
    needed("pesq")
    write_audio(tmp_path / "audio" / "a.wav", speech, sample_rate_hz=16000)
    settings = Settings(levels=(3,), measures=("pesq",))
    scores = [
        measure_codec(
            Staircase(rate_hz=rate), folder_clips(tmp_path / "audio"), tmp_path / str(rate), settings=settings
        )
        for rate in (16000, 24000)
    ]
    assert scores[1][0].mean == pytest.approx(scores[0][0].mean, abs=0.5)  # the same steps, spread over more samples
    assert scores[1][0].bitrate_bps == 1.5 * scores[0][0].bitrate_bps


# ------------------------------------------------------------------------------------------------ starting again


def test_a_second_run_measures_only_what_is_left(folder: Path, tmp_path: Path) -> None:
    out, codec, clips = tmp_path / "out", Staircase(), folder_clips(folder)
    first = measure_codec(codec, clips, out, settings=QUICK)
    assert codec.encoded == 3
    whole = (out / "files.csv").read_text()
    lines = whole.splitlines(keepends=True)
    per_file = 3 * len(QUICK.columns)
    # killed while the second clip's rows were being written
    (out / "files.csv").write_text("".join(lines[: 1 + per_file + 2]) + lines[1 + per_file + 2][:7])
    seen: list[tuple[int, int]] = []
    again = measure_codec(codec, clips, out, settings=QUICK, progress=lambda *numbers: seen.append(numbers))
    assert codec.encoded == 3 + 2
    assert seen == [(1, 3), (2, 3), (3, 3)]
    timeless = [[row for row in rows if row.measure != REAL_TIME] for rows in (first, again)]
    assert timeless[0] == timeless[1]
    assert pool(read_rows(out / "files.csv", rows_per_file=per_file)) == again
    assert measure_codec(codec, clips, out, settings=QUICK) == again
    assert codec.encoded == 5


def test_numbers_of_another_codec_other_settings_or_other_clips_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    out, clips = tmp_path / "out", folder_clips(folder)
    measure_codec(Staircase(), clips, out, settings=QUICK)
    before = (out / "files.csv").read_bytes()
    others = [
        (Staircase(offset=0.1), clips, QUICK, "codec_digest differ"),
        (Staircase(), clips[:2], QUICK, "clips, clips_digest differ"),
        (Staircase(), clips, Settings(levels=(1,), measures=QUICK.measures), "levels differ"),
    ]
    for codec, some, settings, word in others:
        with pytest.raises(ValueError, match=f"{re.escape(str(out))}.*{word}.*--out"):
            measure_codec(codec, some, out, settings=settings)
    assert (out / "files.csv").read_bytes() == before


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no audio file below .*empty"):
        folder_clips(tmp_path / "empty")
    with pytest.raises(ValueError, match="levels must be 1 to 3"):
        measure_codec(Staircase(), folder_clips(folder), tmp_path / "out", settings=Settings(levels=(4,)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no measure polqa"):
        Settings(levels=(1,), measures=("polqa",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ViSQOL mapping 'cubic'"):
        Settings(levels=(1,), visqol_mapping="cubic")  # type: ignore[arg-type]
    (folder / "words.wav").write_text("these are words")
    with pytest.raises(AudioError, match=r"words\.wav cannot be read"):
        folder_clips(folder)


def test_a_codec_that_gives_nan_is_stopped_at_the_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.wav holds NaN"):
        measure_codec(Staircase(offset=float("nan")), folder_clips(folder), tmp_path / "out", settings=QUICK)


def test_limits_spread_evenly_and_cut(folder: Path) -> None:
    assert [clip.id for clip in folder_clips(folder, limit=2)] == ["a.wav", "c.wav"]
    assert [clip.id for clip in folder_clips(folder, limit=9)] == ["a.wav", "c.wav", "deeper/b.flac"]
    assert [clip.samples for clip in folder_clips(folder, max_seconds=0.25)] == [4000, 5512, 4000]


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def root(tone_corpus: Path, tmp_path: Path) -> Path:
    """A chain whose codec is trained, and nothing else."""
    prepare(tone_corpus, tmp_path / "root")
    codec = tiny_codec()
    (tmp_path / "root" / "codec").mkdir()
    state = {f"model.{name}": tensor for name, tensor in codec.state_dict().items()}
    checkpoint = {"state_dict": state, HEADER: header("codec", codec.config_dict(), {}), "global_step": 3}
    torch.save(checkpoint, tmp_path / "root" / "codec" / "best.ckpt")
    return tmp_path / "root"


def test_the_command_measures_a_chains_codec_on_its_test_split(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_verb(
        [
            "evaluate",
            "codec",
            "--root",
            str(root),
            "--measures",
            "mel",
            "si_sdr",
            "--workers",
            "1",
            "--max-seconds",
            "1",
        ]
    )
    out = root / "evaluation" / "codec"
    assert {path.name for path in out.iterdir()} == {
        "settings.json",
        "files.csv",
        "pooled.json",
        "pooled.csv",
        "measures.svg",
    }
    clips = split_clips(root / "manifest.jsonl", "test", max_seconds=1)
    assert {row["file"] for row in table(out)} == {clip.id for clip in clips}
    assert {int(row["levels"]) for row in table(out)} == {1, 2, 4}
    printed = capsys.readouterr().out
    for word in ("mel distance (nats)", "SI-SDR (dB)", "real-time factor", "codec's rate", str(out)):
        assert word in printed
    with pytest.raises(ValueError, match="--limit must be positive"):
        run_verb(["evaluate", "codec", "--root", str(root), "--limit", "0"])


def test_the_printed_table_says_what_has_no_value(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "audio" / "silent.wav", torch.zeros(16000), sample_rate_hz=16000)
    arguments = ["--codec", str(root / "codec"), "--data", str(tmp_path / "audio"), "--out", str(tmp_path / "out")]
    run_verb(["evaluate", "codec", *arguments, "--levels", "2", "--measures", "mel", "--workers", "1"])
    assert "* mel at 2 levels: no value for 1 of 1 clips (1 x the reference is silent)" in capsys.readouterr().out


def test_a_codec_is_found_by_checkpoint_stage_chain_and_generator(root: Path, chain: Path, tmp_path: Path) -> None:
    audio = tones_and_noise(8000)[None]
    codes = [load_codec(which).encode(audio) for which in (root, root / "codec", root / "codec" / "best.ckpt")]
    assert all(torch.equal(codes[0], other) for other in codes[1:])
    assert isinstance(load_codec(chain / "generator"), SoundStream)
    shutil.rmtree(root / "codec")
    with pytest.raises(FileNotFoundError, match="make codec"):
        load_codec(root)
    with pytest.raises(FileNotFoundError, match="make codec"):
        load_codec(tmp_path / "other.ckpt")


def test_the_summary_of_a_codec_quotes_its_evaluation_and_draws_its_training(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    with pytest.raises(FileNotFoundError, match="audiolm evaluate codec"):
        run_verb(["results", "--root", str(root), "--codec-only"])
    run_verb(["evaluate", "codec", "--root", str(root), "--measures", "si_sdr", "--workers", "1"])
    capsys.readouterr()
    run_verb(["results", "--root", str(root), "--codec-only", "--pictures", str(tmp_path / "pictures")])
    printed = capsys.readouterr().out
    pooled = json.loads((root / "evaluation" / "codec" / "pooled.json").read_text())
    last = [row for row in pooled["rows"] if row["measure"] == "si_sdr"][-1]
    assert f"| {last['levels']} | {last['bitrate_bps'] / 1000:g} | {last['mean']:.3g} |" in printed
    assert "perplexity in training" in printed
    assert {path.stem for path in (tmp_path / "pictures").glob("*.svg")} >= {"reconstruction", "mel", "perplexity"}
    with pytest.raises(ValueError, match="--codec-only"):
        run_verb(["results", "--root", str(root), "--pictures", str(tmp_path)])
