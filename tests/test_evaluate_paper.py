"""The paper's whole evaluation: what is run, what the page says of it, and what it says of what is not there."""

import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audiolm.evaluate_paper import evaluate_paper
from audiolm.evaluation import paper_plans, published
from audiolm.evaluation.paper_claims import CHANGED, CLAIMS, Claim, Judged, Term, judge
from audiolm.evaluation.paper_experiments import EXPERIMENTS, plan
from audiolm.evaluation.paper_runs import digest, is_done, run_steps
from audiolm.evaluation.paper_steps import Given
from audiolm.evaluation.published import Published
from audiolm.evaluation.report_facts import read_facts
from audiolm.files import read_json, write_json
from audiolm.manifest import Manifest, Utterance, write_manifest
from audiolm.verbs import _parser, run_verb

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
Run = Callable[[list[str]], None]


def pair_rows(score: float) -> dict[str, Any]:
    rows = [
        {"normalisation": normalisation, "by": by, "group": by, "n": 9, "score": score + shift, "std": None}
        for normalisation, shift in (("summed", -0.01), ("per_token", 0.0))
        for by in ("all", "in-vocabulary")
    ]
    return {"rows": rows, "note": "", "settings": {}}


def condition_rows(name: str, **values: float) -> list[dict[str, Any]]:
    return [
        {"condition": condition, name: value, "chance": 0.1, "sampling": None} for condition, value in values.items()
    ]


def summaries() -> dict[str, dict[str, Any]]:
    """A result of every verb, by path below `evaluation`, with the fields that the page reads."""
    tokens = {"units": (250, 7.5, 8.25, 1.25), "residual-units": (6000, 6.5, 7.0, 1.5)}
    tokens |= {"coarse-codes": (2000, 23.5, 30.5, 3.125), "all-codes": (6000, 18.5, 27.5, 3.875)}
    score = {"context": "within", "speakers": "within", "error": 0.0625}
    across = {"context": "within", "speakers": "across", "error": 0.1275}
    seams = [
        {"kind": kind, "measure": "f0", "mean": mean, "exceeds_real": above}
        for kind, mean, above in (("continuation", 117.5, 0.375), ("real", 121.5, None))
    ]
    passages = {"rows": seams, "titles": {"f0": "F0 after (Hz)"}, "whole": {"prompt_to_real": 2.625}, "note": ""}
    asr = [
        {"condition": name, "cer": wer / 2, "wer": wer}
        for name, wer in (("original", 0.09), ("reconstruction", 0.1125), ("acoustic", 0.3125), ("gslm", None))
        if wer is not None
    ]
    return {
        "table1/summary.json": {
            "rows": [
                dict(zip(("tokens", "bitrate_bps", "abx_within", "abx_across", "visqol"), (name, *row), strict=True))
                for name, row in tokens.items()
            ],
            "protocol": {"frames": "one frame fewer"},
            "settings": {},
        },
        "layers/layers.json": {
            "layers": [{"layer": 7, "scores": [score, across, {**score, "context": "any", "error": 0.9}]}],
            "mfcc": {"scores": [score]},
            "clusters": [{"clusters": 50, "scores": [across]}],
            "about": {},
        },
        "asr/summary.json": {"rows": [*asr, {"condition": "gslm", "cer": None, "wer": None}], "settings": {}},
        "speaker/summary.json": {
            "rows": [
                *condition_rows("accuracy", original=0.95, reconstruction=0.925, acoustic=0.125, continuation=0.7125),
                {"condition": "acoustic", "accuracy": 0.999, "chance": 0.1, "sampling": 0},
            ]
        },
        "swuggy-dev/summary.json": pair_rows(0.6125),
        "sblimp-dev/summary.json": pair_rows(0.5375),
        "detector/summary.json": {
            "rows": [
                {"against": "reconstruction", "balanced_accuracy": 0.8125, "area": 0.875, "equal_error_rate": 0.1875},
                {"against": "original", "balanced_accuracy": 0.9875, "area": 0.99, "equal_error_rate": 0.0125},
            ]
        },
        "listening-test/scores.json": {
            "kind": "human-or-machine",
            "names": ["human", "machine"],
            "pooled": {"rate": 0.5375, "ratings": 80, "p_one_sided": 0.2875, "p_two_sided": 0.575},
        },
        "likelihood/summary.json": {
            "rows": [
                {"system": name, "per_unit": nats, "prompts": 12}
                for name, nats in (("hierarchy", -2.125), ("acoustic-only", -3.375), ("real", -2.5))
            ]
        },
        "codec/pooled.json": {
            "rows": [{"levels": 4, "bitrate_bps": 2000.0, "measure": "visqol", "mean": 3.375}],
            "titles": {"visqol": "ViSQOL (polynomial)"},
        },
        "prosody/pooled.json": passages,
        "diversity/pooled.json": passages,
    }


def make_chain(root: Path, results: Mapping[str, Any]) -> Path:
    write_json(root / "chain.json", {"data": "/somewhere/<talks> & more", "preset": "demo"})
    record = {"steps": 1234, "parameters": 2_500_000, "seconds": 90.0, "device": "x86_64", "processes": 1, "threads": 2}
    write_json(root / "semantic" / "done.json", record | {"precision": "bf16-mixed", "validation_loss": 2.0})
    for name, content in results.items():
        write_json(root / "evaluation" / name, content)
        (root / "evaluation" / name).with_suffix(".svg").write_bytes(SVG)
    return root


