"""What benchmarks/store.py measures, a function a case; and the synthetic corpus that it measures on."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from store import SPEAKERS, SPLITS, STAGES, best_seconds, forget

from audiolm.manifest import Manifest, Utterance, Utterances, read_manifest, write_manifest
from audiolm.tokens.layout import StageLayout, collate
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import INDEX_TYPE, TokenStore, TokenStoreWriter, create_store, seal, written_ids
from audiolm.tokens.windows import Window, Windows

SPEC = TokenSpec()


def utterance_id(number: int) -> str:
    """As long as those of Libri-Light."""
    recording = number // 20
    return f"large/{recording % SPEAKERS:05d}/the_name_of_a_book_64kb_mp3/chapter_{recording:07d}_64kb@{number:08d}"


def split_numbers(count: int) -> np.ndarray:
    """The split of every utterance, by speaker."""
    ends = np.cumsum(list(SPLITS.values()))
    return np.searchsorted(ends[:-1], (np.arange(count) % SPEAKERS + 0.5) / SPEAKERS).astype("u1")


def synthetic_index(count: int, parts: int) -> np.ndarray:
    """An index as sealing makes it: parts by chance, within a part one utterance after the other."""
    random = np.random.default_rng(0)
    index = np.zeros(count, INDEX_TYPE)
    index["units"] = random.integers(48 * 25, 60 * 25 + 1, count)
    index["frames"] = 2 * index["units"]
    index["part"] = random.integers(0, parts, count)
    index["speaker"], index["split"] = np.arange(count) % SPEAKERS, split_numbers(count)
    index["true_end"] = random.integers(0, 2, count)
    order = np.argsort(index["part"], kind="stable")
    for name in ("units", "frames"):
        ends = np.cumsum(index[name][order], dtype=np.int64)
        starts = ends - index[name][order]
        first = np.searchsorted(index["part"][order], np.arange(parts))
        index[f"{name}_at"][order] = starts - starts[first][index["part"][order]]
    return index


def sparse(path: Path, size: int) -> None:
    """A file of so many bytes that takes no room."""
    with open(path, "wb") as file:
        file.truncate(size)


def store_folder(options: argparse.Namespace) -> Path:
    """The sealed store."""
    return Path(options.folder) / "tokens"


def make_store(options: argparse.Namespace) -> dict[str, Any]:
    """A sealed store with an index of the asked size and empty parts."""
    folder = store_folder(options)
    if (folder / "sealed.json").exists():
        return {}
    create_store(folder, SPEC, {"codec": "none", "tokenizer": "none", "manifest": "none"})
    index = synthetic_index(options.utterances, options.parts)
    sizes = {}
    for part in range(options.parts):
        rows = index["part"] == part
        sizes[f"rank{part}-0000"] = [2 * int(index["units"][rows].sum()), 24 * int(index["frames"][rows].sum())]
    for name, (units, codes) in sizes.items():
        sparse(folder / "parts" / f"{name}.units", units)
        sparse(folder / "parts" / f"{name}.codes", codes)
    np.save(folder / "index.npy", index)
    with open(folder / "ids.txt", "w") as file:
        file.writelines(json.dumps(id_) + "\n" for id_ in sorted(map(utterance_id, range(options.utterances))))
    (folder / "speakers.txt").write_text("".join(json.dumps(f"{n:05d}") + "\n" for n in range(SPEAKERS)))
    sealed = {"format": 1, "utterances": len(index), "frames": int(index["frames"].sum())}
    sealed |= {"units": int(index["units"].sum()), "parts": list(sizes), "bytes": sizes, "digest": "0" * 64}
    (folder / "sealed.json").write_text(json.dumps(sealed))
    return {}


def open_store(options: argparse.Namespace) -> dict[str, Any]:
    """Opening: cold, then warm."""
    folder = store_folder(options)
    forget(folder)
    cold = best_seconds(lambda: TokenStore(folder), repeats=1)
    warm = best_seconds(lambda: TokenStore(folder), repeats=options.repeats)
    sealed = json.loads((folder / "sealed.json").read_text())
    tokens = sealed["units"] + sealed["frames"] * SPEC.levels
    return {"cold_s": round(cold, 4), "warm_s": round(warm, 4), "tokens": tokens, "hours": sealed["frames"] // 180_000}


def windows(options: argparse.Namespace, split: str) -> dict[str, Any]:
    """Making a split's windows of 3 s, the shortest."""
    store = TokenStore(store_folder(options))
    seconds = best_seconds(lambda: Windows(store, split=split, seconds=3.0), repeats=options.repeats)
    made = Windows(store, split=split, seconds=3.0)
    started = time.perf_counter()
    every = len(made.all()) if split != "train" else None
    return {"s": round(seconds, 4), "side_by_side": every, "side_by_side_s": round(time.perf_counter() - started, 3)}


