"""`audiolm evaluate listening-test`: exact tests against loops, a blind page, and what is refused when answers come back."""

import base64
import csv
import hashlib
import io
import json
import math
import random
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_codec

from audiolm.audio import read_audio
from audiolm.evaluation.binomial import clopper_pearson, p_at_least, p_two_sided
from audiolm.evaluation.listening_key import read_key
from audiolm.evaluation.listening_make import make_listening_test
from audiolm.evaluation.listening_page import DIGEST_PLACE
from audiolm.evaluation.listening_plan import Kind, Request, plan_items
from audiolm.evaluation.listening_sounds import equalised, level_db, read_sound, with_beeps
from audiolm.verbs import run_verb

RATE = 8000


@pytest.mark.parametrize("trials", range(1, 9))
def test_both_tests_agree_with_tossing_every_row_of_coins(trials: int) -> None:
    heads = [sum(row) for row in product((0, 1), repeat=trials)]
    for successes in range(trials + 1):
        as_many = Fraction(sum(count >= successes for count in heads), len(heads))
        as_far = Fraction(sum(abs(2 * count - trials) >= abs(2 * successes - trials) for count in heads), len(heads))
        assert p_at_least(successes, trials) == float(as_many)
        assert p_two_sided(successes, trials) == float(as_far)


def test_the_papers_figure_is_the_one_sided_test() -> None:
    """51.2 % of 1000 ratings, p = 0.23; two-sided it would be 0.47."""
    assert p_at_least(512, 1000) == pytest.approx(0.2336, abs=2e-4)
    assert p_two_sided(512, 1000) == pytest.approx(0.467, abs=1e-3)


def test_known_intervals() -> None:
    """The bounds have closed forms where all or none succeed; 8 of 10 is in every table."""
    assert clopper_pearson(0, 10) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert clopper_pearson(10, 10) == (pytest.approx(0.025**0.1), 1.0)
    assert clopper_pearson(8, 10) == (pytest.approx(0.4439, abs=1e-4), pytest.approx(0.9748, abs=1e-4))


@given(trials=st.integers(1, 60), share=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_each_bound_is_where_its_tail_has_half_of_the_error(trials: int, share: float, confidence: float) -> None:
    successes, tail = round(share * trials), (1 - confidence) / 2
    low, high = clopper_pearson(successes, trials, confidence=confidence)
    assert low <= successes / trials <= high

    def mass(rate: float, counts: range) -> float:
        return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in counts)

    if successes > 0:
        assert mass(low, range(successes, trials + 1)) == pytest.approx(tail, rel=1e-6)
    if successes < trials:
        assert mass(high, range(successes + 1)) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 4), (5, 4)])
def test_counts_that_cannot_be_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        p_two_sided(successes, trials)


@given(seed=st.integers(0, 50), first=st.integers(3, 12), second=st.integers(3, 12), shared=st.integers(0, 6))
def test_one_at_a_time_half_are_human_and_no_recording_is_on_both_sides(
    seed: int, first: int, second: int, shared: int
) -> None:
    both = [f"both{n}" for n in range(shared)]
    humans, machines = [f"h{n}" for n in range(first)] + both, [f"m{n}" for n in range(second)] + both
    request = Request("human-or-machine", ("human", "machine"), seed, trials=1, attention=1)
    items = plan_items(humans, machines, request)
    counted = [item for item in items if item.role == "counted"]
    assert 2 * sum(item.right == "human" for item in counted) == len(counted) > 0
    names = [item.sides[0][1] for item in items]
    assert len(set(names)) == len(names)
    assert all(item.sides[0][1] in (humans if item.sides[0][0] == "human" else machines) for item in items)
    assert all(item.right == item.sides[0][0] for item in counted)
    assert items[0].role == "trial"
    assert plan_items(humans[::-1], machines[::-1], request) == items


@pytest.mark.parametrize("kind", ["which-is-human", "preference"])
@given(seed=st.integers(0, 50), count=st.integers(3, 30))
def test_of_pairs_the_first_folder_is_on_either_side_equally_often(kind: Kind, seed: int, count: int) -> None:
    stems = [f"s{n}" for n in range(count)]
    items = plan_items(stems, stems, Request(kind, ("x", "y"), seed, trials=1, attention=1))
    counted = [item for item in items if item.role == "counted"]
    on_a = sum(item.sides[0][0] == "x" for item in counted)
    assert abs(2 * on_a - len(counted)) <= 1
    assert len(counted) == count - 2
    for item in counted:
        assert {source for source, _ in item.sides} == {"x", "y"}
        assert len({name for _, name in item.sides}) == 1
        assert item.right == ("A" if item.sides[0][0] == "x" else "B")
    (attention,) = (item for item in items if item.role == "attention")
    assert attention.right == "BA"[attention.beeps or 0]


