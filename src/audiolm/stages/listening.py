"""Reconstructions of a few validation utterances, at every validation: to listen to, and to look at."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from audiolm.audio import write_audio
from audiolm.evaluation.spectrograms import reconstructions_picture
from audiolm.files import atomic_path

CLIPS, SECONDS = 3, 4.0


class ListeningLog(L.Callback):
    """Writes `<stage>/listening/`: `clip-1-original.flac` …, and per validation `clip-1-step-00000500.flac` … and
    `step-00000500.png`, their spectrograms below the originals'. Loggers that take audio and figures (TensorBoard) get them too.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Reconstruct and write; the first process does."""
        clips = getattr(getattr(trainer, "datamodule", None), "validation_clips", None)
        if clips is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        rate, step = pl_module.sample_rate_hz, trainer.global_step
        originals = clips(count=CLIPS, seconds=SECONDS, sample_rate_hz=rate)
        training = pl_module.model.training
        pl_module.model.eval()
        with torch.no_grad(), torch.autocast(pl_module.device.type, enabled=False):
            estimates = [pl_module.listen(clip[None].to(pl_module.device))[0].float().cpu() for clip in originals]
        pl_module.model.train(training)
        folder = pl_module.folder / "listening"
        for number, (original, estimate) in enumerate(zip(originals, estimates, strict=True), start=1):
            if not (path := folder / f"clip-{number}-original.flac").exists():
                write_audio(path, original, sample_rate_hz=rate)
            write_audio(folder / f"clip-{number}-step-{step:08}.flac", estimate, sample_rate_hz=rate)
        _write_picture(folder / f"step-{step:08}.png", originals, estimates, rate)
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_audio"):
                for number, estimate in enumerate(estimates, start=1):
                    experiment.add_audio(f"listening/clip-{number}", estimate[None], step, sample_rate=rate)


def _write_picture(path: Path, originals: list[Tensor], estimates: list[Tensor], rate: int) -> None:
    pairs = [(original.numpy(), estimate.numpy()) for original, estimate in zip(originals, estimates, strict=True)]
    with atomic_path(path) as temporary:
        temporary.write_bytes(reconstructions_picture(pairs, sample_rate_hz=rate))
