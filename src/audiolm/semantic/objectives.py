"""What the encoder is trained to do: w2v-BERT's two tasks, or predicting given units behind a mask (BEST-RQ, HuBERT)."""

import abc
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm.semantic.conformer import SUBSAMPLING, ConformerEncoder
from audiolm.semantic.contrastive import contrastive_loss
from audiolm.semantic.gumbel import GumbelQuantizer, annealed_temperature, diversity_loss
from audiolm.semantic.masking import span_mask
from audiolm.semantic.random_projection import RandomProjectionQuantizer


@dataclass(frozen=True)
class W2vBertConfig:
    """w2v-BERT's task.

    Args:
        codes: codebook size.
        code_dim: of the quantized vectors that contexts are compared with.
        mask_probability: of a span of ten frames (400 ms) to begin at a frame.
        distractors: wrong answers per masked frame.
        contrastive_temperature: of the contrastive loss.
        contrastive, diversity, prediction: weights of the three losses.
        gumbel_decay: of the Gumbel softmax's temperature, per step, from 2 to 0.5.

    Source: w2v-BERT (arXiv 2108.06209), sections III-B and III-C.
    """

    codes: int = 1024
    code_dim: int = 1024
    mask_probability: float = 0.065
    distractors: int = 100
    contrastive_temperature: float = 0.1
    contrastive: float = 1.0
    diversity: float = 0.1
    prediction: float = 1.0
    gumbel_decay: float = 0.999995

    def __post_init__(self) -> None:
        _check_codes(self.codes, self.mask_probability)


@dataclass(frozen=True)
class BestRqConfig:
    """BEST-RQ's task.

    Args:
        codes: codebook size.
        code_dim: of the random projection.
        seed: of projection and codes.
        mask_probability: of a span of ten frames (400 ms) to begin at a frame; 0.01 per 10 ms in the paper.
        noise: deviation of the noise that takes the place of masked spectra.

    Source: BEST-RQ (arXiv 2202.01855), sections 3 and 4.
    """

    codes: int = 8192
    code_dim: int = 16
    seed: int = 0
    mask_probability: float = 0.04
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check_codes(self.codes, self.mask_probability)


def _check_codes(codes: int, mask_probability: float) -> None:
    if codes < 2 or not 0 < mask_probability < 1:
        raise ValueError(
            f"codes must be at least 2 and mask_probability between 0 and 1, got {codes} and {mask_probability}"
        )


