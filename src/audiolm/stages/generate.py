"""The generate stage: a generator and a folder of prompts in, a folder of audio out. Used with `predict`."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from audiolm.audio import SHORTEST_SECONDS
from audiolm.errors import out_of_memory_says
from audiolm.generator import AudioLM, Generation, StageSampling
from audiolm.generator.folder import generator_digest
from audiolm.generator.outputs import OutputFolder, require_folder
from audiolm.generator.prompts import Prompt, defects, digests, free_prompts, prompts_in, prompts_of
from audiolm.manifest import write_lines
from audiolm.stages.base import StageModule

Mode = Literal["continue", "resynthesize", "unconditional"]


@dataclass(frozen=True)
class Plan:
    """What is to be done, found out by the first process for all."""

    prompts: list[Prompt]
    digests: dict[str, str]  # of the prompts' files, by id
    unfinished: set[str]
    settings: dict[str, Any]


class GenerateStage(StageModule):
    """Speaks on after every recording of a folder, says each again, or speaks freely.

    Writes `<out>/<path of the prompt without suffix>.wav`, beside it `….wav.json` (prompt, lengths, seed, sampling), for
    all `settings.json`, and when everything is there `generated.jsonl`. Killed, or ended early by
    `--trainer.limit_predict_batches`, and started again, on any number of processes, it goes on with what is missing. The
    path names an utterance's random stream, so its audio depends on no other file, process or restart; it is what
    `audiolm generate` makes of the same prompt, seed and sampling, up to the rounding of larger matrix products. Prompts that
    cannot be used (unreadable, silent, too short, misnamed) are all named, in `<out>/rejected.jsonl` too, before anything is
    generated.

    Args:
        generator: a generator's folder; by default `<root>/generator`.
        prompts: a folder of recordings of any format and rate; by default utterances of the chain's manifest, those of the
            data module's `split`.
        out: the folder to write to; by default `<root>/generate`.
        mode: "continue" the prompts; "resynthesize" them: say their units again, with freely sampled acoustics;
            "unconditional": speak without prompts.
        seconds: how much is added to each prompt, or is spoken freely.
        prompt_seconds: continue only the beginning of each recording, so much of it at most; None continues all of it.
        count: how many utterances are spoken freely.
        seed: of all random streams; by default `seed_everything`.
        sampling: temperature, top-k and top-p of the three stages; by default the paper's temperatures.
        stop_at_end: let the models end an utterance before the seconds are over.
        root: the folder of the chain.

    Raises:
        FileNotFoundError: if the generator is not there, naming the command that makes it.
        ValueError: for numbers out of range, prompts where none are used, an `out` that is no folder, or resynthesis with a
            generator that is acoustic only.
    """

    stage = "generate"

    def __init__(
        self,
        *,
        generator: str | None = None,
        prompts: str | None = None,
        out: str | None = None,
        mode: Mode = "continue",
        seconds: float = 7.0,
        prompt_seconds: float | None = None,
        count: int = 10,
        seed: int | None = None,
        sampling: StageSampling = StageSampling(),
        stop_at_end: bool = False,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(root=root)
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds must be positive and finite, got {seconds}")
        if prompt_seconds is not None and not SHORTEST_SECONDS <= prompt_seconds < math.inf:
            raise ValueError(
                f"prompt_seconds must be at least {SHORTEST_SECONDS}, or null for all, got {prompt_seconds}"
            )
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if prompts is not None and mode == "unconditional":
            raise ValueError(
                f"mode unconditional uses no prompts: leave {prompts} out, or choose continue or resynthesize"
            )
        self.generator_folder = Path(generator) if generator else self.root / "generator"
        if not (self.generator_folder / "config.json").is_file():
            raise FileNotFoundError(
                f"There is no generator at {self.generator_folder}. `make generator` makes it (`audiolm compose`); another "
                "one is named with `--model.generator`."
            )
        self.prompts_folder = Path(prompts) if prompts is not None else None
        self.out = Path(out) if out else self.root / self.stage
        require_folder(self.out)
        self.mode, self.seconds, self.prompt_seconds, self.count = mode, seconds, prompt_seconds, count
        self.seed, self.sampling, self.stop_at_end = seed, sampling, stop_at_end
        self.generator = AudioLM.from_pretrained(self.generator_folder)
        if mode == "resynthesize":
            self.generator.require_units(f"mode {mode}")

    @property
    def folder(self) -> Path:
        """Where the audio goes."""
        return self.out

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.generator.spec.sample_rate_hz

    @property
    def sealed(self) -> bool:
        """Whether every utterance is there."""
        return self._outputs.sealed

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, finished ones too."""
        return self._plan.prompts

    @property
    def unfinished(self) -> set[str]:
        """Ids of those that are still to be spoken."""
        return self._plan.unfinished

    def config_dict(self) -> dict[str, Any]:
        """Everything besides the prompt that decides how an utterance sounds; this stage trains nothing."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
        settings: dict[str, Any] = {"mode": self.mode, "seed": seed, "sampling": asdict(self.sampling)}
        if self.mode != "resynthesize":
            settings |= {"seconds": self.seconds, "stop_at_end": self.stop_at_end}
        return settings | ({"prompt_seconds": self.prompt_seconds} if self.mode == "continue" else {})

    def setup(self, stage: str) -> None:
        """Find out what is to be done; every process learns it, or why nothing can be done, from the first."""
        precision = str(self.trainer.precision)
        if precision != "32-true" and not precision.endswith("-mixed"):
            raise ValueError(f"precision {precision} would change what is generated: use 32-true")
        plan: Plan | str = ""
        if self.global_rank == 0:
            try:
                plan = self._make_plan()
            except (ValueError, OSError) as error:
                plan = str(error)
        plan = self.trainer.strategy.broadcast(plan)
        if isinstance(plan, str):
            raise ValueError(plan)
        self._plan = plan
        self._outputs = OutputFolder(self.folder, plan.settings)
        if self.global_rank == 0 and not plan.unfinished:
            self._seal_if_complete()  # killed between the last utterance and the list: there will be nothing to predict

    def _make_plan(self) -> Plan:
        prompts = self._listed()
        settings = {"generator": generator_digest(self.generator_folder), **self.config_dict()}
        outputs = OutputFolder(self.folder, settings)
        outputs.require_same_settings(prompt.id for prompt in prompts)
        finished = outputs.finished(prompt.id for prompt in prompts)
        self._require_usable([prompt for prompt in prompts if prompt.id not in finished])
        of_files = digests(prompts)
        outputs.require_same_prompts(
            {prompt.id: prompt.made_of(sha256=of_files[prompt.id]) for prompt in prompts if prompt.id in finished}
        )
        unfinished = of_files.keys() - finished
        if unfinished:
            outputs.open()
        return Plan(prompts, of_files, unfinished, settings)

    def _listed(self) -> list[Prompt]:
        if self.mode == "unconditional":
            return free_prompts(self.count)
        most_seconds = self.prompt_seconds if self.mode == "continue" else None
        if self.prompts_folder is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            return prompts_of(data.manifest, data.split, most_seconds=most_seconds)
        if self.folder.resolve().is_relative_to(self.prompts_folder.resolve()):
            raise ValueError(
                f"the audio would go to {self.folder}, inside the folder of prompts {self.prompts_folder}, and be continued "
                "the next time: name another folder with `--model.out`."
            )
        return prompts_in(self.prompts_folder, most_seconds=most_seconds)

    def _require_usable(self, prompts: list[Prompt]) -> None:
        spec, path = self.generator.spec, self.folder / "rejected.jsonl"
        shortest = spec.aligned_samples if self.mode == "continue" else 1
        found = defects(prompts, sample_rate_hz=spec.sample_rate_hz, shortest_samples=shortest)
        path.unlink(missing_ok=True)
        if found:
            write_lines(path, (json.dumps({"id": id_, "reason": reason}) for id_, reason in found.items()))
            raise ValueError(
                f"{len(found)} of {len(prompts)} prompts cannot be used, such as: {'; '.join(list(found.values())[:3])}. All "
                f"are listed in {path}. Nothing was generated: repair or remove them and run the same command again."
            )

    def on_predict_start(self) -> None:
        """Move the models, which Lightning does not know of, so that no precision of its touches them."""
        self.generator.to(self.trainer.strategy.root_device)

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Speak one batch and write its files."""
        if not batch.prompts:  # some processes have one batch less than others
            return
        longest = max(len(audio) for audio in batch.audio) / self.sample_rate_hz
        remedy = (
            f"{len(batch.prompts)} prompts of up to {longest:.1f} s were spoken on from side by side: lower "
            f"`--data.batch_size`, now {self.trainer.datamodule.batch_size}; finished files are kept. If one alone is too "  # type: ignore[attr-defined]
            "much, lower `--model.seconds` or `--model.prompt_seconds`, with another `--model.out`."
        )
        with out_of_memory_says(remedy), _full_precision(self.trainer.strategy.root_device.type):
            generations = self._speak(batch)
        for prompt, generation in zip(batch.prompts, generations, strict=True):
            if prompt.id in self.unfinished:
                made_of = prompt.made_of(sha256=self._plan.digests[prompt.id])
                self._outputs.write(prompt.id, generation, prompt=made_of)

    def _speak(self, batch: Any) -> list[Generation]:
        common: dict[str, Any] = {
            "ids": [prompt.id for prompt in batch.prompts],
            "seed": self._plan.settings["seed"],
            "sampling": self.sampling,
        }
        if self.mode == "resynthesize":
            return self.generator.resynthesize(batch.audio, **common)
        common |= {"seconds": self.seconds, "stop_at_end": self.stop_at_end}
        if self.mode == "unconditional":
            return self.generator.unconditional(count=len(batch.prompts), **common)
        return self.generator.continue_(batch.audio, **common)

    def on_predict_end(self) -> None:
        """List what was made, once every process has written its share."""
        if dist.is_initialized():
            dist.barrier()
        if self.global_rank == 0:
            self._seal_if_complete()

    def _seal_if_complete(self) -> None:
        ids = [prompt.id for prompt in self.prompts]
        left = len(ids) - len(self._outputs.finished(ids))
        if left:
            print(
                f"{self.folder}: {len(ids) - left} of {len(ids)} wav files are made, {left} are left: the trainer was told to "
                "stop early. The same command goes on with them; without `--trainer.limit_predict_batches` and "
                "`--trainer.fast_dev_run` it makes them all."
            )
            return
        self._outputs.seal(ids)
        print(f"{self.folder}: {len(ids)} wav files, {len(self.unfinished)} of them new; generated.jsonl lists them.")


@contextlib.contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """float32 as it is: neither the trainer's autocast nor TF32 may change what is generated."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
