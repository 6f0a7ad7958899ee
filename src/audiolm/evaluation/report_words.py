"""The report's last part: what its numbers mean, and the commands that repeat it."""

from audiolm.evaluation.chain_record import run_name
from audiolm.evaluation.report_facts import ChainFacts
from audiolm.evaluation.report_page import Html, element, join, paragraph
from audiolm.evaluation.report_pictures import RANGE_DB

MEANINGS = {
    "Nats per token": (
        "How surprised a model is by the next token, on average: the negative natural logarithm of the probability "
        "it gave to what really came, over the ids that are legal at that place. Less is better. It is measured on "
        "speakers whom the model was not trained on, and can only be compared between models of the same tokens."
    ),
    "Unigram and bigram": (
        "Two yardsticks without any learning. The unigram knows how often each token occurs; the bigram also knows "
        "the token before (for codes: the one of the same level, a frame earlier), smoothed after Witten and Bell. "
        "Both are counted on training tokens and scored on the same validation tokens as the model. A model that is "
        "not below the bigram has learnt nothing that a table of pairs does not hold."
    ),
    "Best and last": (
        "The table gives the best validation loss of a stage, which is that of the checkpoint the generator is made "
        "from. The curves show all steps; where a run was continued, its steps replace those that were lost. The "
        "codec's weighted sum rises where its discriminators join in; its best checkpoint is chosen by mel distance."
    ),
    "SI-SDR": (
        "How much louder the true waveform is than what the codec added to it, in dB, whatever the volume; more is "
        "better. It compares wave by wave, so a sound with shifted phases scores badly though it may sound right. "
        "Mean over clips."
    ),
    "Mel distance": (
        "Mean absolute difference of two log-mel spectrograms (windows of 1024 samples, 256 apart, 80 bins, natural "
        "logarithm); less is better. It hears colour and loudness and is deaf to phase. Compare it only with numbers"
        " of the same settings."
    ),
    "Perplexity of a codebook": (
        "The number of entries that, used equally often, would be as varied as what was really used. As many as "
        "there are entries would be perfect; close to 1 means that a level has collapsed and carries nothing."
    ),
    "Use of the units": (
        "The same question for the tokenizer: the bars would all reach 1 if every unit occurred equally often. A few"
        " units that are far more frequent are normal (silence is one), many that never occur are not. The entropy "
        "says how many bits a unit carries at most."
    ),
    "Spectrograms": (
        f"Log-mel spectrograms with the settings of the mel distance; brightness spans {RANGE_DB:g} dB. A "
        "reconstruction has the brightness of its original, so that they can be compared; elsewhere the loudest "
        "point of a picture is the brightest."
    ),
    "Minutes, memory, padding": (
        "Minutes are counted inside a stage, over all its restarts, without loading Python. Peak memory is the "
        "largest resident size of its first process, which does not include a GPU's memory. Padding is the share of "
        "all training tokens that only fills short rows up; it costs time and is not learnt from."
    ),
}


def how_made_section() -> Html:
    """What each number means."""
    entries = [part for word, text in MEANINGS.items() for part in (element("dt", word), element("dd", text))]
    return element("dl", *entries, class_="words")


def how_to_repeat_section(facts: ChainFacts) -> Html:
    """The commands that make this page again, and those that go further."""
    generator = f"checkpoints/runs/{run}" if (run := run_name(facts.root)) else "checkpoints"
    commands = (
        f"{facts.make('train-all')}      # everything; what is done is not done again",
        f"{facts.make('samples')}        # new continuations, after the folder samples/ is removed",
        f"{facts.make('report')}         # this page",
        f".venv/bin/audiolm generate --generator {generator}/generator --prompt some.wav --seconds 7 --out out/",
    )
    parts = [
        paragraph(
            "In a clone of the repository, with git, make and Python 3.10 or newer. Seeds are fixed; another "
            "machine, number of processes or precision gives slightly different numbers."
        ),
        element("pre", element("code", "\n".join(commands))),
    ]
    if facts.data:
        parts.append(paragraph("DATA is the folder of recordings; put its place on your machine for PATH/TO."))
    return join(parts)
