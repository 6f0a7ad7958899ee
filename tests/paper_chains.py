"""Chains of made-up results, and the page of them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from audiolm.evaluate_paper import evaluate_paper
from audiolm.evaluation.paper_steps import Given
from audiolm.files import write_json
from audiolm.verbs import _parser

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
