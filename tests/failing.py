"""What goes wrong inside the processes of tests/long."""

import os
import time
from typing import Any

import lightning as L


class Fails(L.Callback):
    """Raises on one process while the others wait."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            raise ZeroDivisionError("the fault of this test")


class StaysAway(L.Callback):
    """The second process does not come to the third step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 2:
            time.sleep(600)


class Asked(L.Callback):
    """The first process, and only that one, is sent a signal when a step or an utterance begins."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_rank == 0 and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def on_predict_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if trainer.global_rank == 0 and batch_idx + 1 == self.step:
            os.kill(os.getpid(), self.number)
