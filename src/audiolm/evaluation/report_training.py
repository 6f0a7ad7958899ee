"""The report's first half: the data, the stages, and their curves."""

from collections.abc import Mapping

from audiolm.evaluation.chain_record import LANGUAGE_MODELS
from audiolm.evaluation.codec_summary import codec_pictures
from audiolm.evaluation.curves import Curve
from audiolm.evaluation.report_facts import (
    ChainFacts,
    StageFacts,
    TokenFacts,
    seconds_by_split,
    speakers,
)
from audiolm.evaluation.report_page import Html, element, figure, grid, join, missing, paragraph, table, tiles
from audiolm.evaluation.report_pictures import (
    curves_picture,
    lengths_picture,
    per_level_picture,
    unit_use_picture,
)
from audiolm.manifest import SPLITS, Manifest

NONE = "—"
PURPOSE = {
    "codec": "Codec: audio to codes and back",
    "encoder": "Encoder: features that tell what is said",
    "tokenizer": "Tokenizer: audio to semantic units",
    "tokens": "Tokens of the whole corpus",
    "semantic": "Semantic model: what is said",
    "coarse": "Coarse acoustic model: who says it, and how",
    "fine": "Fine acoustic model: the details of the sound",
    "acoustic": "Acoustic-only baseline: codes without units",
}


def data_section(facts: ChainFacts) -> Html:
    """Hours and speakers per split, lengths, tokens, padding."""
    parts = []
    if facts.manifest is None:
        parts.append(missing("There is no list of utterances yet.", facts.make("corpus")))
    else:
        parts += [tiles(_totals(facts, facts.manifest)), _splits(facts.manifest)]
        if facts.rejected:
            parts.append(paragraph(f"{facts.rejected} files could not be used; rejected.jsonl says why."))
        picture = lengths_picture(seconds_by_split(facts.manifest))
        parts.append(grid(figure(picture, alt="Histogram of utterance lengths in seconds, by split")))
    if facts.tokens is None:
        parts.append(missing("The corpus has not been turned into tokens yet.", facts.make("tokens")))
    else:
        parts.append(_token_words(facts, facts.tokens))
    padding = {name: facts.stages[name].padding for name in LANGUAGE_MODELS if name in facts.stages}
    if any(share is not None for share in padding.values()):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in padding.items() if share is not None)
        parts.append(
            paragraph(f"Padding, the share of the training tokens that is filling and nothing else: {shares}.")
        )
    return join(parts)


def stages_section(facts: ChainFacts) -> Html:
    """One row per stage: size, time, and whether the language models are better than counting pairs."""
    head = (
        *("stage", "parameters", "steps", "minutes", "precision", "peak memory"),
        *("validation nats per token", "unigram", "bigram", "verdict"),
    )
    rows = [_stage_row(facts.stages[name]) for name in facts.stages]
    records = [stage.done for stage in facts.stages.values() if stage.done is not None]
    minutes = sum(record["seconds"] for record in records) / 60
    machines = {
        f"{record['device']} (processes: {record['processes']}, threads of each: {record['threads']})"
        for record in records
    }
    parts = [table(head, rows)]
    if records:
        parts.append(paragraph(f"{minutes:.1f} minutes in all, on {'; '.join(sorted(machines))}."))
    for name in facts.stages:
        stage = facts.stages[name]
        if stage.state == "missing":
            parts.append(missing(f"{PURPOSE[name]}: this stage has not run yet.", facts.make(name)))
        elif stage.state == "unfinished":
            parts.append(missing(f"{PURPOSE[name]}: this stage has started but not finished.", facts.make(name)))
    return join(parts)


def curves_section(facts: ChainFacts) -> Html:
    """The pictures of every stage that logged something."""
    parts: list[Html] = []
    for name in facts.stages:
        stage = facts.stages[name]
        if name == "codec":
            figures = _codec_figures(stage.curves)
        elif name == "encoder":
            figures = _encoder_figures(stage.curves)
        elif name == "tokenizer":
            figures = _tokenizer_figures(facts.tokens)
        else:
            figures = _language_model_figures(stage) if name in LANGUAGE_MODELS else []
        numbers = _tokenizer_numbers(stage.curves) if name == "tokenizer" else []
        if figures or numbers:
            parts += [element("h3", PURPOSE[name]), *numbers, *([grid(*figures)] if figures else [])]
            if "train/skipped_steps" in stage.curves:
                skipped = f"{stage.curves['train/skipped_steps'].last:.0f}"
                parts.append(paragraph(f"Steps skipped because a loss or gradient was not finite: {skipped}."))
        elif name != "tokens":
            parts += [element("h3", PURPOSE[name]), missing("Nothing has been logged yet.", facts.make(name))]
    return join(parts)


def _totals(facts: ChainFacts, manifest: Manifest) -> dict[str, str]:
    totals = {
        "hours": f"{manifest.hours():.2f}",
        "speakers": f"{speakers(manifest):,}",
        "utterances": f"{len(manifest.utterances):,}",
    }
    if facts.tokens is not None:
        totals |= {"units": _count(facts.tokens.units), "codes": _count(facts.tokens.codes)}
    return totals


def _splits(manifest: Manifest) -> Html:
    rows = [
        (split, f"{len(manifest.split(split)):,}", f"{manifest.hours(split):.2f}", f"{speakers(manifest, split):,}")
        for split in SPLITS
    ]
    return table(("split", "utterances", "hours", "speakers"), rows)


