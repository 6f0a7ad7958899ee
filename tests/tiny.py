"""Tiny parts, made in milliseconds, that behave like the real ones."""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from audiolm.checkpoint import HEADER, header
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.soundstream import SoundStream
from audiolm.files import write_json
from audiolm.generator import AudioLM
from audiolm.generator.folder import FORMAT as GENERATOR_FORMAT
from audiolm.generator.rows import LanguageModel
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import StageLayout
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec(levels=4, coarse_levels=2, codebook_size=16, clusters=12)
TRANSFORMER = TransformerConfig(layers=2, heads=2, dim=16, feed_forward=32, dropout=0.0)


def tones_and_noise(samples: int, *, seed: int = 0) -> torch.Tensor:
    """(samples,) a tone that changes every 0.2 s, in some noise."""
    random = torch.Generator().manual_seed(seed)
    pieces = -(-samples // 3200)
    hertz = 150 + 1500 * torch.rand(pieces, generator=random)
    phase = 2 * torch.pi * torch.cumsum(hertz.repeat_interleave(3200)[:samples] / 16000, 0)
    return 0.3 * torch.sin(phase) + 0.02 * torch.randn(samples, generator=random)


def tiny_codec() -> SoundStream:
    """A codec with codebooks, as after its first training steps."""
    torch.manual_seed(0)
    config = SoundStreamConfig(
        channels=2, dim=8, levels=SPEC.levels, codebook_size=SPEC.codebook_size, pool_factor=2, quantizer_dropout=0.0
    )
    codec = SoundStream(config).train()
    for seed in range(3):
        codec(tones_and_noise(16000, seed=seed)[None])
    return codec.eval().requires_grad_(False)


def tiny_tokenizer() -> SemanticTokenizer:
    """A tokenizer whose centroids are frames of some audio."""
    tokenizer = SemanticTokenizer(MfccEncoder(), clusters=SPEC.clusters)
    features = tokenizer.encoder(tones_and_noise(64000)[None])[0]
    tokenizer.mean.copy_(features.mean(0))
    tokenizer.deviation.copy_(features.std(0))
    tokenizer.centroids[0] = tokenizer.normalize(features)[:: len(features) // SPEC.clusters][: SPEC.clusters]
    return tokenizer.eval()


def tiny_generator(
    *, windows: tuple[float, float, float] = (30, 10, 3), double: bool = False, acoustic_only: bool = False
) -> AudioLM:
    """A generator with random language models. `double`: in float64, where batching changes nothing at all.

    `acoustic_only`: the baseline, whose acoustic stage has the coarse stage's window.
    """
    stages = {}
    for stage, window in zip(("semantic", "acoustic" if acoustic_only else "coarse", "fine"), windows, strict=True):
        if acoustic_only and stage == "semantic":
            continue
        torch.manual_seed(1)
        layout = StageLayout(SPEC, stage)
        model = Transformer(TRANSFORMER, layout.vocabulary).eval()
        stages[stage] = LanguageModel(model.double() if double else model, layout, window)
    of_units = (None, None) if acoustic_only else (tiny_tokenizer(), 11.3)
    return AudioLM(spec=SPEC, codec=tiny_codec(), tokenizer=of_units[0], stages=stages, units_per_second=of_units[1])


def write_tiny_generator(folder: Path, *, acoustic_only: bool = False) -> None:
    """The folder that `audiolm compose` would write of `tiny_generator()`."""
    generator = tiny_generator(acoustic_only=acoustic_only)
    folder.mkdir(parents=True, exist_ok=True)
    modules = {"codec": generator.codec, **({} if acoustic_only else {"tokenizer": generator.tokenizer})}
    modules |= {stage: language_model.model for stage, language_model in generator.stages.items()}
    for name, module in modules.items():
        save_file(
            {key: value.contiguous() for key, value in module.state_dict().items()}, folder / f"{name}.safetensors"
        )
    stages = {
        stage: {"transformer": asdict(TRANSFORMER), "window_seconds": language_model.window_seconds, "step": 3}
        for stage, language_model in generator.stages.items()
    }
    config = {
        "format": GENERATOR_FORMAT,
        "spec": SPEC.as_dict(),
        "stages": stages,
        "facts": {"data": "tones"},
        "codec": generator.codec.config_dict(),
    }
    if not acoustic_only:
        config |= {"tokenizer": generator.tokenizer.config_dict(), "units_per_second": 11.3}
    write_json(folder / "config.json", config)


def write_tiny_checkpoint(path: Path, stage: str, module: torch.nn.Module, config: dict) -> None:
    """What the trainer of a stage would write of a module."""
    weights = {f"model.{name}": value for name, value in module.state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 7, HEADER: header(stage, config, {"manifest": "m"})}, path)
