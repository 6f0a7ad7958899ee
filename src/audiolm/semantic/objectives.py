"""What the encoder is trained to do: w2v-BERT's two tasks, or naming given units behind a mask (BEST-RQ, HuBERT)."""

import abc
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiolm.processes import ALONE, Draws, Processes
from audiolm.semantic.conformer import SUBSAMPLING, ConformerEncoder
from audiolm.semantic.contrastive import contrastive_loss
from audiolm.semantic.gumbel import GumbelQuantizer, annealed_temperature, diversity_loss
from audiolm.semantic.masking import span_mask
from audiolm.semantic.random_projection import RandomProjectionQuantizer
from audiolm.semantic.tokenizer import SemanticTokenizer


@dataclass(frozen=True)
class W2vBertConfig:
    """w2v-BERT's task.

    Args:
        codes: codebook size.
        code_dim: of the quantized vectors that contexts are compared with.
        mask_probability: of a masked span to begin at a frame.
        mask_frames: length of a span; 10 are 400 ms.
        distractors: wrong answers per masked frame.
        contrastive_temperature: of the contrastive loss.
        contrastive, diversity, prediction: weights of the three losses.
        gumbel_decay: of the Gumbel softmax's temperature, per step, from 2 to 0.5.

    Source: w2v-BERT (arXiv 2108.06209), sections III-B and III-C.
    """

    codes: int = 1024
    code_dim: int = 1024
    mask_probability: float = 0.065
    mask_frames: int = 10
    distractors: int = 100
    contrastive_temperature: float = 0.1
    contrastive: float = 1.0
    diversity: float = 0.1
    prediction: float = 1.0
    gumbel_decay: float = 0.999995

    def __post_init__(self) -> None:
        _check(self.codes, self.mask_probability, self.mask_frames)


@dataclass(frozen=True)
class BestRqConfig:
    """BEST-RQ's task.

    Args:
        codes: codebook size.
        code_dim: of the random projection.
        seed: of projection and codes.
        mask_probability: of a masked span to begin at a frame; 0.01 per 10 ms in the paper.
        mask_frames: length of a span; 10 are 400 ms.
        noise: deviation of the noise that takes the place of masked spectra.

    Source: BEST-RQ (arXiv 2202.01855), sections 3 and 4.
    """

    codes: int = 8192
    code_dim: int = 16
    seed: int = 0
    mask_probability: float = 0.04
    mask_frames: int = 10
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check(self.codes, self.mask_probability, self.mask_frames)


@dataclass(frozen=True)
class HubertConfig:
    """HuBERT's task.

    Args:
        tokenizer: checkpoint of a tokenizer stage at 25 Hz, fitted on an encoder that was trained before; by default, for a
            first round, units of MFCC, fitted when training starts.
        clusters: of the MFCC units.
        mask_probability: of a masked span to begin at a frame.
        mask_frames: length of a span; 10 are 400 ms.
        unmasked: weight of naming the frames that are not masked, relative to those that are.
        noise: deviation of the noise that takes the place of masked spectra.

    Source: HuBERT (arXiv 2106.07447), section II: predict k-means units of MFCC, cluster the result, and do it again.
    """

    tokenizer: str | None = None
    clusters: int = 100
    mask_probability: float = 0.065
    mask_frames: int = 10
    unmasked: float = 0.5
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check(self.clusters, self.mask_probability, self.mask_frames)
        if self.unmasked < 0:
            raise ValueError(f"unmasked must be at least 0, got {self.unmasked}")


def _check(codes: int, mask_probability: float, mask_frames: int) -> None:
    if codes < 2 or not 0 < mask_probability < 1 or mask_frames < 1:
        raise ValueError(
            "codes must be at least 2, mask_probability between 0 and 1 and mask_frames at least 1, got "
            f"{codes}, {mask_probability} and {mask_frames}"
        )