@pytest.fixture(autouse=True)
def all_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `evaluation` is installed: other measures have other folders."""
    monkeypatch.setattr(paper_plans, "installed_measures", list)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return make_chain(tmp_path / "chain", summaries())


def evaluate(root: Path, *options: str, run: Run | None = None) -> str:
    """The page, of `audiolm evaluate paper` with these options."""
    never = run or (lambda arguments: pytest.fail(f"ran {arguments}"))
    evaluate_paper(_parser().parse_args(["evaluate", "paper", "--root", str(root), *options]), run=never)
    return page_of(root)


def page_of(root: Path) -> str:
    return (root / "report" / "paper.html").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    [found] = [part for part in page.split("<section>")[1:] if title in part.partition("</h2>")[0]]
    return found


def rows_of(part: str, table: int = 0) -> list[list[str]]:
    """The cells of a table, as text."""
    body = part.split("<tbody>")[1 + table].partition("</tbody>")[0]
    return [
        [re.sub(r"\s*<[^>]*>\s*", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]
        for row in body.split("</tr>")
        if "<td" in row
    ]


def test_each_table_has_the_papers_numbers_beside_ours(chain: Path) -> None:
    page = evaluate(chain, "--page-only")
    tokens = rows_of(section(page, "Table I:"))
    assert tokens[0] == ["units", "250", "250", "6.7", "7.5", "7.6", "8.25", "1.1", "1.25"]
    assert tokens[3] == ["codes, all levels", "6,000", "6,000", "17.8", "18.5", "26.6", "27.5", "3.9", "3.875"]
    layers = rows_of(section(page, "Figure 3, left"))
    assert ["layer 7", "5.9", "6.25", "6.2", "12.75"] in layers
    assert ["layer 8", "5.7", "–", "5.7", "–"] in layers
    assert ["reconstruction", "0.9", "5.625", "2.6", "11.25"] in rows_of(section(page, "Table II:"))
    assert ["GSLM unit-to-speech", "2.9", "–", "6.6", "–"] in rows_of(section(page, "Table II:"))
    assert ["acoustic", "3.2", "12.5", "10"] in rows_of(section(page, "Table III"))  # all samplings, not the first
    assert ["AudioLM", "71.5", "61.25", "83.7", "61.25", "64.7", "53.75"] in rows_of(section(page, "Table IV"))
    divided = ["AudioLM, not divided by length", "–", "60.25", "–", "60.25", "67.5", "52.75"]
    assert divided in rows_of(section(page, "Table IV"))
    heard = ["human or machine", "51.2", "53.75", "1,000", "80", "0.23", "0.2875", "0.575"]
    assert heard in rows_of(section(page, "Subjective"))
    assert ["originals through the codec", "98.6", "81.25", "0.875", "18.75"] in rows_of(section(page, "Detector"))
    assert ["acoustic-only", "-3.375", "12"] in rows_of(section(page, "Ablation"))
    assert ["4 levels", "2,000", "3.375"] in rows_of(section(page, "codec by levels"))
    assert ["F0 after (Hz)", "117.5", "0.375", "121.5", "–"] in rows_of(section(page, "seam"))


def test_numbers_of_units_stand_in_order_the_papers_and_ours(chain: Path) -> None:
    counts = [
        int(row[0].split()[-1])
        for row in rows_of(section(evaluate(chain, "--page-only"), "Figure 3, right"))
        if row[0].startswith("K = ")
    ]
    assert len(counts) > 4  # ours are among them
    assert counts == sorted(counts)


def test_a_finished_chain_shows_the_papers_orderings(chain: Path) -> None:
    found = {row[0]: row[1:] for row in rows_of(section(evaluate(chain, "--page-only"), "orderings"))}
    assert {verdict for verdict, _ in found.values()} == {"seen", "not measured"}
    absent = [claim for claim, (verdict, _) in found.items() if verdict == "not measured"]
    assert absent == ["Piano: the hierarchy is preferred to codes only"]
    assert found["Codes sound better than units"][1].startswith("units 1.25 &lt; codes, coarse levels 3.125")


def test_an_ordering_that_is_the_other_way_round_is_not_seen(tmp_path: Path) -> None:
    results = summaries()
    results["speaker/summary.json"]["rows"][2]["accuracy"] = 0.9  # acoustic generation keeps the speaker
    results["table1/summary.json"]["rows"][0]["visqol"] = 3.5  # between the two kinds of codes
    results["sblimp-dev/summary.json"] = pair_rows(0.4375)
    page = evaluate(make_chain(tmp_path / "chain", results), "--page-only")
    assert "chance 50 &gt; AudioLM 43.75 (sBLIMP, %)" in section(page, "orderings")
    found = {row[0]: row[1] for row in rows_of(section(page, "orderings"))}
    [acoustic] = [verdict for claim, verdict in found.items() if claim.startswith("Acoustic generation loses")]
    assert acoustic == "not seen"
    assert found["Codes sound better than units"] == "not seen"
    assert found["Units keep phones apart better than codes"] == "seen"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.0, 2.0, "seen"), (2.0, 1.0, "not seen"), (1.0, 1.0, "not seen"), (None, 1.0, "not measured")],
)
def test_a_claim_is_judged_by_its_numbers(low: float | None, high: float, verdict: str) -> None:
    claim = Claim("a below b", "x", ((Term("a", "c"), Term("b", "c")),))
    judged = judge(claim, {"x": {"a": {"c": low}, "b": {"c": high}}})
    assert judged.verdict == verdict
    assert (judged.figures == "") == (verdict == "not measured")


def test_one_comparison_against_it_decides_and_those_that_are_missing_are_counted() -> None:
    claim = Claim("", "x", tuple((Term(name, "c"), Term("high", "c")) for name in ("low", "higher", "absent")))
    numbers = {"low": {"c": 1.0}, "high": {"c": 2.0}, "higher": {"c": 3.0}}
    words = "low 1 < high 2; higher 3 > high 2"
    assert judge(claim, {"x": numbers}) == Judged(claim, "not seen", words, missing=("absent < high",))
    every = ("low < high", "higher < high", "absent < high")
    assert judge(claim, {}) == Judged(claim, "not measured", "", missing=every)


def test_a_claim_of_which_some_is_missing_or_of_other_inputs_is_not_simply_seen() -> None:
    claim = Claim("", "x", ((Term("a", "c"), Term("b", "c")), (Term("a", "c"), Term("d", "c"))))
    numbers = {"x": {"a": {"c": 1.0}, "b": {"c": 2.0}}}
    assert judge(claim, numbers) == Judged(claim, "seen in part", "a 1 < b 2", missing=("a < d",))
    changed = "not measured (its inputs have changed since)"
    assert judge(claim, numbers, {"x": {"d": {"c": 0.5}}}).missing == (f"a < d, {CHANGED}",)
    assert judge(claim, {"x": {"b": {"c": 2.0}}}, {"x": {"a": {"c": 1.0}}}).verdict == changed
    assert judge(claim, {}, numbers).verdict == changed
    assert judge(claim, {}, {"y": numbers["x"]}).verdict == "not measured"


def test_results_of_changed_inputs_are_shown_and_not_judged_even_where_the_next_run_failed(tmp_path: Path) -> None:
    root, ran, claim = ready(tmp_path), list[str](), "Words are likelier than non-words"
    assert judged_of(pairs_of(root, runner(root, ran)), claim) == "seen"
    for task in ("lexical", "syntactic"):
        (root / "zs" / task / "dev" / "gold.csv").write_text("another")
        page = evaluate(root, "--page-only", "--zerospeech", str(root / "zs"))
        expected = "seen in part" if task == "lexical" else "not measured (its inputs have changed since)"
        assert judged_of(page, claim) == expected
    assert ["AudioLM", "71.5", "75", "83.7", "75", "64.7", "75"] in rows_of(section(page, "Table IV"))
    with pytest.raises(Exception, match="no <such> folder"):
        pairs_of(root, runner(root, ran, fails="swuggy"))
    assert judged_of(page_of(root), claim) == "seen in part"  # of sBLIMP, which ran
    assert CHANGED in section(page_of(root), "orderings")
    assert judged_of(pairs_of(root, runner(root, ran)), claim) == "seen"


def judged_of(page: str, claim: str) -> str:
    [verdict] = [row[1] for row in rows_of(section(page, "orderings")) if row[0].startswith(claim)]
    return verdict


def test_the_papers_own_numbers_show_its_orderings() -> None:
    """Every claim is written the way the paper's numbers go; where it prints none, nothing can be compared."""
    tables = {
        e.name: {label: dict(zip(e.paper.columns, row, strict=True)) for label, row in e.paper.rows.items()}
        for e in EXPERIMENTS
        if e.paper
    }
    verdicts = {claim.text: judge(claim, tables).verdict for claim in CLAIMS}
    assert "not seen" not in verdicts.values()
    unprinted = ("Reconstruction keeps", "Continuations of the hierarchy")
    assert [text for text, verdict in verdicts.items() if verdict == "not measured"] == [
        text for text in verdicts if text.startswith(unprinted)
    ]


