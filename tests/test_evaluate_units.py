"""`audiolm evaluate units`: purity and mutual information by hand, repeats, alignment tables, and what the verb writes."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from audiolm.audio import audio_info
from audiolm.evaluation.alignments import Interval, frame_phones, read_alignments, require_within
from audiolm.evaluation.unit_measures import phone_measures, repeat_measures
from audiolm.evaluation.unit_pictures import units_picture
from audiolm.verbs import run_verb


def test_units_that_are_phones_are_pure_and_know_everything() -> None:
    measures = phone_measures(np.diag([3, 5, 2]))
    assert (measures.phone_purity, measures.cluster_purity, measures.frames) == (1, 1, 10)
    assert measures.pnmi == pytest.approx(1)


def test_units_drawn_regardless_of_the_phone_know_nothing() -> None:
    measures = phone_measures(np.outer([6, 3, 1], [2, 5, 3]))
    assert measures.phone_purity == pytest.approx(0.6)
    assert measures.cluster_purity == pytest.approx(0.5)
    assert measures.pnmi == pytest.approx(0, abs=1e-12)


def test_purity_and_mutual_information_by_hand() -> None:
    """Phones a, b; unit 0: 3 a and 1 b, unit 1: 4 b, unit 2 never."""
    measures = phone_measures(np.array([[3, 0, 0], [1, 4, 0]]))
    assert measures.phone_purity == pytest.approx(7 / 8)
    assert measures.cluster_purity == pytest.approx(7 / 8)
    entropy = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    left = 4 / 8 * -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))  # H(phone | unit)
    assert measures.pnmi == pytest.approx((entropy - left) / entropy)


def test_splitting_units_raises_phone_purity_and_lowers_cluster_purity() -> None:
    whole, split = phone_measures(np.array([[4, 0], [0, 4]])), phone_measures(np.array([[2, 2, 0], [0, 0, 4]]))
    assert split.phone_purity == whole.phone_purity == 1
    assert split.cluster_purity < whole.cluster_purity


def test_one_phone_leaves_nothing_to_know_and_no_frames_are_an_error() -> None:
    assert math.isnan(phone_measures(np.array([[1, 2]])).pnmi)
    with pytest.raises(ValueError, match="no frame lies inside a phone"):
        phone_measures(np.zeros((2, 2), dtype=np.int64))


def test_repeats_by_hand_and_runs_end_with_their_utterance() -> None:
    measures = repeat_measures([np.array([7, 7, 7, 1]), np.array([1, 1]), np.array([], dtype=np.int64)], rate_hz=25)
    assert measures.mean_run_frames == 2  # 7 7 7 | 1 | 1 1
    assert measures.repeat_share == 0.5
    assert measures.units_per_second == 12.5


def test_a_frame_has_the_phone_at_its_centre() -> None:
    intervals = [Interval(0.0, 0.06, "A"), Interval(0.06, 0.1, "B"), Interval(0.15, 0.2, "C")]
    # centres 0.02, 0.06, 0.10, 0.14, 0.18, 0.22; an interval holds its start and not its end
    assert frame_phones(intervals, frames=6, rate_hz=25) == ["A", "B", None, None, "C", None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.wav\t0.0\t0.5\tA\tx\na.wav\t0.4\t0.6\tB\tx\n", "line 3 .*begins at 0.4 s, before the one above"),
        ("a.wav\t0.5\t0.5\tA\tx\n", "line 2 .*end after its start"),
        ("a.wav\t-1\t0.5\tA\tx\n", "0 or later"),
        ("a.wav\tnan\t0.5\tA\tx\n", "0 or later"),
        ("a.wav\tsoon\t0.5\tA\tx\n", "must be seconds"),
        ("a.wav\n", "must be seconds"),
        ("", "no intervals"),
    ],
)
def test_damaged_tables_are_refused_by_line(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "phones.tsv").write_text("file\tstart\tend\tphone\tword\n" + rows)
    with pytest.raises(ValueError, match=message):
        read_alignments(tmp_path / "phones.tsv")


def test_a_table_without_its_columns_or_beyond_the_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "phones.tsv").write_text("file,start,end,phone\n")
    with pytest.raises(ValueError, match="lacks the column"):
        read_alignments(tmp_path / "phones.tsv")
    with pytest.raises(FileNotFoundError, match="--phones"):
        read_alignments(tmp_path / "nothing.tsv")
    require_within([Interval(0, 1.01, "A")], seconds=1.0, file="a.wav")
    with pytest.raises(ValueError, match=r"a.wav is 1.000 s long, but its phone 'A' ends at 1.5 s"):
        require_within([Interval(0, 1.5, "A")], seconds=1.0, file="a.wav")


def test_the_picture_holds_every_phone_and_every_run_of_units_and_repeats_to_the_byte() -> None:
    audio = np.sin(np.arange(16000) / 20).astype(np.float32)
    arguments = (audio, np.array([3] * 10 + [11] * 15), [Interval(0, 0.5, "AA"), Interval(0.5, 1.0, "SIL")])
    picture = units_picture(*arguments, sample_rate_hz=16000, rate_hz=25, title="one.wav")
    text = picture.decode()
    for word in ("waveform", "mel", "phones", "units", "seconds", "one.wav", ">AA<", ">SIL<", ">3<", ">11<"):
        assert word in text
    assert text.count('id="unit-') == 2
    assert text.count('id="phone-') == 2
    assert picture == units_picture(*arguments, sample_rate_hz=16000, rate_hz=25, title="one.wav")


@pytest.fixture
def aligned(tone_corpus: Path, tmp_path: Path) -> Path:
    """A table that calls the first half of every recording A, the rest SIL."""
    lines = ["file\tstart\tend\tphone\tword"]
    for path in sorted(tone_corpus.rglob("*.flac")):
        seconds, name = audio_info(path).seconds, path.relative_to(tone_corpus)
        lines += [f"{name}\t0\t{seconds / 2}\tA\tah", f"{name}\t{seconds / 2}\t{seconds}\tSIL\t"]
    (tmp_path / "phones.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "phones.tsv"


def test_the_verb_writes_numbers_a_table_and_a_picture(
    chain: Path, tone_corpus: Path, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, command = tmp_path / "out", ["evaluate", "units", "--phones", str(aligned), "--audio", str(tone_corpus)]
    run_verb([*command, "--root", str(chain), "--out", str(out), "--limit", "4", "--utterance", "speaker3/1.flac"])
    printed = capsys.readouterr().out
    for word in ("phone purity", "PNMI", "clusters in use", "repeats"):
        assert word in printed
    found = json.loads((out / "units.json").read_text())
    assert found["files"] == 4
    assert 0.5 <= found["phones"]["phone_purity"] <= 1
    assert found["phones_without_silence"]["pnmi"] is None  # one phone only
    assert found["use"]["frames"] == found["phones"]["frames"] + found["frames_without_phone"]
    with open(out / "phones.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["phone"] for row in rows} == {"A", "SIL"}
    assert sum(int(row["frames"]) for row in rows) == found["phones"]["frames"]
    assert "speaker3/1.flac" in (out / "units.svg").read_text()


def test_missing_recordings_and_unknown_utterances_are_named(
    chain: Path, tone_corpus: Path, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "units", "--phones", str(aligned), "--root", str(chain), "--out", str(tmp_path / "out")]
    shutil.copytree(tone_corpus / "speaker0", tmp_path / "some" / "speaker0")
    with pytest.raises(FileNotFoundError, match=r"10 of 12 recordings .* such as speaker1/0.flac"):
        run_verb([*command, "--audio", str(tmp_path / "some")])
    with pytest.raises(ValueError, match="names 6 recordings"):
        run_verb([*command, "--audio", str(tone_corpus), "--utterance", "0"])
    with pytest.raises(FileNotFoundError, match="make tokenizer"):
        run_verb([*command, "--audio", str(tone_corpus), "--tokenizer", str(tmp_path / "no.ckpt")])