@dataclass(frozen=True)
class Hearing:
    """A batch as objectives see it.

    Attributes:
        audio: (batch, samples) float32 as it was recorded.
        samples: (batch,) int64: how many of them are real.
        clean: (batch, 4 frames, bins) its normalised spectra: what targets are made of.
        heard: the same, augmented: what the encoder gets to hear.
        inside: (batch, frames) bool: frames that are real.
        draws: random numbers of its rows, on their device.
        processes: that share the batch, each with other rows. Losses and measures are parts of means over all of them.
    """

    audio: Tensor
    samples: Tensor
    clean: Tensor
    heard: Tensor
    inside: Tensor
    draws: Draws
    processes: Processes = ALONE


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
    def forward(self, encoder: ConformerEncoder, hearing: Hearing, *, step: int) -> Pretraining:
        """Mask, encode and compare. Collective over the processes that share the batch.

        Args:
            encoder: the network to train.
            step: steps done, for schedules.
        """


class W2vBertObjective(Objective):
    """Contrastive task on the first module's outputs, masked prediction of the same codes on the second module's.

    The quantizer learns from the contrastive loss, but the subsampling in front of it only through what it gives the
    blocks: that is ours, and holds the targets still enough for small batches.

    Source: w2v-BERT (arXiv 2108.06209), section III-C: loss = contrastive + 0.1 diversity + masked prediction.
    """

    def __init__(self, config: W2vBertConfig, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.config, self.codes = config, config.codes
        self.quantizer = GumbelQuantizer(dim=encoder.dim, codes=config.codes, code_dim=config.code_dim)
        self.context = nn.Linear(encoder.dim, config.code_dim)
        self.head = nn.Linear(encoder.dim, config.codes)

    def forward(self, encoder: ConformerEncoder, hearing: Hearing, *, step: int) -> Pretraining:
        """See `Objective.forward`. Masked latents are replaced by random vectors."""
        first, inside, draws = encoder.config.contrastive_layers, hearing.inside, hearing.draws
        masked = span_mask(inside, probability=self.config.mask_probability, span=self.config.mask_frames, draws=draws)
        latents = encoder.subsampling(hearing.heard, inside)
        with (
            torch.no_grad()
        ):  # else what is predicted drifts to what is easy to predict: 15 of 128 codes after 400 steps
            clean = latents if hearing.heard is hearing.clean else encoder.subsampling(hearing.clean, inside)
        blind = torch.where(masked[..., None], draws.normal(*latents.shape[1:]).to(latents), latents)
        contrastive, *_ = reversed(encoder.run_blocks(blind, inside, range(first)))
        predicted = encoder.run_blocks(contrastive, inside, range(first, encoder.layers))[-1]
        temperature = annealed_temperature(step, decay=self.config.gumbel_decay)
        noise = draws.exponential(inside.shape[1], self.codes)[inside] if self.training else None
        vectors, ids, shares = self.quantizer(
            clean[inside].detach(), temperature=temperature, noise=noise, processes=hearing.processes
        )
        every = vectors.new_zeros(*inside.shape, vectors.shape[-1]).masked_scatter(inside[..., None], vectors)
        loss, accuracy = contrastive_loss(
            self.context(contrastive),
            every,
            masked,
            draws=draws,
            distractors=self.config.distractors,
            temperature=self.config.contrastive_temperature,
            processes=hearing.processes,
        )
        targets = ids[masked[inside]]
        prediction, right = named(self.head, predicted[masked], targets, processes=hearing.processes)
        terms = {"contrastive": loss, "diversity": diversity_loss(shares), "prediction": prediction}
        parts = {name: term.detach() for name, term in terms.items()}
        parts |= {"contrastive_accuracy": accuracy, "accuracy": right}
        total = torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()
        return Pretraining(total, parts, targets)


class BestRqObjective(Objective):
    """Predict the random-projection codes of masked frames; the mask replaces spectra by noise."""

    def __init__(self, config: BestRqConfig, encoder: ConformerEncoder) -> None:
        super().__init__()
        self.config, self.codes = config, config.codes
        self.quantizer = RandomProjectionQuantizer(
            bins=encoder.config.mel_bins, codes=config.codes, code_dim=config.code_dim, seed=config.seed
        )
        self.head = nn.Linear(encoder.dim, config.codes)

    def forward(self, encoder: ConformerEncoder, hearing: Hearing, *, step: int) -> Pretraining:
        """See `Objective.forward`."""
        span = {"probability": self.config.mask_probability, "span": self.config.mask_frames}
        masked = span_mask(hearing.inside, **span, draws=hearing.draws)  # type: ignore[arg-type]
        last, targets = (
            hear_masked(encoder, hearing, masked, noise=self.config.noise),
            self.quantizer(hearing.clean)[masked],
        )
        loss, accuracy = named(self.head, last[masked], targets, processes=hearing.processes)
        return Pretraining(loss, {"prediction": loss.detach(), "accuracy": accuracy}, targets)


class HubertObjective(Objective):
    """Name the units that a finished tokenizer gives to the clean audio, behind a mask and, more gently, in the open."""

    def __init__(self, config: HubertConfig, encoder: ConformerEncoder, tokenizer: SemanticTokenizer) -> None:
        super().__init__()
        if tokenizer.rate_hz != encoder.rate_hz or tokenizer.sample_rate_hz != encoder.sample_rate_hz:
            raise ValueError(
                f"the tokenizer gives {tokenizer.rate_hz} units per second of {tokenizer.sample_rate_hz} Hz audio, the "
                f"encoder has {encoder.rate_hz} frames of {encoder.sample_rate_hz} Hz: fit a tokenizer of that rate"
            )
        self.config, self.codes = config, tokenizer.clusters
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.head = nn.Linear(encoder.dim, tokenizer.clusters)

    def train(self, mode: bool = True) -> "HubertObjective":
        """The tokenizer stays as it is."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, encoder: ConformerEncoder, hearing: Hearing, *, step: int) -> Pretraining:
        """See `Objective.forward`."""
        inside, config = hearing.inside, self.config
        with torch.no_grad(), torch.autocast(hearing.audio.device.type, enabled=False):
            features = self.tokenizer.normalize(self.tokenizer.encoder(hearing.audio, hearing.samples))
            units = features.new_zeros(inside.shape, dtype=torch.int64)
            units[inside] = self.tokenizer.quantize(features[inside], levels=1)[0]
        masked = span_mask(inside, probability=config.mask_probability, span=config.mask_frames, draws=hearing.draws)
        last, opened = hear_masked(encoder, hearing, masked, noise=config.noise), inside & ~masked
        hidden, accuracy = named(self.head, last[masked], units[masked], processes=hearing.processes)
        open_, open_accuracy = named(self.head, last[opened], units[opened], processes=hearing.processes)
        parts = {"prediction": hidden, "open": open_, "accuracy": accuracy, "open_accuracy": open_accuracy}
        parts = {name: value.detach() for name, value in parts.items()}
        return Pretraining(hidden + config.unmasked * open_, parts, units[masked])


def hear_masked(encoder: ConformerEncoder, hearing: Hearing, masked: Tensor, *, noise: float) -> Tensor:
    """The last block's output (batch, frames, dim) where masked frames' spectra are noise."""
    fine = masked.repeat_interleave(SUBSAMPLING, 1)[..., None]
    blind = torch.where(fine, noise * hearing.draws.normal(*hearing.heard.shape[1:]), hearing.heard)
    latents = encoder.subsampling(blind, hearing.inside)
    return encoder.run_blocks(latents, hearing.inside, range(encoder.layers))[-1]


def named(head: nn.Module, hidden: Tensor, targets: Tensor, *, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of targets (frames,) given hidden states (frames, dim): this process's part of the means."""
    scores = head(hidden).float()
    loss, right = F.cross_entropy(scores, targets, reduction="sum"), (scores.argmax(-1) == targets).float().sum()
    return processes.part_of_mean(loss, len(targets)), processes.part_of_mean(right, len(targets))
