"""Which codec a command line means: one trained here, or a public one."""

from pathlib import Path

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.codec.codec import Codec
from audiolm.codec.codecs import rebuild_codec
from audiolm.codec.detokenizer import MADE_BY
from audiolm.evaluation.detokenized import load_detokenized
from audiolm.generator.folder import is_generator, load_generator_codec


def load_codec(which: str | Path) -> Codec:
    """The codec that `which` names, on the CPU and ready for inference.

    Args:
        which: a codec or detokenizer stage's checkpoint (`best.ckpt`), the stage's folder, or its chain's (its codec), a
            generator folder, or the name or folder of a public codec.

    Raises:
        FileNotFoundError: if it is a chain or a checkpoint that is not there, naming the command that makes it.
        ValueError: if it is damaged, of another stage, or of a kind that is not known here.
    """
    path = Path(which)
    if path.suffix == ".ckpt":
        return _load_trained(path)
    if is_generator(path):
        return load_generator_codec(path)
    if (path / "best.ckpt").exists() or (path / "resume").is_dir():
        return _load_trained(path / "best.ckpt")
    if (path / "codec").is_dir() or (path / "manifest.jsonl").exists():
        return _load_trained(path / "codec" / "best.ckpt")
    if path.is_absolute() and not path.exists():
        raise FileNotFoundError(
            f"There is no {path}: name a codec's checkpoint or folder, a chain, a generator, or a public codec."
        )
    from audiolm.codec.pretrained import PretrainedCodec

    return PretrainedCodec.from_pretrained(str(which))


def _load_trained(path: Path) -> Codec:
    checkpoint = load_stage_checkpoint(path, stage=("codec", *MADE_BY))
    return load_detokenized(path, checkpoint) if checkpoint.stage in MADE_BY else rebuild_codec(checkpoint)