def test_what_the_codec_lost_already_acoustic_generation_does_not_lose() -> None:
    [claim] = [claim for claim in CLAIMS if claim.text.startswith("Acoustic generation loses")]
    [column] = {term.column for pair in claim.below for term in pair}
    heard = {"original": 100.0, "reconstruction": 0.0, "acoustic": 0.0}
    assert judge(claim, {"speaker": {name: {column: value} for name, value in heard.items()}}).verdict == "not seen"
    heard["reconstruction"] = 20.0
    assert judge(claim, {"speaker": {name: {column: value} for name, value in heard.items()}}).verdict == "seen"


def test_every_claim_names_rows_and_columns_that_can_be_there() -> None:
    experiments = {e.name: e for e in EXPERIMENTS}
    for claim in CLAIMS:
        paper = experiments[claim.experiment].paper
        assert paper is not None
        for term in (term for pair in claim.below for term in pair if term.constant is None):
            assert term.column in paper.columns


def test_an_empty_chain_says_of_everything_why_it_was_not_run_and_which_command_would(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    page = evaluate(tmp_path)  # nothing can be run: no generator, no data
    for title in ("Table I:", "Figure 3, left", "Table II:", "Table III", "Table IV", "Detector", "Ablation", "seam"):
        assert "Not run" in section(page, title)
    assert "lightning fit -c stages/speaker.yaml" in section(page, "Table III")
    assert "--zerospeech" in section(page, "Table IV")
    assert "--items phoneme.item --audio" in section(page, "Table I:")
    assert "listening-test make --human" in section(page, "Subjective")
    assert "make generator" in section(page, "Table II:")
    assert all(row[1] == "not measured" for row in rows_of(section(page, "orderings")))
    assert rows_of(section(page, "Table II:"))[0] == ["original", "0.8", "–", "2.5", "–"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("table1/summary.json", {"rows": [{"tokens": "units"}]}, "'bitrate_bps' is not there"),
        ("asr/summary.json", {"lines": []}, "'rows' is not there"),
        ("speaker/summary.json", ["a list"], "has not the fields"),
        ("detector/summary.json", {"rows": 3}, "rows is not a list"),
        ("codec/pooled.json", {"rows": [{"levels": 1, "bitrate_bps": 1, "measure": "x", "mean": 1}]}, "'titles'"),
        ("layers/layers.json", {"layers": [], "mfcc": None, "clusters": []}, "has not the fields"),
    ],
)
def test_a_result_of_other_fields_is_named_and_the_others_are_shown(
    chain: Path, name: str, content: object, said: str
) -> None:
    path = chain / "evaluation" / name
    write_json(path, content)
    with pytest.raises(Exception, match=re.escape(str(path))):
        evaluate(chain, "--page-only")
    page = page_of(chain)
    assert str(path) in page
    assert said.replace("'", "&#x27;") in page
    assert "human or machine" in section(page, "Subjective")


