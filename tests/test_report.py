import base64
import csv
import io
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from audiolm.audio import write_audio
from audiolm.evaluation import report_listening
from audiolm.evaluation.chain_record import stages_of
from audiolm.evaluation.curves import read_curves
from audiolm.evaluation.report import write_report
from audiolm.files import remove, write_json
from audiolm.manifest import Manifest, Utterance, write_manifest
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStoreWriter, create_store, seal

RATE = 16000
SPEC = TokenSpec(levels=3, codebook_size=8, coarse_levels=1, clusters=5)
SPEAKERS = {"anna": "train", "bert": "train", "carl": "validation", "<dora> & co": "test"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("chain")
    fake_chain(root)
    return root, write_report(root).read_text(encoding="utf-8")


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain for tests that look at words and sounds only: empty pictures save seconds."""
    monkeypatch.setattr(Figure, "savefig", lambda self, buffer, **_: buffer.write(b"<svg/>"))
    fake_chain(tmp_path)
    return tmp_path


def fake_chain(root: Path, *, seconds: float = 0.5, prompt_seconds: float = 0.2) -> None:
    """A finished chain's folder, but for checkpoints: logs, records, tokens and noise instead of speech."""
    write_json(root / "chain.json", {"data": "/somewhere/on/disk/talks", "preset": "small", "configs": {}})
    utterances = tuple(
        Utterance(f"{speaker}/{number}", f"{speaker}/{number}.flac", speaker, split, 0, 8000, RATE, True, 0.0)
        for speaker, split in SPEAKERS.items()
        for number in range(3)
    )
    write_manifest(Manifest(root=root, utterances=utterances), root / "manifest.jsonl")  # type: ignore[arg-type]
    fake_tokens(root / "tokens", utterances)
    fake_stages(root)
    fake_samples(root / "samples", seconds=seconds, prompt_seconds=prompt_seconds)


def fake_tokens(folder: Path, utterances: tuple[Utterance, ...], *, spec: TokenSpec = SPEC) -> None:
    create_store(folder, spec, {})
    random = torch.Generator().manual_seed(0)
    writer = TokenStoreWriter(folder)
    for u in utterances:
        units = torch.randint(SPEC.clusters - 1, (13,), generator=random)  # unit 4 is never used
        codes = torch.randint(SPEC.codebook_size, (SPEC.levels, 25), generator=random)
        writer.append(id=u.id, speaker=u.speaker, split=u.split, true_end=True, units=units, codes=codes)
    writer.close()
    seal(folder, expected={u.id for u in utterances})


def fake_stages(root: Path) -> None:
    for stage in ("codec", "encoder", "tokenizer", "tokens", "semantic", "coarse", "fine"):
        record(root / stage, stage)
    codec = {"train/loss": 90.0, "train/reconstruction": 40.0, "train/feature": 0.0, "validation/weighted": 95.0}
    codec |= {"validation/loss": 1.5, "validation/si_sdr_db": -3.0, "validation/perplexity_level_1": 7.0}
    write_log(root / "codec", 0, [{"step": step, **codec} for step in (9, 19, 29)])
    encoder = {"train/loss": 5.0, "train/prediction": 3.0, "validation/prediction": 3.5, "train/code_perplexity": 20.0}
    write_log(root / "encoder", 0, [{"step": step, **encoder} for step in (9, 19, 29)])
    write_log(root / "tokenizer", 0, [{"step": 0, "tokenizer/frames": 99, "tokenizer/used_share": 0.8}])
    for stage, levels in (("semantic", ()), ("coarse", (1,)), ("fine", (2, 3))):
        rows: list[dict[str, float]] = [{"step": 9, "train/loss": 4.0, "train/padding": 0.125}]
        for step, loss in ((19, 3.5), (29, 2.25), (39, 2.5)):
            rows += [{"step": step, "validation/loss": loss}]
            rows[-1] |= {f"validation/loss_level_{level}": loss + level for level in levels if len(levels) > 1}
        write_log(root / stage, 0, rows)
        phases = max(1, len(levels))
        baselines = {"unigram": 3.0, "bigram": 2.75, "units_per_second": 20.0}
        baselines |= {"unigram_per_phase": [3.0] * phases, "bigram_per_phase": [2.75] * phases}
        write_json(root / stage / "baselines.json", baselines)


def record(folder: Path, stage: str) -> None:
    values = {"stage": stage, "steps": 30, "seconds": 90.0, "parameters": 1234567, "validation_loss": 2.25}
    values |= {"precision": "32-true", "processes": 1, "device": "x86_64", "threads": 2, "peak_memory_gb": 0.5}
    write_json(folder / "done.json", values)


def write_log(stage: Path, version: int, rows: list[dict[str, float]]) -> Path:
    path = stage / "log" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in rows for name in row})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def fake_samples(folder: Path, *, seconds: float, prompt_seconds: float) -> None:
    random = torch.Generator().manual_seed(1)

    def sound(name: str) -> str:
        audio = torch.rand(round(seconds * RATE), generator=random) - 0.5
        write_audio(folder / name, audio, sample_rate_hz=RATE)
        return name

    folder.mkdir()
    items = [
        {
            "id": f"<dora> & co/{number}",
            "speaker": "<dora> & co",
            "original": sound(f"{number}-original.wav"),
            "reconstructions": {str(n): sound(f"{number}-levels-{n}.wav") for n in (1, 3, 12)},
            "continuation": sound(f"{number}-continuation.wav"),
            "prompt_samples": round(prompt_seconds * RATE),
            "samples": round(seconds * RATE),
        }
        for number in range(2)
    ]
    rows = [{"levels": n, "si_sdr_db": -9.0 + n, "mel_distance": 2.0 - n / 4, "clips": 3} for n in (1, 3, 12)]
    result = {"seconds": seconds - prompt_seconds, "prompt_seconds": prompt_seconds, "seed": 0}
    result |= {"sample_rate_hz": RATE, "generation_seconds": 1.25, "items": items, "reconstruction": rows}
    write_json(folder / "samples.json", {**result, "unconditional": [sound("free-0.wav"), sound("free-1.wav")]})


