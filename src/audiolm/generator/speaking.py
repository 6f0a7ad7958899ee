"""Speaking a folder of prompts: the manner, and what is left to do, found out before anything is generated."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from audiolm.audio import SHORTEST_SECONDS
from audiolm.generator.folder import generator_digest
from audiolm.generator.model import AudioLM, Generation
from audiolm.generator.outputs import OutputFolder
from audiolm.generator.prompts import Prompt, defects, digests
from audiolm.generator.rows import StageSampling
from audiolm.manifest import write_lines
from audiolm.tokens.spec import TokenSpec

Mode = Literal["continue", "resynthesize", "reconstruct", "unconditional"]


@dataclass(frozen=True)
class Manner:
    """How prompts are spoken: everything besides them and the generator that decides how an utterance sounds.

    Args:
        mode: "continue" the prompts; "resynthesize": say their units again, with freely sampled acoustics; "reconstruct":
            pass them through the codec; "unconditional": speak without prompts.
        seed, sampling: of all that is drawn.
        seconds: how much is added to each prompt, or is spoken freely.
        prompt_seconds: continue only the beginning of each recording, so much of it at most; None continues all of it.
        stop_at_end: let the models end an utterance before the seconds are over.

    Raises:
        ValueError: for numbers out of range.
    """

    mode: Mode
    seed: int = 0
    sampling: StageSampling = StageSampling()
    seconds: float = 7.0
    prompt_seconds: float | None = None
    stop_at_end: bool = False

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise ValueError(f"seconds must be positive and finite, got {self.seconds}")
        if self.prompt_seconds is not None and not SHORTEST_SECONDS <= self.prompt_seconds < math.inf:
            raise ValueError(
                f"prompt_seconds must be at least {SHORTEST_SECONDS}, or null for all, got {self.prompt_seconds}"
            )

    def as_dict(self) -> dict[str, Any]:
        """What matters in this mode, as plain values."""
        settings: dict[str, Any] = {"mode": self.mode}
        if self.mode != "reconstruct":
            settings |= {"seed": self.seed, "sampling": asdict(self.sampling)}
        if self.mode in ("continue", "unconditional"):
            settings |= {"seconds": self.seconds, "stop_at_end": self.stop_at_end}
        return settings | ({"prompt_seconds": self.prompt_seconds} if self.mode == "continue" else {})

    def shortest_samples(self, spec: TokenSpec) -> int:
        """What a prompt needs at least, at the generator's rate."""
        return spec.aligned_samples if self.mode == "continue" else 1

    def speak(self, generator: AudioLM, prompts: Sequence[Prompt], audio: Sequence[Tensor]) -> list[Generation]:
        """Speak one batch: `audio` holds (samples,) of each prompt, nothing of one that speaks freely."""
        if self.mode == "reconstruct":
            return [_reconstructed(generator, waveform) for waveform in audio]
        common: dict[str, Any] = {
            "ids": [prompt.id for prompt in prompts],
            "seed": self.seed,
            "sampling": self.sampling,
        }
        if self.mode == "resynthesize":
            return generator.resynthesize(audio, **common)
        common |= {"seconds": self.seconds, "stop_at_end": self.stop_at_end}
        if self.mode == "unconditional":
            return generator.unconditional(count=len(prompts), **common)
        return generator.continue_(audio, **common)


@dataclass(frozen=True)
class Plan:
    """What is to be done in a folder."""

    prompts: list[Prompt]
    digests: dict[str, str]  # of the prompts' files, by id
    unfinished: set[str]
    settings: dict[str, Any]


def plan_folder(
    prompts: list[Prompt], manner: Manner, *, generator_folder: Path, spec: TokenSpec, out: Path, remedy: str
) -> Plan:
    """Look at every prompt and at what is in `out` already, and note the settings there.

    Args:
        remedy: how another folder is named.

    Raises:
        ValueError: for prompts that cannot be used, all named in `<out>/rejected.jsonl`; for a folder made with other settings,
            of another generator, or of prompts that were changed since.
    """
    settings = {"generator": generator_digest(generator_folder), **manner.as_dict()}
    outputs = OutputFolder(out, settings, remedy=remedy)
    outputs.require_same_settings(prompt.id for prompt in prompts)
    finished = outputs.finished(prompt.id for prompt in prompts)
    todo = [prompt for prompt in prompts if prompt.id not in finished]
    _require_usable(todo, out, spec=spec, shortest_samples=manner.shortest_samples(spec))
    of_files = digests(prompts)
    made_of = {prompt.id: prompt.made_of(sha256=of_files[prompt.id]) for prompt in prompts if prompt.id in finished}
    outputs.require_same_prompts(made_of)
    unfinished = of_files.keys() - finished
    if unfinished:
        outputs.open()
    return Plan(prompts, of_files, unfinished, settings)


def _require_usable(prompts: list[Prompt], out: Path, *, spec: TokenSpec, shortest_samples: int) -> None:
    path = out / "rejected.jsonl"
    found = defects(prompts, sample_rate_hz=spec.sample_rate_hz, shortest_samples=shortest_samples)
    path.unlink(missing_ok=True)
    if found:
        write_lines(path, (json.dumps({"id": id_, "reason": reason}) for id_, reason in found.items()))
        raise ValueError(
            f"{len(found)} of {len(prompts)} prompts cannot be used, such as: {'; '.join(list(found.values())[:3])}. All "
            f"are listed in {path}. Nothing was generated: repair or remove them and run the same command again."
        )


def _reconstructed(generator: AudioLM, audio: Tensor) -> Generation:
    codes = generator.codec.encode(audio[None].to(generator.device))
    decoded = generator.codec.decode(codes)[0, : len(audio)].float().cpu()
    return Generation(decoded, 0, torch.zeros(0, dtype=torch.int64), codes[0].cpu(), generator.spec.sample_rate_hz)
