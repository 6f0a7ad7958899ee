"""Public recognisers through transformers: CTC (wav2vec 2.0, HuBERT, WavLM, …) and sequence to sequence (Whisper, …)."""

import hashlib
import math
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from audiolm.checkpoint import plain, weights_digest
from audiolm.files import read_json
from audiolm.recognition.recogniser import Recogniser
from audiolm.untrusted.public_folders import MADE_BY, require_fits_files, require_harmless, require_sound_folder

MADE_WHEN_LOADED = {
    "embed_positions.weights",
    "masked_spec_embed",
}  # computed, or for training alone: not in every file
CTC, SEQUENCE = "greedy CTC", "greedy, token by token"
WHOLE = "Copy or download the whole folder again."


class PublicRecogniser(Recogniser):
    """A public model with its processor, by published name or from a folder. No code of the folder runs.

    Args:
        name: as transformers takes it.
        language: that a multilingual model is told to hear.

    Raises:
        FileNotFoundError: if it is neither here nor can be downloaded.
        ValueError: if it is damaged or incomplete, no recogniser, or does not say at what rate it hears.
    """

    def __init__(self, name: str, *, device: str | torch.device = "cpu", language: str = "en") -> None:
        config = _config(name)
        self.processor = _processor(name)
        self.tokenizer, extractor = self.processor.tokenizer, self.processor.feature_extractor
        rate = getattr(extractor, "sampling_rate", None)
        if not isinstance(rate, int) or rate < 1:
            raise ValueError(
                f"The recogniser {name!r} does not say at what rate it hears (sampling_rate of its preprocessor_config.json): "
                "write it there, or choose another model."
            )
        self.model, self.is_ctc = _model(name, config)
        self.model.to(device).eval().requires_grad_(False)
        self.device, self.language, self.name = torch.device(device), language, name
        self.sample_rate_hz = rate
        plainly = {
            key: value for key, value in plain(config.to_dict()).items() if not key.startswith("_")
        }  # no folder's name
        about = plainly | {"vocabulary": self._vocabulary(), "files": self._deciding_files()}
        self.digest = weights_digest(about, self.model.state_dict())
        self.characters = frozenset(self._written().lower())
        samples = getattr(extractor, "n_samples", None)  # Whisper's cuts what is longer
        self.longest_seconds = samples / rate if isinstance(samples, int) else math.inf
        self.decoding = f"{CTC if self.is_ctc else SEQUENCE}, no language model besides its own"

    @torch.no_grad()
    def transcribe(self, audio: Tensor) -> str:
        """See `Recogniser.transcribe`."""
        inputs = self.processor(audio.cpu().numpy(), sampling_rate=self.sample_rate_hz, return_tensors="pt").to(
            self.device
        )
        if self.is_ctc:
            text = self.processor.batch_decode(self.model(**inputs).logits.argmax(-1))[0]
            for special in self.tokenizer.all_special_tokens:  # not skipped before: the blank is one of them
                text = text.replace(special, "")
        else:
            ids = self.model.generate(**inputs, num_beams=1, do_sample=False, **self._told())
            text = self.processor.batch_decode(ids, skip_special_tokens=True)[0]
        return " ".join(text.split())

    def _told(self) -> dict[str, str]:
        multilingual = getattr(self.model.generation_config, "is_multilingual", False)
        return {"language": self.language, "task": "transcribe"} if multilingual else {}

    def _written(self) -> str:
        """All tokens, and what they read as: tokens of bytes look like other letters than those that they write."""
        tokens = self._vocabulary()
        return "".join(tokens) + str(self.tokenizer.decode(self.tokenizer.convert_tokens_to_ids(tokens)))

    def _deciding_files(self) -> dict[str, str]:
        """sha256 (hex) of what else decides, by name: how audio is prepared, tokens are read, and which are suppressed.

        As transformers writes it out: so a published name and a copy of its folder have one digest.
        """
        with tempfile.TemporaryDirectory() as name:
            self.processor.save_pretrained(name)
            if not self.is_ctc:
                self.model.generation_config.save_pretrained(name)
            paths = sorted(path for path in Path(name).rglob("*") if path.is_file())
            return {str(path.relative_to(name)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def _vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        special, ids = set(self.tokenizer.all_special_tokens), self.tokenizer.get_vocab()
        return [token for token in sorted(ids, key=lambda token: ids[token]) if token not in special]


def _config(name: str) -> Any:
    from transformers import AutoConfig

    if Path(name).is_dir():
        try:
            require_sound_folder(name)
            for path in sorted(Path(name).glob("*.json")):
                if path.name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
                    values = read_json(path, made_by=MADE_BY)
                    if isinstance(values, dict):
                        values.pop("model_max_length", None)  # 10^30 where a tokenizer has no limit
                    require_harmless(values, what=str(path))
        except ValueError as error:
            raise ValueError(f"The folder {name!r} is not one that transformers wrote: {error}") from error
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        if Path(name).is_dir():
            raise ValueError(
                f"The folder {name!r} is not one that transformers wrote: {_first_line(error)}. Name a folder with config.json, "
                "weights, and a processor, as `save_pretrained` leaves them; or the asr stage's folder."
            ) from error
        raise FileNotFoundError(
            f"The recogniser {name!r} is neither a folder or checkpoint nor can it be downloaded: {_first_line(error)}. Without "
            "network, download it elsewhere and name its folder; or train one: lightning fit -c stages/asr.yaml."
        ) from error
    except Exception as error:  # its classes check their values in many ways
        raise ValueError(f"{name!r} is not a model that transformers knows: {_first_line(error)}") from error
    require_harmless(plain(config.to_dict()), what=f"the configuration of {name!r}")
    require_fits_files(name, config)
    return config


def _processor(name: str) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # its classes read many files, each in its own way
        raise ValueError(
            f"The processor of the recogniser {name!r} cannot be read ({_first_line(error)}): it needs preprocessor_config.json "
            f"and a tokenizer's files. {WHOLE}"
        ) from error
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "feature_extractor", None) is None:
        raise ValueError(
            f"{name!r} has no tokenizer or no feature extractor beside its model: an encoder without letters is no recogniser. "
            "Choose one that was fine-tuned to transcribe."
        )
    return processor


def _model(name: str, config: Any) -> tuple[Any, bool]:
    """The model in float32, and whether it is a CTC one."""
    from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

    is_sequence = type(config) in AutoModelForSpeechSeq2Seq._model_mapping
    is_ctc = type(config) in AutoModelForCTC._model_mapping and not is_sequence
    if not (is_ctc or is_sequence):
        raise ValueError(
            f"{name!r} ({config.model_type}) is neither a CTC nor a sequence-to-sequence recogniser of speech"
        )
    maker: Any = AutoModelForCTC if is_ctc else AutoModelForSpeechSeq2Seq
    safely = {"trust_remote_code": False, "weights_only": True}  # the second for `.bin` files: pickles, of tensors only
    try:
        model, report = maker.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **safely
        )
    except OSError as error:
        raise FileNotFoundError(
            f"The weights of the recogniser {name!r} cannot be read: {_first_line(error)}. {WHOLE}"
        ) from error
    except (RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError, EOFError, TypeError, KeyError) as error:
        raise ValueError(
            f"The weights of the recogniser {name!r} are damaged or do not fit its config.json: {_first_line(error)}. {WHOLE}"
        ) from error
    assert isinstance(model, nn.Module), "its classes give modules"
    missing = sorted(key for key in report["missing_keys"] if not any(key.endswith(made) for made in MADE_WHEN_LOADED))
    if missing:
        raise ValueError(
            f"{len(missing)} weights of the recogniser {name!r} are not in its files, {missing[0]} for one, and would be random: "
            "it was never trained to transcribe. Choose one that was."
        )
    return model, is_ctc


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
