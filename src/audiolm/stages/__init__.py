"""Every class that a stage YAML may name."""

from audiolm.stages.codec import CodecStage
from audiolm.stages.codec_pretrained import PretrainedCodecStage
from audiolm.stages.detector import DetectorStage
from audiolm.stages.detokenizer import DetokenizerStage
from audiolm.stages.encoder import EncoderStage
from audiolm.stages.generate import GenerateStage
from audiolm.stages.language_model import LanguageModelStage
from audiolm.stages.speaker import SpeakerStage
from audiolm.stages.tokenize import TokenizeStage
from audiolm.stages.tokenizer import TokenizerStage

__all__ = [
    "CodecStage",
    "DetectorStage",
    "DetokenizerStage",
    "EncoderStage",
    "GenerateStage",
    "LanguageModelStage",
    "PretrainedCodecStage",
    "SpeakerStage",
    "TokenizeStage",
    "TokenizerStage",
]
