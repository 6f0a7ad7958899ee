"""Streams give what the whole gives; windows that slide speak the whole plan, once, in order."""

import dataclasses

import pytest
import torch
from tiny import SPEC, TRANSFORMER, tiny_codec, tiny_generator, tiny_tokenizer, tones_and_noise
from torch import Tensor

from audiolm.generator import AudioLM, Sampling, StageSampling
from audiolm.generator import codes as codes_module
from audiolm.generator.coarse import CoarseWriter
from audiolm.generator.rows import Draws, LanguageModel, Row
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout
from audiolm.tokens.spec import TokenSpec


@pytest.mark.parametrize("windows", [(30, 10, 3), (30, 10, 0.3), (1.0, 0.8, 0.3), (0.7, 0.8, 0.5)])
@pytest.mark.parametrize("seconds", [0.1, 1.3, 2.0])
def test_the_pieces_of_a_stream_are_the_continuation(windows: tuple[float, float, float], seconds: float) -> None:
    generator = tiny_generator(windows=windows, double=True)
    prompt = tones_and_noise(8000)
    whole = generator.continue_([prompt], seconds=seconds, seed=5, ids=["a"])[0]
    pieces = list(generator.stream(prompt, seconds=seconds, seed=5, id="a"))
    assert all(len(piece) for piece in pieces)
    assert len(pieces) == -(-round(seconds * 50) // round(windows[2] * 50))
    assert torch.allclose(torch.cat(pieces), whole.audio[whole.prompt_samples :], atol=1e-6)


def test_the_first_piece_comes_before_the_rest_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny_generator(windows=(1.0, 0.8, 0.3))
    drawn = []
    real = codes_module.Decoder.draw
    monkeypatch.setattr(
        codes_module.Decoder, "draw", lambda self, numbers: drawn.append(numbers.shape[1]) or real(self, numbers)
    )
    stream = generator.stream(tones_and_noise(8000), seconds=5.0)
    assert len(next(stream)) == 0.3 * 16000
    assert sum(drawn) < 0.2 * 5.0 * (11.3 + 50 * SPEC.levels)
    assert sum(map(len, stream)) == 4.7 * 16000


def test_shorter_chunks_come_sooner_and_are_as_long_together() -> None:
    generator = tiny_generator()
    pieces = list(generator.stream(tones_and_noise(8000), seconds=1.0, chunk_seconds=0.1))
    assert [len(piece) for piece in pieces] == [1600] * 10
    for wrong in (0.0, 3.1):
        with pytest.raises(ValueError, match="fine stage's window"):
            generator.stream(tones_and_noise(8000), seconds=1.0, chunk_seconds=wrong)


def test_a_stream_may_end_early_and_then_gives_what_the_continuation_gives() -> None:
    generator = tiny_generator(windows=(30, 0.8, 0.3), double=True)
    with torch.no_grad():
        generator.stages["coarse"].model.head.weight[generator.stages["coarse"].layout.end_id] *= 0
    bold = {"sampling": StageSampling(*[Sampling(5)] * 3), "stop_at_end": True, "seconds": 4.0}
    lengths = []
    for seed in range(4):
        prompt = tones_and_noise(8000)
        whole = generator.continue_([prompt], ids=["a"], seed=seed, **bold)[0]
        pieces = list(generator.stream(prompt, id="a", seed=seed, **bold))
        lengths.append(sum(map(len, pieces)))
        assert lengths[-1] == len(whole.audio) - whole.prompt_samples
        if pieces:
            assert torch.allclose(torch.cat(pieces), whole.audio[whole.prompt_samples :], atol=1e-6)
    assert min(lengths) < 64000


def test_bad_requests_are_refused_before_anything_is_made(  # not when the first piece is asked for
) -> None:
    generator = tiny_generator()
    with pytest.raises(ValueError, match="silent"):
        generator.stream(torch.zeros(8000), seconds=1.0)
    with pytest.raises(ValueError, match="seconds must be positive"):
        generator.stream(tones_and_noise(8000), seconds=0.0)


def test_a_generator_without_a_fine_stage_streams_too() -> None:
    spec = dataclasses.replace(SPEC, coarse_levels=SPEC.levels)
    stages = {}
    for stage in ("semantic", "coarse"):
        torch.manual_seed(1)
        layout = StageLayout(spec, stage)
        stages[stage] = LanguageModel(Transformer(TRANSFORMER, layout.vocabulary).eval().double(), layout, 5.0)
    generator = AudioLM(spec=spec, codec=tiny_codec(), tokenizer=tiny_tokenizer(), stages=stages, units_per_second=11.3)
    prompt = tones_and_noise(8000)
    whole = generator.continue_([prompt], seconds=4.0, ids=["a"])[0]
    pieces = list(generator.stream(prompt, seconds=4.0, id="a"))
    assert [len(piece) for piece in pieces] == [48000, 16000]
    assert torch.allclose(torch.cat(pieces), whole.audio[whole.prompt_samples :], atol=1e-6)


SPOKEN = TokenSpec(levels=2, coarse_levels=2, codebook_size=64, clusters=64)  # code c of level 1 sounds like unit c


class PerfectSpeaker:
    """Stands in for the coarse model: says the units it is given, `frames` frames each, from where its prompt stops."""

    def __init__(self, _: object, layout: StageLayout, prefixes: list[Tensor], *, steps: int, **__: object) -> None:
        self.prefixes, self.layout, self.position = prefixes, layout, 0

    def draw(self, uniforms: Tensor) -> list[Tensor]:
        drawn = []
        for prefix in self.prefixes:
            separator = prefix.tolist().index(self.layout.start_id)
            units = prefix[:separator]
            known, _ = self.layout.parse(prefix[separator + 1 :])
            said = len(torch.unique_consecutive(known[0]))
            frames = (self.position + uniforms.shape[1]) // 2
            # finish the unit that the prompt was saying, then say the others
            run = 0 if not known.shape[1] else int((known[0].flip(0) == known[0, -1]).cumprod(0).sum())
            rest = units[said - 1 :].repeat_interleave(4)[run:] if said else units.repeat_interleave(4)
            assert len(rest) >= frames, "the window was not given enough units"
            codes = torch.stack([rest[:frames], rest[:frames]])[:, self.position // 2 :]
            drawn.append(self.layout._flatten(codes, first=0, stop=2))
        self.position += uniforms.shape[1]
        return drawn


@pytest.mark.parametrize("piece_frames", [None, 7, 15])
@pytest.mark.parametrize("prompt_units", [0, 3, 9, 30])
def test_a_coarse_model_that_says_what_it_is_given_says_the_plan_across_all_seams(
    monkeypatch: pytest.MonkeyPatch, prompt_units: int, piece_frames: int | None
) -> None:
    monkeypatch.setattr(codes_module, "Decoder", PerfectSpeaker)
    layout = StageLayout(SPOKEN, "coarse")
    plan = torch.arange(200) * 7 % 64  # neighbours differ
    prompt = plan[:prompt_units].repeat_interleave(4)
    codes = torch.stack([prompt, prompt])
    row = Row("a", plan, prompt_units, codes, codes, frames=700, samples=700 * 320)
    writer = CoarseWriter(
        LanguageModel(None, layout, window_seconds=1.0),  # 50 frames: it slides more than twenty times
        [row],
        units=None,
        units_per_second=12.5,  # 4 frames each
        hear=lambda coarse: coarse[0, ::2],
        draws=Draws(0, StageSampling()),
    )
    for _ in writer.pieces(piece_frames):
        pass
    assert row.coarse.shape == (2, 700)
    assert torch.equal(row.coarse[0], plan.repeat_interleave(4)[:700])


def test_a_stream_far_longer_than_all_windows_hands_over_equal_pieces() -> None:
    generator: AudioLM = tiny_generator(windows=(1.5, 1.0, 0.5))
    total, longest = 0, 0
    for piece in generator.stream(tones_and_noise(16000), seconds=10.0):
        total, longest = total + len(piece), max(longest, len(piece))
    assert total == 10 * 16000
    assert longest == 8000