def read(options: argparse.Namespace, stage: str) -> dict[str, Any]:
    """Drawing, reading, laying out: microseconds per window, milliseconds per batch."""
    windows = Windows(TokenStore(store_folder(options)), split="train", seconds=STAGES[stage])
    layout = StageLayout(SPEC, stage)  # type: ignore[arg-type]
    count = options.windows
    draw = best_seconds(lambda: windows.draw(np.random.default_rng(0), count), repeats=options.repeats)
    drawn = windows.draw(np.random.default_rng(0), count)

    def each(read_one: Callable[[Window], Any]) -> float:
        started = time.perf_counter()
        for window in drawn:
            read_one(window)
        return (time.perf_counter() - started) / count * 1e6

    def streams(window: Window) -> tuple[Any, Any]:
        """What the stage uses of a window."""
        return (
            windows.units(window) if layout.reads_units else None,
            windows.codes(window) if layout.reads_codes else None,
        )

    figures = {"draw_us": draw / count * 1e6, "first_us": each(streams)}
    figures["warm_us"] = min(each(streams) for _ in range(options.repeats))
    figures["units_only_us"] = min(each(windows.units) for _ in range(options.repeats))

    def batch() -> None:
        some = windows.draw(np.random.default_rng(1), options.batch)
        collate([layout.sequence(*streams(window), true_end=windows.truly_ends(window)) for window in some])

    batch()
    figures["batch_ms"] = best_seconds(batch, repeats=10 * options.repeats) * 1e3
    return {name: round(figure, 2) for name, figure in figures.items()}


