"""A public model's configuration and folder, looked at before transformers makes anything of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from audiolm.files import read_json
from audiolm.untrusted.rebuilding import outline
from audiolm.untrusted.tensor_files import require_plain_zip, safetensors_shapes
from audiolm.untrusted.values import require_plain

LARGEST_NUMBER = (
    2**20
)  # of any whole number in a configuration: transformers makes some tensors even where it makes outlines
MOST_WEIGHTS = 2**14  # of a published model, whose files are not looked at before they are downloaded
MOST_NUMBERS = 2**33
ATTENTIONS = (None, "eager", "sdpa")  # others name code that transformers would fetch
MADE_BY = "`save_pretrained` of transformers"


def require_harmless(model_config: Any, *, what: str) -> None:
    """Check a transformers configuration: plain values of sensible size, and nothing in it that names code.

    Raises:
        ValueError: with `what` and the value.
    """
    if not isinstance(model_config, dict):
        raise ValueError(f"{what} is no configuration of a model: damaged, or of another version?")
    require_plain(model_config, what=what, largest=math.inf)
    _require_small(model_config, what)
    for key, value in model_config.items():
        names_code = (key == "auto_map" and value) or (key == "quantization_config" and value is not None)
        if names_code or ("_implementation" in key and value not in ATTENTIONS):
            raise ValueError(
                f"{what} asks for code or kernels of its own ({key}: {str(value)[:80]}), which are not used here"
            )


def _require_small(value: Any, what: str) -> None:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _require_small(item, what)
    elif type(value) is int and abs(value) > LARGEST_NUMBER:
        raise ValueError(
            f"{what} holds a whole number beyond {LARGEST_NUMBER}: {str(value)[:20] if value < 10**30 else '…'}"
        )


def require_sound_folder(name: str) -> None:
    """Look at the files of a folder that a public model is to be read from; a published name is none, and passes.

    Weights in `.bin` files are read with `weights_only` (by transformers), in safetensors without any pickle.

    Raises:
        ValueError: naming the file that is damaged, too large, or names code.
    """
    folder = Path(name)
    if (folder / "config.json").exists():
        require_harmless(read_json(folder / "config.json", made_by=MADE_BY), what=str(folder / "config.json"))
    for path in _weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                safetensors_shapes(path)
            else:
                require_plain_zip(path)
        except ValueError as error:
            raise ValueError(
                f"The weights of the model {name!r} are damaged: {path} ({error}). Copy or download the whole folder again."
            ) from error


def require_fits_files(name: str, config: Any, *, make: Callable[[], Any] | None = None) -> None:
    """Compare what a configuration asks for with what the folder's files hold, before transformers takes memory for it.

    Args:
        name: the folder, or a published name.
        config: its transformers configuration.
        make: makes the model; by default the one without a head.

    Raises:
        ValueError: if it cannot be made, or has far more parameters than there are numbers in the files.
    """
    from transformers import AutoModel

    paths = _weight_files(Path(name))
    shapes = [safetensors_shapes(path) for path in paths if path.suffix == ".safetensors"]
    weights = sum(map(len, shapes)) if shapes else MOST_WEIGHTS
    bytes_there = sum(path.stat().st_size for path in paths) if paths else MOST_NUMBERS
    model: nn.Module = outline(
        make or (lambda: AutoModel.from_config(config)), weights=weights, what=f"the model {name!r}"
    )
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > bytes_there:
        raise ValueError(
            f"The configuration of the model {name!r} asks for {asked} parameters, its files have {bytes_there} bytes: they do "
            "not belong together, or the copy is incomplete."
        )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for suffix in ("safetensors", "bin") for path in folder.glob(f"*.{suffix}"))
