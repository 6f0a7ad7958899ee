"""Public self-supervised models as transformers stores them: which ones, and reading them from a name or a folder."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from audiolm.checkpoint import plain
from audiolm.files import read_json
from audiolm.untrusted.public_folders import MADE_BY, require_fits_files, require_harmless, require_sound_folder

WAVEFORM_MODELS = ("hubert", "wavlm", "wav2vec2")
SPECTROGRAM_MODELS = ("wav2vec2-bert",)
SAMPLE_RATE_HZ = 16000
UNUSED_WEIGHTS = {"masked_spec_embed"}  # for training alone; not every checkpoint has it


def require_supported(model_type: str | None, *, source: str) -> None:
    """Raises:
    ValueError: for a type whose frames we do not know how to align.
    """
    if model_type not in WAVEFORM_MODELS + SPECTROGRAM_MODELS:
        raise ValueError(
            f"{source} is an encoder of type {model_type!r}, which is not supported: its frames cannot be aligned with the "
            f"audio. Use one of {', '.join(WAVEFORM_MODELS + SPECTROGRAM_MODELS)}."
        )


def read_public_model(name: str) -> tuple[Any, bool]:
    """Read a model by its published name, or from a folder that `save_pretrained` wrote (safetensors, or `.bin`).

    Returns:
        The transformers model in float32, and whether it wants every utterance with zero mean and unit variance. That is
        what `preprocessor_config.json` says; a folder without it holds one of the published models, which want it where their
        convolutions end in layer norms (group norms make it all the same).

    Raises:
        FileNotFoundError: if it cannot be found here nor downloaded.
        ValueError: if it is not a model, of a type that is not supported, lacks weights, or wants audio that is not 16 kHz.
    """
    from transformers import AutoModel

    config = _read_config(name)
    require_supported(config.model_type, source=repr(name))
    require_harmless(plain(config.to_dict()), what=f"the configuration of {name!r}")
    normalize = _normalizes(name, config)
    require_fits_files(name, config)
    safely = {
        "trust_remote_code": False,
        "weights_only": True,
    }  # the second for `.bin` files: pickles, but of tensors only
    try:
        model, report = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, **safely
        )
    except OSError as error:
        raise FileNotFoundError(
            f"The encoder {name!r} has a configuration but its weights cannot be read: {_first_line(error)}. Copy or download "
            "the whole folder, with weights of PyTorch."
        ) from error
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, TypeError, KeyError) as error:
        raise ValueError(
            f"The weights of the encoder {name!r} are damaged or do not fit its config.json: {_first_line(error)}. Copy or "
            "download the whole folder again."
        ) from error
    missing = sorted(set(report["missing_keys"]) - UNUSED_WEIGHTS)
    if missing:
        raise ValueError(
            f"{len(missing)} weights of the encoder {name!r} are not in its files, {missing[0]} for one, and would be random. "
            "They belong to another model, or to none."
        )
    assert isinstance(model, nn.Module), "AutoModel gives modules"
    for unused in UNUSED_WEIGHTS & set(report["missing_keys"]):
        nn.init.zeros_(model.get_parameter(unused))  # else random: another digest every time
    return model, normalize


def _read_config(name: str) -> Any:
    from transformers import AutoConfig

    if (Path(name) / "config.json").exists():
        try:
            require_sound_folder(name)
        except ValueError as error:
            raise ValueError(f"The folder {name!r} is not one that transformers wrote: {error}") from error
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        if Path(name).is_dir():
            raise ValueError(
                f"The folder {name!r} is not one that transformers wrote: {_first_line(error)}. Name a folder with a "
                "config.json and a model.safetensors, as `save_pretrained` leaves it."
            ) from error
        raise FileNotFoundError(
            f"The encoder {name!r} is neither a folder with a transformers model nor can it be downloaded: "
            f"{_first_line(error)}. Without network, download it elsewhere and name its folder."
        ) from error
    except Exception as error:  # its classes check their values in many ways
        raise ValueError(f"{name!r} is not a model that transformers knows: {_first_line(error)}") from error


def _normalizes(name: str, config: Any) -> bool:
    from transformers import AutoFeatureExtractor

    path = Path(name) / "preprocessor_config.json"
    try:
        if path.exists():
            require_harmless(read_json(path, made_by=MADE_BY), what=str(path))
        extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if path.exists():
            raise ValueError(f"{path} cannot be read: {_first_line(error)}. Copy it again, or remove it.") from error
        return getattr(config, "feat_extract_norm", None) == "layer"
    rate_hz = int(getattr(extractor, "sampling_rate", SAMPLE_RATE_HZ))
    if rate_hz != SAMPLE_RATE_HZ:
        raise ValueError(
            f"The encoder {name!r} wants audio at {rate_hz} Hz (its preprocessor_config.json); encoders here hear "
            f"{SAMPLE_RATE_HZ} Hz. Choose a model of {SAMPLE_RATE_HZ} Hz."
        )
    return bool(getattr(extractor, "do_normalize", False))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