def pictures(page: str) -> list[tuple[str, ElementTree.Element]]:
    """Every picture of a page: what it says it shows, and its SVG."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]+)">', page)
    return [(alt, ElementTree.fromstring(base64.b64decode(svg))) for alt, svg in found]


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in svg.iter(f"{SVG}text")]


def horizontal(path: ElementTree.Element) -> list[float]:
    """The x of every point of a path made of straight lines."""
    return [float(x) for x in re.findall(r"[ML] (\S+) \S+", path.attrib["d"])]


def test_the_page_needs_no_other_file_and_runs_nothing(finished: tuple[Path, str]) -> None:
    _, page = finished
    assert len(re.findall(r"<img|<audio", page)) == page.count(" src=")
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    assert all(target.startswith("#part-") for target in re.findall(r'href="([^"]*)"', page))
    for outside in ("http:", "https:", "<script", "<link", "<iframe", "@import", "url(", "/somewhere/on/disk"):
        assert outside not in page
    for _, svg in pictures(page):
        links = [v for part in svg.iter() for name, v in part.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


def test_the_page_is_well_formed(finished: tuple[Path, str]) -> None:
    _, page = finished
    closed = re.sub(r"<(meta|img)([^>]*)>", r"<\1\2/>", page.replace("<!DOCTYPE html>", "")).replace(" controls ", " ")
    document = ElementTree.fromstring(closed)  # raises where a tag is left open or a < was not escaped
    anchors = {part.attrib["id"] for part in document.iter() if "id" in part.attrib}
    assert {link.attrib["href"][1:] for link in document.iter("a")} == anchors


def test_every_sound_decodes_to_the_samples_of_its_file(finished: tuple[Path, str], tmp_path: Path) -> None:
    root, page = finished
    sounds = []
    for encoded in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page):
        path = tmp_path / "sound.flac"
        path.write_bytes(base64.b64decode(encoded))
        audio, rate = soundfile.read(path, dtype="int16")
        assert rate == RATE
        sounds.append(audio.tobytes())
    files = [soundfile.read(path, dtype="int16")[0].tobytes() for path in (root / "samples").glob("*.wav")]
    assert len(files) == 12
    assert sorted(sounds) == sorted(files)


def test_levels_come_in_their_order_after_the_original(finished: tuple[Path, str]) -> None:
    _, page = finished
    captions = re.findall(r"<figcaption>(original|\d+ levels?)<", page)
    assert captions == ["original", "1 level", "3 levels", "12 levels"] * 2


def test_long_reconstructions_are_cut_and_continuations_are_not(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_listening, "RECONSTRUCTION_SECONDS", 0.25)
    page = write_report(chain).read_text(encoding="utf-8")
    sounds = [base64.b64decode(sound) for sound in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)]
    lengths = [soundfile.info(io.BytesIO(sound)).frames for sound in sounds]
    assert lengths == [RATE // 4] * 8 + [RATE // 2] * 4  # two utterances at four qualities; continuations, free samples
    assert page.count("the first 0.25 s") == 8


def test_only_continuations_carry_a_boundary_and_it_lies_where_the_prompt_ends(finished: tuple[Path, str]) -> None:
    _, page = finished
    spectrograms = [(alt, svg) for alt, svg in pictures(page) if alt.startswith("Spectrogram")]
    assert len(spectrograms) == 12
    for alt, svg in spectrograms:
        line = svg.find(f".//{SVG}g[@id='prompt-boundary']/{SVG}path")
        assert (line is not None) == alt.startswith("Spectrogram: prompt and continuation")
        if line is None:
            continue
        assert [text for text in texts(svg) if "prompt" in text or "continuation" in text] == [
            "prompt ◂",
            "▸ continuation",
        ]
        axes = horizontal(svg.find(f".//{SVG}g[@id='patch_2']/{SVG}path"))  # type: ignore[arg-type]
        place = (horizontal(line)[0] - min(axes)) / (max(axes) - min(axes))
        assert place == pytest.approx(0.2 / 0.5, abs=1e-4)  # 0.2 s of 0.5 s; the SVG keeps six decimals


def test_a_resumed_run_replaces_the_steps_it_repeats(tmp_path: Path) -> None:
    write_log(tmp_path, 0, [{"step": s, "train/loss": 1.0} for s in (4, 9, 14, 19)])
    write_log(tmp_path, 2, [{"step": s, "train/loss": 2.0, "new": 7.0} for s in (14, 19)])
    write_log(tmp_path, 10, [{"step": s, "train/loss": 3.0} for s in (19, 24)])  # 10 is later than 2
    curves = read_curves(tmp_path / "log")
    assert curves["train/loss"].steps.tolist() == [4, 9, 14, 19, 24]
    assert curves["train/loss"].values.tolist() == [1, 1, 2, 3, 3]
    assert curves["new"].steps.tolist() == [14]


@settings(max_examples=30, deadline=None)
@given(starts=st.lists(st.integers(1, 30), max_size=4), every=st.integers(1, 5))
def test_a_run_killed_and_resumed_anywhere_leaves_the_curves_of_one_that_was_not(starts: list[int], every: int) -> None:
    """Each start continues from a checkpoint at or before the step that was reached, and gets some steps further."""
    logged = [step for step in range(40) if step % every == 0]
    with tempfile.TemporaryDirectory() as folder:
        reached = 0
        for version, further in enumerate([*starts, 40]):
            begin = max(0, reached - 3)
            reached = min(40, begin + further)
            write_log(Path(folder), version, [{"step": s, "loss": s / 2} for s in logged if begin <= s < reached])
        curve = read_curves(Path(folder) / "log")["loss"]
    assert curve.steps.tolist() == logged
    assert curve.values.tolist() == [step / 2 for step in logged]


def test_a_line_that_a_killed_run_left_half_written_is_dropped(tmp_path: Path) -> None:
    path = write_log(tmp_path, 0, [{"step": 4, "train/loss": 1.25}, {"step": 9, "train/loss": 1.5}])
    path.write_text(path.read_text() + "14,1.")
    (tmp_path / "log" / "version_1").mkdir()
    (tmp_path / "log" / "version_1" / "metrics.csv").write_text("")
    assert read_curves(tmp_path / "log")["train/loss"].steps.tolist() == [4, 9]


def test_long_curves_are_thinned_to_means_and_best_ignores_what_is_not_finite(tmp_path: Path) -> None:
    write_log(tmp_path, 0, [{"step": s, "loss": float(s % 2), "bad": float("nan") if s else 5.0} for s in range(1000)])
    curves = read_curves(tmp_path / "log")
    thin = curves["loss"].thinned(100)
    assert len(thin.steps) == 100
    assert np.allclose(thin.values, 0.5)
    assert curves["bad"].best() == (0, 5.0)
    assert curves["bad"].mean == 5.0


def test_with_a_public_encoder_there_is_no_encoder_stage(chain: Path) -> None:
    stamp = json.loads((chain / "chain.json").read_text())
    (chain / "chain.json").write_text(json.dumps({**stamp, "encoder": "facebook/hubert-base-ls960 layer 9"}))
    remove(chain / "encoder")
    assert "make encoder" not in write_report(chain).read_text(encoding="utf-8")


def test_a_chain_without_fine_levels_has_no_fine_stage_and_a_baseline_is_shown(chain: Path) -> None:
    stamp = json.loads((chain / "chain.json").read_text())
    (chain / "chain.json").write_text(json.dumps({**stamp, "preset": "piano"}))
    for part in ("tokens", "fine"):
        remove(chain / part)
    assert "make fine" not in write_report(chain).read_text(encoding="utf-8")
    utterance = Utterance("anna/0", "anna/0.flac", "anna", "train", 0, 8000, RATE, True, 0.0)
    fake_tokens(chain / "tokens", (utterance,), spec=replace(SPEC, coarse_levels=SPEC.levels))  # they say so too
    (chain / "chain.json").write_text(json.dumps(stamp))
    assert stages_of(chain) == ["codec", "encoder", "tokenizer", "tokens", "semantic", "coarse"]
    record(chain / "acoustic", "acoustic")
    page = write_report(chain).read_text(encoding="utf-8")
    assert "make fine" not in page
    assert "Acoustic-only baseline" in page


def test_an_empty_folder_gives_a_page_that_names_every_missing_part(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for target in ("corpus", "codec", "encoder", "tokenizer", "tokens", "semantic", "coarse", "fine", "samples"):
        assert f"<code>make {target}</code>" in page
    assert "<img" not in page
    assert "nan" not in page


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("manifest.jsonl", "corpus"),
        ("codec", "codec"),
        ("encoder", "encoder"),
        ("tokenizer", "tokenizer"),
        ("tokens", "tokens"),
        ("semantic", "semantic"),
        ("fine/log", None),
        ("fine/done.json", "fine"),
        ("chain.json", None),
        ("samples", "samples"),
        ("samples/1-continuation.wav", "samples"),
    ],
)
def test_a_page_without_one_part_says_what_makes_it(chain: Path, part: str, target: str | None) -> None:
    remove(chain / part)
    page = write_report(chain).read_text(encoding="utf-8")
    asked = re.findall(r'class="missing">[^\n]*\n[^\n]*\n?<code>make (\w+)', page)
    assert set(asked) - ({"fine"} if part == "fine/log" else set()) == ({target} if target else set())


def test_nothing_is_missing_from_a_finished_chain(finished: tuple[Path, str]) -> None:
    _, page = finished
    assert 'class="missing"' not in page
    assert page.count("<audio") == 12
    titles = [text for _, svg in pictures(page) for text in texts(svg)]
    for title in ("Loss", "Validation loss per level", "SI-SDR of reconstructions", "Codebook entries in use"):
        assert title in titles
    assert titles.count("unigram 3.00") == titles.count("bigram 2.75") == 3


@pytest.mark.parametrize(("loss", "verdict"), [(2.7, "below the bigram"), (2.8, "not below the bigram")])
def test_the_verdict_compares_the_best_validation_loss_with_the_bigram(chain: Path, loss: float, verdict: str) -> None:
    done = json.loads((chain / "coarse" / "done.json").read_text())
    write_json(chain / "coarse" / "done.json", {**done, "validation_loss": loss})
    page = write_report(chain).read_text(encoding="utf-8")
    row = re.search(r"<td>coarse</td>.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert f">{verdict}<" in row[0]
    assert f"<td>{loss:.3f}</td>" in row[0]


def test_a_stage_that_still_runs_shows_its_best_loss_so_far(chain: Path) -> None:
    (chain / "fine" / "done.json").unlink()
    page = write_report(chain).read_text(encoding="utf-8")
    assert "fine (unfinished)" in page
    row = re.search(r"<td>fine \(unfinished\)</td>.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert "<td>2.250</td>" in row[0]


def test_numbers_of_data_and_tokens_are_those_of_the_chain(finished: tuple[Path, str]) -> None:
    _, page = finished
    seconds = 4 * 3 * 0.5
    assert f"{seconds / 3600:.2f} hours of 4 speakers" in page
    assert f"{12 * 13} units" in page
    assert f"{12 * 25 * 3} codes" in page
    assert "semantic 12.5%, coarse 12.5%, fine 12.5%" in page
    assert "4 of 5 units occur" in page  # unit 4 was never written
    assert "<td>train</td>\n<td>6</td>" in page


def test_names_from_the_data_are_escaped(finished: tuple[Path, str]) -> None:
    _, page = finished
    assert "&lt;dora&gt; &amp; co" in page
    assert "<dora>" not in page


def test_commands_carry_the_knobs_of_the_chain(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "second"
    fake_chain(root)
    page = write_report(root).read_text(encoding="utf-8")
    assert "make train-all DATA=PATH/TO/talks PRESET=small RUN=second" in page
    assert "--generator checkpoints/runs/second/generator" in page


def test_the_same_chain_gives_the_same_page(finished: tuple[Path, str]) -> None:
    root, page = finished
    assert write_report(root).read_text(encoding="utf-8") == page


def test_a_damaged_file_stops_the_report_by_name_and_leaves_the_last_page(chain: Path) -> None:
    before = write_report(chain).read_bytes()
    (chain / "codec" / "done.json").write_text("{")
    with pytest.raises(ValueError, match=r"codec/done\.json is not valid JSON"):
        write_report(chain)
    assert (chain / "report" / "index.html").read_bytes() == before
    assert [path.name for path in (chain / "report").iterdir()] == ["index.html"]


def test_a_report_on_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make train-all"):
        write_report(tmp_path / "nowhere")
