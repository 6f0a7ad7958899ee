"""`audiolm evaluate swuggy` and `sblimp`: from a folder in ZeroSpeech's layout to score files, however often it was killed."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_generator, tones_and_noise, write_tiny_generator

from audiolm.audio import read_prompt, write_audio
from audiolm.evaluation.likelihoods import measure_likelihoods, read_likelihoods
from audiolm.evaluation.score_files import read_score_file
from audiolm.evaluation.zerospeech_gold import COLUMNS, zerospeech_set
from audiolm.files import write_json
from audiolm.generator import AudioLM
from audiolm.generator.folder import GeneratorError
from audiolm.verbs import run_verb

LEXICAL = [
    # filename, id, voice, frequency, word, phones, length, correct
    ["Aa", "0", "A", "12", "null", "N AH L", "3", "1"],
    ["aA", "0", "A", "", "", "N UH L", "3", "0"],
    ["ab", "0", "B", "12", "null", "N AH L", "3", "1"],
    ["ac", "0", "B", "", "", "N UH L", "3", "0"],
    ["ad", "1", "A", "0", "oovword", "UW V", "2", "1"],
    ["ae", "1", "A", "", "", "UW Z", "2", "0"],
]
SYNTACTIC = [
    # filename, id, voice, type, subtype, transcription, correct
    ["Ba", "0", "A", "agreement", "x", "cats, and dogs run", "1"],
    ["ba", "0", "A", "agreement", "x", "cats, and dogs runs", "0"],
    ["bb", "0", "A", "order", "x", "the cat", "1"],
    ["bc", "0", "A", "order", "x", "cat the", "0"],
]
ROWS = {"lexical": LEXICAL, "syntactic": SYNTACTIC}
TASKS = {"swuggy": "lexical", "sblimp": "syntactic"}


def write_gold(folder: Path, task: str, rows: list[list[str]]) -> None:
    with open(folder / task / "dev" / "gold.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS[task], *rows])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of both tasks, at a rate that is not the generator's, lengths mixed."""
    folder = tmp_path / "data"
    for task, rows in ROWS.items():
        for number, row in enumerate(rows):
            audio = tones_and_noise(8000 + 3100 * (number * 5 % 7), seed=number)
            write_audio(folder / task / "dev" / f"{row[0]}.wav", audio, sample_rate_hz=22050)
        write_gold(folder, task, rows)
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "generator"
    write_tiny_generator(folder)
    return folder


