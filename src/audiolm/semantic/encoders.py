"""Which encoder: by a stage's configuration, or from what a checkpoint remembers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.pretrained import PretrainedEncoder
from audiolm.semantic.selection import COMMAND, selected_layer
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.values import LARGEST_SIZE, from_values, require_whole


@dataclass(frozen=True)
class EncoderConfig:
    """What a stage YAML says about the encoder.

    Args:
        kind: "trained" is the encoder stage's; "pretrained" a public model through transformers; "mfcc" needs no weights.
        name: trained: its checkpoint, by default `<root>/encoder/best.ckpt`; pretrained: published name or folder.
        layer: which hidden state to cluster: 0 is the input of the first layer, n the output of layer n. By default the one
            that `audiolm evaluate layers` chose for this encoder (`<root>/encoder/selected.json`); without such a choice a
            trained encoder's is the paper's, 7 of 12 into the masked-prediction module, and a public one has none.
        rate_hz: mfcc only: frames per second. The trained encoder has 25, public models mostly 50.
    """

    kind: Literal["trained", "pretrained", "mfcc"] = "trained"
    name: str | None = None
    layer: int | None = None
    rate_hz: int = 25

    def __post_init__(self) -> None:
        if self.kind == "pretrained" and self.name is None:
            raise ValueError("A pretrained encoder needs `name`: published name or folder.")
        if self.kind == "mfcc" and (self.name, self.layer) != (None, None):
            raise ValueError(f"MFCC have no name ({self.name}) and no layers ({self.layer}): set both to null.")


def make_encoder(config: EncoderConfig, *, root: Path) -> Encoder:
    """Make the encoder that a stage asks for, with its weights.

    Args:
        root: the folder of the chain, where a trained encoder is found.

    Raises:
        FileNotFoundError: if the checkpoint or published model is not there, naming what makes it.
        ValueError: for a layer that it does not have, a choice of layer that was made for another encoder, or a public encoder
            without either.
    """
    if config.kind == "mfcc":
        return MfccEncoder(rate_hz=config.rate_hz)
    if config.kind == "pretrained":
        assert config.name is not None, "checked by EncoderConfig"
        public = PretrainedEncoder.from_pretrained(config.name, layer=config.layer or 0)
        if config.layer is None:
            chosen = selected_layer(root / "encoder", public)
            if chosen is None:
                raise ValueError(
                    f"A pretrained encoder needs `layer`: which hidden state to cluster. Give one, or let `{COMMAND} --encoder "
                    f"{config.name}` choose."
                )
            public.layer = chosen
        return public
    path = Path(config.name) if config.name else root / "encoder" / "best.ckpt"
    encoder = trained_encoder(load_stage_checkpoint(path, stage="encoder"))
    layer = config.layer if config.layer is not None else selected_layer(path.parent, encoder)
    if layer is not None:
        encoder.check_layers([layer])
        encoder.layer = layer
    return encoder


def trained_encoder(checkpoint: StageCheckpoint) -> ConformerEncoder:
    """Rebuild the encoder of an encoder stage's checkpoint, frozen and ready to use.

    Raises:
        ValueError: if configuration or weights are not those of an encoder.
    """
    if checkpoint.config.get("kind") != "conformer":
        raise ValueError(f"{checkpoint.config.get('kind')!r} is not an encoder that the encoder stage trains")
    encoder = rebuilt(lambda: rebuild_encoder(checkpoint.config), checkpoint.weights, what="the encoder")
    assert isinstance(encoder, ConformerEncoder), "its kind was checked"
    return encoder.requires_grad_(False).eval()


_VALUES = {  # kind -> what its `config_dict` says besides
    "mfcc": {"sample_rate_hz", "rate_hz", "cepstra"},
    "pretrained": {"model_config", "layer", "normalize"},
    "conformer": {"config", "layer"},
}


def rebuild_encoder(config: dict[str, Any]) -> Encoder:
    """The inverse of `Encoder.config_dict`; weights are to be loaded afterwards.

    Raises:
        ValueError: for a kind that this version does not know, or values that are not those of its kind.
    """
    kind = config.get("kind") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in _VALUES:
        raise ValueError(f"An encoder of kind {str(kind)[:80]!r} is not known here: made by a newer version?")
    values = {key: value for key, value in config.items() if key != "kind"}
    if set(values) != _VALUES[kind]:
        raise ValueError(
            f"a {kind} encoder has the values {sorted(_VALUES[kind])}, found {sorted(map(str, values))[:20]}"
        )
    if kind == "mfcc":
        return MfccEncoder(**values)
    require_whole(values["layer"], low=0, high=LARGEST_SIZE, what="layer of the encoder")
    if kind == "pretrained":
        return PretrainedEncoder(**values)
    sizes = from_values(ConformerConfig, values["config"], source="the configuration of the encoder")
    return ConformerEncoder(sizes, layer=values["layer"])