def test_a_damaged_result_is_named(chain: Path) -> None:
    path = chain / "evaluation" / "asr" / "summary.json"
    path.write_text('{"rows": [')
    with pytest.raises(Exception, match="not valid JSON"):
        evaluate(chain, "--page-only")
    assert str(path) in section(page_of(chain), "Table II:")
    assert rows_of(section(page_of(chain), "Table III"))


def test_a_damaged_record_of_a_stage_is_named(chain: Path) -> None:
    write_json(chain / "coarse" / "done.json", {"steps": 3})
    with pytest.raises(Exception, match=r"coarse/done\.json"):
        evaluate(chain, "--page-only")
    assert "1,234" in section(page_of(chain), "cost")


def ready(tmp_path: Path) -> Path:
    """A chain that can run sWUGGY and sBLIMP, and nothing else."""
    root = make_chain(tmp_path / "ready", {})
    write_json(root / "generator" / "config.json", {"spec": {"clusters": 64}})
    for task in ("lexical", "syntactic"):
        (root / "zs" / task / "dev").mkdir(parents=True)
        (root / "zs" / task / "dev" / "gold.csv").write_text("gold")
    return root


def runner(root: Path, ran: list[str], *, fails: str = "") -> Run:
    """In place of the verbs: notes what runs, writes its result, or fails."""

    def run(arguments: list[str]) -> None:
        options = _parser().parse_args(arguments)  # the verb knows these options
        ran.append(arguments[1])
        if arguments[1] == fails:
            raise ValueError("no <such> folder")
        out = options.out or root / "evaluation" / f"{arguments[1]}-dev"
        write_json(out / "summary.json", pair_rows(0.75))

    return run


def pairs_of(root: Path, run: Run) -> str:
    return evaluate(root, "--only", "pairs", "clusters", "--zerospeech", str(root / "zs"), run=run)


def test_what_can_be_run_is_run_once_and_again_only_where_an_input_changed(tmp_path: Path) -> None:
    root, ran = ready(tmp_path), list[str]()
    page = pairs_of(root, runner(root, ran))
    assert ran == ["swuggy", "sblimp"]  # of both experiments
    assert "Not run" in section(page, "Table I:")  # the page has everything
    assert ["AudioLM", "71.5", "75", "83.7", "75", "64.7", "75"] in rows_of(section(page, "Table IV"))
    assert ["K = 64", "–", "75", "–", "75"] in rows_of(section(page, "Figure 3, right"))
    assert "processors" in section(page, "Table IV")  # what it took, on which machine
    pairs_of(root, runner(root, ran))
    assert ran == ["swuggy", "sblimp"]
    (root / "zs" / "lexical" / "dev" / "gold.csv").write_text("another")
    old = section(evaluate(root, "--page-only", "--zerospeech", str(root / "zs")), "Table IV")
    assert old.count("has changed since") == 1  # of swuggy's alone
    pairs_of(root, runner(root, ran))
    assert ran == ["swuggy", "sblimp", "swuggy"]


def test_a_failing_experiment_stands_on_the_page_and_the_others_run(tmp_path: Path) -> None:
    root, ran = ready(tmp_path), list[str]()
    with pytest.raises(Exception, match="no <such> folder"):
        pairs_of(root, runner(root, ran, fails="swuggy"))
    part = section(page_of(root), "Table IV")
    assert "no &lt;such&gt; folder" in part
    assert ["AudioLM", "71.5", "–", "83.7", "–", "64.7", "75"] in rows_of(part)
    ran.clear()
    assert "no &lt;such&gt; folder" not in pairs_of(root, runner(root, ran))
    assert ran == ["swuggy"]  # what failed is tried again, what is done is not


