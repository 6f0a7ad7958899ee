"""What a chain's folder says it is: its record, the stages it has, and the commands that make them."""

import shlex
from pathlib import Path

from audiolm.files import read_json
from audiolm.tokens.spec import TokenSpec

LANGUAGE_MODELS = ("semantic", "coarse", "fine", "acoustic")
_WORDS = ("data", "preset", "codec", "encoder")  # what `chain.json` says in words
STAGES = ("codec", "encoder", "tokenizer", "tokens", "semantic", "coarse", "fine")  # of `make train-all`, in order


def chain_record(root: Path) -> dict[str, str]:
    """`chain.json`: data, preset, codec and encoder; empty where there is none.

    Raises:
        ValueError: if it is damaged, naming it.
    """
    path = root / "chain.json"
    found = read_json(path, made_by="make train-all") if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(found.get(name, ""), str) for name in _WORDS):
        raise ValueError(f"{path} is not the record of a chain: it was edited. `make train-all` writes it.")
    return found


def stages_of(root: Path) -> list[str]:
    """The stages of the chain, in order: each is a folder and a make target; the acoustic-only baseline where it was trained."""
    baseline = ["acoustic"] if (root / "acoustic" / "done.json").exists() else []
    return [*(stage for stage in STAGES if stage not in absent_stages(root)), *baseline]


def absent_stages(root: Path) -> set[str]:
    """Those of STAGES that this chain does not have.

    With a public encoder none is trained; a codec whose levels are all coarse, such as piano's, has no fine stage.
    """
    record, spec = chain_record(root), root / "tokens" / "spec.json"
    if spec.exists():
        found = read_json(spec, made_by="make tokens")
        values = found.get("spec", {}) if isinstance(found, dict) else {}
        has_fine = TokenSpec.from_dict(values, source=str(spec)).fine_levels > 0
    else:
        has_fine = not str(record.get("preset", "")).startswith("piano")
    return {*({"encoder"} if record.get("encoder") else ()), *(() if has_fine else {"fine"})}


def run_name(root: Path) -> str | None:
    """The chain's name, if it is one of several (`RUN=`)."""
    folder = root.resolve()
    return folder.name if folder.parent.name == "runs" else None


def make_command(root: Path, target: str, **knobs: str | Path) -> str:
    """The make command for a target of this chain, with its knobs and these. Where data and models lie is left to the reader."""
    record, words = chain_record(root), ["make", target]
    if data := record.get("data"):
        words.append(shlex.quote(f"DATA=PATH/TO/{Path(data).name}"))
    if (preset := record.get("preset", "demo")) != "demo":
        words.append(f"PRESET={preset}")
    if codec := record.get("codec"):
        words.append(shlex.quote(f"CODEC={_public(codec)}"))
    if encoder := record.get("encoder"):
        name, _, layer = encoder.partition(" layer ")
        words.append(shlex.quote(f"ENCODER={_public(name)}"))
        words += [f"LAYER={layer}"] if layer else []
    if run := run_name(root):
        words.append(f"RUN={run}")
    words += [shlex.quote(f"{name}={value}") for name, value in knobs.items()]
    return " ".join(words)


def _public(model: str) -> str:
    """A name as it is; of a folder the last part, as of the data."""
    return f"PATH/TO/{Path(model).name}" if Path(model).is_absolute() else model


def stage_command(root: Path, stage: str, *, transcripts: Path | None = None) -> str:
    """The command that trains a stage at the chain's size: Make's, or the trainer's own for a folder that Make knows nothing of.

    Args:
        transcripts: of the asr stage, where they do not lie beside the recordings.
    """
    if (root / "chain.json").exists() and (run_name(root) or root.resolve().name == "checkpoints"):
        return make_command(root, stage, **({"TRANSCRIPTS": transcripts} if transcripts else {}))
    preset = chain_record(root).get("preset")
    preset = "demo" if preset == "piano-demo" and stage not in STAGES else preset  # as Make has it
    overlay = f" -c stages/{preset}/{stage}.yaml" if preset not in (None, "paper", "piano") else ""
    named = f" --data.transcripts {shlex.quote(str(transcripts))}" if transcripts else ""
    return f"lightning fit -c stages/{stage}.yaml{overlay} --root {shlex.quote(str(root))}{named}"
