"""The generate stage: a generator and a folder of prompts in, a folder of audio out. Used with `predict`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from audiolm.errors import out_of_memory_says
from audiolm.evaluation.clips import spread
from audiolm.generator import AudioLM, StageSampling
from audiolm.generator.outputs import OutputFolder, require_folder
from audiolm.generator.prompts import Prompt, free_prompts, prompts_in, prompts_of
from audiolm.generator.speaking import Manner, Mode, Plan, plan_folder
from audiolm.stages.base import StageModule


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
            "reconstruct" them: pass them through the codec; "unconditional": speak without prompts.
        seconds: how much is added to each prompt, or is spoken freely.
        prompt_seconds: continue only the beginning of each recording, so much of it at most; None continues all of it.
        count: how many utterances are spoken freely.
        limit: no more than so many of the recordings, evenly spread; None speaks on from all.
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
        limit: int | None = None,
        seed: int | None = None,
        sampling: StageSampling = StageSampling(),
        stop_at_end: bool = False,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(root=root)
        if seed is None:
            seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        self.manner = Manner(mode, seed, sampling, seconds, prompt_seconds, stop_at_end)
        if count < 1 or (limit is not None and limit < 1):
            raise ValueError(f"count and limit must be at least 1, got {count} and {limit}")
        if prompts is not None and mode == "unconditional":
            raise ValueError(f"mode unconditional uses no prompts: leave {prompts} out, or choose another mode")
        if limit is not None and mode == "unconditional":
            raise ValueError(f"mode unconditional has no recordings that limit ({limit}) could choose from: use count")
        self.generator_folder = Path(generator) if generator else self.root / "generator"
        if not (self.generator_folder / "config.json").is_file():
            raise FileNotFoundError(
                f"There is no generator at {self.generator_folder}. `make generator` makes it (`audiolm compose`); another "
                "one is named with `--model.generator`."
            )
        self.prompts_folder = Path(prompts) if prompts is not None else None
        self.out = Path(out) if out else self.root / self.stage
        require_folder(self.out)
        self.count, self.limit = count, limit
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
        return self.manner.as_dict()

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
        return plan_folder(
            self._listed(),
            self.manner,
            generator_folder=self.generator_folder,
            spec=self.generator.spec,
            out=self.folder,
            remedy="`--model.out`",
        )

    def _listed(self) -> list[Prompt]:
        if self.manner.mode == "unconditional":
            return free_prompts(self.count)
        return spread(self._all_prompts(), self.limit)

    def _all_prompts(self) -> list[Prompt]:
        most_seconds = self.manner.prompt_seconds if self.manner.mode == "continue" else None
        if self.prompts_folder is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            return prompts_of(data.manifest, data.split, most_seconds=most_seconds)
        if self.folder.resolve().is_relative_to(self.prompts_folder.resolve()):
            raise ValueError(
                f"the audio would go to {self.folder}, inside the folder of prompts {self.prompts_folder}, and be continued "
                "the next time: name another folder with `--model.out`."
            )
        return prompts_in(self.prompts_folder, most_seconds=most_seconds)

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
            generations = self.manner.speak(self.generator, batch.prompts, batch.audio)
        for prompt, generation in zip(batch.prompts, generations, strict=True):
            if prompt.id in self.unfinished:
                made_of = prompt.made_of(sha256=self._plan.digests[prompt.id])
                self._outputs.write(prompt.id, generation, prompt=made_of)

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
