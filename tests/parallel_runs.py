"""What runs inside the processes of `test_parallel.py`."""

from typing import Any

import lightning as L


class StopAfterFour(L.Callback):
    """Ends a run after its fourth step, as if its time were up."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.should_stop = True
