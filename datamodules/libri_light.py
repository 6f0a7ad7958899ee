"""The DataModule that every stage shares."""

import os
from collections.abc import Iterator, Sized
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiolm.manifest import Manifest, Split, read_manifest
from audiolm.tokens.store import TokenStore
from datamodules.sampling import BatchNumbers, EveryNth
from datamodules.sharing import Share, data_parallel, micro_batches
from datamodules.unreadable import UnreadableFiles
from datamodules.views import VIEWS
from datamodules.waveforms import CropReader
from datamodules.workers import outlast_signals, usable_cores


class LibriLightDataModule(L.LightningDataModule):
    """Libri-Light (or any corpus that `audiolm prepare` listed), in the view that a stage needs.

    What a batch holds is a function of the seed and the number of the batch: workers, restarts and validations in between
    change nothing. The stage that trains says what only it knows: the sample rate (audio stages) or the layout (language
    models).

    Args:
        view: "waveform" gives `WaveformBatch`es of random crops; "utterances" whole utterances, for tokenizing; "tokens"
            gives `TokenBatch`es of aligned windows from the token store; "prompts" gives `PromptBatch`es of recordings to
            be spoken on from; "labelled" `LabelledBatch`es of the stage's own recordings, whose class is known; "transcribed"
            `TranscribedBatch`es of whole utterances and their letters.
        window_seconds: length of a crop or window. Shorter utterances are used whole. Transcribed: no longer utterances.
        batch_size: windows per step of the whole run, whatever the number of processes, which share them evenly. Of prompts:
            per process.
        micro_batch_size: windows that a process has in memory at once at most; it adds up gradients until its share of a step is
            done. By default the whole share. How, not what: it may be changed while a stage trains.
        root: the folder of the chain.
        manifest: the list of utterances; by default `<root>/manifest.jsonl`, which `audiolm prepare` writes.
        tokens: the token store; by default `<root>/tokens`, which the tokenize stage writes.
        transcripts: file or folder of transcripts; by default those that came with the corpus.
        split: of the manifest, for prompts where the stage names no folder of recordings.
        workers: processes that read ahead; by default two less than the cores it may use, at most 8: on two cores the
            trainer reads by itself, because a worker would only take the time of its threads.
        max_unreadable_share: of the corpus's files that may be damaged or vanish while a stage trains. Other crops are drawn
            in their place, they are listed in `<root>/<stage>/unreadable.jsonl`; past this share the run stops. One file may
            always, unless the share is 0.

    Raises:
        FileNotFoundError: if manifest or token store are not there, naming the command that writes them.
    """

    def __init__(
        self,
        *,
        view: Literal["waveform", "utterances", "tokens", "prompts", "labelled", "transcribed"],
        window_seconds: float = 30.0,
        batch_size: int = 1,
        micro_batch_size: int | None = None,
        root: str = "checkpoints",
        manifest: str | None = None,
        tokens: str | None = None,
        transcripts: str | None = None,
        split: Split = "test",
        workers: int | None = None,
        max_unreadable_share: float = 0.01,
    ) -> None:
        super().__init__()
        if window_seconds <= 0 or min(batch_size, micro_batch_size or 1) < 1 or (workers is not None and workers < 0):
            raise ValueError(
                "window_seconds must be positive, batch_size and micro_batch_size at least 1 and workers at least 0, got "
                f"{window_seconds}, {batch_size}, {micro_batch_size} and {workers}"
            )
        if not 0 <= max_unreadable_share <= 1:
            raise ValueError(f"max_unreadable_share must be 0 to 1, got {max_unreadable_share}")
        self.max_unreadable_share = max_unreadable_share
        self.window_seconds, self.batch_size, self.split = window_seconds, batch_size, split
        self.manifest_path = Path(manifest) if manifest else Path(root) / "manifest.jsonl"
        self.tokens_path = Path(tokens) if tokens else Path(root) / "tokens"
        self.transcripts_path = Path(transcripts) if transcripts else None
        self.workers = min(8, max(0, usable_cores() - 2)) if workers is None else workers
        self.micro_batch_size = micro_batch_size
        self.micro_batches = 1  # of a process's share of a step; `share_steps` finds out
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer utterances left than processes
        self.steps_done = 0
        self._view = VIEWS[view](self)

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

    @property
    def stage(self) -> Any:
        """The LightningModule that asks for the data."""
        return self._trainer.lightning_module

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def trains_on_audio(self) -> bool:
        """Whether recordings are read while a stage trains: some may vanish."""
        return self._view.trains_on_audio

    def sources(self) -> dict[str, str]:
        """Digests of what the stage is made from that it does not name itself, by name."""
        return self._view.sources()

    def setup(self, stage: str) -> None:
        """Read the manifest or open the store, so that what is missing is said before anything starts."""
        self._view.check()
        if self.trains_on_audio:
            if self._trainer.global_rank == 0:
                self.unreadable.forget_those_that(self._view.is_readable)
            self._trainer.strategy.barrier()

    @property
    def unreadable(self) -> UnreadableFiles:
        """The files that cannot be read any more since the stage began."""
        if not hasattr(self, "_unreadable"):
            self._unreadable = UnreadableFiles(
                self.stage.folder / "unreadable.jsonl",
                files=self._view.files(),
                max_share=self.max_unreadable_share,
            )
        return self._unreadable

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Name and list what a batch's reader, perhaps another process, could not read."""
        if self.trains_on_audio:
            self.unreadable.note(batch.unreadable)
        return batch

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless random windows, from where the run stopped on."""
        first, total = (steps * self.micro_batches for steps in (self.steps_done, self._steps_in_all()))
        return self._loader(self._view.training(), BatchNumbers(first=first, total=total))

    def share_steps(self) -> int:
        """Find out how this process's share of a step is cut into micro-batches: how many there are.

        Raises:
            ValueError: if the batch cannot be shared evenly.
        """
        ranks = data_parallel(self._trainer)[1]
        self.micro_batches = micro_batches(
            batch_size=self.batch_size, micro_batch_size=self.micro_batch_size, ranks=ranks
        )
        return self.micro_batches

    @property
    def share(self) -> Share:
        """The rows of every batch that are this process's."""
        return Share(*data_parallel(self._trainer), self.micro_batches)

    def training_batches(self) -> Iterator[Any]:
        """This process's training batches from the first on, read as they are asked for: to measure statistics on."""
        dataset = self._view.training()
        return (self.on_before_batch_transfer(dataset[number], 0) for number in count())

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, every rank its share."""
        dataset = self.validation_dataset()
        return self._loader(dataset, BatchNumbers(total=len(dataset)))

    def validation_dataset(self) -> Any:
        """The validation split, in batches of the training's size, of which this process reads its share."""
        return self._view.validation()

    def validation_clips(self, *, count: int, seconds: float, sample_rate_hz: int) -> list[Tensor]:
        """The beginnings of `count` validation utterances (fewer if there are no more), (samples,) each: to listen to."""
        reader = CropReader(
            self.manifest, sample_rate_hz=sample_rate_hz, window_samples=round(seconds * sample_rate_hz)
        )
        clips = []
        for clip, unreadable in reader.beginnings(self.manifest.split("validation"), count=count):
            self.unreadable.note(unreadable)
            clips.append(clip)
        return clips

    def predict_dataloader(self) -> DataLoader[Any]:
        """What the stage has not finished yet, every rank its share."""
        dataset = self._view.prediction()
        ours = EveryNth(rank=self._trainer.global_rank, ranks=self._trainer.world_size, total=len(cast(Sized, dataset)))
        return self._loader(dataset, ours)

    def state_dict(self) -> dict[str, int]:
        """Whole steps done in this run, for the checkpoint; and in how many pieces each was read."""
        progress = self._trainer.fit_loop.epoch_loop.batch_progress
        steps = int(progress.total.processed) // self.micro_batches  # type: ignore[attr-defined]
        return {"steps_done": steps, "micro_batches": self.micro_batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the steps that a checkpoint has seen, on however many processes."""
        self.steps_done = state_dict["steps_done"]

    @property
    def _trainer(self) -> L.Trainer:
        assert self.trainer is not None, "loaders are made by a trainer"
        return self.trainer

    def _steps_in_all(self) -> int:
        """Steps until the trainer's last one; one pass over the corpus where it counts epochs."""
        if self._trainer.max_steps > 0:
            return self._trainer.max_steps
        return max(1, self._view.windows() // self.batch_size)

    def _loader(self, dataset: Dataset[Any], sampler: Sampler[int]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=outlast_signals,
            pin_memory=self._trainer.strategy.root_device.type == "cuda",
        )
