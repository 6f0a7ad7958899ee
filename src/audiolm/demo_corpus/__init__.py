"""A small corpus for machines that have none: synthetic voices read generated sentences.

`grammar` writes the sentences, `voices` speaks them with espeak-ng, `write` lays the files out as Libri-Light does;
`foils` makes wrong twins of words and sentences, `zerospeech` lays both out as ZeroSpeech 2021 does.
"""

from audiolm.demo_corpus.write import DemoCorpusError, DemoCorpusReport, write_demo_corpus
from audiolm.demo_corpus.zerospeech import write_demo_zerospeech

__all__ = ["DemoCorpusError", "DemoCorpusReport", "write_demo_corpus", "write_demo_zerospeech"]
