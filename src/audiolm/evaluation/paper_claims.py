"""The orderings that the paper claims, and whether our numbers show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from audiolm.evaluation import published
from audiolm.evaluation.paper_steps import CODES_ONLY, HIERARCHY, Numbers
from audiolm.evaluation.table1_rows import ABX, TokenName
from audiolm.evaluation.table1_rows import CLAIMS as TOKEN_CLAIMS

CHANGED = "its inputs have changed since"
Verdict = Literal["seen", "seen in part", "not seen", "not measured", "not measured (its inputs have changed since)"]
CHANCE = 50.0  # percent, of two alternatives


@dataclass(frozen=True)
class Term:
    """One side of a comparison: a number of a table, or a share of it, or a constant."""

    label: str
    column: str = ""
    share: float = 1.0
    constant: float | None = None

    def value(self, numbers: Numbers) -> float | None:
        """The number, or None where it was not measured."""
        if self.constant is not None:
            return self.constant
        found = numbers.get(self.label, {}).get(self.column)
        return None if found is None else self.share * float(found)

    @property
    def name(self) -> str:
        """In words."""
        if self.constant is not None:
            return self.label
        share = "half of " if self.share == 0.5 else ""
        return f"{share}{self.label}"


@dataclass(frozen=True)
class Claim:
    """In the paper every first term is below its second one."""

    text: str
    experiment: str
    below: tuple[tuple[Term, Term], ...]


@dataclass(frozen=True)
class Judged:
    """A claim beside our numbers.

    Attributes:
        figures: the comparisons that could be made, in words; empty where there was none.
        missing: the comparisons that could not be made, as the claim has them.
    """

    claim: Claim
    verdict: Verdict
    figures: str
    missing: tuple[str, ...] = ()


def judge(claim: Claim, tables: Mapping[str, Numbers], older: Mapping[str, Numbers] | None = None) -> Judged:
    """Compare what was measured: seen if every comparison holds, in part if others could not be made, not measured if none
    could. Equal is not seen, and one that does not hold decides.

    Args:
        tables: our numbers, by name of the experiment.
        older: numbers of inputs that have changed since, which are not compared.
    """
    numbers, old = tables.get(claim.experiment, {}), (older or {}).get(claim.experiment, {})
    held, words = list[bool](), list[str]()
    missing, any_changed = list[str](), False
    several = len({larger.column for _, larger in claim.below}) > 1  # then each comparison says what of
    for smaller, larger in claim.below:
        low, high = smaller.value(numbers), larger.value(numbers)
        column = f" ({larger.column})" if several else ""
        if low is None or high is None:
            changed = any(term.value(numbers) is None and term.value(old) is not None for term in (smaller, larger))
            any_changed |= changed
            missing.append(f"{smaller.name} < {larger.name}{column}" + (f", {CHANGED}" if changed else ""))
            continue
        held.append(low < high)
        words.append(f"{smaller.name} {low:.4g} {_sign(low, high)} {larger.name} {high:.4g}{column}")
    return Judged(claim, _verdict(held, missing, any_changed=any_changed), "; ".join(words), tuple(missing))


def _verdict(held: Sequence[bool], missing: Sequence[str], *, any_changed: bool) -> Verdict:
    if not held:
        return "not measured (its inputs have changed since)" if any_changed else "not measured"
    if not all(held):
        return "not seen"
    return "seen in part" if missing else "seen"


def _sign(low: float, high: float) -> str:
    return "<" if low < high else ">" if low > high else "="


_BITS, _WITHIN, _ACROSS, _VISQOL = published.TOKENS.columns
_WER = published.RECOGNITION.columns[1]
_SPEAKER = published.SPEAKERS.columns[0]
_HALF = Term("original", _SPEAKER, share=0.5)
_DETECTED = published.DETECTION.columns[0]
_CHANCE = Term("chance", constant=CHANCE)
_NATS = published.ACOUSTIC_ONLY.columns[0]
_TOKENS: dict[TokenName, str] = {
    "units": published.UNITS,
    "residual-units": published.RESIDUAL_UNITS,
    "coarse-codes": published.COARSE_CODES,
    "all-codes": published.ALL_CODES,
}


def _of_tokens(text: str, pairs: Sequence[tuple[str, TokenName, TokenName]]) -> Claim:
    """One of Table I's own claims: the better of each pair has the lower error, or the higher ViSQOL."""
    columns = {"abx_within": _WITHIN, "abx_across": _ACROSS, "visqol": _VISQOL}
    below = [(measure, *((better, worse) if measure in ABX else (worse, better))) for measure, better, worse in pairs]
    terms = tuple((Term(_TOKENS[low], columns[name]), Term(_TOKENS[high], columns[name])) for name, low, high in below)
    return Claim(text[0].upper() + text[1:], "tokens", terms)


CLAIMS = (
    *(_of_tokens(text, pairs) for text, pairs in TOKEN_CLAIMS.items()),
    Claim(
        "Passing the codec costs fewer words than saying the same units again",
        "asr",
        ((Term("reconstruction", _WER), Term("acoustic", _WER)),),
    ),
    Claim(
        "Reconstruction keeps the speaker (more than half of the accuracy on originals)",
        "speaker",
        ((_HALF, Term("reconstruction", _SPEAKER)),),
    ),
    Claim(
        "Acoustic generation loses the speaker (less than half of it, and less than reconstruction)",
        "speaker",
        ((Term("acoustic", _SPEAKER), _HALF), (Term("acoustic", _SPEAKER), Term("reconstruction", _SPEAKER))),
    ),
    Claim(
        "A continuation keeps the speaker of its prompt (more than half of it)",
        "speaker",
        ((_HALF, Term("continuation", _SPEAKER)), (Term("acoustic", _SPEAKER), Term("continuation", _SPEAKER))),
    ),
    Claim(
        "Words are likelier than non-words, sentences than ungrammatical ones",
        "pairs",
        tuple((_CHANCE, Term(published.AUDIOLM, column)) for column in published.PAIRS.columns),
    ),
    Claim(
        "Raters do not tell continuations from originals (one-sided p above 0.05)",
        "listening",
        ((Term("level", constant=0.05), Term("human or machine", published.LISTENING.columns[2])),),
    ),
    Claim(
        "Originals that passed the codec are harder to tell from continuations than raw ones",
        "detector",
        ((Term("originals through the codec", _DETECTED), Term("raw originals", _DETECTED)),),
    ),
    Claim(
        "Continuations of the hierarchy are likelier speech, by their units, than those of codes only",
        "acoustic-only",
        ((Term(CODES_ONLY, _NATS), Term(HIERARCHY, _NATS)),),
    ),
    Claim(
        "Piano: the hierarchy is preferred to codes only",
        "piano",
        ((_CHANCE, Term("hierarchy or codes only", published.PIANO.columns[0])),),
    ),
)
