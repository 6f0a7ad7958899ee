"""The codec stage with a public codec: nothing is trained, its weights are put where later stages look for them."""

from typing import Any

import torch

from audiolm.codec.pretrained import PretrainedCodec
from audiolm.stages.base import StageModule


class PretrainedCodecStage(StageModule):
    """Writes `<root>/codec/best.ckpt`, weights included, so that every later stage works as with a codec trained here.

    A fit without batches: `trainer.limit_train_batches: 0`.

    Args:
        name: published name, or folder with a transformers model: EnCodec, DAC or Mimi.
        levels: how many of its levels to use, coarsest first; by default all, at most 32.

    Raises:
        FileNotFoundError, ValueError: as `PretrainedCodec.from_pretrained`.
    """

    stage = "codec"
    model: PretrainedCodec

    def __init__(self, *, name: str, levels: int | None = None, root: str = "checkpoints") -> None:
        super().__init__(root=root)
        self.automatic_optimization = False
        self.model = PretrainedCodec.from_pretrained(name, levels=levels)
        self.unused = torch.nn.Parameter(torch.zeros(()))  # DDP refuses a module without anything to train

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage would want."""
        return self.model.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`."""
        return self.model.config_dict()

    def configure_optimizers(self) -> None:
        """No gradients, no optimizer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning asks for one; without batches it is never called."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to validate either."""

    def on_fit_start(self) -> None:
        """Save the codec; the record of the stage is written when the fit ends."""
        self.trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=False)
