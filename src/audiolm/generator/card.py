"""The model card that every generator folder carries."""

from typing import Any

from audiolm.tokens.spec import TokenSpec

DETECTOR_TITLE = "## Detector"
DETECTOR_SECTION = f"""{DETECTOR_TITLE}
`detector.safetensors` tells continuations of this generator from recordings: `audiolm detect FILE --generator FOLDER`. It was
trained on this generator's continuations against recordings that had passed the same codec. Of other generators, other codecs
and lossy formats it knows nothing, so a low figure is no proof that a recording is real. `AudioLM` does not read it.
"""


def model_card(spec: TokenSpec, facts: dict[str, Any], *, acoustic_only: bool = False) -> str:
    """Markdown: what it was trained on, what it can and cannot do, whom it may harm. Numbers come from the chain.

    Args:
        facts: `train_hours`, `train_speakers`, `data`, `public_models` and the stages' records.
        acoustic_only: the baseline without units.
    """
    public = facts.get("public_models")
    besides = (
        f"The weights of the {' and the '.join(public)} were published by others, who trained on data of theirs."
        if public
        else "Nothing else was used."
    )
    data = facts.get("data", "unnamed data")
    stages = "\n".join(
        f"| {name} | {record['parameters'] / 1e6:.2f} M | {record['steps']} | {record['seconds'] / 60:.1f} min |"
        for name, record in facts["stages"].items()
    )
    demo = (
        "It learnt from synthetic speech (espeak-ng) for a few minutes. It shows that every part works; it babbles.\n\n"
        if data == "demo corpus"
        else ""
    )
    kind = (
        "This is the paper's baseline: one language model writes the codes without units. It exists to be compared with.\n\n"
        if acoustic_only
        else ""
    )
    units = "no units" if acoustic_only else f"{spec.clusters} units at {spec.semantic_rate_hz} Hz"
    return f"""# AudioLM generator

{kind}{demo}Speaks on after a few seconds of sound. Learnt from audio alone: no text, no labels.

## Data
{data}: {facts["train_hours"]} hours of {facts["train_speakers"]} speakers to train on. {besides}

## Parts
| stage | parameters | steps | time |
|---|---|---|---|
{stages}

Audio {spec.sample_rate_hz} Hz; {spec.levels} x {spec.codebook_size} codes at {spec.frame_rate_hz:g} Hz ({spec.coarse_levels}
levels coarse); {units}. `config.json` has everything.

## Limits
- It has no notion of truth or meaning: what it says is sound that resembles its training data.
- A small model, or one trained for a short time, gives babble; quality of voice and words grows with data and training.
- Music, noise, other languages and overlapping speakers are continued badly unless the training data held them.
- Longer continuations wander: a stage sees no further back than its window.

## Accents and bias
It speaks like its data. Accents, ages and manners that are rare or absent there are continued worse, drift towards the
common ones, or break. Whatever attitudes the recordings express can come back.

## Misuse
It keeps the voice of the prompt. Do not use it to imitate people without their consent, to deceive, or to get past voice
authentication. Say that audio is generated when you publish it. The paper found that a classifier tells such audio from
recordings in 98.6 % of cases; that number is the paper's and has not been measured for this model.
"""
