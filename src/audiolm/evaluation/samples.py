"""What a chain sounds like: reconstructions and continuations of test speakers, with what can be measured of them."""

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolm.audio import read_audio, write_audio
from audiolm.evaluation.reconstruction import reconstruction_table
from audiolm.files import atomic_path, remove_leftovers, write_json
from audiolm.generator import AudioLM
from audiolm.manifest import Manifest, Utterance, read_manifest

MEASURED_UTTERANCES = 60  # reconstruction is measured on so many utterances, spread over the test speakers
MEASURED_SECONDS = 10.0  # and on no more of each


def write_samples(
    root: Path, *, seconds: float = 7.0, prompt_seconds: float = 3.0, count: int = 6, seed: int = 0
) -> dict[str, Any]:
    """Write `<root>/samples/`: wav files and `samples.json`, from the chain's generator and test split.

    For `count` test utterances: the original, its reconstruction at 1, Q' and Q levels, and the continuation of its first
    `prompt_seconds`; besides, two utterances without a prompt. `samples.json` names the files and holds SI-SDR and mel
    distance at those levels, measured on test speakers.

    Args:
        root: the chain's folder.
        seconds: length of the continuations.
        prompt_seconds: length of the prompts; shorter utterances are prompts as a whole.
        count: how many utterances, of as many different speakers as there are.

    Returns:
        What `samples.json` holds.

    Raises:
        FileNotFoundError: if the generator or the manifest is not there, naming the command that writes it.
    """
    model = AudioLM.from_pretrained(root / "generator")
    manifest = read_manifest(root / "manifest.jsonl")
    rate, spec = model.spec.sample_rate_hz, model.spec
    levels = sorted({1, spec.coarse_levels, spec.levels})
    chosen = by_turns(manifest.split("test"))
    clips = {utterance.id: _read(manifest, utterance, rate) for utterance in chosen[: max(count, MEASURED_UTTERANCES)]}
    table = reconstruction_table(
        model.codec, [clip[: round(MEASURED_SECONDS * rate)] for clip in clips.values()], levels=levels
    )
    shown = chosen[:count]
    prompts = [clips[utterance.id][: round(prompt_seconds * rate)] for utterance in shown]
    started = time.perf_counter()
    continuations = model.continue_(prompts, seconds=seconds, seed=seed, ids=[utterance.id for utterance in shown])
    generation_seconds = time.perf_counter() - started
    free = model.unconditional(seconds=seconds, count=2, seed=seed, ids=["free-0", "free-1"])
    remove_leftovers(root / "samples")
    with atomic_path(root / "samples") as folder:
        folder.mkdir()
        items = []
        for number, (utterance, continuation) in enumerate(zip(shown, continuations, strict=True)):
            clip = clips[utterance.id][: round(MEASURED_SECONDS * rate)]
            item: dict[str, Any] = {"id": utterance.id, "speaker": utterance.speaker, "reconstructions": {}}
            item["original"] = _write(folder, f"{number}-original", clip, rate)
            for level in levels:
                audio = model.reconstruct(clip, levels=level)
                item["reconstructions"][str(level)] = _write(folder, f"{number}-levels-{level}", audio, rate)
            item["continuation"] = _write(folder, f"{number}-continuation", continuation.audio, rate)
            item["prompt_samples"], item["samples"] = continuation.prompt_samples, len(continuation.audio)
            items.append(item)
        result = {
            "seconds": seconds,
            "prompt_seconds": prompt_seconds,
            "seed": seed,
            "sample_rate_hz": rate,
            "generation_seconds": round(generation_seconds, 2),
            "items": items,
            "unconditional": [_write(folder, f"free-{n}", g.audio, rate) for n, g in enumerate(free)],
            "reconstruction": [asdict(row) for row in table],
        }
        write_json(folder / "samples.json", result)
    return result


def by_turns(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The same utterances, one of each speaker, then a second of each, and so on; speakers and utterances by their ids."""
    turn: dict[str, int] = {}
    keyed = []
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        turn[utterance.speaker] = turn.get(utterance.speaker, -1) + 1
        keyed.append((turn[utterance.speaker], utterance.speaker, utterance.id, utterance))
    return [entry[-1] for entry in sorted(keyed, key=lambda entry: entry[:3])]


def _read(manifest: Manifest, utterance: Utterance, rate: int) -> Tensor:
    return read_audio(
        manifest.root / utterance.path,
        sample_rate_hz=rate,
        start=utterance.start,
        samples=utterance.samples,
        dc_offset=utterance.dc_offset,
    )


def _write(folder: Path, name: str, audio: Tensor, rate: int) -> str:
    write_audio(folder / f"{name}.wav", torch.as_tensor(audio), sample_rate_hz=rate)
    return f"{name}.wav"