def test_the_command_ends_with_an_error_if_a_verb_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real verbs: the generator is none, so both fail."""
    from audiolm import cli

    root = ready(tmp_path)
    options = ["audiolm", "evaluate", "paper", "--root", str(root), "--only", "pairs", "--zerospeech", str(root / "zs")]
    monkeypatch.setattr("sys.argv", options)
    with pytest.raises(SystemExit) as ended:
        cli.verbs()
    assert ended.value.code == 1
    assert section(page_of(root), "Table IV").count("Failed") == 2


def test_an_interrupted_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    root, ran = ready(tmp_path), list[str]()

    def interrupted(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs_of(root, interrupted)
    [record] = (root / "evaluation" / "paper").glob("swuggy-dev-*.json")
    assert "interrupted" in read_json(record, made_by="")["error"]
    pairs_of(root, runner(root, ran))
    assert ran == ["swuggy", "sblimp"]


def test_the_demo_chain_makes_its_own_pairs_first(tmp_path: Path) -> None:
    (tmp_path / "demo-corpus").mkdir()
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo"})
    write_json(tmp_path / "generator" / "config.json", {"spec": {"clusters": 64}})
    [steps] = plan(Given(tmp_path), ["pairs"]).values()
    assert [step.arguments[:2] for step in steps] == [
        ("demo-zerospeech", "--out"),
        ("evaluate", "swuggy"),
        ("evaluate", "sblimp"),
    ]
    assert not any(step.lacking for step in steps)
    assert str(tmp_path / "demo-zerospeech") in steps[1].arguments


def test_the_demo_chain_makes_its_own_phones_first(tmp_path: Path) -> None:
    (tmp_path / "demo-corpus").mkdir()
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo"})
    for stage in ("encoder", "tokenizer", "detokenizer_units"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "best.ckpt").touch()
    for name, verb in (("tokens", "table1"), ("layers", "layers")):
        [(phones, measured)] = plan(Given(tmp_path), [name]).values()
        assert phones.arguments == ("demo-phones", "--out", str(tmp_path / "demo-phones"))
        assert measured.arguments[:2] == ("evaluate", verb)
        assert {str(tmp_path / "demo-phones" / part) for part in ("phoneme.item", "audio")} < set(measured.arguments)
        assert not measured.lacking
        before = measured.result
        (tmp_path / "demo-phones").mkdir(exist_ok=True)
        assert next(iter(plan(Given(tmp_path), [name]).values()))[1].result == before  # one folder, made or not made
        assert before.parent.name not in ("table1", "layers")  # those are of the verbs when they are run by hand
    [[measured]] = plan(Given(tmp_path, items=tmp_path / "x.item", audio=tmp_path), ["tokens"]).values()
    assert str(tmp_path / "x.item") in measured.arguments
    assert "--limit" not in measured.arguments
    for limit, decoded in ((None, "40"), (7, "7")):
        [[_, measured]] = plan(Given(tmp_path, limit=limit), ["tokens"]).values()
        assert measured.arguments[measured.arguments.index("--limit") + 1] == decoded


def test_the_demo_asks_about_speakers_that_only_the_classifier_knows(tmp_path: Path) -> None:
    (tmp_path / "demo-corpus").mkdir()
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo"})
    [[phones, demo]] = plan(Given(tmp_path, items=tmp_path, audio=tmp_path), ["speaker"]).values()
    assert phones.arguments[0] == "demo-phones"
    assert demo.arguments[demo.arguments.index("--data") + 1] == str(tmp_path / "demo-phones" / "audio")
    [[other]] = plan(Given(tmp_path, data=tmp_path), ["speaker"]).values()
    assert other.arguments[other.arguments.index("--data") + 1] == str(tmp_path)


def test_the_demo_s_sets_are_looked_after_every_time(tmp_path: Path) -> None:
    (tmp_path / "demo-corpus").mkdir()
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo"})
    steps = [step for name in ("tokens", "pairs") for step in next(iter(plan(Given(tmp_path), [name]).values()))]
    made = [step for step in steps if step.arguments[0].startswith("demo-")]
    assert len(made) == 2
    ran = list[str]()
    for _ in range(2):
        run_steps(made, tmp_path / "records", lambda words: ran.append(words[0]))
    assert ran == ["demo-phones", "demo-zerospeech"] * 2


def test_a_detector_that_is_added_makes_nothing_stale(tmp_path: Path) -> None:
    given = Given(everything(tmp_path / "chain").root)
    generator = given.root / "generator"
    (generator / "coarse.safetensors").touch()
    [[step]] = plan(given, ["speaker"]).values()
    run_steps([step], tmp_path / "records", lambda words: write_json(step.result, {}))
    assert is_done(step, tmp_path / "records")
    (generator / "detector.safetensors").touch()
    (generator / "README.md").write_text("a card")
    [[step]] = plan(given, ["speaker"]).values()
    assert is_done(step, tmp_path / "records")
    (generator / "coarse.safetensors").write_text("other weights")
    [[step]] = plan(given, ["speaker"]).values()
    assert not is_done(step, tmp_path / "records")


def everything(root: Path) -> Given:
    """A chain that lacks nothing, by empty files."""
    root = make_chain(root, {})
    stages = ("codec", "encoder", "tokenizer", "residual_tokenizer", "asr", "speaker", "detector")
    stages += ("detokenizer_units", "detokenizer_residual", "detokenizer_codes", "detokenizer_all_codes")
    files = [*(f"{stage}/best.ckpt" for stage in stages), "generate/a.wav", "generate-acoustic/a.wav", "x.trans.txt"]
    for name in (*files, "phoneme.item"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    write_json(root / "generator" / "config.json", {"spec": {"clusters": 64}})
    return Given(
        root,
        items=root / "phoneme.item",
        audio=root,
        zerospeech=root,
        transcripts=root,
        data=root,
        recogniser="someone/a-model",
        xvector="someone/x-vectors",
        limit=3,
        device="cpu",
    )


def known_verbs() -> set[str]:
    """Those below `audiolm evaluate`."""
    [commands] = [action for action in _parser()._actions if isinstance(action.choices, dict)]
    [below] = [action for action in commands.choices["evaluate"]._actions if isinstance(action.choices, dict)]  # type: ignore[index]
    return set(below.choices or ())


def test_every_command_is_one_that_its_verb_understands(tmp_path: Path) -> None:
    given = everything(tmp_path)
    steps = [step for steps in plan(given).values() for step in steps]
    lacking = {step.name for step in steps if step.lacking}
    assert lacking == {
        "listening-test",
        "listening-piano",
        "music",
        "music-acoustic-only",
    }  # people, and a chain of piano
    verbs = known_verbs()
    checked = [step for step in steps if step.arguments[1] in verbs]
    assert {step.name for step in checked} >= {"layers", "swuggy", "sblimp", "codec", "prosody", "diversity", "music"}
    for step in checked:
        options = _parser().parse_args(list(step.arguments))
        assert step.by_hand or options.root == given.root


def test_whatever_a_result_is_made_of_is_an_input_however_deep_it_lies(tmp_path: Path) -> None:
    given = everything(tmp_path / "chain")
    named = {name: tmp_path / name for name in ("audio", "data", "transcripts", "recogniser", "xvector", "zerospeech")}
    deep = {name: folder / "lexical" / "dev" / "0.wav" for name, folder in named.items()}
    for file in deep.values():
        file.parent.mkdir(parents=True)
        file.write_text("old")
    models = {name: str(named.pop(name)) for name in ("recogniser", "xvector")}
    given = replace(given, **named, **models)  # type: ignore[arg-type]
    users = {"audio": {"table1", "layers"}, "transcripts": {"asr"}, "recogniser": {"asr"}, "xvector": {"speaker"}}
    users |= {"zerospeech": {"swuggy"}, "data": {"asr", "speaker", "detector", "likelihood", "codec"}}
    users["data"] |= {"prosody", "diversity", "music", "music-acoustic-only"}
    steps = {step.name: step for steps in plan(given).values() for step in steps}
    for name, file in deep.items():
        before = {step: digest(steps[step].inputs) for step in steps}
        file.write_text("changed")
        assert {step for step in steps if digest(steps[step].inputs) != before[step]} == users[name]


def test_results_with_a_limit_and_without_lie_side_by_side(tmp_path: Path) -> None:
    root, ran = make_chain(tmp_path / "chain", {}), list[str]()
    (root / "codec").mkdir()
    (root / "codec" / "best.ckpt").touch()
    speech = Utterance("0", "0.flac", "0", "test", 0, 160000, 16000, True, 0.0)
    write_manifest(Manifest(root=str(tmp_path), utterances=(speech,)), root / "manifest.jsonl")  # type: ignore[arg-type]

    def run(arguments: list[str]) -> None:
        options = _parser().parse_args(arguments)
        ran.append(str(options.limit))
        row = {"levels": 4, "bitrate_bps": 2000.0, "measure": "mel", "mean": options.limit or 0.5}
        out = options.out or root / "evaluation" / "codec"
        assert not out.exists()  # where the verb would refuse
        write_json(out / "pooled.json", {"rows": [row], "titles": {"mel": "mel"}})

    for options in (("--limit", "20"), (), ("--limit", "20"), (), ("--limit", "7")):
        limit = options[-1] if options else "0.5"
        expected = ["4 levels", "2,000", limit]
        for more in ((), ("--page-only",)):
            page = evaluate(root, "--only", "codec", *options, *more, run=run)
            assert rows_of(section(page, "codec by levels")) == [expected]
            assert ("no more than" in page) == bool(options)
            assert (f"--limit {limit} --page-only" in page) == bool(options)
    assert ran == ["20", "None", "7"]


def test_steps_of_other_options_have_other_folders_and_tell_their_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = everything(tmp_path / "chain")
    (tmp_path / "other").mkdir()
    folders = {name: results_of(given) for name in ("all",)}
    folders |= {
        name: results_of(replace(given, **{name: tmp_path / "other"}))  # type: ignore[arg-type]
        for name in ("items", "audio", "zerospeech", "transcripts", "data", "acoustic_only", "recogniser", "xvector")
    }
    folders["limit"] = results_of(replace(given, limit=4))
    monkeypatch.setattr(paper_plans, "installed_measures", lambda names: [name for name in names if name == "mel"])
    folders["measures"] = results_of(given)
    changed = {name: {step for step in found if found[step] != folders["all"][step]} for name, found in folders.items()}
    passages = {"prosody", "diversity", "music", "music-acoustic-only"}
    conditions = {"asr", "speaker", "detector", "likelihood", "codec", *passages}
    assert changed["items"] == changed["audio"] == {"table1", "layers"}
    assert changed["zerospeech"] == {"swuggy", "sblimp"}
    assert changed["transcripts"] == changed["recogniser"] == {"asr"}
    assert changed["xvector"] == {"speaker"}
    assert changed["acoustic_only"] == {"likelihood", "music-acoustic-only"}
    assert changed["data"] == conditions
    assert changed["limit"] == {"table1", "layers", *conditions}
    assert changed["measures"] == {"table1", "codec"}


def results_of(given: Given) -> dict[str, Path]:
    """The folder of each step's result, which its command names."""
    steps = [step for steps in plan(given).values() for step in steps if not step.by_hand]
    for step in steps:
        assert step.arguments[step.arguments.index("--out") + 1] == str(step.result.parent)
    return {step.name: step.result.parent for step in steps}


