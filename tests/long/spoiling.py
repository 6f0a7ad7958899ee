"""Faults inside the processes of a run of two, as callbacks that a command line can name."""

import os
from typing import Any

import lightning as L


class RecordingsVanish(L.Callback):
    """Each process removes the recording that it is about to read for its third crop."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        from datamodules import waveforms

        read, calls = waveforms.read_audio, [0]

        def reading(path: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == 3 and os.path.exists(path):
                os.unlink(path)
            return read(path, **named)

        waveforms.read_audio = reading


class NanOnOneProcess(L.Callback):
    """The second process's loss of step 3 is NaN."""

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        original = pl_module.training_step

        def step(*arguments: Any) -> Any:
            loss = original(*arguments)
            return loss * float("nan") if trainer.global_rank == 1 and trainer.global_step == 3 else loss

        pl_module.training_step = step
