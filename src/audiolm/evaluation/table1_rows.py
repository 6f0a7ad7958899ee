"""The rows of the paper's Table I: its kinds of tokens, its numbers, and which of its orderings are seen in ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from audiolm.codec.detokenizer import DetokenizerKind

TokenName = Literal["units", "residual-units", "coarse-codes", "all-codes"]
TOKEN_NAMES: tuple[TokenName, ...] = get_args(TokenName)
Row = dict[str, Any]  # plain values: a line of table1.csv


@dataclass(frozen=True)
class TokenType:
    """A kind of tokens, the stage that decodes it, and the paper's row: bit/s, ABX errors in %, ViSQOL."""

    name: TokenName
    title: str
    detokenizer: DetokenizerKind
    paper: dict[str, float]


def _paper(bitrate_bps: float, abx_within: float, abx_across: float, visqol: float) -> dict[str, float]:
    return {"bitrate_bps": bitrate_bps, "abx_within": abx_within, "abx_across": abx_across, "visqol": visqol}


TABLE_1 = (  # AudioLM, Table I: w2v-BERT and SoundStream, LibriSpeech dev-clean
    TokenType("units", "semantic units", "detokenizer_units", _paper(250, 6.7, 7.6, 1.1)),
    TokenType("residual-units", "residual units", "detokenizer_residual", _paper(6000, 5.6, 6.2, 1.4)),
    TokenType("coarse-codes", "codes, coarse levels", "detokenizer_codes", _paper(2000, 22.4, 28.7, 3.3)),
    TokenType("all-codes", "codes, all levels", "detokenizer_all_codes", _paper(6000, 17.8, 26.6, 3.9)),
)
ABX = ("abx_within", "abx_across")  # lower is better; of ViSQOL higher
COMPARED = (*ABX, "visqol")
WORDS = {"abx_within": "ABX within", "abx_across": "ABX across", "visqol": "ViSQOL"}


def token_types(names: Sequence[str] | None) -> list[TokenType]:
    """The token types of these names, in the table's order; None: all.

    Raises:
        ValueError: for a name that is none of them.
    """
    if unknown := sorted(set(names or ()) - set(TOKEN_NAMES)):
        raise ValueError(f"Table I has no row {', '.join(unknown)}: choose among {', '.join(TOKEN_NAMES)}")
    return [token for token in TABLE_1 if names is None or token.name in names]


# what the paper concludes: measures, and pairs of the better and the worse tokens
_CODES: tuple[TokenName, ...] = ("coarse-codes", "all-codes")
CLAIMS: dict[str, tuple[tuple[str, TokenName, TokenName], ...]] = {
    "units keep phones apart better than codes": tuple((abx, "units", codes) for codes in _CODES for abx in ABX),
    "residual units keep phones apart better than units": tuple((abx, "residual-units", "units") for abx in ABX),
    "codes sound better than units": tuple(("visqol", codes, "units") for codes in _CODES),
    "residual units sound better than units and worse than codes": (
        ("visqol", "residual-units", "units"),
        *(("visqol", codes, "residual-units") for codes in _CODES),
    ),
    "more levels of codes are better in both": tuple((name, "all-codes", "coarse-codes") for name in COMPARED),
}


def orderings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each of the paper's conclusions, seen in these rows or not.

    Returns:
        Plain dicts: `claim`; `seen`: True if every comparison came out so, False if one did not, None if numbers are missing;
        `comparisons`: measure, better, worse, ours and paper's pairs of numbers in that order, seen. Numbers are
        compared as they are; whether a difference is more than chance, their intervals and errors tell.
    """
    by_name = {row["tokens"]: row for row in rows}
    found = []
    for claim, pairs in CLAIMS.items():
        comparisons = [_compared(by_name, *pair) for pair in pairs]
        outcomes = {comparison["seen"] for comparison in comparisons}
        seen = False if False in outcomes else None if None in outcomes else True
        found.append({"claim": claim, "seen": seen, "comparisons": comparisons})
    return found


def _compared(rows: Mapping[str, Row], measure: str, better: TokenName, worse: TokenName) -> dict[str, Any]:
    ours = [rows.get(name, {}).get(measure) for name in (better, worse)]
    paper = [token.paper[measure] for name in (better, worse) for token in TABLE_1 if token.name == name]
    seen = None
    if ours[0] is not None and ours[1] is not None:
        seen = ours[0] < ours[1] if measure in ABX else ours[0] > ours[1]
    return {"measure": measure, "better": better, "worse": worse, "ours": ours, "paper": paper, "seen": seen}


def claim_words(ordering: Mapping[str, Any]) -> str:
    """One of `orderings` as a line: the claim, the verdict, our numbers."""
    verdict = {True: "seen", False: "NOT seen", None: "not measured"}[ordering["seen"]]
    numbers = [
        f"{WORDS[c['measure']]}: {c['better']} {c['ours'][0]:.4g}, {c['worse']} {c['ours'][1]:.4g}"
        + ("" if c["seen"] else " (the other way round)")
        for c in ordering["comparisons"]
        if c["seen"] is not None
    ]
    return f"{ordering['claim']}: {verdict}{'. ' if numbers else ''}{'; '.join(numbers)}"
