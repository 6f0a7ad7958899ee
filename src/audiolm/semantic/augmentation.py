"""Other voices, other rooms, other noise: spectra as the encoder hears them in training, while targets stay clean."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audiolm.processes import ALONE, Draws, Processes


@dataclass(frozen=True)
class Augmentation:
    """How far spectra are changed; zeros change nothing.

    Args:
        warp: the frequency axis is stretched by up to this share, as a longer or shorter vocal tract would.
        tilt: deviation of a smooth random curve over the bins, in nats of energy: microphone, room and level.
        noise: share of rows that get another row's sound mixed in.
        noise_db: (least, most) decibels that the mixed-in sound lies below.
    """

    warp: float = 0.0
    tilt: float = 0.0
    noise: float = 0.0
    noise_db: tuple[float, float] = (5.0, 20.0)

    def __post_init__(self) -> None:
        if not 0 <= self.warp < 0.5 or self.tilt < 0 or not 0 <= self.noise <= 1:
            raise ValueError(
                f"warp must be in [0, 0.5), tilt at least 0 and noise a share, got {self.warp}, {self.tilt}, {self.noise}"
            )

    @property
    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.warp or self.tilt or self.noise)


CURVES = 4  # cosines of up to two periods over the bins make the smooth random curve


def warped(spectra: Tensor, factors: Tensor) -> Tensor:
    """Stretch the bins of (batch, steps, bins) by (batch,) factors, by linear interpolation; the last bins repeat."""
    bins = spectra.shape[-1]
    source = torch.arange(bins, device=spectra.device) * factors[:, None]
    source = source.clamp(max=bins - 1)
    low = source.floor().long()
    high = (low + 1).clamp(max=bins - 1)
    share = (source - low)[:, None]
    shape = spectra.shape
    below = spectra.gather(2, low[:, None].expand(shape))
    above = spectra.gather(2, high[:, None].expand(shape))
    return below + share * (above - below)


def random_tilt(bins: int, *, deviation: float, draws: Draws) -> Tensor:
    """(batch, 1, bins): a random level and smooth curve per row."""
    place = (torch.arange(bins, device=draws.device) + 0.5) / bins
    basis = torch.stack([torch.cos(math.pi * number * place) for number in range(CURVES + 1)])
    weights = draws.normal(CURVES + 1) * deviation / math.sqrt(CURVES + 1)
    return (weights @ basis)[:, None]


def mixed(
    raw: Tensor, *, share: float, noise_db: tuple[float, float], draws: Draws, processes: Processes = ALONE
) -> Tensor:
    """Add the sound of the row before, some decibels below, to a share of the rows of raw log spectra. Collective."""
    if len(raw) * processes.count < 2:
        return raw
    least, most = noise_db
    below = (least + (most - least) * draws.uniform()) * math.log(10) / 10
    chosen, other = draws.uniform() < share, processes.previous_rows(raw)
    level = raw.logsumexp((1, 2)) - other.logsumexp((1, 2)) - below
    louder = torch.logaddexp(raw, other + level[:, None, None])
    return torch.where(chosen[:, None, None], louder, raw)


def augmented(raw: Tensor, augmentation: Augmentation, *, draws: Draws, processes: Processes = ALONE) -> Tensor:
    """Change raw log spectra (batch, steps, bins) at random; natural-log units.

    Args:
        draws: of the rows, on their device.
        processes: that share the batch: a row's neighbour may be another process's. Collective.
    """
    if augmentation.warp:
        raw = warped(raw, 1 + augmentation.warp * (2 * draws.uniform() - 1))
    if augmentation.noise:
        level = {"share": augmentation.noise, "noise_db": augmentation.noise_db}
        raw = mixed(raw, **level, draws=draws, processes=processes)  # type: ignore[arg-type]
    if augmentation.tilt:
        raw = raw + random_tilt(raw.shape[2], deviation=augmentation.tilt, draws=draws)
    return raw