def test_order_and_sides_come_from_the_seed_and_from_the_names() -> None:
    stems = [f"s{n}" for n in range(20)]
    plans = [plan_items(stems, stems, Request("preference", ("x", "y"), seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    other = plan_items([f"t{n}" for n in range(20)], [f"t{n}" for n in range(20)], Request("preference", ("x", "y"), 0))
    assert [item.right for item in other] != [item.right for item in plans[0]]  # the page's reader has no names


def recording(seed: int, *, level: float, seconds: float = 1.2) -> np.ndarray:
    """A noise with a pause in its middle."""
    noise = level * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).clip(-3, 3) / 3
    noise[len(noise) // 3 : len(noise) // 2] *= 1e-3
    return noise


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six loud and six quiet recordings of the same names."""
    for number in range(6):
        for folder, level in (("hierarchy", 0.8), ("acoustic", 0.05)):
            path = tmp_path / folder / f"recording-{number}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, recording(number, level=level), RATE)
    return tmp_path / "hierarchy", tmp_path / "acoustic"


def make(folders: tuple[Path, Path], out: Path, *options: str) -> None:
    a, b = map(str, folders)
    sides = ("--human", a, "--machine", b, "--codec", "none") if "--tell" in options else ("--a", a, "--b", b)
    rest = [option for option in options if option != "--tell"]
    run_verb(["evaluate", "listening-test", "make", *sides, "--seconds", "1", "--seed", "3", "--out", str(out), *rest])


def the_page(out: Path) -> tuple[str, dict[str, Any]]:
    text = (out / "listening-test.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="test">(.*?)</script>', text, re.DOTALL)
    assert found
    return text, json.loads(found[1])


def test_the_page_does_not_hold_the_key_and_asks_nothing_of_the_network(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    make(folders, tmp_path / "test", "--trials", "1", "--attention", "1")
    text, test = the_page(tmp_path / "test")
    assert set(test) == {"digest", "question", "trials", "codes", "labels", "keys", "sounds"}
    rest = re.sub(r'"sounds":\[.*\]', "", text)
    for secret in ("hierarchy", "acoustic", "recording-", str(tmp_path), '"right"', "attention", "seed"):
        assert secret not in rest, secret
    assert not re.search(r"https?:|src=|@import|url\(", rest)
    sounds = [base64.b64decode(sound) for pair in test["sounds"] for sound in pair]
    assert not any(b"recording-" in sound for sound in sounds)


def test_the_digest_is_that_of_the_page(folders: tuple[Path, Path], tmp_path: Path) -> None:
    make(folders, tmp_path / "test")
    text, test = the_page(tmp_path / "test")
    assert hashlib.sha256(text.replace(test["digest"], DIGEST_PLACE).encode()).hexdigest() == test["digest"]
    assert read_key(tmp_path / "test" / "key.json").page == test["digest"]


def test_the_sounds_are_those_of_the_key_of_one_length_and_level(folders: tuple[Path, Path], tmp_path: Path) -> None:
    make(folders, tmp_path / "test")
    _, test = the_page(tmp_path / "test")
    levels = []
    for item, sounds in zip(read_key(tmp_path / "test" / "key.json").items, test["sounds"], strict=True):
        for (source, name), sound in zip(item.sides, sounds, strict=True):
            audio, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
            original, _ = soundfile.read(tmp_path / source / f"{name}.wav")
            assert (len(audio), rate) == (RATE, RATE)
            assert np.abs(audio).max() < 0.99
            middle = slice(RATE // 10, -RATE // 10)  # between the fades
            assert np.corrcoef(audio[middle], original[: len(audio)][middle])[0, 1] > 0.999
            levels.append(level_db(torch.from_numpy(audio), sample_rate_hz=rate))
    assert max(levels) - min(levels) < 0.3  # the fades; between the folders it was 24 dB


def test_a_pause_does_not_make_a_recording_louder() -> None:
    speech = torch.from_numpy(np.random.default_rng(0).standard_normal(RATE)).float() * 0.1
    paused = torch.cat([speech, torch.zeros(2 * RATE)])
    assert level_db(paused, sample_rate_hz=RATE) == pytest.approx(level_db(speech, sample_rate_hz=RATE), abs=1e-6)
    both, _ = equalised([speech, 3 * paused], sample_rate_hz=RATE)
    assert torch.allclose(both[0][1000:7000], both[1][1000:7000], atol=1e-5)


def test_beeps_are_three_and_leave_the_rest_alone() -> None:
    quiet = 0.001 * torch.ones(4 * RATE)
    quiet[0] = 0.5
    loud = with_beeps(quiet, sample_rate_hz=RATE).unfold(0, 100, 100).abs().amax(1) > 0.1
    assert int((loud[1:] & ~loud[:-1]).sum()) == 3
    assert not loud[1 : len(loud) // 2].any()


def test_originals_pass_through_the_codec_from_their_beginning(folders: tuple[Path, Path]) -> None:
    from audiolm.evaluation.clips import folder_clips

    codec, clip = tiny_codec(), folder_clips(folders[0])[0]
    rate = codec.sample_rate_hz
    heard = read_sound(clip, sample_rate_hz=rate, start_seconds=0.1, seconds=1.0, codec=codec)
    whole = clip.read(sample_rate_hz=rate)
    passed = codec.decode(codec.encode(whole[None]))[0, 1600:17600]
    assert heard.shape == (rate,)
    assert torch.allclose(heard[:15000], (passed - passed.mean())[:15000], atol=1e-3)  # its end sees another resampling


def test_only_originals_pass_through_the_codec(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Both folders hold the same noise; what the codec did to the human side is heard in its half of the items alone."""
    codec, out = tiny_codec(), tmp_path / "test"
    request = Request("which-is-human", ("human", "machine"), seed=0)
    make_listening_test((folders[1], folders[0]), out, request, seconds=1.0, codec=codec)
    _, test = the_page(out)
    for item, sounds in zip(read_key(out / "key.json").items, test["sounds"], strict=True):
        for (source, name), sound in zip(item.sides, sounds, strict=True):
            audio, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
            raw = read_audio(folders[0] / f"{name}.wav", sample_rate_hz=rate)[: len(audio)].numpy()
            likeness = np.corrcoef(audio[rate // 10 : -rate // 10], raw[rate // 10 : -rate // 10])[0, 1]
            assert (likeness > 0.99) == (source == "machine")


def answers(out: Path, rater: str, choose: Callable[[Any, int], str]) -> dict[str, Any]:
    """What the page would save: `choose(item, number)` answers."""
    key = read_key(out / "key.json")
    given = [
        {"item": number, "answer": choose(item, number), "seconds": 1.5, "plays": [1]}
        for number, item in enumerate(key.items, start=1)
    ]
    times = {"started": f"2025-01-01T00:00:00 {rater}", "finished": "2025-01-01T01:00:00Z"}
    return {"format": "audiolm listening answers 1", "page": key.page, "rater": rater, **times, "answers": given}


def right(item: Any, number: int) -> str:
    return item.right


def write(folder: Path, content: Any, name: str) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path)


def score(out: Path, *arguments: str) -> dict[str, Any]:
    run_verb(["evaluate", "listening-test", "score", *arguments, "--key", str(out / "key.json")])
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize("mode", [("--tell",), ("--tell", "--pairs"), ()])
def test_what_raters_chose_comes_out(mode: tuple[str, ...], folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "test"
    make(folders, out, *mode, "--limit", "4", "--trials", "1", "--attention", "1")
    items = read_key(out / "key.json").items
    wrong_ones = {number for number, item in enumerate(items, start=1) if item.role == "trial"}
    wrong_ones |= set([number for number, item in enumerate(items, start=1) if item.role == "counted"][:1])

    def mostly(item: Any, number: int) -> str:
        other = {"A": "B", "B": "A", "human": "machine", "machine": "human"}
        return other[item.right] if number in wrong_ones else item.right

    files = [write(tmp_path, answers(out, name, who), name) for name, who in (("Ann", right), ("Bo", mostly))]
    result = score(out, *files)
    assert (result["pooled"]["ratings"], result["pooled"]["successes"]) == (8, 7)
    assert result["pooled"]["p_one_sided"] == 9 / 256
    assert result["pooled"]["p_two_sided"] == 18 / 256
    assert [(row["who"], row["successes"]) for row in result["raters"]] == [("Ann", 4), ("Bo", 3)]
    assert [row["who"] for row in result["sources"]] == (["human", "machine"] if mode == ("--tell",) else [])
    rows = list(csv.DictReader((out / "ratings.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert sum(int(row["counts"]) * int(row["success"]) for row in rows) == 7
    table = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert table[0]["who"] == "all raters"
    assert float(table[0]["rate"]) == 7 / 8


def test_guessing_is_chance_whatever_the_sides(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A rater who always says A is right half the time: the sides are balanced."""
    out = tmp_path / "test"
    make(folders, out)
    result = score(out, write(tmp_path, answers(out, "Ann", lambda item, number: "A"), "ann"))
    assert result["pooled"]["rate"] == 0.5
    assert result["pooled"]["p_two_sided"] == 1


def test_raters_who_do_not_listen_are_left_out_only_on_request(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "test"
    make(folders, out, "--attention", "2")
    dice = random.Random(0)
    deaf = answers(out, "Deaf", lambda item, number: "AB"[item.right == "A"])
    files = [write(tmp_path, answers(out, "Ann", right), "ann"), write(tmp_path, deaf, f"{dice.random()}")]
    assert score(out, *files)["pooled"]["rate"] == 0.5
    assert "Deaf missed 2 of 2 attention items." in capsys.readouterr().out
    result = score(out, *files, "--most-missed", "1")
    assert result["pooled"]["rate"] == 1
    assert result["left_out"] == ["Deaf"]
    assert "Deaf missed 2 of 2 attention items: left out." in capsys.readouterr().out
    with pytest.raises(ValueError, match="nobody is left"):
        score(out, files[1], "--most-missed", "0")


def damaged(change: str, content: dict[str, Any]) -> dict[str, Any]:
    given = content["answers"]
    changes: dict[str, Callable[[], Any]] = {
        "page": lambda: content.update(page="0" * 64),
        "format": lambda: content.update(format="something"),
        "rater": lambda: content.update(rater="  "),
        "short": lambda: given.pop(),
        "twice": lambda: given.append(given[0]),
        "beyond": lambda: given.append({**given[0], "item": 99}),
        "truth": lambda: given[0].update(item=True),
        "choice": lambda: given[0].update(answer="human"),
        "time": lambda: given[0].update(seconds="long"),
        "list": lambda: content.update(answers={"1": "A"}),
    }
    changes[change]()
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("page", "answers another page"),
        ("format", "no answers of a listening test"),
        ("rater", "who the rater is"),
        ("short", "is incomplete: 1 of 6 items have no answer \\(6\\)"),
        ("twice", "item 1 twice"),
        ("beyond", "item 99"),
        ("truth", "item True"),
        ("choice", "must be A or B"),
        ("time", "seconds of item 1"),
        ("list", "must be a list"),
    ],
)
def test_answers_that_do_not_fit_are_refused_by_file(
    change: str, message: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "test"
    make(folders, out)
    good = write(tmp_path, answers(out, "Ann", right), "ann")
    bad = write(tmp_path, damaged(change, answers(out, "Bo", right)), "bo")
    with pytest.raises(ValueError, match=f"bo.json.*{message}"):
        score(out, good, bad)
    assert not (out / "scores.json").exists()


def test_one_rater_counts_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "test"
    make(folders, out)
    first = answers(out, "Ann", right)
    files = [write(tmp_path, first, "ann"), write(tmp_path, answers(out, "ann", right), "again")]
    with pytest.raises(ValueError, match="both of rater 'Ann'"):
        score(out, *files)
    renamed = write(tmp_path, {**first, "rater": "Zoe"}, "zoe")
    with pytest.raises(ValueError, match=r"ann.json and .*zoe.json hold the same answers"):
        score(out, files[0], renamed)


def test_a_key_is_not_lost_and_a_damaged_one_not_believed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "test"
    make(folders, out)
    with pytest.raises(ValueError, match="answers to its page would be lost"):
        make(folders, out)
    file = write(tmp_path, answers(out, "Ann", right), "ann")
    key = json.loads((out / "key.json").read_text())
    key["items"][2]["right"] = "human"
    write(out, key, "key")
    with pytest.raises(ValueError, match="item 3 has the right answer 'human'"):
        score(out, file)


def test_folders_that_do_not_fit_are_refused_before_anything_is_written(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "test"
    with pytest.raises(ValueError, match="6 items; 7 counted"):
        make(folders, out, "--limit", "7")
    with pytest.raises(ValueError, match="an even number"):
        make(folders, out, "--tell", "--limit", "3")
    (folders[0] / "recording-5.wav").rename(folders[0] / "recording-6.wav")
    with pytest.raises(ValueError, match="2 recordings are in one of the two folders only: recording-5, recording-6"):
        make(folders, out)
    soundfile.write(folders[0] / "recording-6.wav", recording(0, level=0.1, seconds=0.5), RATE)
    with pytest.raises(ValueError, match=r"1 of 6 recordings .* recording-6.wav first, at 0.50 s"):
        make(folders, out)
    soundfile.write(folders[0] / "recording-0.flac", recording(0, level=0.1), RATE)
    with pytest.raises(ValueError, match="have one name"):
        make(folders, out)
    assert not out.exists()


def test_the_command_line_says_what_is_missing(tmp_path: Path) -> None:
    def verb(*options: str) -> None:
        run_verb(["evaluate", "listening-test", "make", "--out", str(tmp_path), *options])

    with pytest.raises(ValueError, match="name two folders"):
        verb("--human", "x")
    with pytest.raises(ValueError, match="name it with --codec"):
        verb("--human", "x", "--machine", "y")
    with pytest.raises(ValueError, match="belong to --human"):
        verb("--a", "x", "--b", "y", "--pairs")
    with pytest.raises(ValueError, match="same folder"):
        verb("--a", "x", "--b", "x")
    with pytest.raises(ValueError, match="--trials must be 0 or more"):
        verb("--a", "x", "--b", "y", "--trials", "-1")