def test_rows_of_table_1_without_a_decoder_are_left_out_and_named(tmp_path: Path) -> None:
    given = everything(tmp_path)
    (tmp_path / "residual_tokenizer" / "best.ckpt").unlink()
    [[step]] = plan(given, ["tokens"]).values()
    only = step.arguments.index("--only")
    assert step.arguments[only + 1 : only + 4] == ("units", "coarse-codes", "all-codes")
    assert not step.lacking
    assert {tmp_path / stage / "best.ckpt" for stage in ("tokenizer", "codec")} <= set(
        step.inputs
    )  # another is another result
    options = ["--items", str(given.items), "--audio", str(given.audio), "--only", "tokens", "--page-only"]
    part = section(evaluate(tmp_path, *options), "Table I:")
    assert "left out" in part
    assert "lightning fit -c stages/residual_tokenizer.yaml -c stages/demo/residual_tokenizer.yaml" in part


def test_transcripts_of_either_kind_beside_the_recordings_are_found_by_one_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks, rglob = list[Path](), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, *words: walks.append(self) or rglob(self, *words))  # type: ignore[func-returns-value]
    (tmp_path / "corpus" / "audio").mkdir(parents=True)
    (tmp_path / "notes.tsv").write_text("a\tb\n1\t2\n")
    for place in ("a.trans.txt", "audio/../a.trans.txt", "audio/texts.tsv", "texts.tsv"):
        file = tmp_path / "corpus" / place
        given = Given(tmp_path, data=tmp_path / "corpus" / ("" if place == "a.trans.txt" else "audio"))
        found = place == "audio/../a.trans.txt"  # only tables are looked for in the folder above
        assert lacks_transcripts(given)
        file.write_text("utterance\ttext\n" if file.suffix == ".tsv" else "a HELLO\n")
        walks.clear()
        given = Given(given.root, data=given.data)
        assert lacks_transcripts(given) == found
        assert lacks_transcripts(given) == found
        assert walks == [given.data]
        file.unlink()


