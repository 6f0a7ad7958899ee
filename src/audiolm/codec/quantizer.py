"""Residual vector quantization: each level rounds what the levels before it left over.

Our own rather than `vector-quantize-pytorch`, because three things matter here that it does not do: the number of
active levels is drawn per example (there: per batch), k-means starts from a pool of many batches and distinct frames
(there: one batch, with duplicates), and an entry is dead relative to the mean use of its level (there: an absolute
number). All statistics are float32 whatever the precision of training, and of the global batch: several processes of
`torch.distributed` learn what one would learn from all their rows (see `audiolm.processes`), and hold the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from audiolm.processes import Processes

LLOYD_ITERATIONS = 10
DISTANCES = 2**26  # at most so many distances at a time: 256 MiB


@dataclass(frozen=True)
class Quantized:
    """What one pass of the quantizer gives."""

    latents: Tensor  # (batch, dim, frames): the sum over active levels; its gradient goes to the input unchanged
    codes: Tensor  # (batch, levels, frames) int64; -1 at inactive levels, and at all levels until initialised
    commitment: Tensor  # mean squared distance of every active level's input from its entry; pulls the encoder


class ResidualQuantizer(nn.Module):
    """`levels` codebooks of `codebook_size` entries, learned by exponential moving averages.

    In training mode, `forward` also learns. **Until it has collected `pool_frames` frames it passes latents through
    unquantised**, then initialises all codebooks by k-means, level by level on what the earlier levels left, and
    quantizes from the next step on. All that resuming needs is in buffers, the pool included; the pool's buffer is
    emptied once used. Random draws come from torch's global generator of the CPU, which a stage seeds anew at every
    step. They are made for the global batch: **in training it must stand alike on all processes**, which must all have
    equally many rows.

    Source: SoundStream, section III-C. Ours: the pool, the relative threshold, the commitment loss (not in the paper;
    without it nothing keeps latents near codebooks that only follow at rate 1 - decay).
    """

    codebooks: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    usage: Tensor
    replaced: Tensor
    fresh: Tensor  # entries that the last step put somewhere else
    pool: Tensor
    initialised: Tensor

    def __init__(
        self,
        *,
        levels: int,
        codebook_size: int,
        dim: int,
        decay: float = 0.99,
        dead_fraction: float = 0.1,
        pool_frames: int | None = None,
        dropout: float = 1.0,
    ) -> None:
        super().__init__()
        self.decay, self.dead_fraction, self.dropout = decay, dead_fraction, dropout
        self.pool_frames = pool_frames or 8 * codebook_size
        self.register_buffer("codebooks", torch.zeros(levels, codebook_size, dim))
        self.register_buffer("ema_counts", torch.zeros(levels, codebook_size))  # mean use per step
        self.register_buffer("ema_sums", torch.zeros(levels, codebook_size, dim))
        self.register_buffer("usage", torch.zeros(levels, codebook_size, dtype=torch.int64))  # since `reset_usage`
        self.register_buffer("replaced", torch.zeros(levels, dtype=torch.int64))  # dead entries, since `reset_usage`
        self.register_buffer("fresh", torch.zeros(levels, codebook_size, dtype=torch.bool), persistent=False)
        self.register_buffer("pool", torch.zeros(0, dim))
        self.register_buffer("initialised", torch.tensor(False))
        self._ready = False  # spares a device synchronisation per step

    @property
    def ready(self) -> bool:
        """Whether the codebooks are initialised."""
        self._ready = self._ready or bool(self.initialised)
        return self._ready

    def forward(self, latents: Tensor, *, active_levels: Tensor | None = None) -> Quantized:
        """Quantize latents; in training mode also draw `active_levels` if not given, and update the codebooks.

        Args:
            latents: (batch, dim, frames), any float type.
            active_levels: (batch,) int64 in [1, levels], on the CPU: how many levels each example uses. None: all of
                them
                in evaluation mode; in training mode drawn uniformly for a share `dropout` of the examples.
        """
        processes = Processes.current() if self.training else Processes()
        every = self._active_levels(len(latents), active_levels, processes)
        with torch.autocast(latents.device.type, enabled=False):
            if not self.ready:
                if self.training:
                    self._collect(latents.detach().float(), processes)
                codes = torch.full((len(latents), len(self.codebooks), latents.size(2)), -1, device=latents.device)
                return Quantized(latents, codes, commitment=latents.new_zeros((), dtype=torch.float32))
            return self._quantize(latents.float(), every, processes)

    def _active_levels(self, rows: int, given: Tensor | None, processes: Processes) -> Tensor:
        """(rows of the global batch,) active levels."""
        if given is not None:
            return processes.gather(given.to(self.codebooks.device)).cpu()
        levels = len(self.codebooks)
        active_levels = torch.full((rows * processes.count,), levels)
        if self.training:
            drawn = torch.randint(1, levels + 1, active_levels.shape)
            dropped = torch.rand(active_levels.shape) < self.dropout
            active_levels = torch.where(dropped, drawn, active_levels)
        return active_levels

    def _quantize(self, latents: Tensor, every: Tensor, processes: Processes) -> Quantized:
        """`every`: the active levels of all rows of the global batch."""
        frames = latents.size(2)
        vectors = rearrange(latents, "batch dim frames -> (batch frames) dim")
        active = processes.rows(every).repeat_interleave(frames).to(vectors.device)
        residual, commitment, codes, inputs = vectors, vectors.new_zeros(()), [], []
        for level, codebook in enumerate(self.codebooks):
            used = active > level
            index = nearest(residual.detach(), codebook)
            quantized = codebook[index] * used[:, None]
            inputs.append(residual.detach())
            commitment = commitment + (residual - quantized).square().mul(used[:, None]).sum()
            residual = (
                residual - quantized.detach()
            )  # else the straight-through copy cancels every later level's gradient
            codes.append(index.masked_fill(~used, -1))
        if self.training:
            self._update(inputs, codes, every, processes)
        error = rearrange(residual.detach(), "(batch frames) dim -> batch dim frames", frames=frames)
        pairs = (
            int(every.sum()) * frames * latents.size(1) / processes.count
        )  # the mean over processes is the mean over all
        return Quantized(
            latents=latents - error,  # straight through: the value is the sum of entries, the gradient the identity
            codes=rearrange(torch.stack(codes), "levels (batch frames) -> batch levels frames", frames=frames),
            commitment=commitment / pairs,
        )

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Codes (batch, levels, frames) of latents (batch, dim, frames), with all levels; nothing is learned."""
        frames = latents.size(2)
        with torch.autocast(latents.device.type, enabled=False):
            residual = rearrange(latents.float(), "batch dim frames -> (batch frames) dim")
            codes = []
            for codebook in self.codebooks:
                codes.append(nearest(residual, codebook))
                residual = residual - codebook[codes[-1]]
        return rearrange(torch.stack(codes), "levels (batch frames) -> batch levels frames", frames=frames)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (batch, dim, frames) of codes (batch, any prefix of the levels, frames)."""
        entries = torch.stack([self.codebooks[level][codes[:, level]] for level in range(codes.size(1))]).sum(0)
        return rearrange(entries, "batch frames dim -> batch dim frames")

    def perplexity(self) -> Tensor:
        """How many entries are in effective use, (levels,) in [1, codebook_size], in training since `reset_usage`."""
        return perplexity(self.usage)

    def reset_usage(self, levels: Tensor | None = None) -> None:
        """Begin another interval of `perplexity`, for all levels or those chosen by (levels,) bool."""
        if levels is None:
            levels = torch.ones_like(self.replaced, dtype=torch.bool)
        self.usage[levels], self.replaced[levels] = 0, 0

    @torch.no_grad()
    def follow(self, other: "ResidualQuantizer", *, rate: float) -> None:
        """Move the codebooks towards another quantizer's by `rate`; entries that were just replaced move at once."""
        if other.ready and not self.ready:  # k-means has just placed them
            self.codebooks.copy_(other.codebooks)
        moved = torch.lerp(self.codebooks, other.codebooks, rate)
        self.codebooks.copy_(torch.where(other.fresh[..., None], other.codebooks, moved))
        self.ema_counts.copy_(other.ema_counts)
        self.ema_sums.copy_(other.ema_sums)
        self.initialised.copy_(other.initialised)

    @torch.no_grad()
    def _update(self, inputs: list[Tensor], codes: list[Tensor], every: Tensor, processes: Processes) -> None:
        """One step of the moving averages, then fresh entries for the dead ones. Collective if distributed."""
        counts, sums = torch.zeros_like(self.ema_counts), torch.zeros_like(self.ema_sums)
        for level, (vectors, index) in enumerate(zip(inputs, codes, strict=True)):
            used = index >= 0
            counts[level].index_add_(0, index.clamp(min=0), used.float())
            sums[level].index_add_(0, index.clamp(min=0), vectors * used[:, None])
        counts, sums = processes.sum(counts), processes.sum(sums)
        seen = counts.sum(1) > 0  # dropout may leave a level without a frame
        sound = seen & sums.isfinite().all(2).all(1)  # a step with NaN latents must not enter the codebooks
        rate = (1 - self.decay) * sound
        self.ema_counts.lerp_(counts, rate[:, None])
        self.ema_sums.lerp_(sums.nan_to_num(), rate[:, None, None])
        self.usage += (counts * sound[:, None]).long()
        alive = self.ema_counts > 0
        means = self.ema_sums / self.ema_counts.clamp(min=1e-20)[..., None]
        self.codebooks.copy_(torch.where(alive[..., None], means, self.codebooks))
        self._replace_dead(inputs, every, sound, processes)

    def _replace_dead(self, inputs: list[Tensor], every: Tensor, sound: Tensor, processes: Processes) -> None:
        """Move every entry used less than `dead_fraction` of its level's mean onto a random frame of the global batch.

        A tenth of the mean leaves alone what is merely rare in speech (natural use is uneven), yet catches an entry
        that lost its cluster after ln(10) / (1 - decay) = 230 steps. A fresh entry starts with the use
        sqrt(dead_fraction) of the mean: half of that time (on the logarithm) to prove itself, while its place still
        follows quickly. Every process knows which frames are drawn, and fills in those that are its own.
        """
        size, frames = self.codebooks.size(1), len(inputs[0]) * processes.count // len(every)
        fresh, offered = torch.zeros_like(self.codebooks), torch.zeros_like(self.ema_counts)
        for level, vectors in enumerate(inputs):
            candidates = torch.nonzero((every > level).repeat_interleave(frames))[:, 0]
            chosen = candidates[torch.randperm(len(candidates))[:size]]
            row, frame = chosen // frames, chosen % frames
            places = torch.nonzero(row % processes.count == processes.rank)[:, 0]
            ours = (row // processes.count * frames + frame)[places]
            fresh[level, places.to(vectors.device)] = vectors[ours.to(vectors.device)]
            offered[level, : len(chosen)] = 1
        fresh = processes.sum(fresh)
        mean = self.ema_counts.mean(1, keepdim=True)
        dead = (self.ema_counts < self.dead_fraction * mean) & sound[:, None]
        turn = (dead.cumsum(1) - 1).clamp(min=0)  # the first dead entry takes the first frame, and so on: no duplicates
        dead &= offered.gather(1, turn) > 0
        fresh = fresh.gather(1, turn[..., None].expand_as(fresh))
        self.fresh.copy_(dead)
        self.replaced += dead.sum(1)
        start = self.dead_fraction**0.5 * mean
        self.codebooks.copy_(torch.where(dead[..., None], fresh, self.codebooks))
        self.ema_counts.copy_(torch.where(dead, start, self.ema_counts))
        self.ema_sums.copy_(torch.where(dead[..., None], fresh * start[..., None], self.ema_sums))

    @torch.no_grad()
    def _collect(self, latents: Tensor, processes: Processes) -> None:
        """Add the global batch to the pool, the same on all processes; once it holds enough, initialise."""
        vectors = rearrange(processes.gather(latents), "batch dim frames -> (batch frames) dim")
        frames_per_step = len(vectors)
        self.pool = torch.cat([self.pool, vectors[vectors.isfinite().all(1)]])[: self.pool_frames]
        if len(self.pool) < self.pool_frames:
            return
        pool = self.pool
        for level in range(len(self.codebooks)):
            centroids, _ = kmeans(pool, self.codebooks.size(1))
            if processes.count > 1:
                dist.broadcast(centroids, src=0)  # equal but for the rounding of sums on unlike devices
            index = nearest(pool, centroids)
            counts = torch.bincount(index, minlength=len(centroids)).float()
            counts *= frames_per_step / len(pool)  # in frames per step, like the averages
            self.codebooks[level] = centroids
            self.ema_counts[level] = counts
            self.ema_sums[level] = centroids * counts[:, None]
            pool = pool - centroids[index]
        self.pool = self.pool[:0].clone()
        self.fresh.fill_(True)
        self.initialised.fill_(True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "pool" in state_dict:  # its size is part of the state
            self.pool = self.pool.new_empty(state_dict[prefix + "pool"].shape)
        self._ready = False
        super()._load_from_state_dict(state_dict, prefix, *args)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (n,) of the entry of `codebook` (size, dim) closest to each of `vectors` (n, dim), in bounded memory."""
    norms = codebook.square().sum(1)
    rows = max(1, DISTANCES // len(codebook))
    return torch.cat([torch.addmm(norms, part, codebook.t(), alpha=-2).argmin(1) for part in vectors.split(rows)])


def kmeans(vectors: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from distinct frames: centroids (clusters, dim) and each vector's index (n,).

    With fewer distinct vectors than clusters (digital silence), the surplus repeats them with a jitter of a
    thousandth of their deviation; the replacement of dead entries then spreads them.
    """
    distinct = torch.unique(vectors, dim=0)
    order = torch.randperm(len(distinct)).to(vectors.device)
    centroids = distinct[order[torch.arange(clusters, device=vectors.device) % len(distinct)]]
    if len(distinct) < clusters:
        jitter = torch.randn(clusters - len(distinct), vectors.size(1)).to(vectors)
        centroids[len(distinct) :] += jitter * (1e-3 * vectors.std() + 1e-6)
    for _ in range(LLOYD_ITERATIONS):
        index = nearest(vectors, centroids)
        counts = torch.bincount(index, minlength=clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, index, vectors)
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids, nearest(vectors, centroids)


def perplexity(counts: Tensor) -> Tensor:
    """Entries in effective use: exp of the entropy of use along the last axis; 1 where there is no count."""
    shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(-torch.special.xlogy(shares, shares).sum(-1))
