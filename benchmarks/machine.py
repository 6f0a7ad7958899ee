"""How fast this machine multiplies matrices and reads memory: what the other figures are measured against."""

from typing import Any

from common import processor, seconds_of


def measure_machine(*, device: str, matrix_size: int, array_gb: float, repeats: int) -> dict[str, Any]:
    """The best of several, since what interferes only slows down.

    Args:
        matrix_size: n of an n x n matrix product, 2 n^3 operations.
        array_gb: GiB of float32 numbers read at a time; far more than the caches hold.

    Returns:
        `matrix_gflops` by precision (fp32 is full float32, not TF32), and `bandwidth_gbs`, 10^9 bytes per second, of a
        sum over the array or of a matrix-vector product, whichever reads faster.
    """
    import torch

    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left = torch.randn(matrix_size, matrix_size, device=device).to(dtype)
        right = torch.randn(matrix_size, matrix_size, device=device).to(dtype)
        product = torch.empty_like(left)
        best = min(seconds_of(lambda: torch.mm(left, right, out=product), device=device) for _ in range(repeats + 2))  # noqa: B023
        rates[name] = round(2 * matrix_size**3 / best / 1e9, 1)
    columns = 2**12
    array = torch.ones(max(1, int(array_gb * 2**28) // columns), columns, device=device)
    vector = torch.ones(columns, device=device)
    reads = (array.sum, lambda: torch.mv(array, vector))
    best = min(seconds_of(read, device=device) for read in reads for _ in range(repeats + 2))
    return {
        "matrix_gflops": rates,
        "bandwidth_gbs": round(array.numel() * array.element_size() / best / 1e9, 2),
        "processor": processor(device),
        "torch": torch.__version__,
    }
