"""Log-mel spectrograms at 100 Hz, normalised with a corpus's statistics: what the trained encoder hears."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

STEP_RATE_HZ = 100
FLOOR = 1e-6  # of mel energies of audio in [-1, 1]: about the noise of 16 bits


class LogMel(nn.Module):
    """Turns waveforms into log-mel spectra of 25 ms every 10 ms, each bin with zero mean and unit variance over a corpus.

    Args:
        bins: mel bins.
        sample_rate_hz: rate of the audio; a multiple of 100.
    """

    mean: Tensor
    deviation: Tensor
    measured: Tensor

    def __init__(self, *, bins: int = 80, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.bins, self.hop = bins, sample_rate_hz // STEP_RATE_HZ
        self.window = sample_rate_hz // 40
        with torch.device("cpu"):  # small, and computed: it looks at its filters, which have no values on `meta`
            self.mel = MelSpectrogram(
                sample_rate=sample_rate_hz,
                n_fft=1 << (self.window - 1).bit_length(),
                win_length=self.window,
                hop_length=self.hop,
                n_mels=bins,
                f_min=20.0,
                center=False,
            )
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("deviation", torch.ones(bins))
        self.register_buffer("measured", torch.tensor(False))

    def forward(self, audio: Tensor, *, steps: int) -> Tensor:
        """Compute normalised spectra.

        Args:
            audio: (batch, samples) in [-1, 1].
            steps: how many; what lies beyond the audio is silence.

        Returns:
            (batch, steps, bins) float32; step i is centred at (i + 1/2) * 10 ms.
        """
        return self.normalize(self.raw(audio, steps=steps))

    def normalize(self, raw: Tensor) -> Tensor:
        """Shift and scale raw log spectra (..., bins) to zero mean and unit variance over the corpus."""
        return (raw - self.mean) / self.deviation

    def raw(self, audio: Tensor, *, steps: int) -> Tensor:
        """As `forward`, not normalised."""
        size = self.mel.n_fft
        left = (size - self.hop) // 2
        right = (steps - 1) * self.hop + size - left - audio.shape[1]
        with torch.autocast(audio.device.type, enabled=False):
            power = self.mel(F.pad(audio.float(), (left, max(0, right))))[..., :steps]
            return (power + FLOOR).log().transpose(1, 2)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Take (bins,) mean and deviation of raw spectra over a corpus."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-3))
        self.measured.fill_(True)
