"""AudioLM: unconditional generation, acoustic generation from given units, and continuation."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audiolm.audio import SHORTEST_SECONDS, is_silent
from audiolm.codec.codec import Codec
from audiolm.generator.speech_plan import spoken_units, units_for
from audiolm.generator.streams import RandomStream
from audiolm.lm.decoding import decode
from audiolm.lm.sampling import Sampling
from audiolm.lm.scoring import Scores, log_likelihood
from audiolm.lm.transformer import Transformer
from audiolm.semantic.batches import encode_batches
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import StageLayout, remove_repeats
from audiolm.tokens.spec import TokenSpec

FINE_CHUNKS_AT_ONCE = 64  # bounds the memory of the key/value cache


@dataclass(frozen=True)
class StageSampling:
    """How each stage draws. The defaults are the paper's temperatures, without top-k or top-p. Source: AudioLM, section IV-C."""

    semantic: Sampling = Sampling(0.6)
    coarse: Sampling = Sampling(0.8)
    fine: Sampling = Sampling(0.6)


@dataclass(frozen=True)
class LanguageModel:
    """One stage's model, and the stretch of audio it was trained on."""

    model: Transformer
    layout: StageLayout
    window_seconds: float


@dataclass(frozen=True)
class Generation:
    """What came out for one utterance.

    Attributes:
        audio: (samples,) float32: the codec-passed prompt, if there was one, followed by what was generated.
        prompt_samples: where the prompt ends; 0 without one.
        units: (n,) without repeats: the prompt's and the generated ones.
        codes: (levels, frames) of the whole audio.
        sample_rate_hz: of the audio.
    """

    audio: Tensor
    prompt_samples: int
    units: Tensor
    codes: Tensor
    sample_rate_hz: int


@dataclass
class _Row:
    """One utterance on its way through the stages."""

    id: str
    plan: Tensor  # units to speak, without repeats; those of the prompt first
    prompt_units: int  # how many of the plan belong to the prompt
    codes: Tensor  # (levels, frames) of the prompt
    coarse: Tensor  # (coarse levels, frames) so far, the prompt's included
    frames: int  # wanted in all
    samples: int  # wanted in all
    ended: bool = False


