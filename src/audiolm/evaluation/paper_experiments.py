"""The paper's experiments and three more of ours, as the page shows them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from audiolm.evaluation import paper_plans as plans
from audiolm.evaluation import published
from audiolm.evaluation.paper_steps import Given, Step
from audiolm.evaluation.published import Published


@dataclass(frozen=True, eq=False)  # one is only ever itself, and a key of what is found of it
class Experiment:
    """A table or figure.

    Attributes:
        name: for `--only`.
        title: of its section.
        paper: its numbers there; none in what the paper does not have.
        differs: how our protocol differs, in words.
        plan: the steps that make it of what is given.
    """

    name: str
    title: str
    paper: Published | None
    differs: str
    plan: Callable[[Given], Sequence[Step]]


EXPERIMENTS = (
    Experiment(
        "tokens",
        "Table I: what units and codes hold",
        published.TOKENS,
        "ABX ends items as the Libri-Light scripts do; ViSQOL's mapping, which the paper does not name, is among the settings. "
        "Each row needs a decoder of its own. A demo chain is measured on synthetic voices that it did not learn from, by "
        "espeak-ng's own times of phones: its numbers compare with nobody's.",
        plans.tokens,
    ),
    Experiment(
        "layers",
        "Figure 3, left: layers of the encoder",
        published.LAYERS,
        "Our own encoder; the corrected ends of items; MFCC of the same rate for comparison. ABX within "
        "context. Compare the shape only: layers of other encoders have other numbers. A demo chain is measured on its own "
        "synthetic recordings, as in Table I. The picture's star and its line of MFCC are across speakers in any context.",
        plans.layers,
    ),
    Experiment(
        "clusters",
        "Figure 3, right: how many units",
        published.CLUSTERS,
        "Each K needs a semantic model of its own (another RUN); this chain is one point. ABX of units needs no model, so it is "
        "measured for several K of the best layer.",
        plans.clusters,
    ),
    Experiment(
        "asr",
        "Table II: words that survive",
        published.RECOGNITION,
        "Another recogniser than the paper's, named in the settings: compare conditions with one another, not with the paper. "
        "GSLM was not run.",
        plans.recognition,
    ),
    Experiment(
        "speaker",
        "Table III: speakers that survive",
        published.SPEAKERS,
        "Our classifier knows other speakers and another number of them: chance stands beside each figure. A demo chain is asked "
        "about synthetic voices that only the classifier knows.",
        plans.speakers,
    ),
    Experiment(
        "pairs",
        "Table IV: sWUGGY and sBLIMP",
        published.PAIRS,
        "The log likelihood of the semantic stage, of units without repeats and without the end token. The demo set, where no "
        "other is named, has the demo corpus's words: its numbers cannot be compared with the paper's.",
        plans.pairs,
    ),
    Experiment(
        "listening",
        "Subjective test: human or machine",
        published.LISTENING,
        "Exact binomial test, one-sided as the paper's and two-sided.",
        plans.listening,
    ),
    Experiment(
        "detector",
        "Detector of synthesized speech",
        published.DETECTION,
        "Trained and evaluated on this chain's continuations.",
        plans.detector,
    ),
    Experiment(
        "piano",
        "Piano: hierarchy or codes only",
        published.PIANO,
        "A listening test where there were raters; beside it chroma, key, onsets and tempo across the seam: not in the paper.",
        plans.piano,
    ),
    Experiment(
        "acoustic-only",
        "Ablation: codes only",
        published.ACOUSTIC_ONLY,
        "The paper says it in words; we measure how likely the semantic model finds the units of both kinds of continuation. "
        "Prompts are as long as those of the folders: 3 s of speech unless the generate stage was told otherwise.",
        plans.acoustic_only,
    ),
    Experiment(
        "codec", "More: the codec by levels", None, "Not in the paper in this form; ViSQOL is Table I's.", plans.codec
    ),
    Experiment("prosody", "More: the seam between prompt and continuation", None, "Not in the paper.", plans.prosody),
    Experiment("diversity", "More: how varied continuations are", None, "Not in the paper.", plans.diversity),
)


def plan(given: Given, names: Sequence[str] | None = None) -> Mapping[Experiment, Sequence[Step]]:
    """The steps of all experiments, or of those named.

    Raises:
        ValueError: naming those that do not exist.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"there is no experiment {', '.join(unknown)}: choose among {', '.join(known)}")
    return {e: e.plan(given) for e in EXPERIMENTS if not names or e.name in names}
