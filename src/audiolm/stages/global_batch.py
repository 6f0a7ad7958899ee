"""The batch of a step is what the configuration says, whatever the number of processes."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from datamodules.sharing import data_parallel


def share_batches(trainer: L.Trainer, module: L.LightningModule, datamodule: Any) -> None:
    """Derive from the batch size how many gradients a process adds up per step, and count everything else in steps.

    Numbers of batches in the configuration (`val_check_interval`, `limit_val_batches`, …) mean batches of a step; a process that
    reads them in pieces reads more of them.

    Raises:
        ValueError: if the batch cannot be shared evenly, `accumulate_grad_batches` is given as well, or the stage takes no
            pieces.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but it is derived here: data.init_args."
            f"batch_size ({datamodule.batch_size}) are the windows per step over all processes, and data.init_args."
            "micro_batch_size those that a process has in memory at once. Set the latter instead."
        )
    datamodule.trainer = trainer
    pieces = datamodule.share_steps()
    if pieces > 1 and not (module.automatic_optimization and getattr(module, "takes_pieces", True)):
        raise ValueError(
            f"{type(module).__name__} does not add up gradients: it takes its whole share of a step at once, but data.init_args."
            f"micro_batch_size ({datamodule.micro_batch_size}) cuts it into {pieces} pieces. Set it to null; if memory does not "
            "suffice, use more processes, or a smaller data.init_args.batch_size (which starts the stage afresh)."
        )
    trainer.accumulate_grad_batches = pieces
    for name in ("val_check_interval", "limit_train_batches", "limit_val_batches"):
        value = getattr(trainer, name)
        if isinstance(value, int):  # a share of all batches is one of all pieces
            setattr(trainer, name, value * pieces)
    ranks = data_parallel(trainer)[1]
    rows = datamodule.batch_size // ranks // pieces
    rank_zero_info(
        f"A step: {datamodule.batch_size} windows = {ranks} process{'es' if ranks > 1 else ''} x {pieces} x {rows} (processes x "
        "accumulated batches x windows at once)."
    )


def recount_batches(checkpoint: dict[str, Any], pieces: int) -> None:
    """Count the batches in a trainer's checkpoint as a run does that reads a step in `pieces`.

    A checkpoint that was saved inside a step goes back to the beginning of that step: gradients are not saved. One that was
    saved in the hooks at the end of a step comes before Lightning has counted that step for the log; it is counted here,
    because Lightning knows such a checkpoint by its last batch, which is completed here.
    """
    read_in = checkpoint.get("LibriLightDataModule", {}).get("micro_batches", 1)
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    batches = loops.get("epoch_loop.batch_progress", {})
    total = batches.get("total", {})
    processed = total.get("processed", 0)
    if processed and processed % read_in == 0 and total.get("completed") == processed - 1:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    for name in ("total", "current"):
        counts = batches.get(name, {})
        whole = counts.get("processed", 0) // read_in * pieces
        counts.update({what: whole for what in ("ready", "started", "processed", "completed") if what in counts})