def lacks_transcripts(given: Given) -> bool:
    [[step]] = plan(given, ["asr"]).values()
    return "transcripts of the recordings" in {lack.what for lack in step.lacking}


def test_remedies_of_a_piano_chain_have_its_prompts_and_sizes_and_can_be_typed(tmp_path: Path) -> None:
    root = tmp_path / "my chain"
    write_json(root / "chain.json", {"data": "/piano", "preset": "piano-demo"})
    lacks = [lack for steps in plan(Given(root)).values() for step in steps for lack in step.lacking]
    spoken = [shlex.split(lack.remedy) for lack in lacks if "lightning predict" in lack.remedy]
    assert spoken
    for words in spoken:
        assert words[words.index("--root") + 1] == str(root)
        assert words[words.index("--model.prompt_seconds") + 1] == "4"
    made = next(shlex.split(lack.remedy) for lack in lacks if "--human" in lack.remedy)
    assert str(root / "generator") in made
    assert any("-c stages/demo/detector.yaml" in lack.remedy for lack in lacks)


def test_make_commands_name_the_public_models_of_the_chain(tmp_path: Path) -> None:
    stamp = {
        "data": "/my talks",
        "preset": "small",
        "codec": "/models/my codec",
        "encoder": "facebook/hubert-base layer 9",
    }
    write_json(tmp_path / "chain.json", stamp)
    expected = ["make", "codec", "DATA=PATH/TO/my talks", "PRESET=small", "CODEC=PATH/TO/my codec"]
    expected += ["ENCODER=facebook/hubert-base", "LAYER=9"]
    assert shlex.split(Given(tmp_path).make("codec")) == expected
    assert shlex.split(read_facts(tmp_path).make("codec")) == expected
    write_json(tmp_path / "chain.json", {"data": "", "preset": "demo", "codec": "", "encoder": "mfcc"})
    assert Given(tmp_path).make("tokens") == read_facts(tmp_path).make("tokens") == "make tokens ENCODER=mfcc"


