"""A small corpus for machines that have none: synthetic voices read generated sentences.

`grammar` writes the sentences, `voices` speaks them with espeak-ng, `write` lays the files out as Libri-Light does.
"""

from audiolm.demo_corpus.write import DemoCorpusError, DemoCorpusReport, write_demo_corpus

__all__ = ["DemoCorpusError", "DemoCorpusReport", "write_demo_corpus"]
