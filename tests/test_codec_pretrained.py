"""Public codecs have the surface of ours: exact lengths, aligned frames, any prefix of levels, and a place in the chain."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TRANSFORMER, tiny_tokenizer, tones_and_noise

from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint
from audiolm.codec import pretrained
from audiolm.codec.codecs import rebuild_codec
from audiolm.codec.pretrained import PretrainedCodec
from audiolm.generator import AudioLM
from audiolm.generator.model import LanguageModel
from audiolm.lm.transformer import Transformer
from audiolm.tokens.layout import StageLayout
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStore

# 24 kHz, 4 levels of 16 codes, hops of 320, 320 and 1920 samples like the published models; everything else is tiny
SIZES: dict[str, dict[str, Any]] = {
    "encodec": {
        "num_filters": 2,
        "hidden_size": 8,
        "num_lstm_layers": 1,
        "codebook_size": 16,
        "target_bandwidths": [0.6, 1.2],  # 75 frames of 4 bits: 2 and 4 levels
    },
    "dac": {
        "sampling_rate": 24000,
        "encoder_hidden_size": 2,
        "decoder_hidden_size": 16,
        "downsampling_ratios": [2, 4, 5, 8],
        "n_codebooks": 4,
        "codebook_size": 16,
        "codebook_dim": 4,
    },
    "mimi": {
        "num_filters": 2,
        "hidden_size": 16,
        "codebook_size": 16,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "num_quantizers": 4,
        "upsample_groups": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
    },
}
DAC_REACH_FRAMES = (
    11  # its decoder hears 3,300 samples to either side: 3 * 320, then 39 * (40 + 8 + 2 + 1), and the strides
)
HOPS = {"encodec": 320, "dac": 320, "mimi": 1920}


def save_model(kind: str, folder: Path, **other: Any) -> Path:
    """A small random model whose codes depend on what it hears, saved as transformers saves them."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**SIZES[kind], **other})).eval()
    with torch.no_grad():
        if kind == "dac":
            for module in model.modules():
                if isinstance(module, torch.nn.Conv1d):
                    module.reset_parameters()  # transformers' own weights leave latents of 1e-7
                    module.bias.zero_()
        elif kind == "mimi":
            for name, buffer in model.named_buffers():
                if name.endswith("embed_sum"):
                    buffer.normal_(std=0.5)
        else:
            latents = model.encoder(tones_and_noise(64000)[None, None])[0].t()
            for layer in model.quantizer.layers:
                layer.codebook.embed.copy_(latents[torch.randperm(len(latents))[:16]])
                latents = latents - layer.decode(layer.encode(latents.t()[None]))[0].t()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(SIZES))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def codec(saved: Path) -> PretrainedCodec:
    return PretrainedCodec.from_pretrained(str(saved))


def audio_of(samples: int, *, batch: int = 1) -> torch.Tensor:
    return torch.stack([tones_and_noise(samples, seed=seed) for seed in range(batch)])


