"""What is asked for is delivered: to the sample, the same for the same seed, whoever else is in the batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, tiny_generator, tones_and_noise

from audiolm.generator import AudioLM, Sampling, StageSampling
from audiolm.generator.rows import LanguageModel
from audiolm.generator.speech_plan import spoken_units, units_for
from audiolm.generator.streams import RandomStream
from audiolm.lm import decoding
from audiolm.lm.losses import next_token_loss
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.tokens.layout import StageLayout, collate, remove_repeats


@pytest.fixture(scope="module")
def generator() -> AudioLM:
    return tiny_generator()


@pytest.fixture(scope="module")
def sliding() -> AudioLM:
    """Windows far shorter than what is asked for: 1 s of units, 0.8 s of codes, 0.3 s chunks."""
    return tiny_generator(windows=(1.0, 0.8, 0.3))


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 1.23456])
@pytest.mark.parametrize("prompt_samples", [1700, 8000, 8001])
def test_seconds_asked_for_are_seconds_delivered_to_the_sample(
    generator: AudioLM, seconds: float, prompt_samples: int
) -> None:
    result = generator.continue_([tones_and_noise(prompt_samples)], seconds=seconds)[0]
    assert result.prompt_samples == prompt_samples // 640 * 640  # cut to whole semantic frames
    assert len(result.audio) == result.prompt_samples + round(seconds * 16000)
    assert result.codes.shape == (SPEC.levels, math.ceil(len(result.audio) / 320))


def test_a_continuation_is_a_function_of_seed_id_and_prompt(generator: AudioLM) -> None:
    prompt = tones_and_noise(8000)
    first = generator.continue_([prompt], seconds=0.5, seed=3, ids=["a"])[0].audio
    assert torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=3, ids=["a"])[0].audio)
    assert not torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=4, ids=["a"])[0].audio)
    assert not torch.equal(first, generator.continue_([prompt], seconds=0.5, seed=3, ids=["b"])[0].audio)


@pytest.mark.parametrize("windows", [(30, 10, 3), (1.0, 0.8, 0.3)])
def test_prompts_of_unequal_length_in_one_batch_are_as_one_by_one(windows: tuple[float, float, float]) -> None:
    generator = tiny_generator(windows=windows, double=True)
    prompts = [tones_and_noise(samples, seed=samples) for samples in (4000, 9000, 20000)]
    together = generator.continue_(prompts, seconds=1.0, ids=["a", "b", "c"])
    for name, prompt, expected in zip("abc", prompts, together, strict=True):
        alone = generator.continue_([prompt], seconds=1.0, ids=[name])[0]
        assert torch.equal(alone.units, expected.units)
        assert torch.equal(alone.codes, expected.codes)


def test_the_prompt_keeps_its_own_codes_at_every_level(generator: AudioLM) -> None:
    prompt = tones_and_noise(9600)
    result = generator.continue_([prompt], seconds=0.3)[0]
    assert torch.equal(result.codes[:, :30], generator.codec.encode(prompt[None])[0])
    assert torch.equal(result.units[:2], remove_repeats(generator.tokenizer.encode(prompt[None])[0])[:2])


@given(seconds=st.floats(0.001, 400), rate=st.floats(0.5, 25))
def test_units_are_drawn_at_the_corpus_rate_rounded_up(seconds: float, rate: float) -> None:
    assert max(1, seconds * rate - 1e-6) <= units_for(seconds, units_per_second=rate) < max(1, seconds * rate) + 1


def test_exactly_the_planned_number_of_units_is_drawn_and_none_repeats(generator: AudioLM) -> None:
    prompt = tones_and_noise(9600)
    spoken = remove_repeats(generator.tokenizer.encode(prompt[None])[0])
    result = generator.continue_([prompt], seconds=2.0)[0]
    assert len(result.units) == len(spoken) + math.ceil(2.0 * 11.3)
    assert (result.units[1:] != result.units[:-1]).all()
    assert result.units.max() < SPEC.clusters  # no end token among them


def test_an_utterance_may_end_early_only_if_asked_to() -> None:
    generator = tiny_generator()
    stage = generator.stages["semantic"]
    with torch.no_grad():
        stage.model.head.weight[stage.layout.end_id] *= 0
    results = {
        stop: generator.unconditional(
            seconds=3.0, count=6, sampling=StageSampling(*[Sampling(5)] * 3), stop_at_end=stop
        )
        for stop in (False, True)
    }
    assert all(len(result.audio) == 48000 for result in results[False])
    assert any(len(result.units) < math.ceil(3 * 11.3) for result in results[True])


def test_windows_slide_and_no_model_ever_sees_more_than_its_window(
    sliding: AudioLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = {"semantic": 0, "coarse": 0, "fine": 0}
    real = decoding.Decoder.__init__

    def watched(self, transformer, layout, prefixes, *, steps, **arguments):
        longest[layout.stage] = max(longest[layout.stage], max(len(prefix) for prefix in prefixes) + steps)
        real(self, transformer, layout, prefixes, steps=steps, **arguments)

    monkeypatch.setattr(decoding.Decoder, "__init__", watched)
    result = sliding.continue_([tones_and_noise(32000)], seconds=6.0)[0]
    assert len(result.audio) == 32000 + 96000
    assert longest["semantic"] <= 12 + 1  # 1 s at 11.3 units per second, and the begin token
    assert longest["coarse"] <= 40 * 2 + 20 + 1 + 5  # 40 frames of 2 levels, at most 20 + 5 units, the separator
    assert longest["fine"] <= 15 * 4 + 1


@given(
    planned=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    heard=st.lists(st.integers(0, 3), max_size=9),
)
@settings(deadline=None)
def test_spoken_units_is_the_nearest_prefix_by_edit_distance(planned: list[int], heard: list[int]) -> None:
    def distance(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    distances = [distance(planned[:count], heard) for count in range(len(planned) + 1)] if len(heard) < 6 else None
    if distances is None:
        return
    answer = spoken_units(torch.tensor(planned), torch.tensor(heard, dtype=torch.int64))
    assert distances[answer] == min(distances)
    nearest = min(abs(count - len(heard)) for count, value in enumerate(distances) if value == min(distances))
    assert abs(answer - len(heard)) == nearest


def test_units_that_are_spoken_as_planned_are_counted_exactly() -> None:
    planned = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    assert spoken_units(planned, planned[:5]) == 5
    assert spoken_units(planned, torch.tensor([3, 1, 7, 1, 5])) == 5  # one heard wrongly
    assert spoken_units(planned, torch.tensor([3, 1, 4, 8, 1, 5])) == 5  # one heard too many


def test_acoustic_generation_is_as_long_as_the_recording_and_keeps_its_units(sliding: AudioLM) -> None:
    recordings = [tones_and_noise(samples, seed=samples) for samples in (12345, 20000)]
    voice = tones_and_noise(8000, seed=9)
    for voices in (None, [voice, voice]):
        results = sliding.resynthesize(recordings, voices=voices)
        for recording, result in zip(recordings, results, strict=True):
            assert len(result.audio) == len(recording)
            assert result.codes.shape[1] == math.ceil(len(recording) / 320)
            expected = remove_repeats(sliding.tokenizer.encode(recording[None])[0])
            assert torch.equal(result.units[-len(expected) + 1 :], expected[1:])


def test_speaking_without_a_prompt(sliding: AudioLM) -> None:
    results = sliding.unconditional(seconds=1.5, count=3)
    assert [len(result.audio) for result in results] == [24000] * 3
    assert len({tuple(result.codes.flatten().tolist()) for result in results}) == 3


def test_what_cannot_be_continued_is_refused_with_the_reason(generator: AudioLM) -> None:
    good = tones_and_noise(8000)
    for prompts, seconds, word in (
        ([torch.zeros(8000)], 1, "silent"),
        ([good[:1000]], 1, r"at least 0.1 s"),
        ([good[None]], 1, "mono"),
        ([torch.full((8000,), float("nan"))], 1, "NaN"),
        ([], 1, "empty"),
        ([good], 0, "seconds must be positive"),
        ([good], float("inf"), "seconds must be positive"),
    ):
        with pytest.raises(ValueError, match=word):
            generator.continue_(prompts, seconds=seconds)
    with pytest.raises(ValueError, match="different ids"):
        generator.continue_([good, good], seconds=1, ids=["a", "a"])
    with pytest.raises(ValueError, match="as many voices"):
        generator.resynthesize([good], voices=[])
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"count must be at least 1, got {count}"):
            generator.unconditional(seconds=1, count=count)
    with pytest.raises(ValueError, match=r"tensor \(n,\) of integers, got a list"):
        generator.log_likelihood([[1, 2]])


def test_reconstructing_takes_the_levels_that_there_are(generator: AudioLM) -> None:
    audio = tones_and_noise(8000)
    for levels in (0, -1, SPEC.levels + 1):
        with pytest.raises(ValueError, match=f"levels must be 1 to {SPEC.levels}"):
            generator.reconstruct(audio, levels=levels)
    assert torch.equal(generator.reconstruct(audio), generator.reconstruct(audio, levels=SPEC.levels))
    assert not torch.equal(generator.reconstruct(audio), generator.reconstruct(audio, levels=1))


def test_streams_are_reproducible_different_and_uniform() -> None:
    first = RandomStream(0, "a", "coarse").draw(10000)
    assert torch.equal(first, RandomStream(0, "a", "coarse").draw(10000))
    assert not torch.equal(first, RandomStream(0, "a", "fine").draw(10000))
    assert not torch.equal(first, RandomStream(1, "a", "coarse").draw(10000))
    assert first.dtype == torch.float64
    assert abs(float(first.mean()) - 0.5) < 0.015  # five deviations of the mean of 10000


def test_drawing_in_pieces_continues_the_stream() -> None:
    whole, stream = RandomStream(0, "a").draw(10), RandomStream(0, "a")
    assert torch.equal(whole, torch.cat([stream.draw(4), stream.draw(6)]))


def test_an_overfitted_generator_speaks_its_training_utterance_on(generator: AudioLM) -> None:
    """Three models that know one utterance by heart continue its first second with the codes of the rest."""
    audio, prompt_samples = tones_and_noise(38400, seed=5), 16000
    prompt = audio[:prompt_samples]
    codes = generator.codec.encode(audio[None])[0]
    prompt_frames = prompt_samples // SPEC.hop_samples
    assert torch.equal(codes[:, :prompt_frames], generator.codec.encode(prompt[None])[0])  # it is causal
    units = generator.tokenizer.encode(audio[None])[0]
    prompt_units = generator.tokenizer.encode(prompt[None])[0]
    units = torch.cat([prompt_units, units[len(prompt_units) :]])
    said = {
        "semantic": (units, None),
        "coarse": (units, codes),
        "fine": (None, codes[:, prompt_frames:]),  # chunks are counted from the end of the prompt
    }
    stages = {}
    for stage, (stage_units, stage_codes) in said.items():
        layout = StageLayout(SPEC, stage)
        batch = collate([layout.sequence(stage_units, stage_codes, true_end=False)])
        torch.manual_seed(0)
        config = TransformerConfig(layers=2, heads=2, dim=48, feed_forward=96, dropout=0.0)
        model = Transformer(config, layout.vocabulary)
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        for _ in range(250):
            loss = next_token_loss(model, layout, batch)
            optimizer.zero_grad()
            (loss.nats.sum() / loss.counted.sum()).backward()
            optimizer.step()
        stages[stage] = LanguageModel(model.eval().requires_grad_(False), layout, 3.0)
    new_units = len(remove_repeats(units)) - len(remove_repeats(prompt_units))
    learned = AudioLM(
        spec=SPEC,
        codec=generator.codec,
        tokenizer=generator.tokenizer,
        stages=stages,
        units_per_second=new_units / 1.4,
    )
    sure = StageSampling(*[Sampling(0.05)] * 3)
    result = learned.continue_([prompt], seconds=1.4, sampling=sure)[0]
    assert torch.equal(result.units, remove_repeats(units))
    assert torch.equal(result.codes, codes)
    assert torch.allclose(result.audio, generator.codec.decode(codes[None])[0], atol=1e-6)
