"""What a chain's folder says of itself: data, tokens, stages. Read for the report; nothing is computed from audio."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audiolm.evaluation.chain_record import chain_record, make_command, stages_of
from audiolm.evaluation.curves import Curve, read_curves
from audiolm.files import read_json
from audiolm.manifest import SPLITS, Manifest, Split, read_manifest
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStore

COUNTED_UNITS = 5_000_000  # units read to see how evenly they are used; a corpus of 55 hours is read whole


@dataclass(frozen=True)
class StageFacts:
    """One stage: its record, its baselines and its curves. `done` is None until it has finished."""

    name: str
    done: Mapping[str, Any] | None = None
    baselines: Mapping[str, Any] | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def state(self) -> Literal["done", "unfinished", "missing"]:
        if self.done is not None:
            return "done"
        return "unfinished" if self.curves else "missing"

    @property
    def validation_loss(self) -> float | None:
        """The best one: that of the checkpoint which later stages use."""
        recorded = (self.done or {}).get("validation_loss")
        if recorded is not None:
            return float(recorded)
        best = self.curves["validation/loss"].best() if "validation/loss" in self.curves else None
        return None if best is None else best[1]

    @property
    def padding(self) -> float | None:
        """Share of padding in all training batches (since the run last went on): each value counts all before it."""
        return self.curves["train/padding"].last if "train/padding" in self.curves else None

    @property
    def below_bigram(self) -> bool | None:
        """Whether it predicts unseen speakers better than a table of pairs does; None where that was not measured."""
        if self.validation_loss is None or self.baselines is None:
            return None
        return self.validation_loss < self.baselines["bigram"]

    def loss_per_level(self) -> dict[int, float]:
        """Validation loss of each level at the best step; empty for the semantic stage."""
        best = self.curves["validation/loss"].best() if "validation/loss" in self.curves else None
        levels = {}
        for name, curve in self.curves.items():
            if best and name.startswith("validation/loss_level_"):
                value = curve.at(best[0])
                if value is not None and math.isfinite(value):
                    levels[int(name.rpartition("_")[2])] = value
        return dict(sorted(levels.items()))


@dataclass(frozen=True)
class TokenFacts:
    """A sealed token store in numbers."""

    spec: TokenSpec
    utterances: int
    frames: int
    units: int  # repeats included
    unit_shares: NDArray[np.float64]  # (clusters,) share of the units that were counted
    counted_units: int

    @property
    def codes(self) -> int:
        return self.frames * self.spec.levels


@dataclass(frozen=True)
class ChainFacts:
    """Everything but the samples. What is not there is None, or a stage in state "missing"; `stages` are those of this chain."""

    root: Path
    data: str | None  # the corpus folder's name; "" for the demo corpus
    preset: str | None
    manifest: Manifest | None
    rejected: int
    stages: Mapping[str, StageFacts]
    tokens: TokenFacts | None

    def make(self, target: str) -> str:
        """The make command for a target of this chain."""
        return make_command(self.root, target)


def read_facts(root: Path) -> ChainFacts:
    """Read a chain's folder, finished or not.

    Raises:
        ValueError: if a file is there but damaged; the message names it.
    """
    chain = chain_record(root)
    manifest = root / "manifest.jsonl"
    rejected = root / "rejected.jsonl"
    return ChainFacts(
        root=root,
        data=Path(chain["data"]).name if chain else None,
        preset=chain["preset"] if chain else None,
        manifest=read_manifest(manifest) if manifest.exists() else None,
        rejected=len(rejected.read_bytes().splitlines()) if rejected.exists() else 0,
        stages={name: _stage(root, name) for name in stages_of(root)},
        tokens=_tokens(root / "tokens"),
    )


def speakers(manifest: Manifest, split: Split | None = None) -> int:
    """How many different speakers a split has, or all of them."""
    return len((manifest.utterances if split is None else manifest.split(split)).speakers)


def seconds_by_split(manifest: Manifest) -> dict[str, NDArray[np.float64]]:
    """Lengths of the utterances of each split, in seconds."""
    return {split: manifest.split(split).seconds for split in SPLITS}


def _stage(root: Path, name: str) -> StageFacts:
    folder = root / name
    made_by = f"The {name} stage"
    return StageFacts(
        name=name,
        done=_json(folder / "done.json", made_by=made_by),
        baselines=_json(folder / "baselines.json", made_by=made_by),
        curves=read_curves(folder / "log"),
    )


def _tokens(folder: Path) -> TokenFacts | None:
    if not (folder / "sealed.json").exists():
        return None
    store = TokenStore(folder)
    counts = np.zeros(store.spec.clusters, dtype=np.int64)
    for row in np.random.default_rng(0).permutation(len(store)):
        counts += np.bincount(store.units(int(row)).numpy(), minlength=len(counts))
        if counts.sum() >= COUNTED_UNITS:
            break
    return TokenFacts(
        spec=store.spec,
        utterances=len(store),
        frames=int(store.index["frames"].sum()),
        units=int(store.index["units"].sum()),
        unit_shares=counts / max(1, counts.sum()),
        counted_units=int(counts.sum()),
    )


def _json(path: Path, *, made_by: str) -> Any:
    return read_json(path, made_by=made_by) if path.exists() else None
