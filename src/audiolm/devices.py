"""Where a verb computes: what `--device` means on this machine."""

import torch


def choose_device(name: str) -> str:
    """The device of this name; "auto": the first GPU, or the CPU where there is none.

    Raises:
        ValueError: for a name that is none, or a device that is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # the last two: not built for it, not made for data
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}): give auto, cpu, cuda, cuda:1, …") from error
    if device.type == "meta":
        raise ValueError("--device meta computes nothing: give auto, cpu, cuda, cuda:1, …")
    return str(device)
