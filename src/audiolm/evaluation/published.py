"""The figures that the AudioLM paper prints (arXiv 2209.03143, version 2): the one place of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """A table or figure of the paper.

    Attributes:
        where: in the paper.
        columns: of the numbers; names of what is measured, with its unit.
        rows: label to numbers, one per column; None where the paper prints none.
        protocol: how they were measured, and what is uncertain about them, in sentences.
    """

    where: str
    columns: tuple[str, ...]
    protocol: str
    rows: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, numbers in self.rows.items():
            if len(numbers) != len(self.columns):
                raise ValueError(f"{self.where}: {label!r} has {len(numbers)} numbers for {len(self.columns)} columns")


UNITS, RESIDUAL_UNITS = "units", "residual units"
COARSE_CODES, ALL_CODES = "codes, coarse levels", "codes, all levels"
TOKENS = Published(
    where="Table I",
    columns=("bit/s", "ABX within, %", "ABX across, %", "ViSQOL"),
    protocol=(
        "LibriSpeech dev-clean. Units of w2v-BERT XL, codes of SoundStream (4 and 12 levels). ABX by the Libri-Light scripts, "
        "which leave out the last frame of every item; each frame stands for the (residually) quantized vector. ViSQOL in speech "
        "mode at 16 kHz, mapping not stated, of audio from a SoundStream decoder trained on each kind of token."
    ),
    rows={
        UNITS: (250, 6.7, 7.6, 1.1),
        RESIDUAL_UNITS: (6000, 5.6, 6.2, 1.4),
        COARSE_CODES: (2000, 22.4, 28.7, 3.3),
        ALL_CODES: (6000, 17.8, 26.6, 3.9),
    },
)

LAYERS = Published(
    where="Figure 3, left",
    columns=("ABX within, %", "ABX across, %"),
    protocol=(
        "Read off the plot, ± 0.1. Unquantized embeddings of layers of w2v-BERT XL's masked-language module, scaled to zero mean "
        "and unit variance, LibriSpeech dev-clean. The layers of another encoder have other numbers: compare the shape."
    ),
    rows={"layer 6": (10.0, 11.3), "layer 7": (5.9, 6.2), "layer 8": (5.7, 5.7), "layer 9": (6.2, 6.6)},
)

CLUSTERS = Published(
    where="Figure 3, right",
    columns=("sWUGGY, %", "sBLIMP, %"),
    protocol=(
        "Read off the plot, ± 0.1. A semantic model for each number of units of layer 7, development sets, scores divided by "
        "length."
    ),
    rows={"K = 256": (68.7, 63.8), "K = 512": (72.2, 64.2), "K = 1024": (71.5, 64.7), "K = 2048": (68.9, 64.7)},
)

GSLM = "GSLM unit-to-speech"
RECOGNITION = Published(
    where="Table II",
    columns=("CER, %", "WER, %"),
    protocol=(
        "LibriSpeech test-clean, utterances of 4 to 10 s (2.2 of 5.4 hours), three samplings of each from its own units, "
        "Conformer Transducer-L as recogniser, the data set's transcripts as reference. GSLM speaks 200 HuBERT units."
    ),
    rows={
        "original": (0.8, 2.5),
        "reconstruction": (0.9, 2.6),
        "acoustic": (3.4, 6.0),
        GSLM: (2.9, 6.6),
    },
)

SPEAKERS = Published(
    where="Table III",
    columns=("accuracy, %",),
    protocol=(
        "A classifier of 291 speakers (LibriSpeech train-clean-100 and test-clean, random 90/10 split, originals), windows of "
        "1 s every 250 ms; how these are put together is not stated. Test-clean utterances of 4 to 10 s; three continuations of "
        "7 s after 3 s each, prompts not heard. Chance is 0.3 %."
    ),
    rows={"reconstruction": (100.0,), "acoustic": (3.2,), "continuation": (92.6,)},
)

AUDIOLM, NOT_DIVIDED = "AudioLM", "AudioLM, not divided by length"
PAIRS = Published(
    where="Table IV",
    columns=("sWUGGY all, %", "sWUGGY in vocabulary, %", "sBLIMP, %"),
    protocol=(
        "ZeroSpeech 2021 development sets: 10,000 pairs of words and 6,300 of sentences in four synthetic voices. AudioLM's "
        "score is the log likelihood of the units divided by their number, but for the last row, which the text gives."
    ),
    rows={
        "text, forced alignment": (92.2, None, 63.7),
        "text, phones": (97.9, None, 66.8),
        "BERT baseline (not causal)": (67.7, 75.6, 56.1),
        "HuBERT only (not causal)": (70.9, 79.8, 59.5),
        "Harwath et al. (not causal)": (67.6, 75.4, 56.7),
        "CPC-BERT (not causal)": (None, 80.0, 59.9),
        "van Niekerk et al.": (64.3, 72.3, 54.0),
        "GSLM": (None, 68.7, 57.1),
        AUDIOLM: (71.5, 83.7, 64.7),
        NOT_DIVIDED: (None, None, 67.5),
    },
)

LISTENING = Published(
    where="Subjective evaluation",
    columns=("correct, %", "ratings", "p, one-sided"),
    protocol=(
        "100 samples of 10 s from test-clean, half of them originals that passed SoundStream, half 7 s continued after 3 s; 10 "
        "raters. The printed p = 0.23 is the one-sided binomial test against one half."
    ),
    rows={"human or machine": (51.2, 1000, 0.23)},
)

DETECTION = Published(
    where="Detector of synthesized speech",
    columns=("balanced accuracy, %",),
    protocol=(
        "The speaker classifier's network, two classes: continuations without prompts, and originals. Trained on "
        "train-clean-100; a balanced evaluation set. Against raw originals the task is said to be trivial."
    ),
    rows={"originals through the codec": (98.6,), "raw originals": (100.0,)},
)

PIANO = Published(
    where="Piano continuation",
    columns=("hierarchy preferred, %",),
    protocol=(
        "40,000 hours of piano, 3 levels of 16384 codes and no fine stage; prompts of 4 s from MAESTRO, 15 pairs of 20-second "
        "continuations, 10 raters. The other model has codes only."
    ),
    rows={"hierarchy or codes only": (83.3,)},
)

ACOUSTIC_ONLY = Published(
    where="Acoustic-only ablation",
    columns=("log likelihood, nats per unit",),
    protocol=(
        "One model on flattened codes, prompts of 4 s. The paper prints no number: it says that speaker and recording "
        "conditions stay, and that the words become babble. We let the semantic model judge the units "
        "of both kinds of continuation."
    ),
)
