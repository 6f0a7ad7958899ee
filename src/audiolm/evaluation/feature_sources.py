"""Where the features of a recording come from: an encoder, units, codes, or files that somebody else wrote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiolm.audio import audio_info, read_audio
from audiolm.checkpoint import load_stage_checkpoint
from audiolm.codec.codec import Codec
from audiolm.evaluation.abx_frames import SPARE_FRAMES
from audiolm.evaluation.item_recordings import find_by_stem
from audiolm.semantic.encoder import Encoder
from audiolm.semantic.encoders import trained_encoder
from audiolm.semantic.selection import selected_layer, selection_digest
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.semantic.windows import OVERLAP_SECONDS, WINDOW_SECONDS, encode_in_windows
from audiolm.untrusted.tensor_files import read_npy, read_torch

FILE_SUFFIXES = (".pt", ".npy", ".txt")


@dataclass(frozen=True)
class FeatureSource:
    """Features of recordings by their stem.

    Attributes:
        rate_hz: frames per second.
        features: from a stem to (frames, dim).
        about: what makes them, as plain values for the results.
    """

    rate_hz: Fraction
    features: Callable[[str], Tensor]
    about: dict[str, Any] = field(default_factory=dict)


def encoder_source(
    encoder: Encoder, recordings: dict[str, Path], *, layer: int | None = None, device: str = "cpu"
) -> FeatureSource:
    """The features of one layer of an encoder, as they come out of it; long recordings in windows, as tokenizers do.

    Raises:
        ValueError: for a layer that does not exist.
    """
    layer = encoder.layer if layer is None else layer
    encoder.check_layers([layer])
    encoder = encoder.eval().to(device)

    def features(audio: Tensor) -> Tensor:
        return encode_in_windows(encoder, audio, layers=[layer], **windows)[0][0]

    windows = {"window_seconds": WINDOW_SECONDS, "overlap_seconds": OVERLAP_SECONDS}
    about = {"encoder": encoder.config_dict(), "layer": layer, **windows}
    return _of_audio(
        features, recordings, encoder.sample_rate_hz, Fraction(encoder.rate_hz), device=device, about=about
    )


def tokenizer_source(
    tokenizer: SemanticTokenizer, recordings: dict[str, Path], *, units: bool, device: str = "cpu"
) -> FeatureSource:
    """What a tokenizer clusters, normalised but not quantised; or with `units` the centroids of its units, summed
    over its levels."""
    tokenizer = tokenizer.eval().to(device)

    def features(audio: Tensor) -> Tensor:
        if units:
            return tokenizer.embed(tokenizer.encode_levels(audio)[0])
        return tokenizer.features(audio)[0]

    rate_hz = Fraction(tokenizer.rate_hz)
    return _of_audio(
        features, recordings, tokenizer.sample_rate_hz, rate_hz, device=device, about=tokenizer.config_dict()
    )


def codec_source(
    codec: Codec, recordings: dict[str, Path], *, levels: int | None = None, device: str = "cpu"
) -> FeatureSource:
    """The quantised vectors of a codec's first `levels` levels, summed; by default of all.

    Raises:
        ValueError: for a number of levels that it does not have.

    Source: AudioLM, Table I, compares them with semantic units.
    """
    levels = codec.levels if levels is None else levels
    if not 1 <= levels <= codec.levels:
        raise ValueError(f"this codec has 1 to {codec.levels} levels, got {levels}")
    codec = codec.eval().to(device)

    def features(audio: Tensor) -> Tensor:
        return codec.embed(codec.encode(audio)[:, :levels])[0].t()

    rate_hz = Fraction(codec.sample_rate_hz, codec.hop_samples)
    about = {"codec": codec.config_dict(), "levels": levels}
    return _of_audio(features, recordings, codec.sample_rate_hz, rate_hz, device=device, about=about)


def folder_source(
    folder: Path, stems: Sequence[str], *, rate_hz: Fraction, recordings: dict[str, Path] | None = None
) -> FeatureSource:
    """Feature files (frames, dim) below a folder: `.pt` tensors, `.npy` arrays, `.txt` matrices, one per recording.

    Args:
        rate_hz: frames per second. Where `recordings` are given, it is checked against their duration.

    Raises:
        ValueError: if a file is missing, there twice, or cannot be read as a matrix; or if the rate is wrong.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder of features, nor one of the sources mfcc, encoder, units, features and codes"
        )
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix in FILE_SUFFIXES and path.is_file())
    files = find_by_stem(stems, paths, where=folder)

    def features(stem: str) -> Tensor:
        matrix = _read_matrix(files[stem])
        if recordings is not None:
            _check_rate(files[stem], len(matrix), audio_info(recordings[stem]).seconds, rate_hz)
        return matrix

    return FeatureSource(rate_hz, features, {"folder": str(folder)})


