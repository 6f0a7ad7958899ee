"""Public recognisers: small random models with their processors, saved as `save_pretrained` does; folders that cannot be used."""

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tones_and_noise

from audiolm.recognition.public import PublicRecogniser
from audiolm.recognition.recogniser import load_recogniser

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WAVEFORM: dict[str, Any] = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LETTERS = "|ETAOINSHRDLU'"


def save_ctc(folder: Path, kind: str = "wav2vec2", *, letters: str = LETTERS, rate: int | None = 16000) -> Path:
    """A model of wav2vec 2.0's family with a vocabulary written here."""
    from transformers import (
        AutoConfig,
        AutoModelForCTC,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Processor,
    )

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *letters]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(sampling_rate=rate or 16000), tokenizer).save_pretrained(folder)
    config = AutoConfig.for_model(kind, vocab_size=len(tokens), pad_token_id=0, **SIZES, **WAVEFORM)
    model = AutoModelForCTC.from_config(config)
    torch.nn.init.normal_(model.lm_head.weight, std=1.0)  # else one letter is the likeliest everywhere
    model.save_pretrained(folder)
    if rate is None:
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).exists():
                values = json.loads((folder / name).read_text())
                values.pop("sampling_rate", None)
                values.get("feature_extractor", {}).pop("sampling_rate", None)
                (folder / name).write_text(json.dumps(values))
    return folder


def save_whisper(folder: Path, *, more: tuple[str, ...] = ()) -> Path:
    """A Whisper whose tokens are single letters, and more."""
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<|endoftext|>", "<|startoftranscript|>", *"abcdefgh", "Ġ", *more]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=5), tokenizer).save_pretrained(folder)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_source_positions=250, max_target_positions=12, decoder_start_token_id=1, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 8
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_ctc_models_hear_as_transformers_own_pipeline_of_steps_does(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCTC, AutoProcessor

    recogniser = load_recogniser(str(save_ctc(tmp_path, kind)))
    assert isinstance(recogniser, PublicRecogniser)
    assert recogniser.sample_rate_hz == 16000
    assert set("etaoin'") <= recogniser.characters
    assert "greedy CTC" in recogniser.decoding
    processor, model = AutoProcessor.from_pretrained(tmp_path), AutoModelForCTC.from_pretrained(tmp_path).eval()
    audio = tones_and_noise(16000)
    with torch.no_grad():
        logits = model(**processor(audio.numpy(), sampling_rate=16000, return_tensors="pt")).logits
    ids = [number for number, _ in groupby(logits[0].argmax(-1).tolist())]  # CTC by hand
    written = "".join(LETTERS[number - 4] for number in ids if number >= 4)  # the first four are special
    assert recogniser.transcribe(audio) == " ".join(written.replace("|", " ").split())
    assert recogniser.transcribe(audio)


def test_a_sequence_model_writes_and_says_how_much_it_hears(tmp_path: Path) -> None:
    recogniser = load_recogniser(str(save_whisper(tmp_path)))
    assert recogniser.longest_seconds == 5
    assert "token by token" in recogniser.decoding
    assert isinstance(recogniser.transcribe(tones_and_noise(16000)), str)
    assert recogniser.digest == load_recogniser(str(tmp_path)).digest


def test_letters_of_several_bytes_are_known_as_letters(tmp_path: Path) -> None:
    recogniser = load_recogniser(
        str(save_whisper(tmp_path, more=("ÐºÐ¾", "ÑĤ")))
    )  # the bytes of "ко" and "т", as GPT-2 has them
    assert set("abcкот") <= recogniser.characters


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    first = load_recogniser(str(save_ctc(tmp_path / "a")))
    assert first.digest == load_recogniser(str(save_ctc(tmp_path / "b"))).digest
    assert first.digest != load_recogniser(str(save_ctc(tmp_path / "c", letters=LETTERS[::-1]))).digest


def test_what_prepares_audio_and_what_is_suppressed_is_part_of_the_digest(tmp_path: Path) -> None:
    """A folder whose preprocessor or generation was changed wrote other words under the digest of the old ones."""
    for folder, names, key, value in (
        (save_ctc(tmp_path / "ctc"), ("preprocessor_config.json", "processor_config.json"), "do_normalize", False),
        (save_whisper(tmp_path / "whisper"), ("generation_config.json",), "suppress_tokens", [2, 3]),
    ):
        before = load_recogniser(str(folder)).digest
        moved = Path(shutil.copytree(folder, tmp_path / f"copy of {folder.name}"))
        assert load_recogniser(str(moved)).digest == before
        for path in (moved / name for name in names if (moved / name).exists()):
            values = json.loads(path.read_text())
            values.get("feature_extractor", values)[key] = value
            path.write_text(json.dumps(values))
        assert load_recogniser(str(moved)).digest != before, key


def test_a_recogniser_that_states_no_rate_is_refused(tmp_path: Path) -> None:
    from audiolm.recognition import public

    folder = save_ctc(tmp_path)
    processor = public._processor(str(folder))
    del processor.feature_extractor.__dict__["sampling_rate"]
    with pytest.MonkeyPatch.context() as patch:  # transformers fills in 16 kHz where the file says nothing
        patch.setattr(public, "_processor", lambda name: processor)
        with pytest.raises(ValueError, match="does not say at what rate"):
            load_recogniser(str(folder))


def test_an_encoder_that_was_never_taught_letters_is_no_recogniser(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("hubert", **SIZES, **WAVEFORM)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"processor|tokenizer"):
        load_recogniser(str(tmp_path))
    save_ctc(tmp_path / "ctc", "hubert")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "ctc" / name).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(ValueError, match=r"2 weights.*lm_head.*would be random"):
        load_recogniser(str(tmp_path / "ctc"))


def test_damaged_and_harmful_folders_are_refused(tmp_path: Path) -> None:
    folder = save_ctc(tmp_path / "a")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_recogniser(str(folder))
    folder = save_ctc(tmp_path / "b")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"auto_map": {"AutoModelForCTC": "evil.Model"}}))
    with pytest.raises(ValueError, match="asks for code"):
        load_recogniser(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not one that transformers wrote|not a model that transformers knows"):
        load_recogniser(str(tmp_path / "empty"))
