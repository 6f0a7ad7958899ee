"""Which encoder: by a stage's configuration, or from what a checkpoint remembers."""

from dataclasses import dataclass
from typing import Any, Literal

from audiolm.semantic.encoder import Encoder
from audiolm.semantic.mfcc import MfccEncoder
from audiolm.semantic.pretrained import PretrainedEncoder


@dataclass(frozen=True)
class EncoderConfig:
    """What a stage YAML says about the encoder.

    Args:
        kind: "mfcc" needs no weights; "pretrained" is a public model through transformers.
        name: pretrained only: published name or folder.
        layer: pretrained only: which hidden state to cluster.
        rate_hz: mfcc only: frames per second. Public models have 50.
    """

    kind: Literal["mfcc", "pretrained"] = "mfcc"
    name: str | None = None
    layer: int | None = None
    rate_hz: int = 25

    def __post_init__(self) -> None:
        if self.kind == "pretrained" and (self.name is None or self.layer is None):
            raise ValueError("A pretrained encoder needs `name` (published name or folder) and `layer`.")


def make_encoder(config: EncoderConfig) -> Encoder:
    """Make the encoder that a stage asks for; a pretrained one is loaded with its weights."""
    if config.kind == "mfcc":
        return MfccEncoder(rate_hz=config.rate_hz)
    assert config.name is not None, "checked by EncoderConfig"
    assert config.layer is not None, "checked by EncoderConfig"
    return PretrainedEncoder.from_pretrained(config.name, layer=config.layer)


def rebuild_encoder(config: dict[str, Any]) -> Encoder:
    """The inverse of `Encoder.config_dict`; weights are to be loaded afterwards.

    Raises:
        ValueError: for a kind that this version does not know.
    """
    values = {key: value for key, value in config.items() if key != "kind"}
    if config["kind"] == "mfcc":
        return MfccEncoder(**values)
    if config["kind"] == "pretrained":
        return PretrainedEncoder(**values)
    raise ValueError(f"An encoder of kind {config['kind']!r} is not known here: made by a newer version?")
