"""The generator: codec, tokenizer and three language models in one object and one folder. Knows nothing of Lightning."""

from audiolm.generator.model import AudioLM, Generation, Temperatures

__all__ = ["AudioLM", "Generation", "Temperatures"]