def test_stages_are_trained_by_make_where_it_knows_the_chain(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "mine"
    write_json(root / "chain.json", {"data": "/talks", "preset": "small", "codec": "", "encoder": "mfcc"})
    expected = "make asr DATA=PATH/TO/talks PRESET=small ENCODER=mfcc RUN=mine 'TRANSCRIPTS=/my texts'"
    assert Given(root, transcripts=Path("/my texts")).train("asr") == expected
    assert Given(root).train("speaker") == "make speaker DATA=PATH/TO/talks PRESET=small ENCODER=mfcc RUN=mine"
    shutil.move(root, tmp_path / "elsewhere")
    by_hand = "lightning fit -c stages/codec.yaml -c stages/small/codec.yaml --root"
    assert Given(tmp_path / "elsewhere").train("codec").startswith(by_hand)
    write_json(tmp_path / "elsewhere" / "chain.json", {"data": 3})
    with pytest.raises(ValueError, match="is not the record of a chain"):
        Given(tmp_path / "elsewhere").train("codec")


def test_a_folder_that_is_no_chain_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").touch()
    with pytest.raises(FileNotFoundError, match="is no chain"):
        evaluate(tmp_path, "--page-only")
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_continuations_are_what_their_list_says_and_not_what_a_start_notes(tmp_path: Path) -> None:
    given = Given(everything(tmp_path / "chain").root)
    folder = given.root / "generate"
    (folder / "generated.jsonl").touch()
    [[step]] = plan(given, ["acoustic-only"]).values()
    before = digest(step.inputs)
    for name in ("config.yaml", "heartbeat.json"):
        (folder / name).write_text("another start")
    assert digest(step.inputs) == before
    (folder / "generated.jsonl").write_text("{}")
    assert digest(step.inputs) != before


def test_answers_of_people_are_read_and_never_made(chain: Path) -> None:
    ran = list[str]()
    page = evaluate(chain, "--only", "listening", run=runner(chain, ran))
    assert ran == []
    assert "Not run" not in section(page, "Subjective")


def test_short_recordings_are_compared_with_short_stretches_of_continuations(tmp_path: Path) -> None:
    for name, seconds, expected in (("short", 5.0, ("--before-seconds", "1.5")), ("long", 12.0, ())):
        utterances = tuple(
            Utterance(f"{n}", f"{n}.flac", f"{n}", "test", 0, round(seconds * 16000), 16000, True, 0.0)
            for n in range(3)
        )
        (tmp_path / name).mkdir()
        write_manifest(Manifest(root=str(tmp_path), utterances=utterances), tmp_path / name / "manifest.jsonl")  # type: ignore[arg-type]
        [[step]] = plan(Given(tmp_path / name), ["prosody"]).values()
        assert ("--before-seconds" in step.arguments) == bool(expected)
        assert set(expected) <= set(step.arguments)


def test_nothing_from_files_is_markup_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\" onload='x'"
    results = summaries()
    results["asr/summary.json"]["rows"][0]["condition"] = evil
    results["asr/summary.json"] |= {"note": evil, "protocol": {evil: evil}, "settings": {evil: evil}}
    results["codec/pooled.json"]["titles"]["visqol"] = evil
    results["listening-test/scores.json"] |= {"kind": "preference", "names": [evil, evil]}
    root = make_chain(tmp_path / "<b>&amp; 'chain'", results)
    with pytest.raises(Exception, match="preference"):
        evaluate(root, "--page-only")
    page = page_of(root)
    tags, links = set[str](), list[str]()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            links.extend(value or "" for name, value in attributes if name in ("href", "src"))
            assert not any(name.startswith("on") for name, _ in attributes)

    Parser().feed(page)
    assert "script" not in tags
    assert all(link.startswith(("#", "data:")) for link in links)
    assert any(link.startswith("data:image/svg+xml") for link in links)
    assert "&lt;script&gt;" in page
    assert "<b>&amp; " not in page


def test_what_is_named_must_be_there_before_anything_runs(chain: Path) -> None:
    for option in ("--zerospeech", "--transcripts", "--data", "--acoustic-only"):
        with pytest.raises(FileNotFoundError, match=f"{option} .*nowhere"):
            evaluate(chain, option, str(chain / "nowhere"))
    with pytest.raises(ValueError, match="--items and --audio go together"):
        evaluate(chain, "--items", str(chain / "chain.json"))
    with pytest.raises(ValueError, match=r"no experiment tabel.*tokens, layers"):
        evaluate(chain, "--only", "tabel")
    with pytest.raises(ValueError, match="--limit must be at least 1"):
        evaluate(chain, "--limit", "0")
    with pytest.raises(FileNotFoundError, match="no chain at"):
        run_verb(["evaluate", "paper", "--root", str(chain / "nowhere")])
    assert not (chain / "report").exists()


def test_a_published_row_has_a_number_for_every_column() -> None:
    with pytest.raises(ValueError, match=r"Table X.*2 numbers for 1"):
        Published("Table X", ("a",), "", {"row": (1.0, 2.0)})
    assert published.PAIRS.rows[published.AUDIOLM] == (71.5, 83.7, 64.7)