class AudioLM:
    """The composed generator. Audio in, audio out; every result is a function of (seed, utterance id, input).

    Load one with `AudioLM.from_pretrained(folder)`; `audiolm compose` writes such folders.

    Source: AudioLM, section III-D (the three inference modes).
    """

    def __init__(
        self,
        *,
        spec: TokenSpec,
        codec: Codec,
        tokenizer: SemanticTokenizer,
        stages: dict[Literal["semantic", "coarse", "fine"], LanguageModel],
        units_per_second: float,
    ) -> None:
        self.spec, self.codec, self.tokenizer, self.stages = spec, codec, tokenizer, stages
        self.units_per_second = units_per_second
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: str | torch.device = "cpu") -> "AudioLM":
        """Load a generator folder. Reads safetensors and JSON only: no code from the folder is run.

        Raises:
            FileNotFoundError: if a file of the folder is missing.
            ValueError: if a file is damaged or its parts do not fit together.
        """
        from audiolm.generator.folder import load_generator

        return load_generator(Path(folder)).to(device)

    def to(self, device: str | torch.device) -> "AudioLM":
        """Move all models to a device."""
        self.device = torch.device(device)
        for module in (self.codec, self.tokenizer, *(stage.model for stage in self.stages.values())):
            module.to(self.device)
        return self

    def continue_(
        self,
        prompts: Sequence[Tensor],
        *,
        seconds: float,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        sampling: StageSampling = StageSampling(),
        stop_at_end: bool = False,
    ) -> list[Generation]:
        """Speak on after each prompt.

        A prompt is cut to whole semantic frames. The units of its continuation are sampled given its own, then the coarse
        codes given all units and its codes, then the fine codes.

        Args:
            prompts: each (samples,) float32 mono at the generator's sample rate, at least 100 ms and not silent. Lengths may
                differ. A prompt longer than a stage's window is fine: the window slides.
            seconds: how much to add to each; exactly so much is delivered, to the sample.
            seed: same seed, ids and prompts: same audio, on the same device.
            ids: name each utterance's random stream; by default its position.
            sampling: temperature, top-k and top-p of the stages; by default the paper's temperatures 0.6, 0.8, 0.6.
            stop_at_end: let the models end an utterance before the seconds are over. Otherwise the end token is illegal.

        Raises:
            ValueError: for prompts that cannot be used, and seconds that are not positive.
        """
        samples = self._samples(seconds)
        names = self._names(ids, len(prompts))
        rows = []
        for name, prompt in zip(names, prompts, strict=True):
            units, codes = self._tokenize(self._checked(prompt, name))
            kept = codes.shape[1] * self.spec.hop_samples
            rows.append(self._row(name, remove_repeats(units), codes, kept + samples))
        self._sample_units(rows, seconds, seed, sampling, stop_at_end)
        return self._speak(rows, seed, sampling, stop_at_end)

    def unconditional(
        self,
        *,
        seconds: float,
        count: int = 1,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        sampling: StageSampling = StageSampling(),
        stop_at_end: bool = False,
    ) -> list[Generation]:
        """Speak without a prompt: `count` utterances of `seconds` each. Arguments as in `continue_`."""
        samples, empty = self._samples(seconds), torch.zeros(0, dtype=torch.int64)
        codes = empty.view(self.spec.levels, 0)
        rows = [self._row(name, empty, codes, samples) for name in self._names(ids, count)]
        self._sample_units(rows, seconds, seed, sampling, stop_at_end)
        return self._speak(rows, seed, sampling, stop_at_end)

    def resynthesize(
        self,
        recordings: Sequence[Tensor],
        *,
        voices: Sequence[Tensor] | None = None,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        sampling: StageSampling = StageSampling(),
    ) -> list[Generation]:
        """Acoustic generation: say what each recording says (its units), with freely sampled acoustics.

        Args:
            recordings: each (samples,); the result is as long.
            voices: recordings whose units and codes come first as an acoustic prompt, so that their voice is kept.

        Returns:
            One generation per recording, without the voice prompt.

        Raises:
            ValueError: as `continue_`; or if there are not as many voices as recordings.
        """
        if voices is not None and len(voices) != len(recordings):
            raise ValueError(f"{len(recordings)} recordings need as many voices, got {len(voices)}")
        rows = []
        for number, name in enumerate(self._names(ids, len(recordings))):
            recording = self._checked(recordings[number], name)
            units = self._units(recording)
            codes = torch.zeros(self.spec.levels, 0, dtype=torch.int64)
            prompt_units = units[:0]
            if voices is not None:
                prompt_units, codes = self._tokenize(self._checked(voices[number], f"voice of {name}"))
                prompt_units = remove_repeats(prompt_units)
            row = self._row(name, prompt_units, codes, codes.shape[1] * self.spec.hop_samples + len(recordings[number]))
            row.plan = remove_repeats(torch.cat([prompt_units, units]))
            rows.append(row)
        generations = self._speak(rows, seed, sampling, stop_at_end=False)
        return [
            replace(
                generation,
                audio=generation.audio[generation.prompt_samples :],
                codes=generation.codes[:, generation.prompt_samples // self.spec.hop_samples :],
                units=row.plan[row.prompt_units :],
                prompt_samples=0,
            )
            for generation, row in zip(generations, rows, strict=True)
        ]

    def log_likelihood(self, units: Sequence[Tensor], *, batch_size: int = 16) -> Scores:
        """How likely the semantic model finds each sequence of units.

        Repeats are removed first; every unit left is scored, the end token is not. See `lm.scoring.log_likelihood`.

        Args:
            units: each (n,) in [0, clusters), with or without repeats, at least one. Sequences longer than the model's
                window are scored whole: its position bias reaches any length.
            batch_size: sequences at a time. Less needs less memory.

        Returns:
            In the given order: `sum` (nats, at most 0), `tokens` scored, `per_token` (the sum divided by the tokens).

        Raises:
            ValueError: for an empty list, an empty sequence, or units out of range.
        """
        stage = self.stages["semantic"]
        sequences = [stage.layout.sequence(row, None, true_end=False) for row in units]
        return log_likelihood(stage.model, stage.layout, sequences, batch_size=batch_size)

    def log_likelihood_of_audio(self, recordings: Sequence[Tensor], *, batch_size: int = 16) -> Scores:
        """How likely the semantic model finds what each recording (samples,) says; see `log_likelihood`.

        Raises:
            ValueError: for an empty list, and recordings that are silent, not finite, or shorter than 100 ms.
        """
        checked = [self._checked(recording, f"recording {number}") for number, recording in enumerate(recordings)]
        units = encode_batches(self.tokenizer, checked, sample_rate_hz=self.spec.sample_rate_hz, batch_size=batch_size)
        return self.log_likelihood(units, batch_size=batch_size)

    def reconstruct(self, audio: Tensor, *, levels: int | None = None) -> Tensor:
        """(samples,) the same audio through the codec, at some or all levels."""
        codes = self.codec.encode(audio[None].to(self.device))[:, : levels or self.spec.levels]
        return self.codec.decode(codes)[0, : len(audio)].float().cpu()

    # ------------------------------------------------------------------------------------------------ what goes in

    def _samples(self, seconds: float) -> int:
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds must be positive and finite, got {seconds}")
        return max(1, round(seconds * self.spec.sample_rate_hz))

    def _names(self, ids: Sequence[str] | None, count: int) -> list[str]:
        names = [str(number) for number in range(count)] if ids is None else list(ids)
        if not count:
            raise ValueError("There is nothing to generate: the list of prompts is empty, or count is 0.")
        if len(names) != count or len(set(names)) != count:
            raise ValueError(f"{count} utterances need {count} different ids, got {names}")
        return names

    def _checked(self, audio: Tensor, name: str) -> Tensor:
        rate = self.spec.sample_rate_hz
        if audio.ndim != 1 or len(audio) < SHORTEST_SECONDS * rate:
            raise ValueError(
                f"{name}: audio must be (samples,) mono, at least {SHORTEST_SECONDS} s at {rate} Hz; got "
                f"{tuple(audio.shape)}. Read files with `audiolm.audio.read_prompt`."
            )
        if not torch.isfinite(audio).all() or is_silent(audio):
            raise ValueError(f"{name}: the audio is silent, or holds NaN or infinity.")
        return audio.float()

    def _tokenize(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Units (T_S,) and codes (levels, T_A) of a prompt, cut to whole frames of both streams."""
        prompt = prompt[: len(prompt) // self.spec.aligned_samples * self.spec.aligned_samples].to(self.device)
        if not len(prompt):
            raise ValueError(
                "The prompt is shorter than one stretch that is whole in units and frames alike "
                f"({self.spec.aligned_samples} samples)."
            )
        return self._units(prompt), self.codec.encode(prompt[None])[0].cpu()

    def _units(self, audio: Tensor) -> Tensor:
        """Units (T_S,), with repeats, of audio (samples,) at the generator's rate, which need not be the tokenizer's."""
        return self.tokenizer.encode(audio[None].to(self.device), sample_rate_hz=self.spec.sample_rate_hz)[0].cpu()

    def _row(self, name: str, plan: Tensor, codes: Tensor, samples: int) -> _Row:
        coarse = codes[: self.spec.coarse_levels]
        return _Row(name, plan, len(plan), codes, coarse, self.spec.frames(samples), samples)

    # ------------------------------------------------------------------------------------------------ semantic stage

    def _sample_units(
        self, rows: list[_Row], seconds: float, seed: int, sampling: StageSampling, stop_at_end: bool
    ) -> None:
        """Add the units of `seconds` to every row's plan; the window slides by half when it is full."""
        stage = self.stages["semantic"]
        window = max(4, units_for(stage.window_seconds, units_per_second=self.units_per_second))
        wanted = units_for(seconds, units_per_second=self.units_per_second)
        totals = {row.id: len(row.plan) + wanted for row in rows}
        streams = {row.id: RandomStream(seed, row.id, "semantic") for row in rows}
        while todo := [row for row in rows if len(row.plan) < totals[row.id] and not row.ended]:
            batches: dict[int, list[tuple[_Row, Tensor]]] = defaultdict(list)
            for row in todo:
                remaining = totals[row.id] - len(row.plan)
                context = row.plan if len(row.plan) + remaining <= window else row.plan[-(window // 2) :]
                batches[min(remaining, window - len(context))].append((row, context))
            for steps, batch in sorted(batches.items()):
                new = decode(
                    stage.model,
                    stage.layout,
                    [
                        stage.layout.prefix(context) if len(context) else stage.layout.prefix(None)
                        for _, context in batch
                    ],
                    steps=steps,
                    sampling=sampling.semantic,
                    uniforms=torch.stack([streams[row.id].draw(steps) for row, _ in batch]),
                    stop_at_end=stop_at_end,
                )
                for (row, _), targets in zip(batch, new, strict=True):
                    row.ended = len(targets) > 0 and int(targets[-1]) == stage.layout.end_id
                    row.plan = torch.cat([row.plan, targets[: len(targets) - row.ended]])

    # ------------------------------------------------------------------------------------------------ coarse stage

    def _sample_coarse(self, rows: list[_Row], seed: int, sampling: Sampling, stop_at_end: bool) -> None:
        """Complete every row's coarse codes; see `speech_plan` for what a sliding window sees."""
        stage, spec = self.stages["coarse"], self.spec
        block = spec.aligned_samples // spec.hop_samples
        window = max(2 * block, round(stage.window_seconds * spec.frame_rate_hz) // block * block)
        streams = {row.id: RandomStream(seed, row.id, "coarse") for row in rows}
        spoken = {row.id: row.prompt_units for row in rows}
        ended: set[str] = set()
        while todo := [row for row in rows if row.coarse.shape[1] < row.frames and row.id not in ended]:
            batches: dict[int, list[tuple[_Row, Tensor, Tensor, Tensor]]] = defaultdict(list)
            for row in todo:
                done = row.coarse.shape[1]
                if row.frames <= window:  # everything fits: the window of the paper's protocol
                    context, behind, ahead = row.coarse, row.plan[: row.prompt_units], row.plan[row.prompt_units :]
                    steps = row.frames - done
                else:
                    context = row.coarse if done <= window // 2 else row.coarse[:, -(window // 2 // block * block) :]
                    steps = min(window - context.shape[1], row.frames - done)
                    behind = self._heard(context) if context.shape[1] else row.plan[:0]
                    count = units_for(steps / spec.frame_rate_hz, units_per_second=self.units_per_second)
                    ahead = row.plan[min(spoken[row.id], len(row.plan) - 1) :][:count]
                batches[steps].append((row, context, behind, ahead))
            for steps, batch in sorted(batches.items(), key=lambda item: item[0]):
                new = decode(
                    stage.model,
                    stage.layout,
                    [stage.layout.prefix(torch.cat([behind, ahead]), context) for _, context, behind, ahead in batch],
                    steps=steps * stage.layout.phases,
                    sampling=sampling,
                    uniforms=torch.stack([streams[row.id].draw(steps * stage.layout.phases) for row, *_ in batch]),
                    stop_at_end=stop_at_end,
                )
                for (row, context, _, ahead), targets in zip(batch, new, strict=True):
                    codes, has_ended = stage.layout.parse(targets)
                    row.coarse = torch.cat([row.coarse, codes], dim=1)
                    if has_ended:
                        ended.add(row.id)
                        row.frames = row.coarse.shape[1]
                        row.samples = min(row.samples, row.frames * spec.hop_samples)
                    elif row.coarse.shape[1] < row.frames:
                        heard = self._heard(torch.cat([context, codes], dim=1), last_frames=codes.shape[1])
                        spoken[row.id] += spoken_units(ahead, heard)

    def _heard(self, coarse: Tensor, *, last_frames: int | None = None) -> Tensor:
        """Units, without repeats, in the audio of some coarse codes (or in its last frames)."""
        units = self._units(self.codec.decode(coarse[None].to(self.device))[0].float())
        if last_frames is not None:
            units = units[-self.spec.semantic_frames(last_frames * self.spec.hop_samples) :]
        return remove_repeats(units)

    # ------------------------------------------------------------------------------------------------ fine stage

    def _sample_fine(self, rows: list[_Row], seed: int, sampling: Sampling) -> list[Tensor]:
        """(levels, frames) of every row: independent chunks, all chunks of all rows together."""
        if not self.spec.fine_levels:
            return [row.coarse for row in rows]
        stage = self.stages["fine"]
        chunk_frames = max(1, round(stage.window_seconds * self.spec.frame_rate_hz))
        jobs: dict[int, list[tuple[int, int, Tensor]]] = defaultdict(list)
        fine = [[row.codes[self.spec.coarse_levels :]] for row in rows]
        for number, row in enumerate(rows):
            generated = row.coarse[:, row.codes.shape[1] :]
            for place, chunk in enumerate(generated.split(chunk_frames, dim=1) if generated.shape[1] else ()):
                fine[number].append(chunk[:0])
                jobs[chunk.shape[1]].append((number, place, chunk))
        for frames, chunks in jobs.items():
            for at in range(0, len(chunks), FINE_CHUNKS_AT_ONCE):
                batch = chunks[at : at + FINE_CHUNKS_AT_ONCE]
                steps = frames * stage.layout.phases
                uniforms = [
                    RandomStream(seed, rows[number].id, "fine", place).draw(steps) for number, place, _ in batch
                ]
                new = decode(
                    stage.model,
                    stage.layout,
                    [stage.layout.prefix(None, chunk) for _, _, chunk in batch],
                    steps=steps,
                    sampling=sampling,
                    uniforms=torch.stack(uniforms),
                )
                for (number, place, _), targets in zip(batch, new, strict=True):
                    fine[number][place + 1] = stage.layout.parse(targets)[0]
        return [torch.cat([row.coarse, torch.cat(parts, dim=1)]) for row, parts in zip(rows, fine, strict=True)]

    @torch.inference_mode()
    def _speak(self, rows: list[_Row], seed: int, sampling: StageSampling, stop_at_end: bool) -> list[Generation]:
        self._sample_coarse(rows, seed, sampling.coarse, stop_at_end)
        generations = []
        for row, codes in zip(rows, self._sample_fine(rows, seed, sampling.fine), strict=True):
            audio = self.codec.decode(codes[None].to(self.device))[0, : row.samples].float().cpu()
            prompt_samples = row.codes.shape[1] * self.spec.hop_samples
            generations.append(Generation(audio, prompt_samples, row.plan, codes, self.spec.sample_rate_hz))
        return generations