def test_rates_and_sizes_are_those_of_the_model(codec: PretrainedCodec) -> None:
    assert (codec.sample_rate_hz, codec.hop_samples) == (24000, HOPS[codec.kind])
    assert (codec.levels, codec.codebook_size) == (4, 16)
    assert not codec.train().training
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_any_length_gives_whole_frames_and_comes_back_as_such(codec: PretrainedCodec) -> None:
    hop = codec.hop_samples
    for samples in (1, hop - 1, hop, hop + 1, 3 * hop + 7, 12345):
        codes = codec.encode(audio_of(samples, batch=2))
        frames = -(-samples // hop)
        assert codes.shape == (2, 4, frames)
        assert codes.dtype == torch.int64
        assert 0 <= int(codes.min()) <= int(codes.max()) < 16
        for levels in (1, 2, 4):
            audio = codec.decode(codes[:, :levels])
            assert audio.shape == (2, frames * hop)
            assert audio.dtype == torch.float32
            assert audio.isfinite().all()


def test_a_partial_frame_is_completed_with_silence(codec: PretrainedCodec) -> None:
    audio = audio_of(5 * codec.hop_samples)
    audio[:, -100:] = 0
    assert torch.equal(codec.encode(audio[:, :-100]), codec.encode(audio))


def test_codes_and_audio_are_those_of_transformers(saved: Path, codec: PretrainedCodec) -> None:
    from transformers import AutoModel

    model, audio = AutoModel.from_pretrained(saved).eval(), audio_of(6 * codec.hop_samples)
    every = {"encodec": {"bandwidth": 1.2}, "dac": {}, "mimi": {}}[codec.kind]
    with torch.no_grad():
        codes = model.encode(audio[:, None], **every).audio_codes
        if codec.kind == "encodec":
            theirs = model.decode(codes, [None]).audio_values
            codes = codes[0]
        else:
            theirs = model.decode(audio_codes=codes).audio_values
    assert torch.equal(codec.encode(audio), codes)
    assert len(codes.unique()) > 4  # not one code throughout
    ours, theirs = codec.decode(codes)[0], theirs.flatten()
    assert torch.equal(ours[: len(theirs)], theirs)
    assert len(ours) - len(theirs) == (8 if codec.kind == "dac" else 0)  # the stride of 5: one sample short at 3 kHz
    assert not ours[len(theirs) :].any()


def test_fewer_levels_are_a_prefix(saved: Path, codec: PretrainedCodec) -> None:
    audio = audio_of(4 * codec.hop_samples)
    for levels in (1, 3):
        fewer = PretrainedCodec.from_pretrained(str(saved), levels=levels)
        assert torch.equal(fewer.encode(audio), codec.encode(audio)[:, :levels])
    with pytest.raises(ValueError, match="1 to 3 levels"):
        fewer.decode(codec.encode(audio))


def test_embeddings_are_sums_over_levels(codec: PretrainedCodec) -> None:
    codes = codec.encode(audio_of(5 * codec.hop_samples))
    both, first = codec.embed(codes[:, :2]), codec.embed(codes[:, :1])
    assert both.shape[::2] == (1, 5)
    other = codes[:, :2].clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    step = codec.embed(other[:, :1]) - first
    assert torch.allclose(codec.embed(other) - both, step, atol=1e-5)


def latents_of(codec: PretrainedCodec, audio: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = codec.model.encoder(audio[:, None])
    return found if isinstance(found, torch.Tensor) else found.latents


def test_a_frame_keeps_its_time(codec: PretrainedCodec) -> None:
    hop = codec.hop_samples
    reach = DAC_REACH_FRAMES if codec.kind == "dac" else 0  # DAC is centred; the others are causal
    audio = audio_of(60 * hop)
    louder = audio.clone()
    louder[:, 30 * hop : 31 * hop] *= 50
    differs = (latents_of(codec, audio) != latents_of(codec, louder)).any(1)[0].nonzero()
    assert 30 - reach <= int(differs.min()) <= 30
    if codec.kind == "dac":
        assert int(differs.max()) <= 30 + reach

    codes = codec.encode(audio)
    other = codes.clone()
    other[..., 30] = (other[..., 30] + 1) % 16
    energy = (codec.decode(codes) - codec.decode(other))[0].square()
    heard = energy.nonzero()
    assert (30 - reach) * hop <= int(heard.min()) < 31 * hop
    if codec.kind == "dac":
        assert int(heard.max()) < (31 + reach) * hop
        centre = float((energy * torch.arange(len(energy))).sum() / energy.sum())
        assert abs(centre / hop - 30.5) < 0.5


def test_long_audio_is_processed_in_windows(codec: PretrainedCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    hop, rate = codec.hop_samples, codec.sample_rate_hz
    audio = audio_of(100 * hop + 5)
    whole = codec.encode(audio)
    wave = codec.decode(whole)
    monkeypatch.setattr(pretrained, "WINDOW_SECONDS", 50 * hop / rate)
    monkeypatch.setattr(pretrained, "CONTEXT_SECONDS", DAC_REACH_FRAMES * hop / rate)
    seen = []
    inner = codec._codes
    monkeypatch.setattr(codec, "_codes", lambda part: seen.append(part.size(2)) or inner(part))
    codes = codec.encode(audio)
    assert codes.shape == whole.shape
    assert max(seen) <= 50 * hop
    assert len(seen) == 4  # 28 new frames each, the last has 17
    assert (codes == whole).float().mean() > (0.999 if codec.kind == "dac" else 0.9)  # see the class
    again = codec.decode(whole)
    assert again.shape == wave.shape
    assert (again - wave).abs().max() < (1e-5 if codec.kind == "dac" else 0.1 * float(wave.abs().max()))


def test_a_rebuilt_codec_gives_the_same_codes_without_the_folder(codec: PretrainedCodec, tmp_path: Path) -> None:
    checkpoint = StageCheckpoint("codec", codec.config_dict(), codec.state_dict())
    assert json.loads(json.dumps(checkpoint.config)) == checkpoint.config
    torch.save({"config": checkpoint.config, "weights": checkpoint.weights}, tmp_path / "codec")
    content = torch.load(tmp_path / "codec", weights_only=True)
    rebuilt = rebuild_codec(StageCheckpoint("codec", content["config"], content["weights"]))
    audio = audio_of(7 * codec.hop_samples)
    assert rebuilt.config_dict() == codec.config_dict()
    assert torch.equal(rebuilt.encode(audio), codec.encode(audio))
    assert torch.equal(rebuilt.decode(codec.encode(audio)), codec.decode(codec.encode(audio)))
    weights = dict(list(content["weights"].items())[1:])
    with pytest.raises(ValueError, match="do not fit"):
        rebuild_codec(StageCheckpoint("codec", content["config"], weights))


def test_what_a_codec_is_does_not_depend_on_the_folder_it_came_from(saved: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(saved, tmp_path / "moved")
    digests = set()
    for folder in (saved, moved):
        codec = PretrainedCodec.from_pretrained(str(folder))
        digests.add(StageCheckpoint("codec", codec.config_dict(), codec.state_dict()).digest)
    assert len(digests) == 1


def test_codebooks_move_with_the_codec(codec: PretrainedCodec) -> None:
    codec.encode(audio_of(codec.hop_samples))
    codec.to(torch.float64).to(torch.float32)
    assert not any(getattr(module, "_embed", None) is not None for module in codec.modules())


def test_codecs_that_cannot_be_used_are_refused_with_the_reason(saved: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="has 4 levels: ask for 1 to 4, not 5"):
        PretrainedCodec.from_pretrained(str(saved), levels=5)
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        PretrainedCodec.from_pretrained(str(tmp_path / "nothing"))
    AutoConfig.for_model("hubert").save_pretrained(tmp_path / "hubert")
    with pytest.raises(ValueError, match="'hubert' is not supported. Use one of encodec, dac, mimi"):
        PretrainedCodec.from_pretrained(str(tmp_path / "hubert"))
    stereo = {"audio_channels": 2, "normalize": True, "chunk_length_s": 1.0, "overlap": 0.01, "sampling_rate": 48000}
    AutoConfig.for_model("encodec", **stereo).save_pretrained(tmp_path / "48khz")
    with pytest.raises(ValueError, match="facebook/encodec_24khz"):
        PretrainedCodec.from_pretrained(str(tmp_path / "48khz"))
    with pytest.raises(ValueError, match="16-bit"):
        PretrainedCodec({"model_type": "dac", "codebook_size": 2**17})


def test_audio_and_codes_of_other_shapes_are_refused(codec: PretrainedCodec) -> None:
    with pytest.raises(ValueError, match="batch, samples"):
        codec.encode(torch.zeros(24000))
    with pytest.raises(ValueError, match="found 0 to 16"):
        codec.decode(torch.arange(17).view(1, 1, 17))


@pytest.fixture(scope="module")
def encodec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("encodec", tmp_path_factory.mktemp("encodec") / "encodec")


@pytest.fixture(scope="module")
def mixed_chain(
    chain: Path, encodec: Path, run_stage_of: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny chain with its codec replaced by one of 24 kHz; the tokenizer's 16 kHz stay. As far as the tokens."""
    root = tmp_path_factory.mktemp("mixed")
    shutil.copy(chain / "manifest.jsonl", root)
    for stage in ("encoder", "tokenizer"):
        shutil.copytree(chain / stage, root / stage)
    run_stage_of("codec_pretrained", root, "--model.name", str(encodec), "--model.levels", "4", "--ckpt_path", "last")
    run_stage_of("tokenize", root)
    return root


def test_the_stage_writes_what_later_stages_read(mixed_chain: Path, encodec: Path) -> None:
    record = json.loads((mixed_chain / "codec" / "done.json").read_text())
    assert (record["stage"], record["steps"], record["validation_loss"]) == ("codec", 0, None)
    checkpoint = load_stage_checkpoint(mixed_chain / "codec" / "best.ckpt", stage="codec")
    audio = audio_of(9999)
    expected = PretrainedCodec.from_pretrained(str(encodec)).encode(audio)
    assert torch.equal(rebuild_codec(checkpoint).encode(audio), expected)


def test_tokens_carry_the_rates_of_the_codec(mixed_chain: Path, chain: Path) -> None:
    store, ours = TokenStore(mixed_chain / "tokens"), TokenStore(chain / "tokens")
    spec = store.spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.frame_rate_hz) == (24000, 320, 75)
    assert (spec.semantic_rate_hz, spec.aligned_samples) == (25, 960)
    assert store.ids == ours.ids
    for row in range(len(store)):
        assert store.index["units"][row] == ours.index["units"][row]
        same = (store.units(row) == ours.units(row)).float().mean()
        assert same > 0.6  # heard through 24 kHz: mostly the same units, of an encoder that has hardly been trained


def test_a_generator_of_two_rates_delivers_what_was_asked_at_the_codecs(
    mixed_chain: Path, run_stage_of: Callable[..., None]
) -> None:
    from audiolm.evaluation.report import write_report
    from audiolm.evaluation.results import results_tables
    from audiolm.evaluation.samples import write_samples
    from audiolm.generator.folder import compose

    for stage in ("semantic", "coarse", "fine"):
        run_stage_of(stage, mixed_chain, "--trainer.precision", "32-true")
    compose(mixed_chain, mixed_chain / "generator")
    model = AudioLM.from_pretrained(mixed_chain / "generator")
    prompt = audio_of(24000)[0]
    generation = model.continue_([prompt], seconds=1.3)[0]  # longer than the windows of 0.8 s: they slide
    assert generation.sample_rate_hz == 24000
    assert generation.prompt_samples == 24000
    assert len(generation.audio) == 24000 + 31200
    assert len(model.resynthesize([prompt[:12345]])[0].audio) == 12345
    samples = write_samples(mixed_chain, seconds=0.4, prompt_seconds=0.4, count=1)
    assert samples["items"][0]["samples"] == samples["items"][0]["prompt_samples"] + 9600
    assert "| codec |" in results_tables(mixed_chain)
    write_report(mixed_chain)
    card = (mixed_chain / "generator" / "README.md").read_text()
    assert "public codec (encodec)" in card
    assert "Nothing else was used" not in card


@pytest.mark.parametrize("kind", ["dac", "mimi"])
def test_units_of_16_khz_drive_codes_of_other_rates(kind: str, tmp_path: Path) -> None:
    codec = PretrainedCodec.from_pretrained(str(save_model(kind, tmp_path / kind)))
    spec = TokenSpec(
        sample_rate_hz=24000, hop_samples=HOPS[kind], levels=4, coarse_levels=2, codebook_size=16, clusters=12
    )
    stages = {}
    for stage in ("semantic", "coarse", "fine"):
        layout = StageLayout(spec, stage)
        stages[stage] = LanguageModel(Transformer(TRANSFORMER, layout.vocabulary).eval(), layout, 2.0)
    model = AudioLM(spec=spec, codec=codec, tokenizer=tiny_tokenizer(), stages=stages, units_per_second=11.3)
    generation = model.continue_([audio_of(20000)[0]], seconds=0.5)[0]
    prompt_samples = 20000 // spec.aligned_samples * spec.aligned_samples
    assert len(generation.audio) == prompt_samples + 12000


def test_rates_that_hardly_meet_and_too_few_levels_are_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"meet only every 5.12 s at 44100 Hz.*24"):
        TokenSpec(sample_rate_hz=44100, hop_samples=512)
    with pytest.raises(ValueError, match="Lower `coarse_levels`"):
        TokenSpec(levels=2, coarse_levels=4)


def test_the_tokenizer_resamples_to_its_own_rate_and_keeps_the_number_of_units() -> None:
    tokenizer = tiny_tokenizer()
    for samples in (1, 959, 960, 961, 23999, 24001):
        units = tokenizer.encode(audio_of(samples), sample_rate_hz=24000)
        assert units.shape == (1, TokenSpec(sample_rate_hz=24000).semantic_frames(samples))
    audio = audio_of(16000)
    assert torch.equal(tokenizer.encode(audio, sample_rate_hz=16000), tokenizer.encode(audio))
