"""The detector that travels with a generator: one file that describes itself, and no part of what the generator computes."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from audiolm.checkpoint import StageCheckpoint, require_finite
from audiolm.files import atomic_path, parse_json
from audiolm.generator.card import DETECTOR_SECTION, DETECTOR_TITLE
from audiolm.untrusted.tensor_files import safetensors_shapes
from audiolm.untrusted.values import require_plain, require_whole

FILE = "detector.safetensors"
HEADER = "audiolm_detector"  # the key of our description in the file's metadata
FORMAT = 1


class ForeignDetectorError(ValueError):
    """A detector that was trained on another generator's continuations."""


def add_detector(folder: Path, checkpoint: StageCheckpoint, *, generator: str) -> None:
    """Put a detector into a generator folder, in place of one that is there; the generator's digest stays what it was.

    Args:
        folder: a generator folder.
        checkpoint: of the detector stage.
        generator: the folder's `generator_digest`.

    Raises:
        ForeignDetectorError: if it was trained on another generator's continuations.
    """
    theirs = checkpoint.sources.get("generator")
    if theirs != generator:
        raise ForeignDetectorError(
            f"The detector was trained on the continuations of the generator {str(theirs)[:12]}, and {folder} is "
            f"{generator[:12]}: it would not know its voice. Move the chain's evaluation/audio-train and detector folders "
            "away; then `make detector` lets this generator speak and trains another."
        )
    about = {"format": FORMAT, "config": checkpoint.config, "sources": checkpoint.sources, "step": checkpoint.step}
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.weights.items()}
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if DETECTOR_TITLE not in text:
        with atomic_path(card) as temporary:
            temporary.write_text(f"{text.rstrip()}\n\n{DETECTOR_SECTION}".lstrip(), encoding="utf-8")
    with atomic_path(folder / FILE) as temporary:
        save_file(weights, str(temporary), metadata={HEADER: json.dumps(about, sort_keys=True)})


def read_detector(path: Path) -> StageCheckpoint:
    """Read a generator's detector, running no code from it.

    Args:
        path: the file, or the generator folder that holds it.

    Raises:
        FileNotFoundError: if there is none, naming the command that adds one.
        ValueError: if it is damaged, of another format, or holds NaN.
    """
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: this generator has no detector. `make detector` trains one and adds "
            "it; or name a detector's checkpoint."
        )
    try:
        safetensors_shapes(path)  # its size is checked before `safetensors` parses it
        with safe_open(str(path), framework="pt") as file:
            about = parse_json((file.metadata() or {}).get(HEADER, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}). Copy it again, or add the detector once more.") from error
    checkpoint = _described(about, path)
    require_finite(weights, source=str(path))
    return StageCheckpoint("detector", checkpoint.config, weights, checkpoint.sources, checkpoint.step)


def _described(about: object, path: Path) -> StageCheckpoint:
    if not isinstance(about, dict) or type(about.get("format")) is not int or about["format"] != FORMAT:
        raise ValueError(f"{path} is not a detector of format {FORMAT} as `audiolm compose` writes it.")
    config, sources = about.get("config"), about.get("sources")
    if not isinstance(config, dict) or not isinstance(sources, dict):
        raise ValueError(f"{path} does not say what its detector is: it is damaged. Add the detector once more.")
    if not all(isinstance(text, str) for text in sources.values()):
        raise ValueError(f"{path} says of what its detector was made, but not in words: it is damaged.")
    require_plain(config, what=f"the configuration in {path}")
    step = require_whole(about.get("step"), low=0, high=2**62, what=f"the step in {path}")
    return StageCheckpoint("detector", config, {}, sources, step)