def long(options: argparse.Namespace) -> dict[str, Any]:
    """What is resident after windows of several GB were read: mapped pages must not pile up."""
    windows = Windows(TokenStore(store_folder(options)), split="train", seconds=10.0)
    before, most = common.resident_gb(), 0.0
    for number in range(100 * options.windows // 1000):
        for window in windows.draw(np.random.default_rng(number), 1000):
            windows.read(window)
        most = max(most, common.resident_gb())
    read_gb = 100 * options.windows * 10 * 50 * 12 * 2 / 2**30
    return {
        "windows": 100 * options.windows,
        "read_gb": round(read_gb, 2),
        "before_gb": round(before, 3),
        "most_gb": round(most, 3),
    }


class RssOfWorker(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Reads windows and says what is resident in the process that reads."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __getitem__(self, number: int) -> tuple[float, float]:
        for window in self.windows.draw(np.random.default_rng(number), 100):
            self.windows.read(window)
        text = Path("/proc/self/smaps_rollup").read_text().splitlines()
        own = sum(int(line.split()[1]) for line in text if line.startswith("Private"))
        return common.resident_gb(), own / 2**20


def worker(options: argparse.Namespace) -> dict[str, Any]:
    """A DataLoader's worker: what is resident, and how much of it no other process shares."""
    windows = Windows(TokenStore(store_folder(options)), split="train", seconds=10.0)
    loader = torch.utils.data.DataLoader(RssOfWorker(windows), batch_size=None, sampler=range(20), num_workers=1)
    resident, own = zip(*loader, strict=True)
    return {"worker_rss_gb": round(max(resident), 3), "worker_private_gb": round(max(own), 3)}


def unsealed_folder(options: argparse.Namespace) -> Path:
    """The store that is continued and sealed."""
    return Path(options.folder) / "unsealed"


def make_unsealed(options: argparse.Namespace) -> dict[str, Any]:
    """All parts written, nothing sealed."""
    folder = unsealed_folder(options)
    (folder / "sealed.json").unlink(missing_ok=True)
    if (folder / "spec.json").exists():
        return {}
    create_store(folder, SPEC, {})
    splits = list(SPLITS)
    index = synthetic_index(options.seal_utterances, options.parts)
    rows_of = np.split(np.argsort(index["part"], kind="stable"), np.cumsum(np.bincount(index["part"]))[:-1])
    for part, rows in enumerate(rows_of):
        lines = []
        for row in rows:
            entry = {name: index[name][row].item() for name in ("units_at", "units", "frames_at", "frames")}
            said = {"id": utterance_id(row), "speaker": f"{row % SPEAKERS:05d}", "split": splits[index["split"][row]]}
            lines.append(json.dumps({**said, "true_end": bool(index["true_end"][row]), **entry}) + "\n")
        path = folder / "parts" / f"rank{part}-0000.jsonl"
        path.write_text("".join(lines))
        sparse(path.with_suffix(".units"), 2 * int(index["units"][rows].sum()))
        sparse(path.with_suffix(".codes"), 24 * int(index["frames"][rows].sum()))
    return {}


def continue_(options: argparse.Namespace) -> dict[str, Any]:
    """What a continued run asks first: which utterances are there."""
    seconds = best_seconds(lambda: written_ids(unsealed_folder(options)), repeats=1)
    return {"s": round(seconds, 2), "us_per_utterance": round(seconds / options.seal_utterances * 1e6, 2)}


def sealing(options: argparse.Namespace) -> dict[str, Any]:
    """Sealing."""
    ids = map(utterance_id, range(options.seal_utterances))
    seconds = best_seconds(lambda: seal(unsealed_folder(options), expected=ids), repeats=1)
    return {"s": round(seconds, 2), "us_per_utterance": round(seconds / options.seal_utterances * 1e6, 2)}


def append(options: argparse.Namespace) -> dict[str, Any]:
    """Writing utterances of 54 s, one after the other, each safe before the next."""
    folder = Path(options.folder) / f"written-{time.time_ns()}"
    create_store(folder, SPEC, {})
    units = torch.zeros(54 * 25, dtype=torch.int64)
    codes = torch.zeros(12, 54 * 50, dtype=torch.int64)
    count = 500
    with TokenStoreWriter(folder) as writer:
        started = time.perf_counter()
        for number in range(count):
            writer.append(id=str(number), speaker="s", split="train", true_end=True, units=units, codes=codes)
        seconds = time.perf_counter() - started
    return {"ms_per_utterance": round(seconds / count * 1e3, 3)}


def manifest_path(options: argparse.Namespace) -> Path:
    """The manifest."""
    return Path(options.folder) / "chain" / "manifest.jsonl"


def synthetic_utterances(count: int) -> Iterator[Utterance]:
    """Pieces of recordings, 20 of each."""
    splits, lengths = list(SPLITS), np.random.default_rng(0).integers(48 * 16000, 60 * 16000 + 1, count)
    for number, split in enumerate(np.repeat(split_numbers(-(-count // 20)), 20)[:count]):
        id_ = utterance_id(number)
        yield Utterance(
            id=id_, path=f"{id_.partition('@')[0]}.flac", speaker=f"{number // 20 % SPEAKERS:05d}", split=splits[split],  # type: ignore[arg-type]
            start=number % 20 * 60 * 16000, samples=int(lengths[number]), sample_rate_hz=16000, true_end=number % 2 == 0,
            dc_offset=(number % 997) / 1e6,
        )  # fmt: skip


def write_manifest_(options: argparse.Namespace) -> dict[str, Any]:
    """Writing the manifest, as `audiolm prepare` does when it has looked at every file."""
    path = manifest_path(options)
    if path.exists():
        return {}
    manifest = Manifest(Path("/corpus"), Utterances.of(synthetic_utterances(options.utterances)))
    seconds = best_seconds(lambda: write_manifest(manifest, path), repeats=1)
    columns = sum(file.stat().st_size for file in path.parent.glob("*.columns/*"))
    return {
        "s": round(seconds, 1),
        "text_gb": round(path.stat().st_size / 2**30, 3),
        "columns_gb": round(columns / 2**30, 3),
    }


def read_manifest_(options: argparse.Namespace) -> dict[str, Any]:
    """Reading, its digest, the training split and its total: what every process of an audio stage does."""
    path = manifest_path(options)
    forget(path.parent)
    cold = best_seconds(lambda: read_manifest(path), repeats=1)
    warm = best_seconds(lambda: read_manifest(path), repeats=max(1, options.repeats // 2))
    manifest = read_manifest(path)
    digest = best_seconds(lambda: manifest.digest, repeats=1)
    return {"cold_s": round(cold, 2), "warm_s": round(warm, 2), "digest_s": round(digest, 2)}


def crops_manifest(options: argparse.Namespace) -> dict[str, Any]:
    """The data sets of an audio stage: training and validation crops of 1 s made, and training crops drawn."""
    from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops

    manifest = read_manifest(manifest_path(options))
    reader = CropReader(manifest, sample_rate_hz=16000, window_samples=16000)
    started = time.perf_counter()
    training = TrainingCrops(reader, manifest.split("train"), batch_size=options.batch, seed=0)
    made = time.perf_counter()
    ValidationCrops(reader, manifest.split("validation"), batch_size=options.batch)
    validation = time.perf_counter()
    reader.read = lambda utterance, offset: torch.zeros(16000)  # type: ignore[method-assign]
    batch = best_seconds(lambda: training[0], repeats=options.repeats) / options.batch
    figures = {"training_s": made - started, "validation_s": validation - made, "draw_us": batch * 1e6}
    return {name: round(figure, 3) for name, figure in figures.items()}


def text_manifest(options: argparse.Namespace) -> dict[str, Any]:
    """Reading the text alone, without its columns."""
    path = manifest_path(options)
    alone = path.with_name("alone.jsonl")
    if not alone.exists():
        alone.hardlink_to(path)
    return {"s": round(best_seconds(lambda: read_manifest(alone), repeats=1), 1)}


CASES = {
    "make-store": make_store, "open": open_store, "windows": windows, "read": read, "long": long, "worker": worker,
    "make-unsealed": make_unsealed, "continue": continue_, "seal": sealing, "append": append,
    "write-manifest": write_manifest_, "read-manifest": read_manifest_, "text-manifest": text_manifest,
    "crops-manifest": crops_manifest,
}  # fmt: skip
