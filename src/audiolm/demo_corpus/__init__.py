"""A small corpus for machines that have none: synthetic voices read generated sentences.

`grammar` writes the sentences, `voices` speaks them with espeak-ng, `write` lays the files out as Libri-Light does;
`foils` makes wrong twins of words and sentences, `zerospeech` lays both out as ZeroSpeech 2021 does; `phones` writes recordings
with aligned phones. Both sets are of voices that are `held_out`.
"""

from audiolm.demo_corpus.phones import write_demo_phones
from audiolm.demo_corpus.write import DemoCorpusError, DemoCorpusReport, write_demo_corpus
from audiolm.demo_corpus.zerospeech import write_demo_zerospeech

__all__ = ["DemoCorpusError", "DemoCorpusReport", "write_demo_corpus", "write_demo_phones", "write_demo_zerospeech"]
