"""Imports run one way: audio -> manifest -> codec | semantic -> tokens -> lm -> generator -> evaluation; Lightning on top."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "audiolm"

# what a room may import, besides itself; `files`, `checkpoint` and `tokens.spec` are everybody's, as is all of `untrusted`
ARROW = [
    "untrusted",
    "audio",
    "strings",
    "utterances",
    "manifest_columns",
    "manifest",
    "recordings",
    "scan",
    "corpus",
    "demo_corpus",
]
ARROW += ["codec", "semantic", "recognition", "tokens", "lm", "generator", "evaluation"]
SHARED = {"files", "errors", "checksums", "lock", "checkpoint", "processes", "sharded_files", "tokens.spec"}
SIDE_BY_SIDE = {("semantic", "codec"), ("codec", "semantic")}
ON_TOP = {
    "stages",
    "stage_cli",
    "verbs",
    "demo_verbs",
    "progress",
    "devices",
    "evaluate_verbs",
    "evaluate_units",
    "evaluate_abx",
    "evaluate_conditions",
    "evaluate_layers",
    "evaluate_likelihood",
    "evaluate_listening",
    "evaluate_zerospeech",
    "evaluate_prosody",
    "evaluate_paper",
    "evaluate_asr",
    "evaluate_table1",
    "evaluate_speaker",
    "evaluate_detector",
    "detect_verb",
    "cli",
    "chain",
    "install",
    "slurm",
    "status",
    "status_table",
    "submit",
    "early_signal",
    "__main__",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_its_left(path: Path) -> None:
    here = room(path)
    if here in ON_TOP | SHARED | {"__init__"}:
        return
    assert here in ARROW, f"{here} has no place in the arrow: give it one"
    for name in imports(path):
        if not name.startswith("audiolm.") or name.removeprefix("audiolm.") in SHARED:
            continue
        there = name.split(".")[1]
        assert there not in ON_TOP, f"{path} imports {name}, which sits on top"
        assert ARROW.index(there) <= ARROW.index(here), f"{path} imports {name}, which lies to its right"
        assert (here, there) not in SIDE_BY_SIDE, f"{path} imports {name}: codec and semantic do not know each other"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lightning_is_known_only_on_top(path: Path) -> None:
    if room(path) not in ON_TOP:
        assert not any(name.split(".")[0] in ("lightning", "datamodules") for name in imports(path))


def test_every_file_of_the_package_says_what_it_is() -> None:
    silent = [str(path) for path in FILES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_the_user_finds_the_top_level_that_was_asked_for() -> None:
    for name in (
        "src",
        "stages",
        "datamodules",
        "checkpoints",
        "tests",
        "lightning.yaml",
        "pyproject.toml",
        "Makefile",
    ):
        assert (REPOSITORY / name).exists(), name
