"""Units of many recordings of unequal length, side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from audiolm.audio import resample
from audiolm.semantic.tokenizer import SemanticTokenizer


@torch.no_grad()
def encode_batches(
    tokenizer: SemanticTokenizer, recordings: Sequence[Tensor], *, sample_rate_hz: int, batch_size: int
) -> list[Tensor]:
    """Tokenize recordings of similar length together: what `tokenizer.encode` gives of each, but for rounding.

    A frame that lies equally near to two centroids, to float32's last digits, may get the other one. Recordings longer than
    the tokenizer's window are encoded one by one.

    Args:
        recordings: each (samples,) mono at `sample_rate_hz`, on any device.
        batch_size: recordings at a time.

    Returns:
        Per recording (frames,) int64 on the CPU, repeats included, in the order given.

    Raises:
        ValueError: if the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    encoder, device = tokenizer.encoder, tokenizer.centroids.device
    window = round(tokenizer.window_seconds * tokenizer.rate_hz) * encoder.hop_samples
    order = sorted(range(len(recordings)), key=lambda number: len(recordings[number]))
    units: dict[int, Tensor] = {}
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        audio = [
            resample(recordings[row].to(device), from_hz=sample_rate_hz, to_hz=encoder.sample_rate_hz) for row in rows
        ]
        if len(audio[-1]) > window or len(rows) == 1:
            units |= {row: tokenizer.encode(single[None])[0] for row, single in zip(rows, audio, strict=True)}
            continue
        samples = torch.tensor([len(single) for single in audio], device=device)
        features = tokenizer.normalize(encoder(torch.nn.utils.rnn.pad_sequence(audio, batch_first=True), samples))
        for row, single, frames in zip(rows, audio, features, strict=True):
            units[row] = tokenizer.quantize(frames[: encoder.frames(len(single))], levels=1)[0]
    return [units[number].cpu() for number in range(len(recordings))]
