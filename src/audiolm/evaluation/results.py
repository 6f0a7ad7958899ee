"""The numbers of a chain as Markdown tables: what `docs/results.md` quotes."""

from pathlib import Path
from typing import Any

from audiolm.evaluation.chain_record import stages_of
from audiolm.files import read_json


def results_tables(root: Path) -> str:
    """Steps, minutes and losses of every stage, and reconstruction on test speakers, as Markdown.

    A codec whose levels are all coarse has no fine stage. The acoustic-only baseline is listed where it was trained.

    Validation is on speakers that were not trained on, in nats per token over legal ids; unigram and bigram were counted on
    training tokens and scored on the same validation tokens. Reconstruction is measured on test speakers.

    Args:
        root: the folder of a finished chain.

    Raises:
        FileNotFoundError: if a stage has no record, naming the command that makes it.
    """
    lines = [
        "| stage | parameters | steps | minutes | validation loss | unigram | bigram |",
        "|---|---|---|---|---|---|---|",
    ]
    total = 0.0
    for stage in stages_of(root):
        record = read_json(root / stage / "done.json", made_by=f"make {stage}")
        baselines: dict[str, Any] = {}
        if (root / stage / "baselines.json").exists():
            baselines = read_json(root / stage / "baselines.json", made_by=f"make {stage}")
        total += record["seconds"] / 60
        numbers = [record["validation_loss"], baselines.get("unigram"), baselines.get("bigram")]
        cells = ["" if number is None else f"{number:.3f}" for number in numbers]
        parameters = f"{record['parameters'] / 1e6:.2f} M" if record["parameters"] > 1 else ""
        lines.append(
            f"| {stage} | {parameters} | {record['steps'] or ''} | {record['seconds'] / 60:.1f} | {' | '.join(cells)} |"
        )
    record = read_json(root / "coarse" / "done.json", made_by="make coarse")
    lines += [
        "",
        f"{total:.1f} minutes of training and tokenizing on {record['device']}, {record['processes']} process(es) of "
        f"{record['threads']} threads, {record['precision']}.",
        "",
        "| levels | SI-SDR (dB) | mel distance (nats) | test utterances |",
        "|---|---|---|---|",
    ]
    samples = read_json(root / "samples" / "samples.json", made_by="make samples")
    lines += [
        f"| {row['levels']} | {row['si_sdr_db']:.2f} | {row['mel_distance']:.3f} | {row['clips']} |"
        for row in samples["reconstruction"]
    ]
    lines += [
        "",
        f"{len(samples['items'])} continuations of {samples['seconds']:g} s, in one batch: {samples['generation_seconds']} s.",
    ]
    return "\n".join(lines)
