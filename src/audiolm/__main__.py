"""`python -m audiolm …` is the same as `audiolm …`, under a name that nothing can shadow."""

from audiolm.cli import verbs

verbs()
