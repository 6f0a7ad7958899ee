"""Which codec: rebuilt from what a checkpoint remembers."""

from audiolm.checkpoint import StageCheckpoint
from audiolm.codec.codec import Codec
from audiolm.codec.pretrained import PretrainedCodec
from audiolm.codec.soundstream import SoundStream


def rebuild_codec(checkpoint: StageCheckpoint) -> Codec:
    """The codec of a codec stage's checkpoint (or of a generator's folder), ready for inference.

    Raises:
        ValueError: for a kind that this version does not know, or weights that do not fit the configuration.
    """
    kind = checkpoint.config.get("kind")
    if kind == "soundstream":
        return SoundStream.from_checkpoint(checkpoint)
    if kind == "pretrained":
        return PretrainedCodec.from_checkpoint(checkpoint)
    raise ValueError(f"A codec of kind {kind!r} is not known here: made by another version?")
