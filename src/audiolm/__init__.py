"""AudioLM: learn speech (or piano) from raw audio alone, and continue it.

Read the package in the order of the signal: audio, codec | semantic, tokens, lm, generator, evaluation. `stages` and the
top-level `datamodules` sit on top: they know Lightning, and nothing below imports them.
"""

__version__ = "0.1.0"
