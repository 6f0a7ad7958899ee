"""The generator: codec, tokenizer and three language models in one object and one folder. Knows nothing of Lightning."""

from audiolm.generator.model import AudioLM, Generation
from audiolm.generator.rows import StageSampling
from audiolm.lm.sampling import Sampling

__all__ = ["AudioLM", "Generation", "Sampling", "StageSampling"]
