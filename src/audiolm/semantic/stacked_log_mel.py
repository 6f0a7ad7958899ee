"""The spectra that w2v-BERT 2.0 hears."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.compliance.kaldi import fbank

STEP_SAMPLES, WINDOW_SAMPLES = 160, 400  # 10 and 25 ms at 16 kHz
MEL_BINS = 80
STACKED_STEPS = 2  # per frame: 20 ms


def stacked_log_mel(audio: Tensor) -> Tensor:
    """Compute log-mel spectra, normalised per utterance and bin, two steps to a frame.

    A step is heard if the middle of its window lies in the audio. The steps that are missing to the last frame are zeros, the
    mean. Mean and variance are those of the steps whose windows lie in the audio altogether, so that the frames which the
    published extractor gives (it leaves out the end) are the same here; of very short audio, those of all steps heard.

    Args:
        audio: (samples,) in [-1, 1] at 16 kHz.

    Returns:
        (ceil(samples / 320), 160) float32.

    Source: the SeamlessM4T feature extractor of transformers, which w2v-BERT 2.0 was trained with.
    """
    samples = len(audio)
    frames = -(-samples // (STACKED_STEPS * STEP_SAMPLES))
    heard = max(1, (samples - WINDOW_SAMPLES // 2) // STEP_SAMPLES + 1)
    whole = max(0, (samples - WINDOW_SAMPLES) // STEP_SAMPLES + 1)
    audio = F.pad(audio, (0, (heard - 1) * STEP_SAMPLES + WINDOW_SAMPLES - samples))
    with torch.autocast(audio.device.type, enabled=False):
        mel = fbank(
            audio.float()[None] * 2**15,  # Kaldi's filterbank works on 16-bit amplitudes
            num_mel_bins=MEL_BINS,
            window_type="povey",
            frame_length=25.0,
            sample_frequency=16000,
            preemphasis_coefficient=0.97,
            remove_dc_offset=True,
            dither=0.0,
        )
    counted = mel[:whole] if whole > 1 else mel
    variance = counted.var(0, unbiased=len(counted) > 1)
    mel = (mel - counted.mean(0)) / (variance + 1e-7).sqrt()
    return F.pad(mel, (0, 0, 0, STACKED_STEPS * frames - heard)).reshape(frames, STACKED_STEPS * MEL_BINS)
