"""What the paper's evaluation would run, of what is there, and how it judges the paper's claims."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from paper_chains import everything

from audiolm.evaluation import paper_plans, published
from audiolm.evaluation.paper_claims import CHANGED, CLAIMS, Claim, Judged, Term, judge
from audiolm.evaluation.paper_experiments import EXPERIMENTS, plan
from audiolm.evaluation.paper_runs import digest, is_done, run_steps
from audiolm.evaluation.paper_steps import Given
from audiolm.evaluation.published import Published
from audiolm.evaluation.report_facts import read_facts
from audiolm.files import write_json
from audiolm.manifest import Manifest, Utterance, write_manifest
from audiolm.verbs import _parser


@pytest.fixture(autouse=True)
def all_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra `evaluation` is installed: other measures have other folders."""
    monkeypatch.setattr(paper_plans, "installed_measures", list)


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


def test_a_published_row_has_a_number_for_every_column() -> None:
    with pytest.raises(ValueError, match=r"Table X.*2 numbers for 1"):
        Published("Table X", ("a",), "", {"row": (1.0, 2.0)})
    assert published.PAIRS.rows[published.AUDIOLM] == (71.5, 83.7, 64.7)
