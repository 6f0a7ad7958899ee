"""AudioLM: unconditional generation, acoustic generation from given units, and continuation."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from audiolm.audio import SHORTEST_SECONDS, is_silent
from audiolm.codec.codec import Codec
from audiolm.codec.soundstream import CHUNK_FRAMES, SoundStream
from audiolm.codec.streaming import DecoderStream
from audiolm.generator.coarse import CoarseWriter
from audiolm.generator.codes import CodeWriter
from audiolm.generator.fine import FineWriter
from audiolm.generator.rows import Draws, LanguageModel, Row, StageSampling
from audiolm.generator.units import UnitWriter
from audiolm.lm.scoring import Scores, after, log_likelihood
from audiolm.semantic.batches import encode_batches
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import Stage, remove_repeats
from audiolm.tokens.spec import TokenSpec


@dataclass(frozen=True)
class Generation:
    """What came out for one utterance.

    Attributes:
        audio: (samples,) float32: the codec-passed prompt, if there was one, followed by what was generated.
        prompt_samples: where the prompt ends; 0 without one.
        units: (n,) without repeats: the prompt's and the generated ones; none of an acoustic-only generator.
        codes: (levels, frames) of the whole audio.
        sample_rate_hz: of the audio.
    """

    audio: Tensor
    prompt_samples: int
    units: Tensor
    codes: Tensor
    sample_rate_hz: int


def stage_sets(spec: TokenSpec) -> tuple[set[Stage], set[Stage]]:
    """The stages of a hierarchy and of an acoustic-only generator; a codec whose levels are all coarse has no fine stage."""
    fine: set[Stage] = {"fine"} if spec.fine_levels else set()
    return {"semantic", "coarse", *fine}, {"acoustic", *fine}


class AudioLM:
    """The composed generator. Audio in, audio out; every result is a function of (seed, utterance id, input).

    Load one with `AudioLM.from_pretrained(folder)`; `audiolm compose` writes such folders.

    A generator is the paper's hierarchy (semantic, coarse and, but for piano, fine stage), or its baseline, which is acoustic
    only: one stage writes the coarse codes without units. That has no tokenizer, so what needs units raises.

    Args:
        stages: the hierarchy's, or acoustic (and fine).
        tokenizer, units_per_second: of the hierarchy; None where there are no units.

    Raises:
        ValueError: for other stages than those, or units where there are none to be.

    Source: AudioLM, section III-D (the three inference modes); the baseline: its ablation on piano.
    """

    def __init__(
        self,
        *,
        spec: TokenSpec,
        codec: Codec,
        tokenizer: SemanticTokenizer | None,
        stages: dict[Stage, LanguageModel],
        units_per_second: float | None,
    ) -> None:
        if set(stages) not in stage_sets(spec):
            raise ValueError(
                f"a generator of {spec.levels} levels, {spec.coarse_levels} of them coarse, has the stages "
                f"{' or '.join(', '.join(sorted(names)) for names in stage_sets(spec))}, got {', '.join(sorted(stages))}"
            )
        if {tokenizer is None, units_per_second is None} != {"acoustic" in stages}:
            raise ValueError("a hierarchy has a tokenizer and units_per_second, an acoustic-only generator has neither")
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
            if module is not None:
                module.to(self.device)
        return self

    @property
    def acoustic_only(self) -> bool:
        """Whether this is the baseline without units."""
        return "acoustic" in self.stages

    def require_units(self, what: str) -> SemanticTokenizer:
        """The tokenizer, where `what` is to be done with units.

        Raises:
            ValueError: if this generator is acoustic only.
        """
        if self.tokenizer is None:
            raise ValueError(
                f"{what} needs units, and this generator is acoustic only: it can continue prompts and speak freely. Name the "
                "hierarchy's generator (`make generator`, `audiolm compose`)."
            )
        return self.tokenizer

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
        rows = [self._prompted(name, prompt, samples) for name, prompt in zip(names, prompts, strict=True)]
        draws = Draws(seed, sampling, stop_at_end)
        self._plan(rows, seconds, draws)
        return self._speak(rows, draws)

    def stream(
        self,
        prompt: Tensor,
        *,
        seconds: float,
        seed: int = 0,
        id: str = "0",
        sampling: StageSampling = StageSampling(),
        stop_at_end: bool = False,
        chunk_seconds: float | None = None,
    ) -> Iterator[Tensor]:
        """Speak on after one prompt, handing over audio while it goes on.

        All pieces together are what `continue_` adds to the prompt: the same units and codes, the audio up to rounding.

        Args:
            prompt, seconds, seed, sampling, stop_at_end: as in `continue_`; `id` names the random stream.
            chunk_seconds: how much sound comes at a time; by default the fine stage's window (3 s in the paper), the length
                it was trained on. Shorter chunks are heard sooner, and are drawn otherwise than `continue_` does.

        Yields:
            (samples,) float32: the next piece of the continuation, without the prompt.

        Raises:
            ValueError: at once, as `continue_`; for `chunk_seconds` longer than that window; for a codec that cannot decode
                piece by piece (all but SoundStream).
        """
        row = self._prompted(id, prompt, self._samples(seconds))
        draws = Draws(seed, sampling, stop_at_end)
        decoder = DecoderStream(cast(SoundStream, self.codec))  # which refuses other codecs
        fine = FineWriter(self.stages.get("fine"), self.spec, draws=draws, chunk_seconds=chunk_seconds)
        return self._stream(row, self._units_for([row], seconds, draws), fine, decoder, draws)

    @torch.inference_mode()
    def _stream(
        self, row: Row, units: UnitWriter | None, fine: FineWriter, decoder: DecoderStream, draws: Draws
    ) -> Iterator[Tensor]:
        for codes in row.codes.split(CHUNK_FRAMES, dim=1):  # what is said before decides how the first sample sounds
            decoder.push(codes[None].to(self.device))
        place, sent = 0, row.prompt_frames * self.spec.hop_samples
        for _ in self._coarse([row], draws, units).pieces(fine.chunk_frames):
            new = row.coarse.shape[1] - row.prompt_frames
            done = row.coarse.shape[1] == row.frames
            chunks = -(-new // fine.chunk_frames) if done else new // fine.chunk_frames
            while place < chunks:
                audio = decoder.push(fine.chunk(row, place)[None].to(self.device))[0, : row.samples - sent]
                yield audio.float().cpu()
                place, sent = place + 1, sent + len(audio)

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
        """Speak without a prompt: `count` utterances of `seconds` each. Arguments as in `continue_`.

        Raises:
            ValueError: if `count` is below 1, and as `continue_`.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        samples, empty = self._samples(seconds), torch.zeros(0, dtype=torch.int64)
        codes = empty.view(self.spec.levels, 0)
        rows = [self._row(name, empty, codes, samples) for name in self._names(ids, count)]
        draws = Draws(seed, sampling, stop_at_end)
        self._plan(rows, seconds, draws)
        return self._speak(rows, draws)

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
            ValueError: as `continue_`; if there are not as many voices as recordings; or if the generator is acoustic only.
        """
        self.require_units("acoustic generation (saying what a recording says)")
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
        generations = self._speak(rows, Draws(seed, sampling))
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

    def log_likelihood(
        self, units: Sequence[Tensor], *, given: Sequence[Tensor] | None = None, batch_size: int = 16
    ) -> Scores:
        """How likely the semantic model finds each sequence of units.

        Repeats are removed first; every unit left is scored, the end token is not. See `lm.scoring.log_likelihood`.

        Args:
            units: each (n,) in [0, clusters), with or without repeats, at least one. Sequences longer than the model's
                window are scored whole: its position bias reaches any length.
            given: for each of them what was said before (m,), which is not scored. A sequence that begins with the unit that
                was said last goes on with it: that unit is not scored again.
            batch_size: sequences at a time. Less needs less memory.

        Returns:
            In the given order: `sum` (nats, at most 0), `tokens` scored, `per_token` (the sum divided by the tokens).

        Raises:
            ValueError: for an empty list, an empty sequence, one that only goes on with the unit before it, units out of
                range, sequences that are no tensors, as many `given` as there are not units, or an acoustic-only generator.
        """
        self.require_units("a log likelihood")
        wrong = next((type(row).__name__ for row in units if not isinstance(row, Tensor)), None)
        if wrong:
            raise ValueError(
                f"each sequence of units must be a tensor (n,) of integers, got a {wrong}: `torch.tensor(row)`"
            )
        stage = self.stages["semantic"]
        if given is None:
            sequences = [stage.layout.sequence(row, None, true_end=False) for row in units]
        else:
            sequences = [after(stage.layout, *rows) for rows in zip(given, units, strict=True)]
        return log_likelihood(stage.model, stage.layout, sequences, batch_size=batch_size)

    def log_likelihood_of_audio(self, recordings: Sequence[Tensor], *, batch_size: int = 16) -> Scores:
        """How likely the semantic model finds what each recording (samples,) says; see `log_likelihood`.

        Raises:
            ValueError: for an empty list, and recordings that are silent, not finite, or shorter than 100 ms; or if the
                generator is acoustic only.
        """
        tokenizer = self.require_units("a log likelihood")
        checked = [self._checked(recording, f"recording {number}") for number, recording in enumerate(recordings)]
        units = encode_batches(tokenizer, checked, sample_rate_hz=self.spec.sample_rate_hz, batch_size=batch_size)
        return self.log_likelihood(units, batch_size=batch_size)

    def reconstruct(self, audio: Tensor, *, levels: int | None = None) -> Tensor:
        """(samples,) the same audio through the codec, at its first `levels`, or all.

        Raises:
            ValueError: if there are not so many levels.
        """
        levels = self.spec.levels if levels is None else levels
        if not 1 <= levels <= self.spec.levels:
            raise ValueError(
                f"levels must be 1 to {self.spec.levels}, those of the codec, or None for all; got {levels}"
            )
        codes = self.codec.encode(audio[None].to(self.device))[:, :levels]
        return self.codec.decode(codes)[0, : len(audio)].float().cpu()

    # ------------------------------------------------------------------------------------------------ what goes in

    def _samples(self, seconds: float) -> int:
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds must be positive and finite, got {seconds}")
        return max(1, round(seconds * self.spec.sample_rate_hz))

    def _names(self, ids: Sequence[str] | None, count: int) -> list[str]:
        names = [str(number) for number in range(count)] if ids is None else list(ids)
        if not count:
            raise ValueError("There is nothing to generate: the list of prompts is empty.")
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
        """Units (T_S,), none if acoustic only, and codes (levels, T_A) of a prompt, cut to whole frames of both streams.

        The baseline cuts alike, so that it continues the same prompts.
        """
        prompt = prompt[: len(prompt) // self.spec.aligned_samples * self.spec.aligned_samples].to(self.device)
        if not len(prompt):
            raise ValueError(
                "The prompt is shorter than one stretch that is whole in units and frames alike "
                f"({self.spec.aligned_samples} samples)."
            )
        units = torch.zeros(0, dtype=torch.int64) if self.acoustic_only else self._units(prompt)
        return units, self.codec.encode(prompt[None])[0].cpu()

    def _units(self, audio: Tensor) -> Tensor:
        """Units (T_S,), with repeats, of audio (samples,) at the generator's rate, which need not be the tokenizer's."""
        tokenizer = self.require_units("tokenizing")
        return tokenizer.encode(audio[None].to(self.device), sample_rate_hz=self.spec.sample_rate_hz)[0].cpu()

    def _prompted(self, name: str, prompt: Tensor, samples: int) -> Row:
        """A row that adds `samples` to a prompt."""
        units, codes = self._tokenize(self._checked(prompt, name))
        return self._row(name, remove_repeats(units), codes, codes.shape[1] * self.spec.hop_samples + samples)

    def _row(self, name: str, plan: Tensor, codes: Tensor, samples: int) -> Row:
        coarse = codes[: self.spec.coarse_levels]
        return Row(name, plan, len(plan), codes, coarse, self.spec.frames(samples), samples)

    # ------------------------------------------------------------------------------------------------ what comes out

    def _plan(self, rows: list[Row], seconds: float, draws: Draws) -> None:
        if (units := self._units_for(rows, seconds, draws)) is not None:
            units.write()

    def _units_for(self, rows: list[Row], seconds: float, draws: Draws) -> UnitWriter | None:
        if self.units_per_second is None:
            return None
        return UnitWriter(
            self.stages["semantic"], rows, seconds=seconds, units_per_second=self.units_per_second, draws=draws
        )

    def _coarse(self, rows: list[Row], draws: Draws, units: UnitWriter | None) -> CodeWriter:
        if self.units_per_second is None:
            return CodeWriter(self.stages["acoustic"], rows, draws=draws)
        return CoarseWriter(
            self.stages["coarse"],
            rows,
            units=units,
            units_per_second=self.units_per_second,
            hear=lambda coarse: self._units(self.codec.decode(coarse[None].to(self.device))[0].float()),
            draws=draws,
        )

    @torch.inference_mode()
    def _speak(self, rows: list[Row], draws: Draws) -> list[Generation]:
        """Acoustics for rows whose plans are complete."""
        self._coarse(rows, draws, None).write()
        generations = []
        for row, codes in zip(
            rows, FineWriter(self.stages.get("fine"), self.spec, draws=draws).write(rows), strict=True
        ):
            audio = self.codec.decode(codes[None].to(self.device))[0, : row.samples].float().cpu()
            prompt_samples = row.prompt_frames * self.spec.hop_samples
            generations.append(Generation(audio, prompt_samples, row.plan, codes, self.spec.sample_rate_hz))
        return generations
