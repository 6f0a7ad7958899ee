"""The audio of the paper's conditions: recordings, the same through the codec, said again, and spoken on from."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from audiolm.audio import audio_info
from audiolm.errors import out_of_memory_says
from audiolm.evaluation.clips import Clip
from audiolm.files import read_json
from audiolm.generator import AudioLM, StageSampling
from audiolm.generator.outputs import MADE_BY, OutputFolder
from audiolm.generator.prompts import Prompt
from audiolm.generator.speaking import Manner, Mode, Plan, plan_folder
from audiolm.lock import only_one

Kind = Literal["original", "reconstruction", "acoustic", "continuation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MODES: dict[Kind, Mode] = {"reconstruction": "reconstruct", "acoustic": "resynthesize", "continuation": "continue"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Protocol:
    """How conditions are made; the defaults are the paper's.

    Args:
        samplings: how often what is drawn is drawn: seeds `seed`, `seed` + 1, …
        prompt_seconds, seconds: of continuations.
        batch_size: recordings side by side. Less needs less memory.
    """

    samplings: int = 3
    seed: int = 0
    prompt_seconds: float = 3.0
    seconds: float = 7.0
    sampling: StageSampling = StageSampling()
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("samplings", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def manners(self, kind: Kind) -> dict[str, Manner]:
        """By the name of its folder, how each sampling of a kind is spoken."""
        if kind == "reconstruction":
            return {kind: Manner("reconstruct")}
        return {
            f"{kind}-{seed}": Manner(MODES[kind], seed, self.sampling, self.seconds, self.prompt_seconds)
            for seed in range(self.seed, self.seed + self.samplings)
        }


def condition_clips(
    clips: Sequence[Clip],
    kinds: Sequence[Kind],
    *,
    generator: Path,
    folder: Path,
    protocol: Protocol = Protocol(),
    device: str | torch.device = "cpu",
    progress: Progress = lambda done, total: None,
) -> dict[Kind, list[list[Clip]]]:
    """The same recordings under several conditions; what is not there yet is generated.

    "original" is `clips` themselves; "reconstruction" the codec's; "acoustic" what the generator says given the recording's
    units, with freely drawn acoustics; "continuation" what it says after the recording's first seconds, those excluded.
    `<folder>/<kind>[-<seed>]/` has the audio, as the generate stage writes it (several processes may make it there:
    `lightning predict -c stages/generate.yaml --model.mode … --model.out …`). A killed run goes on where it was.

    Args:
        generator: a generator's folder. Only read where something else than originals is asked for.
        progress: told how many of all recordings are spoken.

    Returns:
        For every kind a list over samplings (one of originals and reconstructions) of clips with the ids and in the order of
        `clips`.

    Raises:
        FileNotFoundError: if there is no generator.
        FolderInUseError: if another run makes audio there now.
        ValueError: for acoustic generations of a generator without units, recordings that cannot be used, two whose names differ
            in their suffix only, and folders that hold the audio of other settings, recordings or generators.
    """
    made = [kind for kind in KINDS if kind in kinds and kind != "original"]
    found: dict[Kind, list[list[Clip]]] = {"original": [list(clips)]} if "original" in kinds else {}
    if not made:
        return found
    model = AudioLM.from_pretrained(generator, device=device)
    if "acoustic" in made:
        model.require_units("acoustic generation")
    manners = {(kind, name): manner for kind in made for name, manner in protocol.manners(kind).items()}
    with contextlib.ExitStack() as locks:  # the verbs share these folders, with each other and with the generate stage
        for _, name in manners:
            locks.enter_context(only_one(folder / name, what="audiolm evaluate, making audio"))
        plans = {(k, n): _plan(clips, k, manner, generator, folder / n, model) for (k, n), manner in manners.items()}
        total, done = sum(len(plan.unfinished) for plan in plans.values()), 0
        for (kind, name), plan in plans.items():
            for spoken in _speak(model, plan, manners[kind, name], folder / name, batch_size=protocol.batch_size):
                done += spoken
                progress(done, total)
            found.setdefault(kind, []).append([_heard(clip, folder / name) for clip in clips])
    return found


def _plan(clips: Sequence[Clip], kind: Kind, manner: Manner, generator: Path, out: Path, model: AudioLM) -> Plan:
    most_seconds = manner.prompt_seconds if kind == "continuation" else None
    prompts = [_prompt(clip, most_seconds) for clip in clips]
    names = {prompt.id: prompt.path for prompt in prompts}
    if len(names) < len(prompts):
        twice = next(prompt for prompt in prompts if names[prompt.id] != prompt.path)
        raise ValueError(
            f"{twice.path} and {names[twice.id]} differ in their suffix only: what is generated from them would have one "
            "name. Rename or remove one."
        )
    return plan_folder(
        prompts, manner, generator_folder=generator, spec=model.spec, out=out, remedy="`--audio`, or remove this one"
    )


def _prompt(clip: Clip, most_seconds: float | None) -> Prompt:
    samples = clip.samples if most_seconds is None else min(clip.samples, round(most_seconds * clip.sample_rate_hz))
    return Prompt(condition_id(clip), str(clip.path), clip.start, samples, clip.sample_rate_hz)


def condition_id(clip: Clip) -> str:
    """The id of what is made of a clip, as the generate stage has it: a path without its suffix, or an utterance's id."""
    stem, suffix = os.path.splitext(clip.id)
    return stem if suffix and suffix == clip.path.suffix else clip.id


def _speak(model: AudioLM, plan: Plan, manner: Manner, out: Path, *, batch_size: int) -> Iterator[int]:
    """Speak what is left; yields how many were, batch by batch, cut from all prompts so that restarts change nothing."""
    outputs = OutputFolder(out, plan.settings)
    ordered = sorted(plan.prompts, key=lambda prompt: (-prompt.seconds, prompt.id))
    for first in range(0, len(ordered), batch_size):
        batch = ordered[first : first + batch_size]
        new = [prompt for prompt in batch if prompt.id in plan.unfinished]
        if not new:
            continue
        audio = [prompt.read(sample_rate_hz=model.spec.sample_rate_hz) for prompt in batch]
        with out_of_memory_says("Give a smaller --batch-size; finished files are kept."):
            generations = manner.speak(model, batch, audio)
        for prompt, generation in zip(batch, generations, strict=True):
            if prompt.id in plan.unfinished:
                outputs.write(prompt.id, generation, prompt=prompt.made_of(sha256=plan.digests[prompt.id]))
        yield len(new)
    if plan.unfinished or not outputs.sealed:
        outputs.seal(prompt.id for prompt in plan.prompts)


def _heard(clip: Clip, folder: Path) -> Clip:
    """What was generated of a clip, its prompt excluded."""
    path = folder / f"{condition_id(clip)}.wav"
    row = read_json(path.with_name(path.name + ".json"), made_by=MADE_BY)
    info, prompt_samples = audio_info(path), row["prompt_samples"]
    stat = path.stat()
    return replace(
        clip,
        path=path,
        start=prompt_samples,
        samples=info.samples - prompt_samples,
        sample_rate_hz=info.sample_rate_hz,
        dc_offset=0.0,
        stamp=(stat.st_size, stat.st_mtime_ns),
    )
