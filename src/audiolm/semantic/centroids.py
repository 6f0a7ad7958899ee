"""Centroids that were made elsewhere: of another tokenizer stage, or plain arrays of raw features."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.tokenizer import require_same_encoder
from audiolm.untrusted.tensor_files import read_npy, read_torch


@dataclass(frozen=True)
class Centroids:
    """Centroids (levels, clusters, dim) of features that have lost `mean` (dim,) and were divided by `deviation` (dim,)."""

    centroids: Tensor
    mean: Tensor
    deviation: Tensor


def read_centroids(path: Path | str, *, encoder: Encoder, clusters: int, levels: int = 1) -> Centroids:
    """Read centroids for an encoder.

    Args:
        path: a tokenizer stage's `.ckpt`, which knows its encoder and normalisation; or a `.npy` or `.pt` with one array
            (clusters, dim) or (levels, clusters, dim) over features that are NOT normalised, as published ones are: only
            its shape can be checked, the encoder and layer are yours to answer for. The `.joblib` and `.bin` files that
            HuBERT's k-means was published as run code when they are read: convert them where you trust them, with
            `numpy.save("km.npy", joblib.load("km.bin").cluster_centers_)`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is of another kind or shape, not finite, or was made for another encoder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}, named as `centroids`, is not there")
    if path.suffix == ".ckpt":
        found = _of_checkpoint(path, encoder)
    elif path.suffix in (".npy", ".pt"):
        array = _array(path)
        array = array[None] if array.ndim == 2 else array
        found = Centroids(array.float(), torch.zeros(encoder.dim), torch.ones(encoder.dim))
    else:
        raise ValueError(
            f"{path} cannot be read as centroids: `.ckpt`, `.npy` and `.pt` can. A scikit-learn model (.joblib, .bin, .km) "
            'runs code when it is read; where you trust it, numpy.save("km.npy", joblib.load(...).cluster_centers_) makes '
            "a file for this."
        )
    expected = (levels, clusters, encoder.dim)
    if tuple(found.centroids.shape) != expected:
        raise ValueError(
            f"{path} holds centroids of shape {tuple(found.centroids.shape)} where (levels, clusters, dim) = {expected} is "
            "needed: set `levels` and `clusters` to those of the file; another dim means another encoder."
        )
    if not bool(torch.isfinite(found.centroids).all()):
        raise ValueError(f"{path} holds NaN or infinity: the file is damaged")
    return found


def _of_checkpoint(path: Path, encoder: Encoder) -> Centroids:
    checkpoint = load_stage_checkpoint(path, stage="tokenizer")
    if "encoder_digest" not in checkpoint.config:
        raise ValueError(f"{path} does not say which encoder it was fitted on: an older version made it. Fit it again.")
    require_same_encoder(encoder, checkpoint.config, source=str(path))
    return Centroids(*(checkpoint.weights[name] for name in ("centroids", "mean", "deviation")))


def _array(path: Path) -> Tensor:
    try:
        array = torch.from_numpy(read_npy(path).copy()) if path.suffix == ".npy" else read_torch(path)
    except (ValueError, OSError, TypeError) as error:  # TypeError: numbers that torch does not have
        raise ValueError(f"{path} cannot be read as an array ({error})") from error
    if not isinstance(array, Tensor) or array.ndim not in (2, 3) or array.is_complex():
        raise ValueError(f"{path} must hold one array (clusters, dim) or (levels, clusters, dim) and nothing else")
    return array
