"""The files of `audiolm evaluate layers`, and what it names as the winner."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiolm.evaluation.abx import AbxResult
from audiolm.evaluation.cluster_sweep import ClusterResult
from audiolm.evaluation.layer_sweep import Rule
from audiolm.evaluation.layers_picture import layers_picture
from audiolm.evaluation.unit_measures import PhoneMeasures
from audiolm.files import atomic_path, write_json

COLUMNS = ("features", "layer", "clusters", "context", "speakers", "error", "low", "high", "triples", "cells")
MEASURES = ("distortion", "entropy_bits", "bitrate_bps", "phone_purity", "cluster_purity", "pnmi")


@dataclass(frozen=True)
class LayersTable:
    """What the sweep of an encoder found.

    Attributes:
        rule: how winners are chosen.
        layers: ABX of normalised features by layer.
        best: the winning layer.
        mfcc: ABX of normalised MFCC at the same rate, for comparison.
        clusters: units of the winning layer, one per number of clusters.
    """

    rule: Rule
    layers: Mapping[int, AbxResult]
    best: int
    mfcc: AbxResult
    clusters: Sequence[ClusterResult] = ()

    @property
    def error(self) -> float:
        """The winning layer's."""
        return self.rule.error(self.layers[self.best])

    @property
    def best_clusters(self) -> ClusterResult | None:
        """The number of clusters whose units have the lowest error; of equal ones the smallest."""
        ranked = sorted(self.clusters, key=lambda row: (self.rule.error(row.abx), row.clusters))
        return ranked[0] if ranked else None

    def rows(self) -> list[tuple[str, int | None, ClusterResult | None, AbxResult]]:
        """Everything measured: what, layer, clusters, result."""
        layers = [("layer", layer, None, result) for layer, result in self.layers.items()]
        units = [("units", self.best, row, row.abx) for row in self.clusters]
        return [("mfcc", None, None, self.mfcc), *layers, *units]


def write_layers(out: Path, table: LayersTable, *, about: Mapping[str, Any]) -> None:
    """Write `layers.json` (everything but pairs of phones), `layers.csv` (a line per figure) and `layers.svg`.

    Args:
        about: what was measured and how, plain values.
    """
    chosen = table.best_clusters
    whole = {
        "winner": {
            "layer": table.best,
            "error": table.error,
            "clusters": chosen.clusters if chosen else None,
            "units_error": table.rule.error(chosen.abx) if chosen else None,
            "by": str(table.rule),
        },
        "mfcc": table.mfcc.as_dict(),
        "layers": [{"layer": layer, **result.as_dict()} for layer, result in table.layers.items()],
        "clusters": [{**row.abx.as_dict(), **_measures(row), "phones": _phones(row)} for row in table.clusters],
        "about": dict(about),
    }
    write_json(out / "layers.json", whole)
    with atomic_path(out / "layers.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *MEASURES], lineterminator="\n")
        writer.writeheader()
        for what, layer, units, result in table.rows():
            for score in result.scores:
                low, high = score.interval or (None, None)
                cells = (what, layer, units and units.clusters, score.context, score.speakers, score.error, low, high)
                line = dict(zip(COLUMNS, (*cells, score.triples, score.cells), strict=True))
                writer.writerow(line | (_measures(units) if units else {}))
    with atomic_path(out / "layers.svg") as temporary:
        units_results = {row.clusters: row.abx for row in table.clusters}
        temporary.write_bytes(
            layers_picture(table.layers, units_results, mfcc=table.mfcc, best=table.best, rule=table.rule)
        )


def _measures(row: ClusterResult) -> dict[str, Any]:
    values = {name: getattr(row.phones, name) if row.phones else None for name in MEASURES[3:]}
    return {
        "clusters": row.clusters,
        "distortion": row.distortion,
        "entropy_bits": row.use.entropy_bits,
        "bitrate_bps": row.use.bitrate_bps,
        **{name: None if value is None or math.isnan(value) else value for name, value in values.items()},
    }


def _phones(row: ClusterResult) -> dict[str, Any]:
    return {"all": _plain(row.phones), "without_silence": _plain(row.speech)}


def _plain(measures: PhoneMeasures | None) -> dict[str, Any] | None:
    if measures is None:
        return None
    return {name: None if math.isnan(value) else value for name, value in asdict(measures).items()}
