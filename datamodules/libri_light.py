"""The DataModule that every stage shares."""

import os
from collections.abc import Iterator, Sized
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiolm.evaluation.labelled import CROP_SECONDS, LabelledClips
from audiolm.manifest import Manifest, Split, Utterance, read_manifest
from audiolm.tokens.store import TokenStore
from audiolm.tokens.windows import Windows
from datamodules.labelled import LabelledTrainingCrops, LabelledValidationCrops, is_readable
from datamodules.prompts import PromptBatches
from datamodules.sampling import BatchNumbers, EveryNth
from datamodules.sharing import Share, data_parallel, micro_batches
from datamodules.token_windows import TrainingWindows, ValidationWindows
from datamodules.unreadable import Unreadable, UnreadableFiles, first_readable
from datamodules.waveforms import CropReader, TrainingCrops, ValidationCrops, WholeUtterances
from datamodules.workers import outlast_signals, usable_cores

OF_THE_STAGE = ("prompts", "labelled")  # views of what the stage names, and not the manifest or the token store
CROPS = ("waveform", "labelled")  # views of which some files may be unreadable


class LibriLightDataModule(L.LightningDataModule):
    """Libri-Light (or any corpus that `audiolm prepare` listed), in the view that a stage needs.

    What a batch holds is a function of the seed and the number of the batch: workers, restarts and validations in between
    change nothing. The stage that trains says what only it knows: the sample rate (audio stages) or the layout (language
    models).

    Args:
        view: "waveform" gives `WaveformBatch`es of random crops; "utterances" whole utterances, for tokenizing; "tokens"
            gives `TokenBatch`es of aligned windows from the token store; "prompts" gives `PromptBatch`es of recordings to
            be spoken on from; "labelled" `LabelledBatch`es of the stage's own recordings, whose class is known.
        window_seconds: length of a crop or window. Shorter utterances are used whole.
        batch_size: windows per step of the whole run, whatever the number of processes, which share them evenly. Of prompts:
            per process.
        micro_batch_size: windows that a process has in memory at once at most; it adds up gradients until its share of a step is
            done. By default the whole share. How, not what: it may be changed while a stage trains.
        root: the folder of the chain.
        manifest: the list of utterances; by default `<root>/manifest.jsonl`, which `audiolm prepare` writes.
        tokens: the token store; by default `<root>/tokens`, which the tokenize stage writes.
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
        view: Literal["waveform", "utterances", "tokens", "prompts", "labelled"],
        window_seconds: float = 30.0,
        batch_size: int = 1,
        micro_batch_size: int | None = None,
        root: str = "checkpoints",
        manifest: str | None = None,
        tokens: str | None = None,
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
        self.view, self.window_seconds, self.batch_size, self.split = view, window_seconds, batch_size, split
        self.manifest_path = Path(manifest) if manifest else Path(root) / "manifest.jsonl"
        self.tokens_path = Path(tokens) if tokens else Path(root) / "tokens"
        self.workers = min(8, max(0, usable_cores() - 2)) if workers is None else workers
        self.micro_batch_size = micro_batch_size
        self.micro_batches = 1  # of a process's share of a step; `share_steps` finds out
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer utterances left than processes
        self.steps_done = 0

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
        if self.view not in OF_THE_STAGE:  # which says what they are, and may name a folder
            _ = self.store if self.view == "tokens" else self.manifest
        if self.view == "labelled" and self.window_seconds != CROP_SECONDS:
            raise ValueError(f"A classifier hears {CROP_SECONDS:g} s at once: window_seconds is {self.window_seconds}")
        if self.view in CROPS:
            if self._trainer.global_rank == 0:
                self.unreadable.forget_those_that(self._is_readable)
            self._trainer.strategy.barrier()

    @property
    def unreadable(self) -> UnreadableFiles:
        """The files that cannot be read any more since the stage began."""
        if not hasattr(self, "_unreadable"):
            self._unreadable = UnreadableFiles(
                cast(Any, self._trainer.lightning_module).folder / "unreadable.jsonl",
                files=len({clip.path for clip in self._labelled.clips})
                if self.view == "labelled"
                else self.manifest.utterances.files,
                max_share=self.max_unreadable_share,
            )
        return self._unreadable

    def _is_readable(self, one: Unreadable) -> bool:
        if self.view == "labelled":
            of_path = [clip for clip in self._labelled.clips if str(clip.path) == one.path]
            return all(is_readable(clip) for clip in of_path)
        of_file = self.manifest.utterances.of_file(one.path)
        whole = WholeUtterances(self.manifest, of_file, sample_rate_hz=self._sample_rate_hz)
        return all(not whole[number].defect for number in range(len(whole)))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Name and list what a batch's reader, perhaps another process, could not read."""
        if self.view in CROPS:
            self.unreadable.note(batch.unreadable)
        return batch

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless random windows, from where the run stopped on."""
        dataset: Dataset[Any]
        if self.view == "tokens":
            windows = self._windows("train")
            dataset = TrainingWindows(
                windows, self._layout, batch_size=self.batch_size, seed=self._seed, share=self.share
            )
        elif self.view == "labelled":
            dataset = LabelledTrainingCrops(
                self._labelled.part(held_out=False),
                sample_rate_hz=self._sample_rate_hz,
                batch_size=self.batch_size,
                seed=self._seed,
                share=self.share,
            )
        else:
            dataset = self._training_crops()
        first, total = (steps * self.micro_batches for steps in (self.steps_done, self._steps_in_all()))
        return self._loader(dataset, BatchNumbers(first=first, total=total))

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

    def _training_crops(self) -> TrainingCrops:
        utterances = self.manifest.split("train")
        return TrainingCrops(self._reader, utterances, batch_size=self.batch_size, seed=self._seed, share=self.share)

    def training_batches(self) -> Iterator[Any]:
        """This process's training batches from the first on, read as they are asked for: to measure statistics on."""
        dataset = self._training_crops()
        return (self.on_before_batch_transfer(dataset[number], 0) for number in count())

    def val_dataloader(self) -> DataLoader[Any]:
        """The whole validation split, every rank its share."""
        dataset = self.validation_dataset()
        return self._loader(dataset, BatchNumbers(total=len(dataset)))

    def validation_dataset(self) -> ValidationWindows | ValidationCrops | LabelledValidationCrops:
        """The validation split, in batches of the training's size, of which this process reads its share."""
        if self.view == "tokens":
            windows = self._windows("validation")
            return ValidationWindows(windows, self._layout, batch_size=self.batch_size, share=self.share)
        if self.view == "labelled":
            held_out, rate = self._labelled.part(held_out=True), self._sample_rate_hz
            return LabelledValidationCrops(held_out, sample_rate_hz=rate, batch_size=self.batch_size, share=self.share)
        utterances = self.manifest.split("validation")
        return ValidationCrops(self._reader, utterances, batch_size=self.batch_size, share=self.share)

    def validation_clips(self, *, count: int, seconds: float, sample_rate_hz: int) -> list[Tensor]:
        """The beginnings of `count` validation utterances (fewer if there are no more), (samples,) each: to listen to."""
        utterances = self.manifest.split("validation")
        apart = max(1, len(utterances) // count)
        reader = CropReader(
            self.manifest, sample_rate_hz=sample_rate_hz, window_samples=round(seconds * sample_rate_hz)
        )
        clips = []
        for first in range(0, len(utterances), apart)[:count]:

            def draw(attempt: int, first: int = first) -> tuple[Utterance, int]:
                return utterances[(first + attempt) % len(utterances)], 0

            clip, unreadable = first_readable(draw, reader.read, root=self.manifest.root)
            self.unreadable.note(unreadable)
            clips.append(clip)
        return clips

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
            return self._loader(batches, self._every_nth(batches))
        finished = stage.finished_utterances()
        todo = self.manifest.utterances.without(finished)
        whole = WholeUtterances(self.manifest, todo, sample_rate_hz=self._sample_rate_hz)
        return self._loader(whole, self._every_nth(whole))

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

    @property
    def _layout(self) -> Any:
        return self._trainer.lightning_module.layout

    @property
    def _sample_rate_hz(self) -> int:
        return cast(int, self._trainer.lightning_module.sample_rate_hz)

    @property
    def _labelled(self) -> LabelledClips:
        return cast(LabelledClips, cast(Any, self._trainer.lightning_module).labelled)

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def _reader(self) -> CropReader:
        rate = self._sample_rate_hz
        return CropReader(self.manifest, sample_rate_hz=rate, window_samples=round(self.window_seconds * rate))

    def _windows(self, split: str) -> Windows:
        return Windows(self.store, split=split, seconds=self.window_seconds)

    def _steps_in_all(self) -> int:
        """Steps until the trainer's last one; one pass over the corpus where it counts epochs."""
        if self._trainer.max_steps > 0:
            return self._trainer.max_steps
        if self.view == "tokens":
            windows = len(self._windows("train").all())
        else:
            labelled = self.view == "labelled"
            seconds = (
                self._labelled.part(held_out=False).seconds
                if labelled
                else float(self.manifest.split("train").seconds.sum())
            )
            windows = round(seconds / self.window_seconds)
        return max(1, windows // self.batch_size)

    def _every_nth(self, dataset: Sized) -> EveryNth:
        return EveryNth(rank=self._trainer.global_rank, ranks=self._trainer.world_size, total=len(dataset))

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
