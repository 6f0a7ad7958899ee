"""The DataModule that every stage shares."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiolm.manifest import Manifest, Split, read_manifest
from audiolm.tokens.store import TokenStore
from audiolm.tokens.windows import Windows
from datamodules.prompts import PromptBatches
from datamodules.sampling import BatchNumbers
from datamodules.token_windows import TrainingWindows, ValidationWindows
from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops, WholeUtterances


class LibriLightDataModule(L.LightningDataModule):
    """Libri-Light (or any corpus that `audiolm prepare` listed), in the view that a stage needs.

    What a batch holds is a function of the seed and the number of the batch: workers, restarts and validations in between
    change nothing. The stage that trains says what only it knows: the sample rate (audio stages) or the layout (language
    models).

    Args:
        view: "waveform" gives `WaveformBatch`es of random crops; "utterances" whole utterances, for tokenizing; "tokens"
            gives `TokenBatch`es of aligned windows from the token store; "prompts" gives `PromptBatch`es of recordings to
            be spoken on from.
        window_seconds: length of a crop or window. Shorter utterances are used whole.
        batch_size: windows per step and process.
        root: the folder of the chain.
        manifest: the list of utterances; by default `<root>/manifest.jsonl`, which `audiolm prepare` writes.
        tokens: the token store; by default `<root>/tokens`, which the tokenize stage writes.
        split: of the manifest, for prompts where the stage names no folder of recordings.
        workers: processes that read ahead; by default two less than there are cores, at most 8: on two cores the trainer
            reads by itself, because a worker would only take the time of its threads.

    Raises:
        FileNotFoundError: if manifest or token store are not there, naming the command that writes them.
    """

    def __init__(
        self,
        *,
        view: Literal["waveform", "utterances", "tokens", "prompts"],
        window_seconds: float = 30.0,
        batch_size: int = 1,
        root: str = "checkpoints",
        manifest: str | None = None,
        tokens: str | None = None,
        split: Split = "test",
        workers: int | None = None,
    ) -> None:
        super().__init__()
        if window_seconds <= 0 or batch_size < 1 or (workers is not None and workers < 0):
            raise ValueError(
                "window_seconds must be positive, batch_size at least 1 and workers at least 0, got "
                f"{window_seconds}, {batch_size} and {workers}"
            )
        self.view, self.window_seconds, self.batch_size, self.split = view, window_seconds, batch_size, split
        self.manifest_path = Path(manifest) if manifest else Path(root) / "manifest.jsonl"
        self.tokens_path = Path(tokens) if tokens else Path(root) / "tokens"
        self.workers = min(8, max(0, (os.cpu_count() or 1) - 2)) if workers is None else workers
        self.batches_done = 0

    @property
    def manifest(self) -> Manifest:
        """The list of utterances."""
        if not hasattr(self, "_manifest"):
            self._manifest = read_manifest(self.manifest_path)
        return self._manifest

    @property
    def store(self) -> TokenStore:
        """The token store."""
        if not hasattr(self, "_store"):
            self._store = TokenStore(self.tokens_path)
        return self._store

    def setup(self, stage: str) -> None:
        """Read the manifest or open the store, so that what is missing is said before anything starts."""
        if self.view != "prompts":  # the stage says which they are, and may name a folder
            _ = self.store if self.view == "tokens" else self.manifest

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless random windows, from where the run stopped on."""
        dataset: Dataset[Any]
        if self.view == "tokens":
            dataset = TrainingWindows(self._windows("train"), self._layout, batch_size=self.batch_size, seed=self._seed)
        else:
            dataset = TrainingCrops(
                self._reader, self.manifest.split("train"), batch_size=self.batch_size, seed=self._seed
            )
        trainer = self._trainer
        batches = BatchNumbers(
            first=self.batches_done, total=self._batches_in_all(), rank=trainer.global_rank, ranks=trainer.world_size
        )
        return self._loader(dataset, batches)

    def training_batches(self) -> Iterator[Any]:
        """This process's training batches from the first on, read as they are asked for: to measure statistics on."""
        dataset = TrainingCrops(self._reader, self.manifest.split("train"), batch_size=self.batch_size, seed=self._seed)
        trainer = self._trainer
        return (dataset[number] for number in count(trainer.global_rank, trainer.world_size))

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, every rank its share."""
        return self._loader(self.validation_dataset(), None)

    def validation_dataset(self) -> ValidationWindows | ValidationCrops:
        """All validation batches, before they are divided among ranks."""
        if self.view == "tokens":
            return ValidationWindows(self._windows("validation"), self._layout, batch_size=self.batch_size)
        return ValidationCrops(self._reader, self.manifest.split("validation"), batch_size=self.batch_size)

    def validation_clips(self, *, count: int, seconds: float, sample_rate_hz: int) -> list[Tensor]:
        """The beginnings of `count` validation utterances (fewer if there are no more), (samples,) each: to listen to."""
        utterances = self.manifest.split("validation")
        chosen = utterances[:: max(1, len(utterances) // count)][:count]
        reader = CropReader(
            self.manifest, sample_rate_hz=sample_rate_hz, window_samples=round(seconds * sample_rate_hz)
        )
        return [reader.read(utterance, 0) for utterance in chosen]

    def predict_dataloader(self) -> DataLoader[Any]:
        """What the stage has not finished yet, every rank its share: prompts, or whole utterances of all splits."""
        stage = cast(Any, self._trainer.lightning_module)
        if self.view == "prompts":
            batches = PromptBatches(
                stage.prompts,
                unfinished=stage.unfinished,
                batch_size=self.batch_size,
                sample_rate_hz=self._sample_rate_hz,
                processes=self._trainer.world_size,
            )
            return self._loader(batches, None)
        finished = stage.finished_utterances()
        todo = self.manifest.utterances.without(finished)
        return self._loader(WholeUtterances(self.manifest, todo, sample_rate_hz=self._sample_rate_hz), None)

    def state_dict(self) -> dict[str, int]:
        """Batches done in this run, for the checkpoint."""
        return {"batches_done": int(self._trainer.fit_loop.epoch_loop.batch_progress.total.processed)}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that a checkpoint has seen."""
        self.batches_done = state_dict["batches_done"]

    @property
    def _trainer(self) -> L.Trainer:
        assert self.trainer is not None, "loaders are made by a trainer"
        return self.trainer

    @property
    def _layout(self) -> Any:
        return self._trainer.lightning_module.layout

    @property
    def _sample_rate_hz(self) -> int:
        return cast(int, self._trainer.lightning_module.sample_rate_hz)

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def _reader(self) -> CropReader:
        rate = self._sample_rate_hz
        return CropReader(self.manifest, sample_rate_hz=rate, window_samples=round(self.window_seconds * rate))

    def _windows(self, split: str) -> Windows:
        return Windows(self.store, split=split, seconds=self.window_seconds)

    def _batches_in_all(self) -> int:
        """Batches per process until the trainer's last step; one pass over the corpus where it counts epochs."""
        trainer = self._trainer
        if trainer.max_steps > 0:
            return trainer.max_steps * trainer.accumulate_grad_batches
        if self.view == "tokens":
            windows = len(self._windows("train").all())
        else:
            seconds = float(self.manifest.split("train").seconds.sum())
            windows = round(seconds / self.window_seconds)
        return max(1, windows // (self.batch_size * trainer.world_size))

    def _loader(self, dataset: Dataset[Any], sampler: Sampler[int] | None) -> DataLoader[Any]:
        if sampler is None:  # every batch exactly once, over all ranks
            rank, ranks = self._trainer.global_rank, self._trainer.world_size
            sampler = _Share(range(rank, len(dataset), ranks))  # type: ignore[arg-type]
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self._trainer.strategy.root_device.type == "cuda",
        )


class _Share(Sampler[int]):
    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __iter__(self) -> Any:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)
