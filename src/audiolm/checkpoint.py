"""A stage's checkpoint as (configuration, weights) of its pure module. Knows nothing of Lightning."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from audiolm.checksums import DamagedError, verify
from audiolm.sharded_files import WEIGHTS, is_sharded, read_tensors, read_values
from audiolm.untrusted.tensor_files import read_torch
from audiolm.untrusted.values import require_plain

FORMAT = 2
HEADER = "audiolm"  # the key of our header inside a trainer's checkpoint
WEIGHTS_PREFIX = "model."  # where a stage module keeps its pure module


@dataclass(frozen=True)
class StageCheckpoint:
    """What later stages need of an earlier one.

    Attributes:
        stage: which stage wrote it: "codec", "tokenizer", "semantic", "coarse", "fine", or one that only measures need.
        config: plain numbers, strings, lists and dicts that rebuild the pure module.
        sources: digests of what it was made from, by name (a language model: the token store's).
        weights: the pure module's state dict.
        step: training step at which it was saved.
    """

    stage: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    sources: dict[str, str] = field(default_factory=dict)
    step: int = 0

    @property
    def digest(self) -> str:
        """sha256 over configuration and weights, as hexadecimal: equal digests compute equal things."""
        return weights_digest(self.config, self.weights)


def header(stage: str, config: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """What a stage adds to its trainer's checkpoint under the key `HEADER`: plain types only."""
    return {"format": FORMAT, "stage": stage, "config": config, "sources": sources}


def plain(value: Any) -> Any:
    """JSON's types only, for a header: a checkpoint must load without running code."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def weights_digest(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """sha256 over a configuration and the bytes of its weights, as hexadecimal."""
    digest = hashlib.sha256(repr(_sorted(config)).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [(key, _sorted(value[key])) for key in sorted(value)]
    return [_sorted(item) for item in value] if isinstance(value, (list, tuple)) else value


def require_finite(weights: Mapping[str, Any], *, source: str) -> None:
    """Refuse weights that a run which went wrong has spoilt.

    Raises:
        ValueError: naming `source`, and the first weight that holds NaN or infinity.
    """
    for name, weight in weights.items():
        if isinstance(weight, Tensor) and weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(
                f"{source} holds NaN or infinite weights, such as {name}: training went wrong before it was saved, most often "
                "because of a too high learning rate. Remove it; an earlier checkpoint, or a new start with a lower rate, helps."
            )


def load_stage_checkpoint(path: Path | str, *, stage: str | tuple[str, ...]) -> StageCheckpoint:
    """Read a checkpoint that `lightning fit` wrote, running no code from it and taking no more memory than it has bytes.

    Args:
        path: a `best.ckpt` or one of `resume/`.
        stage: the stage it has to come from, or several of which one.

    Raises:
        FileNotFoundError: if it is not there, naming the command that writes it.
        ValueError: if it is damaged, not ours, of another format, of another stage, or holds NaN.
    """
    path, stages = Path(path), (stage,) if isinstance(stage, str) else stage
    stage = stages[0]  # the one to train if there is nothing
    if not path.exists():
        by_make = "" if "_" in stage else f"`make {stage}`, or "  # what only measures need is not in the Makefile
        raise FileNotFoundError(
            f"{path} is not there. The {stage} stage writes it: run {by_make}`lightning fit -c stages/{stage}.yaml`."
        )
    try:
        verify(path)
    except DamagedError as error:
        raise ValueError(f"{error} Else put a copy back, or remove it and train the {stage} stage again.") from error
    try:
        content = _content(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}). It is damaged, or holds more than "
            f"plain tensors and numbers. Remove it and train the {stage} stage again, or name another checkpoint."
        ) from error
    found = content.get(HEADER) if isinstance(content, dict) else None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this project in format {FORMAT}: it has no `{HEADER}` header.")
    _require_whole(found, content, path)
    if found["stage"] not in stages:
        raise ValueError(
            f"{path} is a checkpoint of the {found['stage']} stage, where one of the {stage} stage is needed."
        )
    weights = {
        name.removeprefix(WEIGHTS_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(WEIGHTS_PREFIX)
    }
    require_finite(weights, source=str(path))
    return StageCheckpoint(found["stage"], found["config"], weights, found["sources"], content.get("global_step", 0))


def _content(path: Path) -> dict[str, Any]:
    """A trainer's checkpoint; of many processes' only the pure module's weights."""
    if not is_sharded(path):
        return cast(dict[str, Any], read_torch(path))
    tensors = read_tensors(path, prefix=f"{WEIGHTS}/{WEIGHTS_PREFIX}")
    return {**read_values(path), WEIGHTS: {name.removeprefix(f"{WEIGHTS}/"): t for name, t in tensors.items()}}


def _require_whole(header: dict[str, Any], content: dict[str, Any], path: Path) -> None:
    """Check that everything stands in a checkpoint that a StageCheckpoint needs, each of its own kind.

    Raises:
        ValueError: naming what is not.
    """
    weights, sources, step = content.get("state_dict"), header.get("sources"), content.get("global_step", 0)
    sound = {
        "stage": isinstance(header.get("stage"), str),
        "config": isinstance(header.get("config"), dict),
        "sources": isinstance(sources, dict)
        and all(isinstance(text, str) for pair in sources.items() for text in pair),
        "state_dict": isinstance(weights, dict)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()),
        "global_step": type(step) is int and 0 <= step < 2**63,
    }
    damaged = [name for name, is_sound in sound.items() if not is_sound]
    if damaged:
        raise ValueError(f"{path} is damaged: its {', '.join(damaged)} cannot be what a stage wrote. Train it again.")
    require_plain(header["config"], what=f"the configuration in {path}")
