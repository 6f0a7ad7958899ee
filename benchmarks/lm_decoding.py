"""Decoding: one stage's tokens at the start and end of a continuation, and a whole continuation by the generator."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from common import seconds_of

MOST_TOKENS = 48  # timed at each end, if the continuation is twice as long: whole frames of 4 and of 8 levels


def decode_case(options: argparse.Namespace, size: str, kind: str, seconds: float) -> dict[str, Any]:
    """Figures of every stage; `kind` is the attention that reads the prompt, or `plain` for the plain GPT."""
    from lm_models import SIZES, SPEC, build_model
    from plain_gpt import PlainGpt

    from audiolm.lm.decoding import Decoder
    from audiolm.lm.sampling import Sampling
    from audiolm.tokens.layout import StageLayout

    figures = {}
    for stage in options.stages:
        layout = StageLayout(SPEC, stage)
        prefix, steps, chunks = continuation_tokens(layout, options.prompt_seconds, seconds)
        rows = options.batch * chunks
        plain = PlainGpt(layout.vocabulary, **SIZES[size]) if kind == "plain" else None
        model: Any = plain or build_model(layout, size=size, attention=kind)
        model.to(options.device, dtype(options)).requires_grad_(False).eval()
        if plain is None:
            model.lay_out_for_decoding()  # as the generator does

        if plain is None:

            def decoder(model: Any = model, layout: Any = layout, prefixes: Any = [prefix] * rows, steps=steps) -> Any:
                return Decoder(model, layout, prefixes, steps=steps, sampling=Sampling())

            times = drawing_times(decoder, steps, phases=layout.phases, rows=rows, options=options)
        else:

            def run(prefix: Any, count: int, plain: Any = plain, rows=rows) -> Any:
                return plain.generate(prefix.expand(rows, -1).to(options.device), steps=count)[0].cpu()

            times = token_times(run, prefix, steps, device=options.device, repeats=options.repeats)
        figures[stage] = times
        figures[stage] |= {"rows": rows, "prefix_tokens": len(prefix), "new_tokens": steps}
        if plain is None:
            for where, context in (("start", len(prefix)), ("end", len(prefix) + steps)):
                read = bytes_per_step(model, layout, rows=rows, context_tokens=context)
                figures[stage][f"mb_per_step_{where}"] = round(read / 1e6, 3)
    return figures


def continuation_tokens(layout: Any, prompt_seconds: float, seconds: float) -> tuple[Any, int, int]:
    """What the generator decodes: the prefix, the new tokens, and the rows per utterance (whole fine chunks)."""
    from lm_models import SPEC, WINDOW_SECONDS, random_codes, random_units

    units = [round(part * SPEC.semantic_rate_hz) for part in (prompt_seconds, seconds)]
    frames = [round(part * SPEC.frame_rate_hz) for part in (prompt_seconds, seconds)]
    if layout.stage == "semantic":
        return layout.prefix(random_units(units[0])), units[1], 1
    if layout.stage == "coarse":
        prefix = layout.prefix(random_units(sum(units)), random_codes(frames[0]))
        return prefix, frames[1] * layout.phases, 1
    chunk_frames = min(frames[1], round(WINDOW_SECONDS["fine"] * SPEC.frame_rate_hz))
    return layout.prefix(None, random_codes(chunk_frames)), chunk_frames * layout.phases, frames[1] // chunk_frames


def drawing_times(
    decoder: Callable[[], Any], steps: int, *, phases: int, rows: int, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of a whole stage, and ms per step at both ends of it, once every phase has been drawn (and recorded)."""
    import torch

    first = min(2 * phases, steps // 4)
    count = min(MOST_TOKENS, (steps - first) // 2)
    times: dict[str, list[float]] = {"stage_s": [], "ms_per_step_start": [], "ms_per_step_end": []}
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        drawing = decoder()
        for name, number in (("", first), ("start", count), ("", steps - first - 2 * count), ("end", count)):
            numbers = torch.rand(rows, number, dtype=torch.float64)
            seconds = seconds_of(lambda: drawing.draw(numbers), device=options.device)  # noqa: B023
            if name:
                times[f"ms_per_step_{name}"].append(1000 * seconds / count)
        times["stage_s"].append(time.perf_counter() - started)
    figures = {name: statistics.median(values[1:]) for name, values in times.items()}
    figures["ms_per_step_mean"] = 1000 * figures["stage_s"] / steps  # the reading of the prompt included
    return {name: round(value, 4) for name, value in figures.items()}


def token_times(
    run: Callable[[Any, int], Any], prefix: Any, steps: int, *, device: str, repeats: int
) -> dict[str, float]:
    """The same for a model without pieces: many steps less one step, after the same prefix."""
    import torch

    def seconds(tokens: Any, steps: int) -> float:
        return seconds_of(lambda: run(tokens, steps), device=device)

    drawn = run(prefix, steps)
    count = min(MOST_TOKENS, steps // 2)
    longer = torch.cat([prefix, drawn[: steps - count - 1]])
    figures = {"stage_s": statistics.median(seconds(prefix, steps) for _ in range(repeats))}
    for where, tokens in (("start", prefix), ("end", longer)):
        run(tokens, count + 1)
        differences = [seconds(tokens, count + 1) - seconds(tokens, 1) for _ in range(repeats)]
        figures[f"ms_per_step_{where}"] = 1000 * statistics.median(differences) / count
    figures["ms_per_step_mean"] = 1000 * figures["stage_s"] / steps  # the reading of the prompt included
    return {name: round(value, 4) for name, value in figures.items()}


def bytes_per_step(model: Any, layout: Any, *, rows: int, context_tokens: int) -> float:
    """Weights and cache that one step must read, whatever the code does: nothing is counted that it reads in vain.

    Weights, once for all rows: those of the blocks, and the legal rows of the head (mean over phases). Cache, for each
    row: keys and values of all layers, of `context_tokens` tokens.
    """
    dim, layers = model.config.dim, model.config.layers
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    ranges = [layout.legal_range(phase) for phase in range(layout.phases)]
    head = dim * statistics.mean(stop - start for start, stop in ranges)
    cache = 2 * layers * dim * context_tokens * rows
    return (blocks + head + cache) * model.head.weight.element_size()


def continue_case(
    options: argparse.Namespace, size: str, kind: str, seconds: float, *, rows: int, once: bool = False
) -> dict[str, Any]:
    """`AudioLM.continue_`, everything but the semantic encoder: the prompt's codes, three models, the sound.

    `once`: a single run, after one of a second to warm up.
    """
    import torch
    from lm_models import SPEC, build_generator

    generator = build_generator(size=size, attention=kind, device=options.device, dtype=dtype(options))
    prompts = list(0.1 * torch.randn(rows, round(options.prompt_seconds * SPEC.sample_rate_hz)))
    if once:
        generator.continue_(prompts, seconds=1.0)
    times: dict[str, list[float]] = {"all": [], "codec_encode": [], "codec_decode": []}
    for _ in range(1 if once else options.repeats + 1):
        with clocked(generator.codec, times, options.device):
            times["all"].append(
                seconds_of(lambda: generator.continue_(prompts, seconds=seconds), device=options.device)
            )
    medians = {name: statistics.median(values[-options.repeats :]) for name, values in times.items()}
    streamed = {}
    if rows == 1 and not once:
        for name, chunk_seconds in (("whole_chunk", None), ("half_second", min(0.5, seconds))):
            stream = functools.partial(generator.stream, prompts[0], seconds=seconds, chunk_seconds=chunk_seconds)
            runs = [seconds_of(lambda: next(stream()), device=options.device) for _ in range(options.repeats)]  # noqa: B023
            streamed[name] = round(statistics.median(runs), 4)
    return {
        "first_sound_s": streamed,
        "seconds": round(medians["all"], 4),
        "audio_seconds_per_second": round(rows * seconds / medians["all"], 4),
        "codec_encode_s": round(medians["codec_encode"], 4),
        "codec_decode_s": round(medians["codec_decode"], 4),
        "rows": rows,
    }


@contextmanager
def clocked(codec: Any, times: dict[str, list[float]], device: str) -> Iterator[None]:
    """Add up the time spent in the codec while inside: one more entry of each list."""

    def clock(name: str) -> Callable[..., Any]:
        inner = getattr(type(codec), name).__get__(codec)
        times[f"codec_{name}"].append(0.0)

        def outer(*arguments: Any, **named: Any) -> Any:
            import torch

            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            result = inner(*arguments, **named)
            if device == "cuda":
                torch.cuda.synchronize()
            times[f"codec_{name}"][-1] += time.perf_counter() - started
            return result

        return outer

    codec.encode, codec.decode = clock("encode"), clock("decode")
    try:
        yield
    finally:
        del codec.encode, codec.decode


def dtype(options: argparse.Namespace) -> Any:
    """Of the language models while decoding."""
    import torch

    return torch.bfloat16 if options.decode_precision == "bf16" else torch.float32