@dataclass(frozen=True)
class Pretraining:
    """One batch's outcome.

    Attributes:
        loss: what to minimise.
        parts: its terms and measures by name, scalars without gradient.
        ids: (frames,) int64: target codes of the masked frames, whose use is watched.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    ids: Tensor


class Objective(nn.Module, abc.ABC):
    """A self-supervised task around a `ConformerEncoder`; its own parameters are not needed after training.

    Attributes:
        codes: how many different targets there are.
    """

    codes: int

    @abc.abstractmethod
    def forward(
        self, encoder: ConformerEncoder, heard: Tensor, clean: Tensor, inside: Tensor, *, step: int
    ) -> Pretraining:
        """Mask, encode and compare.

        Args:
            encoder: the network to train.
            heard: (batch, 4 frames, bins) normalised spectra, augmented: what the encoder gets to hear.
            clean: the same spectra as they were: what targets are made of.
            inside: (batch, frames) bool: frames that are real.
            step: steps done, for schedules.
        """


class W2vBertObjective(Objective):
    """Contrastive task on the first module's outputs, masked prediction of the same codes on the second module's.

    Source: w2v-BERT (arXiv 2108.06209), section III-C: loss = contrastive + 0.1 diversity + masked prediction.
    """

    def __init__(self, config: W2vBertConfig, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.config, self.codes = config, config.codes
        self.quantizer = GumbelQuantizer(dim=encoder.dim, codes=config.codes, code_dim=config.code_dim)
        self.context = nn.Linear(encoder.dim, config.code_dim)
        self.head = nn.Linear(encoder.dim, config.codes)

    def forward(
        self, encoder: ConformerEncoder, heard: Tensor, clean: Tensor, inside: Tensor, *, step: int
    ) -> Pretraining:
        """See `Objective.forward`. Masked latents are replaced by random vectors."""
        first = encoder.config.contrastive_layers
        masked = span_mask(inside, probability=self.config.mask_probability)
        latents = encoder.subsampling(heard, inside)
        target_latents = latents if heard is clean else encoder.subsampling(clean, inside)
        blind = torch.where(masked[..., None], torch.randn_like(latents), latents)
        contrastive, *_ = reversed(encoder.run_blocks(blind, inside, range(first)))
        predicted = encoder.run_blocks(contrastive, inside, range(first, encoder.layers))[-1]
        temperature = annealed_temperature(step, decay=self.config.gumbel_decay)
        vectors, ids, shares = self.quantizer(target_latents[inside], temperature=temperature)
        loss, accuracy = self._contrast(contrastive, vectors, ids, masked, inside)
        targets = ids[masked[inside]]
        scores = self.head(predicted[masked]).float()
        terms = {
            "contrastive": loss,
            "diversity": diversity_loss(shares),
            "prediction": F.cross_entropy(scores, targets),
        }
        parts = {name: term.detach() for name, term in terms.items()}
        parts |= {"contrastive_accuracy": accuracy, "accuracy": _accuracy(scores, targets)}
        total = torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()
        return Pretraining(total, parts, targets)

    def _contrast(
        self, context: Tensor, vectors: Tensor, ids: Tensor, masked: Tensor, inside: Tensor
    ) -> tuple[Tensor, Tensor]:
        every_vector = vectors.new_zeros(*inside.shape, vectors.shape[-1]).masked_scatter(inside[..., None], vectors)
        every_id = ids.new_zeros(inside.shape).masked_scatter(inside, ids)
        return contrastive_loss(
            self.context(context),
            every_vector,
            every_id,
            masked,
            distractors=self.config.distractors,
            temperature=self.config.contrastive_temperature,
        )


class BestRqObjective(Objective):
    """Predict the random-projection codes of masked frames; the mask replaces spectra by noise."""

    def __init__(self, config: BestRqConfig, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.config, self.codes = config, config.codes
        self.quantizer = RandomProjectionQuantizer(
            bins=encoder.config.mel_bins, codes=config.codes, code_dim=config.code_dim, seed=config.seed
        )
        self.head = nn.Linear(encoder.dim, config.codes)

    def forward(
        self, encoder: ConformerEncoder, heard: Tensor, clean: Tensor, inside: Tensor, *, step: int
    ) -> Pretraining:
        """See `Objective.forward`."""
        config = self.config
        masked = span_mask(inside, probability=config.mask_probability)
        last = hear_masked(encoder, heard, masked, inside, noise=config.noise)
        return predict(self.head, last[masked], self.quantizer(clean)[masked])


def hear_masked(encoder: ConformerEncoder, heard: Tensor, masked: Tensor, inside: Tensor, *, noise: float) -> Tensor:
    """The last block's output (batch, frames, dim) where masked frames' spectra are noise."""
    fine = masked.repeat_interleave(SUBSAMPLING, 1)[..., None]
    latents = encoder.subsampling(torch.where(fine, noise * torch.randn_like(heard), heard), inside)
    return encoder.run_blocks(latents, inside, range(encoder.layers))[-1]


def predict(head: nn.Module, hidden: Tensor, targets: Tensor) -> Pretraining:
    """Cross-entropy of targets (frames,) given hidden states (frames, dim)."""
    scores = head(hidden).float()
    loss = F.cross_entropy(scores, targets)
    return Pretraining(loss, {"prediction": loss.detach(), "accuracy": _accuracy(scores, targets)}, targets)


def _accuracy(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores.argmax(-1) == targets).float().mean()