def _token_words(facts: ChainFacts, tokens: TokenFacts) -> Html:
    spec = tokens.spec
    baselines = facts.stages["semantic"].baselines
    left = f", {baselines['units_per_second']:.1f} once repeats are removed" if baselines else ""
    return paragraph(
        f"As tokens: {tokens.units:,} units, each one of {spec.clusters} ({spec.semantic_rate_hz} a second{left}), and "
        f"{tokens.codes:,} codes ({spec.frame_rate_hz:g} frames a second, {spec.levels} codes a frame, each one of "
        f"{spec.codebook_size}; the first {spec.coarse_levels} are coarse, the rest fine)."
    )


def _stage_row(stage: StageFacts) -> tuple[object, ...]:
    done = stage.done or {}
    name = stage.name if stage.state == "done" else f"{stage.name} ({stage.state})"
    loss = stage.validation_loss if stage.name in LANGUAGE_MODELS else None
    verdict: object = NONE
    if stage.name in LANGUAGE_MODELS and stage.below_bigram is not None:
        verdict = (
            element("span", "below the bigram", class_="good")
            if stage.below_bigram
            else element("span", "not below the bigram", class_="bad")
        )
    return (
        name,
        _count(done["parameters"]) if done.get("parameters") else NONE,
        f"{done['steps']:,}" if done.get("steps") else NONE,
        f"{done['seconds'] / 60:.1f}" if done else NONE,
        done.get("precision", NONE),
        f"{done['peak_memory_gb']:.2f} GB" if done else NONE,
        NONE if loss is None else f"{loss:.3f}",
        NONE if stage.baselines is None else f"{stage.baselines['unigram']:.3f}",
        NONE if stage.baselines is None else f"{stage.baselines['bigram']:.3f}",
        verdict,
    )


def _language_model_figures(stage: StageFacts) -> list[Html]:
    names = {"training": "train/loss", "validation": "validation/loss"}
    curves = {label: stage.curves[name] for label, name in names.items() if name in stage.curves}
    if not curves:
        return []
    baselines = stage.baselines or {}
    levels = {name: baselines[name] for name in ("unigram", "bigram") if name in baselines}
    alt = f"Training and validation loss of the {stage.name} model over steps, " + ", ".join(
        f"{label} ending at {curve.last:.2f}" for label, curve in curves.items()
    )
    picture = curves_picture("Loss", curves, unit="nats per token", levels=levels)
    figures = [figure(picture, alt=alt)]
    per_level = stage.loss_per_level()
    if per_level:
        series: dict[str, Mapping[int, float]] = {"this model": per_level}
        for name in levels:
            values = baselines[f"{name}_per_phase"]
            series[name] = dict(zip(per_level, values, strict=False)) if len(values) == len(per_level) else {}
        series = {label: values for label, values in series.items() if values}
        picture = per_level_picture("Validation loss per level", series, unit="nats per token")
        figures.append(figure(picture, alt=f"Validation loss of the {stage.name} model for each quantizer level"))
    return figures


def _codec_figures(curves: Mapping[str, Curve]) -> list[Html]:
    return [
        figure(picture.svg, alt=f"{picture.title} of the codec over training steps")
        for picture in codec_pictures(curves)
    ]


def _encoder_figures(curves: Mapping[str, Curve]) -> list[Html]:
    shown = (
        ("Naming what is masked", "prediction", "nats per frame"),
        ("Named rightly", "accuracy", "share of masked frames"),
        ("Contrastive loss", "contrastive", "nats per frame"),
        ("Target codes in effective use", "code_perplexity", "perplexity"),
    )
    figures = []
    for title, name, unit in shown:
        found = {"training": f"train/{name}", "validation": f"validation/{name}"}
        drawn = {label: curves[key] for label, key in found.items() if key in curves}
        if drawn:
            ends = ", ".join(f"{label} ending at {curve.last:.3g}" for label, curve in drawn.items())
            figures.append(figure(curves_picture(title, drawn, unit=unit), alt=f"{title} over training steps, {ends}"))
    return figures


def _tokenizer_figures(tokens: TokenFacts | None) -> list[Html]:
    if tokens is None:
        return []
    picture = unit_use_picture(tokens.unit_shares)
    used = int((tokens.unit_shares > 0).sum())
    alt = f"How often each unit occurs, most frequent first: {used} of {len(tokens.unit_shares)} occur"
    return [figure(picture, alt=alt, caption=f"{used} of {len(tokens.unit_shares)} units occur in the tokens")]


def _tokenizer_numbers(curves: Mapping[str, Curve]) -> list[Html]:
    shown = {
        "frames seen": ("tokenizer/frames_seen", "{:,.0f}"),
        "frames clustered": ("tokenizer/frames", "{:,.0f}"),
        "error per dimension": ("tokenizer/distortion", "{:.3f}"),
        "error in validation": ("validation/distortion", "{:.3f}"),
        "clusters in use": ("tokenizer/used_share", "{:.1%}"),
        "entropy, bits per unit": ("tokenizer/entropy_bits", "{:.2f}"),
        "bits per second": ("tokenizer/bitrate_bps", "{:.0f}"),
    }
    values = {label: form.format(curves[name].last) for label, (name, form) in shown.items() if name in curves}
    return [tiles(values)] if values else []


def _count(number: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)
