"""Mutated files for every reader: `python -m tests.fuzz --files 20000 --seed 0` from the root of the repository."""
