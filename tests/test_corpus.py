import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiolm import scan
from audiolm.audio import write_audio
from audiolm.corpus import PrepareReport, prepare
from audiolm.manifest import SPLITS, Manifest, read_manifest
from audiolm.recordings import CorpusError
from audiolm.scan import cut_recording

RATE = 1000  # small numbers; prepare never resamples


def record(path: Path, *, seconds: float = 0.5, rate: int = RATE, offset: float = 0.0, **metadata: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = torch.rand(round(seconds * rate), generator=torch.Generator().manual_seed(len(str(path)))) - 0.5
    write_audio(path, 0.2 * noise + offset, sample_rate_hz=rate)
    if metadata:
        path.with_suffix(".json").write_text(json.dumps(metadata))


def prepared(data: Path, out: Path, **options: Any) -> tuple[PrepareReport, Manifest]:
    report = prepare(data, out, workers=2, **options)
    return report, read_manifest(out / "manifest.jsonl")


def speakers(manifest: Manifest) -> set[str]:
    return {utterance.speaker for utterance in manifest.utterances}


@pytest.mark.parametrize("prefix", ["", "unlab/", "librilight/small/"])
def test_libri_light_speakers_are_the_folder_above_the_book(tmp_path: Path, prefix: str) -> None:
    for speaker, book in itertools.product(["100", "7", "lj"], ["a", "b"]):
        record(tmp_path / f"data/{prefix}{speaker}/{book}/x.flac", speaker=speaker, snr=math.nan)
    report, manifest = prepared(tmp_path / "data", tmp_path / "out")
    assert report.layout == "Libri-Light"
    assert speakers(manifest) == {"100", "7", "lj"}
    assert f"{prefix}7/a/x" in {utterance.id for utterance in manifest.utterances}


def test_one_libri_light_speaker_is_not_mistaken_for_a_folder_to_skip(tmp_path: Path) -> None:
    for name in "abc":
        record(tmp_path / f"data/unlab/lj/LJ001/{name}.flac", voice_activity=[])
    assert speakers(prepared(tmp_path / "data", tmp_path / "out")[1]) == {"lj"}


def test_libri_speech_speakers_come_from_below_the_subset(tmp_path: Path) -> None:
    for subset, speaker in [("dev-clean", "84"), ("dev-clean", "174"), ("test-other", "367")]:
        record(tmp_path / f"data/LibriSpeech/{subset}/{speaker}/12/{speaker}-12-0000.flac")
    report, manifest = prepared(tmp_path / "data", tmp_path / "out")
    assert (report.layout, speakers(manifest)) == ("LibriSpeech", {"84", "174", "367"})


def test_speakers_of_any_other_folder_are_the_first_level_below_what_all_share(tmp_path: Path) -> None:
    for name in ["george/1.wav", "lucas/x/2.OGG", "nicolas/3.flac", "4.wav"]:
        record(tmp_path / "fsdd/flac" / name, rate=8000)
    report, manifest = prepared(tmp_path / "fsdd", tmp_path / "out")
    assert report.layout == "folder"
    assert speakers(manifest) == {"george", "lucas", "nicolas", "flac"}  # 4.wav lies in flac itself


def test_a_flat_folder_is_one_speaker_split_by_file_and_the_report_says_so(tmp_path: Path) -> None:
    for index in range(9):
        record(tmp_path / f"piano/{index}.wav", seconds=2.5)
    report, manifest = prepared(tmp_path / "piano", tmp_path / "out", max_utterance_seconds=1.0)
    assert (report.split_by, speakers(manifest)) == ("file", {"piano"})
    assert report.utterances == {"train": 21, "validation": 3, "test": 3}
    for _, pieces in itertools.groupby(manifest.utterances, key=lambda utterance: utterance.path):
        assert len({piece.split for piece in pieces}) == 1  # no recording is trained on and tested on
    assert "fewer than 3 speakers" in str(report)


def test_one_long_recording_is_split_by_utterance(tmp_path: Path) -> None:
    record(tmp_path / "data/one.wav", seconds=3)
    report, manifest = prepared(tmp_path / "data", tmp_path / "out", max_utterance_seconds=1.0)
    assert report.split_by == "utterance"
    assert {utterance.split for utterance in manifest.utterances} == set(SPLITS)


def test_fewer_than_three_utterances_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "data/a.wav")
    record(tmp_path / "data/b.wav")
    with pytest.raises(CorpusError, match="only 2 utterances"):
        prepare(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_the_report_counts_what_the_manifest_holds(tmp_path: Path) -> None:
    for speaker in range(30):
        record(tmp_path / f"data/{speaker}/a.flac", seconds=0.5 + speaker / 100)
    report, manifest = prepared(tmp_path / "data", tmp_path / "out")
    assert report.split_by == "speaker"
    for split in SPLITS:
        assert report.utterances[split] == report.speakers[split] == len(manifest.split(split)) > 0
        assert report.hours[split] == pytest.approx(sum(u.samples for u in manifest.split(split)) / RATE / 3600)


def test_a_corpus_prepared_twice_or_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    for speaker in "abcd":
        record(tmp_path / f"data/{speaker}/x.flac")
    first = prepared(tmp_path / "data", tmp_path / "out")[1]
    os.rename(tmp_path / "data", tmp_path / "moved")
    second = prepared(tmp_path / "moved", tmp_path / "out")[1]
    assert first.digest == second.digest
    assert first.root != second.root


def test_the_offset_of_a_recording_is_measured(tmp_path: Path) -> None:
    for index, offset in enumerate([0.0, -0.26, 0.03]):
        record(tmp_path / f"data/s{index}/x.flac", seconds=5, rate=8000, offset=offset)
    measured = [utterance.dc_offset for utterance in prepared(tmp_path / "data", tmp_path / "out")[1].utterances]
    assert measured == pytest.approx([0.0, -0.26, 0.03], abs=2e-3)  # the noise has a mean of its own


def test_names_that_differ_only_by_suffix_keep_it_in_the_id(tmp_path: Path) -> None:
    for name in ["a.wav", "a.flac", "b.wav"]:
        record(tmp_path / "data" / name)
    ids = [utterance.id for utterance in prepared(tmp_path / "data", tmp_path / "out")[1].utterances]
    assert ids == ["a.flac", "a.wav", "b"]


def broken_corpus(data: Path) -> None:
    for index in range(6):
        record(data / f"s{index}/good.wav", seconds=4)
    (data / "s0/empty.wav").touch()
    (data / "s0/text.flac").write_text("no audio")
    record(data / "s1/short.wav", seconds=0.099)
    soundfile.write(data / "s1/silent.wav", np.full(4000, 0.1), RATE)
    soundfile.write(data / "s2/nan.wav", np.r_[np.full(2000, 0.1), np.nan, np.full(1999, 0.1)], RATE, subtype="FLOAT")
    record(data / "s2/cut.flac", seconds=4, rate=16000)
    content = (data / "s2/cut.flac").read_bytes()
    (data / "s2/cut.flac").write_bytes(content[: len(content) // 2])
    (data / "s3/gone.wav").symlink_to(data / "nowhere")


def test_every_unusable_file_is_listed_with_its_reason_and_the_good_ones_stay(tmp_path: Path) -> None:
    broken_corpus(tmp_path / "data")
    report, manifest = prepared(tmp_path / "data", tmp_path / "out", max_rejected_share=0.6)
    rows = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    reasons = {row["path"]: row["reason"] for row in rows}
    assert set(reasons) == {
        "s0/empty.wav", "s0/text.flac", "s1/short.wav", "s1/silent.wav", "s2/nan.wav", "s2/cut.flac", "s3/gone.wav",
    }  # fmt: skip
    assert reasons["s0/empty.wav"] == "empty file"
    assert reasons["s1/short.wav"] == "shorter than 0.1 s"
    assert reasons["s1/silent.wav"] == "silent"
    assert reasons["s2/nan.wav"] == "NaN or infinite samples"
    assert reasons["s3/gone.wav"] == "missing"
    assert sum(report.rejected.values()) == 7
    assert len(manifest.utterances) == 6
    assert "7 files rejected" in str(report)


def test_too_many_unusable_files_stop_the_run_and_name_the_knob(tmp_path: Path) -> None:
    broken_corpus(tmp_path / "data")
    with pytest.raises(CorpusError, match="--max-rejected-share") as caught:
        prepare(tmp_path / "data", tmp_path / "out")
    assert "7 of 13" in str(caught.value)
    assert "1 x empty file, such as s0/empty.wav" in str(caught.value)
    assert len((tmp_path / "out/rejected.jsonl").read_text().splitlines()) == 7
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_stray_files_in_a_libri_light_tree_are_rejected_not_made_a_speaker(tmp_path: Path) -> None:
    for speaker in "abcd":
        record(tmp_path / f"data/{speaker}/book/x.flac", snr=1.0)
    record(tmp_path / "data/trailer.mp3", rate=16000)
    report, manifest = prepared(tmp_path / "data", tmp_path / "out", max_rejected_share=0.5)
    assert speakers(manifest) == set("abcd")
    assert list(report.rejected) == ["outside the Libri-Light layout: no folder says who speaks"]


def test_a_missing_empty_or_wrong_data_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.m4a").touch()
    (tmp_path / "file.wav").touch()
    for name, message in [("absent", "does not exist"), ("text", r"no audio file .*1 x \.m4a"), ("file.wav", "a file")]:
        with pytest.raises(CorpusError, match=message):
            prepare(tmp_path / name, tmp_path / "out")


def test_an_output_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    for name in "abc":
        record(tmp_path / f"data/{name}.wav")
    with pytest.raises(CorpusError, match="cannot write to"):
        prepare(tmp_path / "data", tmp_path / "data/a.wav/out")


def test_hidden_files_are_ignored_and_links_that_lead_back_end(tmp_path: Path) -> None:
    for name in "abc":
        record(tmp_path / f"data/{name}/x.wav")
    record(tmp_path / "data/a/._x.wav")
    record(tmp_path / "data/.trash/x.wav")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    assert prepared(tmp_path / "data", tmp_path / "out")[0].files == 3


def test_json_that_makes_no_sense_is_a_warning_and_the_recording_stays(tmp_path: Path) -> None:
    for index, text in enumerate(["{broken", '{"voice_activity": 3}', '{"voice_activity": [[0, 99]]}', "[1]", "{}"]):
        record(tmp_path / f"data/s{index}/b/x.wav", seconds=3, snr=0)
        (tmp_path / f"data/s{index}/b/x.json").write_text(text)
    report, manifest = prepared(tmp_path / "data", tmp_path / "out", max_utterance_seconds=2.0)
    assert sum(report.warnings.values()) == 3
    assert len(manifest.utterances) == 10  # each cut in two equal pieces


def test_a_killed_scan_continues_and_ends_in_the_same_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        record(tmp_path / f"data/{index:02d}/x.wav")
    reference = prepared(tmp_path / "data", tmp_path / "reference")[1]
    monkeypatch.setattr(scan, "_FILES_PER_TASK", 4)

    def killed(done: int, total: int) -> None:
        assert total == 40
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "data", tmp_path / "out", workers=1, progress=killed)
    log = tmp_path / "out/scan.jsonl"
    assert not (tmp_path / "out/manifest.jsonl").exists()
    assert len(log.read_text().splitlines()) == 21  # settings and 20 files
    log.write_text(log.read_text()[:-30])  # a line torn by the kill
    record(tmp_path / "data/00/x.wav", seconds=0.7)  # and a file that changed meanwhile

    probed: list[str] = []
    probe = scan._probe
    monkeypatch.setattr(scan, "_probe", lambda root, rec, most: probed.append(rec.path) or probe(root, rec, most))
    _, manifest = prepared(tmp_path / "data", tmp_path / "out")
    assert sorted(probed) == ["00/x.wav", *(f"{index:02d}/x.wav" for index in range(19, 40))]
    assert manifest.utterances[1:] == reference.utterances[1:]
    assert manifest.utterances[0].samples == 700
    assert not log.exists()


def test_a_scan_with_another_maximum_starts_over(tmp_path: Path) -> None:
    for name in "abc":
        record(tmp_path / f"data/{name}.wav", seconds=3)
    (tmp_path / "data/bad.wav").touch()
    with pytest.raises(CorpusError):
        prepare(tmp_path / "data", tmp_path / "out")  # leaves its scan behind
    _, manifest = prepared(tmp_path / "data", tmp_path / "out", max_utterance_seconds=1.0, max_rejected_share=0.5)
    assert len(manifest.utterances) == 9


# Cutting


def test_recordings_up_to_the_maximum_stay_whole_whatever_their_voice_activity() -> None:
    assert cut_recording(60 * RATE, sample_rate_hz=RATE, max_seconds=60, voice_activity=[(30, 31)]) == [
        (0, 60 * RATE, True)
    ]


def test_without_voice_activity_pieces_are_equal_and_only_the_last_one_truly_ends() -> None:
    pieces = cut_recording(61 * RATE, sample_rate_hz=RATE, max_seconds=30)
    assert pieces == [(0, 20333, False), (20333, 20333, False), (40666, 20334, True)]


def test_cuts_fall_in_the_middle_of_a_pause_and_long_silences_are_dropped() -> None:
    activity = [(0.5, 4.0), (4.4, 9.0), (15.0, 18.0), (18.05, 19.0)]
    pieces = cut_recording(30 * RATE, sample_rate_hz=RATE, max_seconds=8, voice_activity=activity)
    assert pieces == [
        (0, 4200, True),  # half a second of silence, speech, half of the pause of 0.4 s
        (4200, 5800, True),  # up to a second after 9.0
        (14000, 6000, True),  # from a second before 15.0; 18.0 to 18.05 is no pause
    ]


def test_speech_longer_than_the_maximum_is_cut_without_a_true_end_but_at_its_last_piece() -> None:
    pieces = cut_recording(40 * RATE, sample_rate_hz=RATE, max_seconds=10, voice_activity=[(5, 30), (33, 34)])
    assert pieces == [(4000, 9000, False), (13000, 9000, False), (22000, 9000, True), (32000, 3000, True)]


def test_silence_gives_way_before_speech_is_cut() -> None:
    pieces = cut_recording(30 * RATE, sample_rate_hz=RATE, max_seconds=10, voice_activity=[(5, 14.5), (14.7, 24)])
    assert pieces == [(4600, 10000, True), (14600, 10000, True)]


@given(data=st.data(), seconds=st.integers(1, 100), most=st.integers(1, 30))
def test_no_piece_is_too_long_none_overlap_and_no_speech_is_lost(data: st.DataObject, seconds: int, most: int) -> None:
    moments = st.floats(0, seconds)
    activity = data.draw(st.lists(st.tuples(moments, moments).map(sorted).map(tuple), max_size=12))
    pieces = cut_recording(seconds * RATE, sample_rate_hz=RATE, max_seconds=most, voice_activity=activity)
    assert all(0 < samples <= most * RATE for _, samples, _ in pieces)
    assert pieces[0][0] >= 0
    assert pieces[-1][0] + pieces[-1][1] <= seconds * RATE
    assert pieces[-1][2]
    for (start, samples, true_end), (following, _, _) in itertools.pairwise(pieces):
        assert start + samples <= following
        assert true_end or start + samples == following  # only a cut without a pause continues at once
    kept = np.zeros(seconds * RATE, dtype=bool)
    for start, samples, _ in pieces:
        kept[start : start + samples] = True
    for begin, end in activity:
        assert kept[int(begin * RATE) : int(end * RATE)].all()


def test_pieces_of_a_cut_recording_carry_their_start_in_the_id(tmp_path: Path) -> None:
    for speaker in "abc":
        activity = [[0.0, 1.0], [2.0, 3.0]]
        record(tmp_path / f"data/{speaker}/b/x.flac", seconds=3, voice_activity=activity, snr=math.nan)
    _, manifest = prepared(tmp_path / "data", tmp_path / "out", max_utterance_seconds=2.0)
    assert [utterance.id for utterance in manifest.utterances][:2] == ["a/b/x@0", "a/b/x@1500"]
    piece = manifest.utterances[1]
    assert (piece.start, piece.samples, piece.true_end, piece.path) == (1500, 1500, True, "a/b/x.flac")
    assert len({replace(u, id="").path for u in manifest.utterances}) == 3