@pytest.fixture
def evaluate(data: Path, generator: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs a verb; gives the folder that it wrote."""

    def run(verb: str, *arguments: str, where: tuple[str, ...] = ("--data", str(data)), out: str = "out") -> Path:
        common = ["--generator", str(generator), "--out", str(tmp_path / out), "--device", "cpu", "--batch-size", "2"]
        run_verb(["evaluate", verb, *where, *common, *arguments])
        return tmp_path / out

    return run


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("verb", TASKS)
def test_scores_are_the_likelihoods_of_the_recordings_summed_and_per_token(
    evaluate: Callable[..., Path], data: Path, generator: Path, verb: str
) -> None:
    task, model = TASKS[verb], AudioLM.from_pretrained(generator)
    out = evaluate(verb)
    stems = [row[0] for row in ROWS[task]]
    summed, per_token = (
        read_score_file(out / name / task / "dev.txt", stems=stems) for name in ("summed", "per_token")
    )
    for stem in stems:
        scores = model.log_likelihood_of_audio([read_prompt(data / task / "dev" / f"{stem}.wav", sample_rate_hz=16000)])
        assert summed[stem] == pytest.approx(float(scores.sum[0]), rel=1e-5)  # batches round otherwise
        assert per_token[stem] == pytest.approx(float(scores.per_token[0]), rel=1e-5)
    assert per_token != summed


def test_the_tables_are_those_of_the_official_scorer(
    evaluate: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = evaluate("swuggy")
    printed = capsys.readouterr().out
    scores = read_score_file(out / "summed" / "lexical" / "dev.txt", stems=[row[0] for row in LEXICAL])
    won = [float(scores[right] > scores[wrong]) for right, wrong in (("Aa", "aA"), ("ab", "ac"), ("ad", "ae"))]
    pairs = (won[0] + won[1]) / 2, won[2]
    tables = out / "summed" / "scores"
    assert table(tables / "score_lexical_dev_by_pair.csv") == [
        {"word": "N AH L", "non word": "N UH L", "score": f"{pairs[0]:.4f}"},  # phones, where no non-word is spelled
        {"word": "UW V", "non word": "UW Z", "score": f"{pairs[1]:.4f}"},
    ]
    bands = {row["frequency"]: (row["n"], row["score"]) for row in table(tables / "score_lexical_dev_by_frequency.csv")}
    assert bands == {
        "oov": ("1", f"{pairs[1]:.4f}"),
        "1-5": ("0", ""),
        "6-20": ("1", f"{pairs[0]:.4f}"),
        "21-100": ("0", ""),
        ">100": ("0", ""),
    }
    lengths = [(row["length"], row["n"]) for row in table(tables / "score_lexical_dev_by_length.csv")]
    assert lengths == [("2", "1"), ("3", "1")]
    summary = json.loads((out / "summary.json").read_text())
    rows = {(row["normalisation"], row["by"], row["group"]): row["score"] for row in summary["rows"]}
    assert rows["summed", "all", "all"] == pytest.approx(sum(pairs) / 2)
    assert rows["summed", "in-vocabulary", "in-vocabulary"] == pytest.approx(pairs[0])
    assert {normalisation for normalisation, _, _ in rows} == {"summed", "per_token"}
    assert len(table(out / "summary.csv")) == len(rows)
    assert f"{100 * sum(pairs) / 2:.1f}" in printed
    assert "in-vocabulary" in printed


def test_sentences_are_reported_by_type_and_may_hold_commas(evaluate: Callable[..., Path]) -> None:
    out = evaluate("sblimp")
    tables = out / "per_token" / "scores"
    assert [row["sentence"] for row in table(tables / "score_syntactic_dev_by_pair.csv")] == [
        "cats, and dogs run",
        "the cat",
    ]
    types = [(row["type"], row["n"], row["std"]) for row in table(tables / "score_syntactic_dev_by_type.csv")]
    assert types == [("agreement", "1", ""), ("order", "1", "")]


def test_a_score_file_is_scored_as_the_generator_that_wrote_it(evaluate: Callable[..., Path], data: Path) -> None:
    ours = evaluate("swuggy", out="ours")
    scores = ours / "summed" / "lexical" / "dev.txt"
    verb = ["evaluate", "swuggy", "--data", str(data), "--scores", str(scores), "--out"]
    run_verb([*verb, str(data.parent / "given")])
    assert contents(data.parent / "given" / "given") == contents(ours / "summed")
    summed = [row for row in table(ours / "summary.csv") if row["normalisation"] == "summed"]
    given = table(data.parent / "given" / "summary.csv")
    assert [row | {"normalisation": ""} for row in given] == [row | {"normalisation": ""} for row in summed]
    with pytest.raises(ValueError, match="results of a generator"):
        run_verb([*verb, str(ours)])
    (data.parent / "bad.txt").write_text("Aa -1\n")
    with pytest.raises(ValueError, match="5 of 6 are missing"):
        run_verb([*verb[:4], "--scores", str(data.parent / "bad.txt"), "--out", str(data.parent / "bad")])


def test_the_dataset_folder_is_found_and_the_test_set_needs_no_gold_file(
    evaluate: Callable[..., Path], data: Path
) -> None:
    (data / "sLM21-dataset").mkdir()
    (data / "lexical").rename(data / "sLM21-dataset" / "lexical")
    shutil.copytree(data / "sLM21-dataset" / "lexical" / "dev", data / "sLM21-dataset" / "lexical" / "test")
    (data / "sLM21-dataset" / "lexical" / "test" / "gold.csv").unlink()
    dev, test = evaluate("swuggy", out="dev"), evaluate("swuggy", "--set", "test", out="test")
    for name in ("summed", "per_token"):
        scores = (test / name / "lexical" / "test.txt").read_text()
        assert scores == (dev / name / "lexical" / "dev.txt").read_text()
    assert not (test / "summed" / "scores").exists()
    assert json.loads((test / "summary.json").read_text())["rows"] == []


def test_a_folder_of_pairs_gives_the_accuracy_of_the_set_it_was_made_of(
    evaluate: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    for number, row in enumerate(SYNTACTIC):
        target = tmp_path / "pairs" / row[3] / f"{number}+{row[0]}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "syntactic" / "dev" / f"{row[0]}.wav", target)
    official = table(evaluate("sblimp", out="official") / "summary.csv")
    out = evaluate("sblimp", where=("--pairs", str(tmp_path / "pairs")), out="folder")
    assert table(out / "summary.csv") == official
    assert not (out / "summed").exists()  # score files name the official set's stems


# ------------------------------------------------------------------------------------------------ killed, and mixed


@pytest.mark.parametrize("batches_before", [0, 1, 2])
def test_a_run_that_was_killed_and_went_on_gives_the_same_bytes(
    evaluate: Callable[..., Path], data: Path, monkeypatch: pytest.MonkeyPatch, batches_before: int
) -> None:
    whole = contents(evaluate("swuggy", out="whole"))
    score, calls = AudioLM.log_likelihood_of_audio, []

    def killed(self: AudioLM, *arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) > batches_before:
            raise KeyboardInterrupt
        return score(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(AudioLM, "log_likelihood_of_audio", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate("swuggy", out="killed")
    path = data.parent / "killed" / "files.csv"
    assert len(read_likelihoods(path)) == 2 * batches_before
    if batches_before:  # a kill inside a line, of a batch of two
        path.write_text(path.read_text()[:-5])
    assert contents(evaluate("swuggy", out="killed")) == whole


def test_a_finished_run_computes_nothing_again(evaluate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = contents(evaluate("swuggy"))
    monkeypatch.setattr(AudioLM, "log_likelihood_of_audio", None)
    assert contents(evaluate("swuggy")) == first


def test_nothing_is_mixed(evaluate: Callable[..., Path], data: Path) -> None:
    evaluate("swuggy")
    with pytest.raises(ValueError, match="batch_size differ"):
        evaluate("swuggy", "--batch-size", "3")
    with pytest.raises(ValueError, match="task, recordings"):
        evaluate("sblimp")
    write_audio(data / "lexical" / "dev" / "ab.wav", tones_and_noise(9000, seed=77), sample_rate_hz=16000)
    with pytest.raises(ValueError, match="recordings_digest differ"):
        evaluate("swuggy")


def test_another_generator_does_not_go_on_in_the_folder(
    evaluate: Callable[..., Path], generator: Path, tmp_path: Path
) -> None:
    out = evaluate("swuggy")
    settings = json.loads((out / "settings.json").read_text())
    assert len(settings["generator"]) == 64
    write_json(out / "settings.json", settings | {"generator": "0" * 64})
    with pytest.raises(ValueError, match="generator differ"):
        evaluate("swuggy")


def test_a_damaged_table_is_named(evaluate: Callable[..., Path]) -> None:
    out = evaluate("swuggy")
    (out / "files.csv").write_text("file,tokens,log_likelihood\nAa,many,-3\n")
    with pytest.raises(ValueError, match=r"line 2 of .*files.csv cannot be read"):
        evaluate("swuggy")


# ------------------------------------------------------------------------------------------------ bad input


def changed(row: list[str], **cells: str) -> list[str]:
    return [cells.get(name, value) for name, value in zip(COLUMNS["lexical"], row, strict=True)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (LEXICAL[:-1], "1 recordings have no row in gold.csv .* 'ae'"),
        ([*LEXICAL, ["zz", *LEXICAL[0][1:]]], "1 rows of gold.csv have no recording .* 'zz'"),
        ([*LEXICAL, LEXICAL[0]], "row 8 .* 'Aa' is that of row 2 too"),
        ([changed(LEXICAL[0], filename=""), *LEXICAL[1:]], "row 2 .* is empty"),
        ([changed(LEXICAL[0], correct="yes"), *LEXICAL[1:]], "row 2 .* correct must be 0 or 1, got 'yes'"),
        ([changed(LEXICAL[0], correct="0"), *LEXICAL[1:]], "id 0, voice A: 0 rows with correct 1 and 2 with correct 0"),
        ([changed(LEXICAL[0], voice="C"), *LEXICAL[1:]], "2 pairs .* are no pairs"),
        ([changed(LEXICAL[0], id="x"), *LEXICAL[1:]], "id must be a whole number .* 'x'"),
        ([changed(LEXICAL[0], frequency="-1"), *LEXICAL[1:]], "frequency must be a whole number"),
        ([changed(LEXICAL[0], length="2.5"), *LEXICAL[1:]], "length must be a whole number"),
        ([changed(LEXICAL[0], length="inf"), *LEXICAL[1:]], "length must be a whole number"),
        ([LEXICAL[0][:-1], *LEXICAL[1:]], "row 2 .* has 7 cells, the header 8"),
        ([], "no row below its header"),
    ],
)
def test_gold_files_that_do_not_fit_are_refused(data: Path, rows: list[list[str]], message: str) -> None:
    write_gold(data, "lexical", rows)
    with pytest.raises(ValueError, match=message):
        zerospeech_set(data, "lexical")


@pytest.mark.parametrize("column", COLUMNS["lexical"])
def test_a_missing_column_is_named(data: Path, column: str) -> None:
    at = COLUMNS["lexical"].index(column)
    path = data / "lexical" / "dev" / "gold.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([[*row[:at], *row[at + 1 :]] for row in (list(COLUMNS["lexical"]), *LEXICAL)])
    with pytest.raises(ValueError, match=f"lacks the columns {column};"):
        zerospeech_set(data, "lexical")


def test_columns_in_another_order_and_numbers_of_other_programs_are_read(data: Path) -> None:
    expected = zerospeech_set(data, "lexical")
    table = [list(COLUMNS["lexical"]), *(changed(row, length=f"{row[6]}.0") for row in LEXICAL)]
    with open(data / "lexical" / "dev" / "gold.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([row[::-1] for row in table])
    assert zerospeech_set(data, "lexical") == expected
    assert expected.pairs[0].frequency == 12


def test_names_differ_by_case(data: Path) -> None:
    found = zerospeech_set(data, "lexical")
    assert (found.pairs[0].right, found.pairs[0].wrong) == ("Aa", "aA")
    (data / "lexical" / "dev" / "aA.wav").rename(data / "lexical" / "dev" / "AA.wav")
    with pytest.raises(ValueError, match="such as 'aA' .*case by case"):
        zerospeech_set(data, "lexical")


def test_folders_and_gold_files_that_are_not_there_are_named(data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="demo-zerospeech"):
        zerospeech_set(data / "nowhere", "lexical")
    (data / "lexical" / "dev" / "ab.wav").rename(data / "lexical" / "dev" / "a b.wav")
    with pytest.raises(ValueError, match="a b.wav has a space in its name"):
        zerospeech_set(data, "lexical")
    (data / "lexical" / "dev" / "a b.wav").rename(data / "lexical" / "dev" / "ab.wav")
    (data / "lexical" / "dev" / "gold.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"gold.csv is not there"):
        zerospeech_set(data, "lexical")
    shutil.rmtree(data / "syntactic" / "dev")
    (data / "syntactic" / "dev").mkdir()
    with pytest.raises(ValueError, match=r"there is no .wav"):
        zerospeech_set(data, "syntactic")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ab.wav"),
        (b"no sound", "ab.wav cannot be read"),
        (None, "1 of 6 recordings .*silent"),
        (800, "lasts 50 ms"),
    ],
)
def test_recordings_that_cannot_be_scored_stop_the_run_before_the_first_is_scored(
    evaluate: Callable[..., Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | int | None,
    message: str,
) -> None:
    path = data / "lexical" / "dev" / "ab.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_audio(path, tones_and_noise(content or 8000) * (content is not None), sample_rate_hz=16000)
    monkeypatch.setattr(AudioLM, "log_likelihood_of_audio", None)
    with pytest.raises(ValueError, match=message):
        evaluate("swuggy")
    assert not (data.parent / "out").exists()


def test_a_generator_without_a_semantic_stage_is_refused(
    evaluate: Callable[..., Path], data: Path, generator: Path, tmp_path: Path
) -> None:
    model = tiny_generator()
    del model.stages["semantic"]
    recordings = zerospeech_set(data, "lexical").recordings
    with pytest.raises(ValueError, match="no semantic stage"):
        measure_likelihoods(model, recordings, tmp_path / "out", about={})
    shutil.copytree(generator, tmp_path / "without")
    config = json.loads((generator / "config.json").read_text())
    del config["stages"]["semantic"]
    write_json(tmp_path / "without" / "config.json", config)
    with pytest.raises(GeneratorError, match="semantic"):
        evaluate("swuggy", "--generator", str(tmp_path / "without"))


def test_options_that_mean_nothing_are_refused(evaluate: Callable[..., Path], data: Path) -> None:
    with pytest.raises(ValueError, match="--set has no meaning"):
        evaluate("swuggy", "--set", "dev", where=("--pairs", str(data)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate("swuggy", "--batch-size", "0")
