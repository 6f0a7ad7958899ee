"""From the result files of the verbs to the numbers that stand beside the paper's. A file of other fields raises here."""

from collections.abc import Iterable, Mapping
from typing import Any

from audiolm.evaluation.paper_steps import Numbers
from audiolm.evaluation.published import (
    ACOUSTIC_ONLY,
    AUDIOLM,
    CLUSTERS,
    DETECTION,
    GSLM,
    LAYERS,
    LISTENING,
    NOT_DIVIDED,
    PAIRS,
    PIANO,
    RECOGNITION,
    SPEAKERS,
    TOKENS,
)

Row = Mapping[str, Any]
TOKEN_LABELS = dict(
    zip(("units", "residual-units", "coarse-codes", "all-codes"), TOKENS.rows, strict=True)
)  # as `table1` names them


def percent(share: float | None) -> float | None:
    """Of a share from 0 to 1."""
    return None if share is None else 100 * float(share)


def rows_of(content: Any) -> list[Row]:
    """The rows of a summary.

    Raises:
        TypeError: if they are not a list of objects with names.
    """
    rows = content["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError("rows is not a list of objects")
    return rows


def token_table(content: Any) -> Numbers:
    """Of `table1`: bit rate, ABX (which is in % there) and ViSQOL of each kind of token."""
    bits, within, across, visqol = TOKENS.columns
    return {
        TOKEN_LABELS[row["tokens"]]: {
            bits: row["bitrate_bps"],
            within: row["abx_within"],
            across: row["abx_across"],
            visqol: row.get("visqol"),  # its package may not have been there
        }
        for row in rows_of(content)
    }


def layer_table(content: Any) -> Numbers:
    """Of `layers`: ABX within context of every layer, and of MFCC."""
    named = [("MFCC", content["mfcc"]), *((f"layer {row['layer']}", row) for row in content["layers"])]
    columns = dict(zip(("within", "across"), LAYERS.columns, strict=True))
    return {
        label: {
            columns[score["speakers"]]: percent(score["error"])
            for score in row["scores"]
            if score["context"] == "within"
        }
        for label, row in named
    }


def cluster_table(content: Any) -> Numbers:
    """Of `layers`: ABX of units by their number; the paper's figure has pairs instead, which need a model each."""
    return {
        f"K = {row['clusters']}": {
            f"ABX {score['speakers']}, %": percent(score["error"])
            for score in row["scores"]
            if score["context"] == "within"
        }
        for row in content["clusters"]
    }


def pair_table(verb: str, content: Any) -> Numbers:
    """Of `swuggy` or `sblimp`: divided by length, and summed."""
    every, known, sentences = PAIRS.columns
    columns = {"all": every, "in-vocabulary": known} if verb == "swuggy" else {"all": sentences}
    labels = {"per_token": AUDIOLM, "summed": NOT_DIVIDED}
    table: dict[str, dict[str, float | None]] = {}
    for row in rows_of(content):
        if row["normalisation"] in labels and row["by"] in columns:
            table.setdefault(labels[row["normalisation"]], {})[columns[row["by"]]] = percent(row["score"])
    if not table:
        raise ValueError("no row of a known normalisation")
    return table


def pairs_of_clusters(verb: str, clusters: int | None, content: Any) -> Numbers:
    """The same, as one point of figure 3."""
    column = CLUSTERS.columns[verb == "sblimp"]
    chosen = [row for row in rows_of(content) if (row["normalisation"], row["by"]) == ("per_token", "all")]
    return {f"K = {clusters}" if clusters else "this chain": {column: percent(chosen[0]["score"])}}


def recognition_table(content: Any) -> Numbers:
    """Of `asr`: error rates of every condition; GSLM is there without numbers."""
    characters, words = RECOGNITION.columns
    return {
        GSLM if row["condition"] == "gslm" else row["condition"]: {
            characters: percent(row["cer"]),
            words: percent(row["wer"]),
        }
        for row in rows_of(content)
    }


def speaker_table(content: Any) -> Numbers:
    """Of `speaker`: accuracy of every condition, all samplings together, and what chance would give."""
    return {
        row["condition"]: {SPEAKERS.columns[0]: percent(row["accuracy"]), "chance, %": percent(row["chance"])}
        for row in rows_of(content)
        if row["sampling"] is None
    }


def detector_table(content: Any) -> Numbers:
    """Of `detector`: balanced accuracy against originals that passed the codec, and against raw ones."""
    labels = dict(zip(("reconstruction", "original"), DETECTION.rows, strict=True))
    return {
        labels[row["against"]]: {
            DETECTION.columns[0]: percent(row["balanced_accuracy"]),
            "area under ROC": row["area"],
            "equal error rate, %": percent(row["equal_error_rate"]),
        }
        for row in rows_of(content)
    }


def likelihood_table(content: Any) -> Numbers:
    """Of `likelihood`: log likelihood of every kind of continuation."""
    return {
        row["system"]: {ACOUSTIC_ONLY.columns[0]: row["per_unit"], "prompts": row["prompts"]}
        for row in rows_of(content)
    }


def listening_table(content: Any) -> Numbers:
    """Of `listening-test score`, one recording at a time or pairs: how often raters were right."""
    if content["kind"] == "preference":
        raise ValueError(f"it is a preference test of {' and '.join(content['names'])}, not of humans and machines")
    label = "human or machine" if content["kind"] == "human-or-machine" else "which is human"
    share, ratings, chance = LISTENING.columns
    pooled = content["pooled"]
    return {
        label: {
            share: percent(pooled["rate"]),
            ratings: pooled["ratings"],
            chance: pooled["p_one_sided"],
            "p, two-sided": pooled["p_two_sided"],
        }
    }


def preference_table(content: Any) -> Numbers:
    """Of `listening-test score`: how often the first folder was preferred."""
    if content["kind"] != "preference":
        raise ValueError("it is no preference test")
    pooled = content["pooled"]
    label = f"{content['names'][0]} or {content['names'][1]}"
    return {label: {PIANO.columns[0]: percent(pooled["rate"]), "p, one-sided": pooled["p_one_sided"]}}


def codec_table(content: Any) -> Numbers:
    """Of `codec`: every measure by number of levels."""
    table: dict[str, dict[str, float | None]] = {}
    for row in rows_of(content):
        columns = table.setdefault(f"{row['levels']} levels", {"bit/s": row["bitrate_bps"]})
        columns[content["titles"][row["measure"]]] = row["mean"]
    return table


def passage_table(content: Any, *, end: str = "") -> Numbers:
    """Of `prosody` or `diversity`: means of continuations and of real recordings, a row per measure."""
    table: dict[str, dict[str, float | None]] = {}
    for row in rows_of(content):
        label = content["titles"][row["measure"]]
        columns = table.setdefault(label, {})
        columns[row["kind"] + end] = row["mean"]
        if row["exceeds_real"] is not None:
            columns[f"exceeds real{end}"] = row["exceeds_real"]
    for name, value in content["whole"].items():
        table[f"all together: {name.replace('_', ' ')}"] = {f"value{end}": value}
    return table


def columns_of(numbers: Iterable[Numbers]) -> list[str]:
    """Every column of several tables, in order of appearance."""
    return list(dict.fromkeys(name for table in numbers for row in table.values() for name in row))
