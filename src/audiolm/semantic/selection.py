"""The layer that `audiolm evaluate layers` chose, and for which encoder: `selected.json` in the encoder stage's folder."""

from dataclasses import asdict, dataclass
from pathlib import Path

from audiolm.checkpoint import weights_digest
from audiolm.files import read_json, write_json
from audiolm.semantic.encoder import Encoder

COMMAND = "audiolm evaluate layers"


@dataclass(frozen=True)
class Selection:
    """What was chosen, and by what.

    Attributes:
        layer: 0 is the input of the first layer, n the output of layer n.
        clusters: recommended number of units; a stage's configuration decides. None where none was tried.
        by: the rule, such as "across-any": lowest ABX error across speakers in any context.
        error: the layer's, a fraction, of features that are normalised and not quantised.
        units_error: the same of units through their centroids, at `clusters`.
        items: the item file.
        encoder_digest: from `selection_digest`.
    """

    layer: int
    clusters: int | None
    by: str
    error: float
    units_error: float | None
    items: str
    encoder_digest: str


def selection_digest(encoder: Encoder) -> str:
    """sha256 over an encoder's weights and configuration, whichever of its layers is in use."""
    config = {key: value for key, value in encoder.config_dict().items() if key != "layer"}
    return weights_digest(config, encoder.state_dict())


def write_selection(folder: Path, selection: Selection) -> Path:
    """Write `selected.json` into a folder."""
    write_json(folder / "selected.json", asdict(selection))
    return folder / "selected.json"


def selected_layer(folder: Path, encoder: Encoder) -> int | None:
    """The layer that was chosen for this very encoder; None if none was.

    Raises:
        ValueError: if the choice in that folder was made for another encoder, its file is damaged, or there is no such layer.
    """
    path = folder / "selected.json"
    if not path.exists():
        return None
    found = read_json(path, made_by=COMMAND)
    if not isinstance(found, dict) or not isinstance(found.get("layer"), int) or "encoder_digest" not in found:
        raise ValueError(f"{path} does not say which layer of which encoder was chosen: run {COMMAND} again")
    ours, theirs = selection_digest(encoder), str(found["encoder_digest"])
    if ours != theirs:
        raise ValueError(
            f"{path} chose layer {found['layer']} of another encoder (weights {theirs[:12]} there, {ours[:12]} here): the "
            f"encoder was probably trained again since. Run {COMMAND} again, name a `layer`, or remove that file."
        )
    encoder.check_layers([found["layer"]])
    return int(found["layer"])