def load_tokenizer(root: Path) -> SemanticTokenizer:
    """The tokenizer of a chain, or that of a `.ckpt` file, which may be of residual units."""
    path = root if root.suffix == ".ckpt" else root / "tokenizer" / "best.ckpt"
    return SemanticTokenizer.from_checkpoint(load_stage_checkpoint(path, stage=("tokenizer", "residual_tokenizer")))


def load_encoder(root: Path, *, layer: int | None = None) -> Encoder:
    """The encoder that a chain has trained, else the one its tokenizer uses; or that of a `.ckpt` file of either stage.

    Args:
        layer: the one to take; by default the one chosen for a trained encoder, or the tokenizer's.

    Raises:
        ValueError: for a layer that it does not have, or a choice of layer made for another encoder.
    """
    encoder = _load_encoder(root, choose=layer is None)
    if layer is not None:
        encoder.check_layers([layer])
        encoder.layer = layer
    return encoder


def _load_encoder(root: Path, *, choose: bool) -> Encoder:
    path = root if root.suffix == ".ckpt" else root / "encoder" / "best.ckpt"
    if not path.exists() and root.suffix != ".ckpt":
        return load_tokenizer(root).encoder
    checkpoint = load_stage_checkpoint(path, stage=("encoder", "tokenizer"))
    if checkpoint.stage == "tokenizer":
        return SemanticTokenizer.from_checkpoint(checkpoint).encoder
    encoder = trained_encoder(checkpoint)
    if choose:
        encoder.layer = _clustered_layer(path, encoder)
    return encoder


def _clustered_layer(path: Path, encoder: Encoder) -> int:
    """The layer that the chain's tokenizer was fitted on, if on this encoder; else the one chosen, or the usual one."""
    tokenizer = path.parent.parent / "tokenizer" / "best.ckpt"
    if tokenizer.is_file():
        fitted = SemanticTokenizer.from_checkpoint(load_stage_checkpoint(tokenizer, stage="tokenizer")).encoder
        if selection_digest(fitted) == selection_digest(encoder):
            return fitted.layer
    layer = selected_layer(path.parent, encoder)
    return encoder.layer if layer is None else layer


def _of_audio(
    compute: Callable[[Tensor], Tensor],
    recordings: dict[str, Path],
    sample_rate_hz: int,
    rate_hz: Fraction,
    *,
    device: str,
    about: dict[str, Any],
) -> FeatureSource:
    @torch.inference_mode()
    def features(stem: str) -> Tensor:
        audio = read_audio(recordings[stem], sample_rate_hz=sample_rate_hz)
        return compute(audio[None].to(device)).float().cpu()

    return FeatureSource(rate_hz, features, about)


def _read_matrix(path: Path) -> Tensor:
    try:
        if path.suffix == ".pt":
            matrix = read_torch(path)
        elif path.suffix == ".npy":
            matrix = torch.from_numpy(read_npy(path).copy())
        else:
            matrix = torch.from_numpy(np.loadtxt(path, dtype=np.float64, ndmin=2))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a matrix of features: {(str(error).splitlines() or [''])[0][:200]}"
        ) from error
    if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.is_complex():
        shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{path} holds {shape}, expected one matrix (frames, dim)")
    return matrix


def _check_rate(path: Path, frames: int, seconds: float, rate_hz: Fraction) -> None:
    if abs(frames - seconds * float(rate_hz)) > SPARE_FRAMES:
        raise ValueError(
            f"{path} has {frames} frames, but {seconds:.3f} s of audio at {float(rate_hz):g} Hz would have "
            f"{seconds * float(rate_hz):.0f}: the rate is probably {frames / seconds:.1f} Hz, see --rate-hz"
        )
