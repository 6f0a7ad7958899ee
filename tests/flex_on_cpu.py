"""Flex attention's plain version has gradients on a CPU too; torch only refuses to compute them there."""

import pytest
import torch.nn.attention.flex_attention


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift torch's refusal, so that the mask and the bias given to flex attention can be tested without a GPU."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_: None)
