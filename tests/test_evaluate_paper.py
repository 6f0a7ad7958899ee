"""The paper's whole evaluation: what is run, what the page says of it, and what it says of what is not there."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from paper_chains import (
    evaluate,
    everything,
    make_chain,
    page_of,
    pair_rows,
    pairs_of,
    ready,
    rows_of,
    runner,
    section,
    summaries,
)

from audiolm.evaluation import paper_plans
from audiolm.evaluation.paper_claims import CHANGED
from audiolm.evaluation.paper_experiments import plan
from audiolm.files import read_json, write_json
from audiolm.manifest import Manifest, Utterance, write_manifest
from audiolm.verbs import _parser, run_verb


@pytest.fixture(autouse=True)
def all_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `evaluation` is installed: other measures have other folders."""
    monkeypatch.setattr(paper_plans, "installed_measures", list)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return make_chain(tmp_path / "chain", summaries())


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


def test_a_folder_that_is_no_chain_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").touch()
    with pytest.raises(FileNotFoundError, match="is no chain"):
        evaluate(tmp_path, "--page-only")
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_answers_of_people_are_read_and_never_made(chain: Path) -> None:
    ran = list[str]()
    page = evaluate(chain, "--only", "listening", run=runner(chain, ran))
    assert ran == []
    assert "Not run" not in section(page, "Subjective")


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
