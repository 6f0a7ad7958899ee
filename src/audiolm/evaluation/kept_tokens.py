"""The tokens of recordings, a file each, so that a run that was killed goes on; as features, and by how they are used."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiolm.audio import read_audio
from audiolm.codec.codec import Codec
from audiolm.files import atomic_path
from audiolm.semantic.unit_use import unit_use
from audiolm.untrusted.tensor_files import read_npy


class KeptTokens:
    """Makes the tokens of recordings, or reads those that an earlier run made: `FOLDER/STEM.npy`, uint16 (levels, frames).

    Args:
        codec: what makes them: anything with a codec's surface.
        recordings: by stem.
        folder: belongs to this codec and these recordings; the caller sees to that.
    """

    def __init__(self, codec: Codec, recordings: dict[str, Path], folder: Path, *, device: str = "cpu") -> None:
        if codec.codebook_size > 2**16:
            raise ValueError(f"tokens are kept in 16 bits, a codebook of {codec.codebook_size} has too many")
        self.codec, self.recordings, self.folder, self.device = codec.eval().to(device), recordings, folder, device
        self.counts = torch.zeros(codec.levels, codec.codebook_size, dtype=torch.int64)

    @property
    def rate_hz(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.codec.sample_rate_hz, self.codec.hop_samples)

    def features(self, stem: str) -> Tensor:
        """The quantised vectors (frames, dim) of a recording, summed over the levels; counts its tokens.

        Raises:
            ValueError: if what an earlier run kept is damaged.
            AudioError: if the recording cannot be read.
        """
        tokens = self._tokens(stem)
        for counts, level in zip(self.counts, tokens, strict=True):
            counts += torch.bincount(level, minlength=self.codec.codebook_size)
        with torch.inference_mode():
            return self.codec.embed(tokens[None].to(self.device))[0].t().float().cpu()

    def entropy_bps(self) -> float:
        """Bits per second of an ideal code of single tokens, each level by itself, over the recordings asked for."""
        bits = sum(unit_use(counts, rate_hz=1).entropy_bits for counts in self.counts)
        return float(bits * self.rate_hz)

    def _tokens(self, stem: str) -> Tensor:
        path = self.folder / f"{stem}.npy"
        if path.exists():
            return self._kept(path)
        audio = read_audio(self.recordings[stem], sample_rate_hz=self.codec.sample_rate_hz)
        with torch.inference_mode():
            tokens = self.codec.encode(audio[None].to(self.device))[0].cpu()
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, tokens.numpy().astype(np.uint16))
        return tokens

    def _kept(self, path: Path) -> Tensor:
        try:
            array = read_npy(path)
            if array.dtype != np.uint16 or array.ndim != 2 or len(array) != self.codec.levels or not array.shape[1]:
                raise ValueError(f"{array.dtype} of shape {array.shape}")
            tokens = torch.from_numpy(array.astype(np.int64))
            if int(tokens.max()) >= self.codec.codebook_size:
                raise ValueError(f"token {int(tokens.max())} of {self.codec.codebook_size}")
        except ValueError as error:
            raise ValueError(
                f"{path} does not hold the tokens of a recording ({error}): it is damaged. Remove it."
            ) from error
        return tokens
