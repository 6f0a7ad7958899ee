"""Public encoders: padded batches equal single recordings, frames keep time, and folders that cannot be used say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from audiolm.semantic.pretrained import PretrainedEncoder
from audiolm.semantic.stacked_log_mel import stacked_log_mel
from audiolm.semantic.tokenizer import encoder_digest

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
WAVEFORM: dict[str, Any] = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
RATE_25: dict[str, Any] = {
    "conv_dim": [8] * 8,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 8,
}

KINDS: dict[str, dict[str, Any]] = {
    "hubert group": {"model_type": "hubert", **WAVEFORM},
    "hubert layer": {"model_type": "hubert", **WAVEFORM, **LAYER_NORM},
    "hubert 25 Hz": {"model_type": "hubert", **WAVEFORM, **RATE_25, "conv_pos_batch_norm": True},
    "hubert 25 Hz layer": {"model_type": "hubert", **WAVEFORM, **RATE_25, **LAYER_NORM},
    "wavlm group": {"model_type": "wavlm", **WAVEFORM},
    "wavlm layer": {"model_type": "wavlm", **WAVEFORM, **LAYER_NORM},
    "wav2vec2 group": {"model_type": "wav2vec2", **WAVEFORM},
    "wav2vec2 layer": {"model_type": "wav2vec2", **WAVEFORM, **LAYER_NORM},
    "w2v-bert relative key": {"model_type": "wav2vec2-bert"},
    "w2v-bert relative": {"model_type": "wav2vec2-bert", "position_embeddings_type": "relative"},
    "w2v-bert rotary": {"model_type": "wav2vec2-bert", "position_embeddings_type": "rotary"},
}


@pytest.fixture(scope="module", params=list(KINDS))
def encoder(request: pytest.FixtureRequest) -> PretrainedEncoder:
    return random_encoder(request.param)


def random_encoder(kind: str, *, normalize: bool = True) -> PretrainedEncoder:
    """A small one with random weights, none of them at the zeros and ones where padding might not show."""
    torch.manual_seed(0)
    encoder = PretrainedEncoder({**SIZES, **KINDS[kind]}, layer=2, normalize=normalize)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    for name, buffer in encoder.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return encoder


def save(encoder: PretrainedEncoder, folder: Path, **preprocessor: Any) -> Path:
    encoder.model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.02  # an offset, to be normalised


def test_a_padded_batch_gives_the_features_of_each_recording_alone(encoder: PretrainedEncoder) -> None:
    samples = torch.tensor([7777, 1, 320, 321, 399, 640, 8000, 4000, 3999, 8000])
    audio = noise(len(samples), 8500)  # what follows a recording's end is no silence
    together = encoder.hidden_states(audio, samples, layers=[0, 1, 3])
    for row, count in enumerate(samples.tolist()):
        alone = encoder.hidden_states(audio[row : row + 1, :count], layers=[0, 1, 3])
        frames = -(-count // encoder.hop_samples)
        for state, single in zip(together, alone, strict=True):
            assert single.shape == (1, frames, 16)
            assert bool(single.isfinite().all())
            assert (
                state[row, :frames] - single[0]
            ).abs().max() < 1e-5  # float32 in another order; features are about 1
            assert not state[row, frames:].any()


def test_frames_are_those_of_transformers_and_no_layer_runs_in_vain(encoder: PretrainedEncoder) -> None:
    hop = encoder.hop_samples
    audio = noise(2, 12 * hop)
    if encoder.hears_waveforms:
        normal = (audio - audio.mean(1, keepdim=True)) / (audio.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
        tail = encoder.receptive_samples - hop
        inputs = {"input_values": torch.cat([normal, torch.zeros(2, tail)], dim=1)}
    else:
        inputs = {"input_features": torch.stack([stacked_log_mel(row) for row in audio])}
    with torch.no_grad():
        expected = encoder.model(**inputs, output_hidden_states=True).hidden_states
    for layer in range(4):
        assert (encoder.hidden_states(audio, layers=[layer])[0] - expected[layer]).abs().max() < 1e-5
    both = encoder.hidden_states(audio, layers=[3, 1, 3])
    for state, layer in zip(both, (3, 1, 3), strict=True):
        assert (state - expected[layer]).abs().max() < 1e-5

    ran: list[int] = []
    blocks = list(encoder.model.encoder.layers)
    hooks = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number)) for number, block in enumerate(blocks)
    ]
    encoder.hidden_states(audio, layers=[1, 2])
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]
    assert list(encoder.model.encoder.layers) == blocks  # all are there again


def test_blocks_are_back_after_an_error_inside_them() -> None:
    encoder = random_encoder("hubert layer")
    hook = encoder.model.encoder.layers[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder(noise(1, 4000))
    hook.remove()
    assert len(encoder.model.encoder.layers) == 3
    assert encoder(noise(1, 4000)).shape == (1, 13, 16)


@pytest.mark.parametrize(
    ("kind", "hop", "receptive"),
    [("hubert layer", 320, 400), ("hubert 25 Hz", 640, 720), ("hubert 25 Hz layer", 640, 720)],
)
def test_rate_and_receptive_field_come_from_the_convolutions(kind: str, hop: int, receptive: int) -> None:
    encoder = random_encoder(kind)
    assert (encoder.hop_samples, encoder.rate_hz, encoder.receptive_samples) == (hop, 16000 // hop, receptive)
    for samples in (1, hop - 1, hop, hop + 1, 5 * hop, 5 * hop + 1, 7777):
        assert encoder(noise(1, samples)).shape == (1, -(-samples // hop), 16)


@pytest.mark.parametrize(("kind", "hop"), [("hubert layer", 320), ("hubert 25 Hz layer", 640)])
def test_a_frame_begins_with_its_hop_and_ends_80_samples_into_the_next(kind: str, hop: int) -> None:
    encoder, audio = random_encoder(kind, normalize=False), noise(1, 20 * hop)
    frames = torch.tensor([20])
    before = encoder._convolved(audio, frames)
    for place, heard_by in ((10 * hop - 1, [9]), (10 * hop, [9, 10]), (10 * hop + 79, [9, 10]), (10 * hop + 80, [10])):
        changed = audio.clone()
        changed[:, place] += 1
        difference = (encoder._convolved(changed, frames) - before).abs().amax((0, 2))
        assert torch.nonzero(difference)[:, 0].tolist() == heard_by


def test_a_rate_that_is_not_whole_is_refused() -> None:
    config = {**SIZES, **KINDS["hubert group"], "conv_stride": [5, 2, 2, 2, 2, 2, 3]}
    with pytest.raises(ValueError, match="every 480 samples"):
        PretrainedEncoder(config, layer=1, normalize=False)


@pytest.mark.parametrize("samples", [16000, 16001, 7777, 3201])
def test_the_spectrogram_is_the_one_w2v_bert_2_was_trained_with(samples: int) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    audio = noise(samples)
    extracted = SeamlessM4TFeatureExtractor()(audio.numpy(), sampling_rate=16000, return_tensors="pt")
    expected = extracted.input_features[0, : int(extracted.attention_mask.sum())]
    ours = stacked_log_mel(audio)
    assert ours.shape == (-(-samples // 320), 160)
    assert len(expected) >= len(ours) - 2  # it leaves out the end
    assert torch.allclose(ours[: len(expected)], expected, atol=2e-3)  # float64 there, float32 here


def test_spectra_of_the_shortest_audio_are_finite() -> None:
    for samples in (1, 199, 360, 400, 559, 560):
        spectra = stacked_log_mel(noise(samples))
        assert spectra.shape == (-(-samples // 320), 160)
        assert bool(spectra.isfinite().all())
    assert bool(stacked_log_mel(torch.zeros(4000)).isfinite().all())


def test_a_folder_brings_weights_and_normalisation_along(encoder: PretrainedEncoder, tmp_path: Path) -> None:
    save(encoder, tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = PretrainedEncoder.from_pretrained(str(tmp_path), layer=2)
    audio = noise(1, 5000)
    loaded.normalize = encoder.normalize
    assert torch.equal(loaded(audio), encoder(audio))
    with pytest.raises(ValueError, match="layers 0 to 3"):
        PretrainedEncoder.from_pretrained(str(tmp_path), layer=4)
    with pytest.raises(ValueError, match="layers 0 to 3"):
        encoder.hidden_states(audio, layers=[1, 4])


@pytest.mark.parametrize(
    ("kind", "preprocessor", "normalize"),
    [
        ("hubert layer", {}, True),
        ("hubert group", {}, False),
        ("hubert layer", {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}, False),
        ("hubert group", {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True}, True),
    ],
)
def test_normalisation_is_what_the_folder_says(
    kind: str, preprocessor: dict[str, Any], normalize: bool, tmp_path: Path
) -> None:
    save(random_encoder(kind), tmp_path, **preprocessor)
    assert PretrainedEncoder.from_pretrained(str(tmp_path), layer=1).normalize is normalize


def test_weights_saved_in_half_precision_are_used_in_float32(tmp_path: Path) -> None:
    encoder = random_encoder("wavlm layer")
    encoder.model.half()
    save(encoder, tmp_path)
    loaded = PretrainedEncoder.from_pretrained(str(tmp_path), layer=2)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert bool(loaded(noise(1, 3000)).isfinite().all())


def test_published_weights_in_bin_files_of_a_model_with_a_head_are_found(tmp_path: Path) -> None:
    encoder = random_encoder("hubert layer", normalize=True)
    save(encoder, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for name, value in encoder.model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        weights[f"hubert.{name}"] = value
    weights |= {"lm_head.weight": torch.zeros(32, 16), "lm_head.bias": torch.zeros(32)}
    del weights["hubert.masked_spec_embed"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    loaded, again = (PretrainedEncoder.from_pretrained(str(tmp_path), layer=2) for _ in range(2))
    audio = noise(1, 4000)
    assert torch.equal(loaded(audio), encoder(audio))
    assert encoder_digest(loaded) == encoder_digest(again)  # what is not in the file is not left to chance


def test_folders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    encoder = random_encoder("hubert layer")

    def refused(folder: str, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            PretrainedEncoder.from_pretrained(str(tmp_path / folder), layer=1)

    (tmp_path / "empty").mkdir()
    refused("empty", ValueError, "not a model|not one that transformers wrote")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    refused("damaged", ValueError, "not one that transformers wrote.*JSON")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "telepathy"}')
    refused("unknown", ValueError, "not a model that transformers knows.*telepathy")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    refused("bert", ValueError, "'bert', which is not supported.*hubert, wavlm, wav2vec2")
    encoder.model.config.save_pretrained(tmp_path / "no_weights")
    refused("no_weights", FileNotFoundError, "weights cannot be read")

    save(encoder, tmp_path / "8k", feature_extractor_type="Wav2Vec2FeatureExtractor", sampling_rate=8000)
    refused("8k", ValueError, "8000 Hz .*16000 Hz")
    save(encoder, tmp_path / "bad_preprocessor")
    (tmp_path / "bad_preprocessor" / "preprocessor_config.json").write_text("{")
    refused("bad_preprocessor", ValueError, "preprocessor_config.json cannot be read")

    from safetensors.torch import load_file, save_file

    save(encoder, tmp_path / "incomplete")
    path = tmp_path / "incomplete" / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "layers.2" not in name}
    save_file(weights, path, metadata={"format": "pt"})
    refused("incomplete", ValueError, "weights of the encoder .*layers.2.* would be random")
