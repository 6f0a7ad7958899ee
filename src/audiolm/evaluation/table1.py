"""Table I of the paper: how well four kinds of tokens keep phones apart, how they sound decoded, and what they cost."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiolm.checkpoint import weights_digest
from audiolm.codec.detokenizer import MADE_BY
from audiolm.evaluation.abx import AbxSettings, measure_abx
from audiolm.evaluation.abx_items import Item
from audiolm.evaluation.abx_results import write_abx
from audiolm.evaluation.chain_record import stage_command
from audiolm.evaluation.clips import Clip, clips_digest
from audiolm.evaluation.codec_measures import MeasureName, Settings
from audiolm.evaluation.codec_results import Pooled
from audiolm.evaluation.codec_table import codec_identity, measure_codec
from audiolm.evaluation.detokenized import DetokenizedCodec
from audiolm.evaluation.kept_tokens import KeptTokens
from audiolm.evaluation.perceptual import VisqolMapping, require_packages
from audiolm.evaluation.row_files import claim
from audiolm.evaluation.table1_results import write_table1
from audiolm.evaluation.table1_rows import TABLE_1, Row, TokenType
from audiolm.evaluation.which_codec import load_codec
from audiolm.files import read_json

Progress = Callable[[str, int, int], None]  # what is done, how many of it are, and all
VERB = "table1"


@dataclass(frozen=True)
class Table1Settings:
    """How the table is measured; rows of different settings are never mixed."""

    abx: AbxSettings
    measures: tuple[MeasureName, ...] = ("visqol",)
    visqol_mapping: VisqolMapping = "polynomial"

    def codec(self, levels: int) -> Settings:
        """What is measured of the audio that all levels of a kind of tokens give."""
        return Settings((levels,), self.measures, self.visqol_mapping)


@dataclass(frozen=True)
class Table1Data:
    """What the table is measured on: ABX items in recordings, and clips to rebuild."""

    items: list[Item]
    recordings: dict[str, Path]  # by stem
    clips: list[Clip]

    @property
    def digest(self) -> str:
        """sha256 (hex) over the items and the sizes and times of their recordings."""
        stats = {stem: path.stat() for stem, path in sorted(self.recordings.items())}
        text = repr(self.items) + repr([(stem, stat.st_size, stat.st_mtime_ns) for stem, stat in stats.items()])
        return hashlib.sha256(text.encode()).hexdigest()


def require_checkpoints(root: Path, tokens: Sequence[TokenType]) -> None:
    """Check that everything the rows need was trained.

    Raises:
        FileNotFoundError: naming each row that lacks something, and the commands that make it.
    """
    lines = []
    for token in tokens:
        made_by = MADE_BY[token.detokenizer]
        needed = ["tokenizer"] * (made_by == "residual_tokenizer") + [made_by, token.detokenizer]
        missing = [stage for stage in needed if not (root / stage / "best.ckpt").exists()]
        if missing:
            lines.append(f"  {token.name}: " + ", then ".join(f"`{stage_command(root, stage)}`" for stage in missing))
    if lines:
        raise FileNotFoundError(
            f"{root} lacks what {len(lines)} of {len(tokens)} rows need; nothing was measured. What makes it:\n"
            + "\n".join(lines)
            + "\nOr choose among the other rows with --only; rows that the results have already count too, unless --out names "
            "another folder."
        )


def measure_table1(
    root: Path,
    tokens: Sequence[TokenType],
    data: Table1Data,
    out: Path,
    *,
    settings: Table1Settings,
    device: str = "cpu",
    workers: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> list[Row]:
    """Measure rows of Table I and write them: `table1.csv`, `summary.json`, `table1.svg`, and a folder per row.

    A row's folder holds `abx/` (as `audiolm evaluate abx` writes it, and in `tokens/` a file per recording) and `codec/` (as
    `audiolm evaluate codec` does, a row per clip); what is there is not computed again. Rows that `out` has of other kinds of
    tokens stay in the files. Everything is loaded and checked before the first row.

    Args:
        root: a chain with the tokens' detokenizers.
        tokens: the rows to measure.
        device: of encoding and distances; decoding and its measures run on the CPU.
        workers: processes that measure decoded audio.

    Raises:
        FileNotFoundError: if a checkpoint is missing, naming the commands.
        ValueError: if packages are missing, or `out` holds measurements of other models, audio or settings.

    Source: AudioLM, Table I and section IV-D: each frame is its quantised vector, for residual tokens the sum over the levels;
    audio is what a SoundStream decoder makes that was trained on these tokens.
    """
    require_checkpoints(root, tokens)
    require_packages(settings.measures, mapping=settings.visqol_mapping)
    clips = {"clips": len(data.clips), "clips_digest": clips_digest(data.clips)}
    about = plain({"items": len(data.items), "data_digest": data.digest, **clips, **asdict(settings)})
    claim(out, about, verb=VERB, files=("table1.csv",))
    tokens = [token for token in TABLE_1 if token in tokens or token.name in _finished(out)]
    require_checkpoints(root, tokens)  # of the finished rows too: whether they are of these models is seen below
    for token in tokens:
        codec = _load(root, token)
        claim(out / token.name / "abx", _abx_identity(codec, data, settings), verb=VERB, files=("abx.json", "tokens"))
        identity = codec_identity(codec, data.clips, settings.codec(codec.levels))
        claim(out / token.name / "codec", identity, verb=VERB)
    rows: list[Row] = []
    for token in tokens:
        codec, folder = _load(root, token), out / token.name
        abx = _abx(codec, data, folder, token=token, settings=settings, device=device, progress=progress)
        pooled = measure_codec(
            codec.cpu(),
            data.clips,
            folder / "codec",
            settings=settings.codec(codec.levels),
            workers=workers,
            progress=lambda done, total, name=token.name: progress(f"{name}: audio", done, total),  # type: ignore[misc]
        )
        rows.append(_row(token, codec, abx, pooled, settings))
    write_table1(out, rows, mapping=settings.visqol_mapping, settings=about, chain=str(root))
    return rows


def _finished(out: Path) -> list[str]:
    """The kinds of tokens that the folder has rows of."""
    path = out / "summary.json"
    return (
        [row["tokens"] for row in read_json(path, made_by=f"`audiolm evaluate {VERB}`")["rows"]]
        if path.exists()
        else []
    )


def _load(root: Path, token: TokenType) -> DetokenizedCodec:
    codec = load_codec(root / token.detokenizer / "best.ckpt")
    if not isinstance(codec, DetokenizedCodec):
        raise ValueError(f"{root / token.detokenizer} holds another stage's checkpoint")
    return codec


def _abx_identity(codec: DetokenizedCodec, data: Table1Data, settings: Table1Settings) -> dict[str, Any]:
    """Everything the errors depend on; the detokenizer is not part of it."""
    config = codec.tokenizer.config_dict()
    digest = weights_digest(config, codec.tokenizer.state_dict())
    found = {"tokens": config, "tokens_digest": digest, "levels": codec.levels, "data_digest": data.digest}
    return plain({**found, "sample_rate_hz": codec.sample_rate_hz, **asdict(settings.abx)})


def _abx(
    codec: DetokenizedCodec,
    data: Table1Data,
    folder: Path,
    *,
    token: TokenType,
    settings: Table1Settings,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """`abx.json` as it is, made first if it is not there."""
    out = folder / "abx"
    if not (out / "pairs.csv").exists():  # what is written last
        kept = KeptTokens(codec, data.recordings, out / "tokens", device=device)
        result = measure_abx(
            data.items,
            kept.features,
            rate_hz=kept.rate_hz,
            settings=settings.abx,
            device=device,
            progress=lambda done, total: progress(f"{token.name}: tokens", done, total),
        )
        about = {**_abx_identity(codec, data, settings), "entropy_bps": kept.entropy_bps()}
        write_abx(out, result, settings=settings.abx, about=about)
    return dict(read_json(out / "abx.json", made_by=f"`audiolm evaluate {VERB}`"))


def _row(
    token: TokenType, codec: DetokenizedCodec, abx: dict[str, Any], pooled: Sequence[Pooled], settings: Table1Settings
) -> Row:
    rate_hz = codec.sample_rate_hz / codec.hop_samples
    row: Row = {"tokens": token.name, "title": token.title, "levels": codec.levels, "codebook": codec.codebook_size}
    row |= {"rate_hz": rate_hz, "bitrate_bps": codec.levels * math.log2(codec.codebook_size) * rate_hz}
    row |= {"entropy_bps": abx["settings"]["entropy_bps"]}
    for score in abx["scores"]:
        low, high = score["interval"] or (None, None)
        for name, value in (("", score["error"]), ("_low", low), ("_high", high)):
            row[f"abx_{score['speakers']}{name}"] = None if value is None else 100 * value
    row |= {"visqol": None, "items": abx["items"] - abx["dropped"], "dropped": abx["dropped"]}
    for mean in pooled:
        if mean.measure in settings.measures:
            row |= {mean.measure: mean.mean, f"{mean.measure}_standard_error": mean.standard_error}
            row |= {f"{mean.measure}_clips": mean.clips}
    return {**row, **{f"paper_{name}": value for name, value in token.paper.items()}}


def plain(value: Any) -> dict[str, Any]:
    """JSON's types only."""
    return dict(json.loads(json.dumps(value)))
