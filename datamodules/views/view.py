"""What every view of the corpus answers to the DataModule."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from torch.utils.data import Dataset

from datamodules.unreadable import Unreadable

if TYPE_CHECKING:
    from datamodules.libri_light import LibriLightDataModule


class View(abc.ABC):
    """What a stage takes from the corpus.

    A view to train on answers `training`, `validation` and `windows`, one to predict with `prediction`; where recordings are
    read while a stage trains, also `files` and `is_readable`. Nothing is read before it is asked for.

    Args:
        data: whose settings and stage the view goes by.
    """

    name: ClassVar[str]
    trains_on_audio: ClassVar[bool] = False  # whether recordings are read while a stage trains: some may vanish

    def __init__(self, data: LibriLightDataModule) -> None:
        self.data = data

    @abc.abstractmethod
    def check(self) -> None:
        """Open what will be read, so that what is missing is said before anything starts.

        Raises:
            FileNotFoundError: naming the command that writes it.
            ValueError: if the settings do not fit the view.
        """

    def sources(self) -> dict[str, str]:
        """Digests of what this view reads that the stage itself does not name, by name."""
        return {}

    def training(self) -> Dataset[Any]:
        """Endless random batches, of which this process reads its share; number n is a function of seed and n."""
        self._refuse("train on")

    def validation(self) -> Dataset[Any]:
        """The validation split once, in batches of the training's size, of which this process reads its share."""
        self._refuse("validate on")

    def prediction(self) -> Dataset[Any]:
        """What the stage has not finished yet."""
        self._refuse("predict from")

    def windows(self) -> int:
        """How many windows (crops, utterances) one pass over the training split has."""
        self._refuse("train on")

    def files(self) -> int:
        """How many files there are that may become unreadable."""
        self._refuse("train on")

    def is_readable(self, one: Unreadable) -> bool:
        """Whether all that is used of a file which was listed as unreadable can be read again."""
        self._refuse("train on")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"The {self.name} view gives nothing to {what}: set data.init_args.view to what the stage's file in stages/ has"
        )
