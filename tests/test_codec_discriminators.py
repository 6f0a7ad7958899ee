"""The discriminators' shapes, sizes and gradients."""

import pytest
import torch

from audiolm.codec.discriminators import DiscriminatorConfig, Discriminators
from audiolm.codec.losses import feature_matching_loss, hinge_discriminator_loss, hinge_generator_loss

SMALL = DiscriminatorConfig(stft_channels=2, wave_channels=4, wave_max_channels=16)


def test_paper_sizes_have_one_spectral_and_three_waveform_discriminators() -> None:
    judgements = Discriminators()(torch.randn(1, 8000))
    assert len(judgements) == 4
    assert [len(judgement.features) for judgement in judgements] == [7, 6, 6, 6]
    assert judgements[0].features[-1].shape[1] == 16 * 32
    assert judgements[1].features[-1].shape[1] == 1024
    assert judgements[0].scores.shape[-1] == 1  # the frequency axis ends at width 1


@pytest.mark.parametrize("samples", [300, 1024, 5000])
def test_clips_of_any_length_are_judged_and_first_losses_are_finite(samples: int) -> None:
    torch.manual_seed(0)
    model, real = Discriminators(SMALL), 0.1 * torch.randn(2, samples)
    fake = (0.1 * torch.randn(2, samples)).requires_grad_()
    ours, theirs = model(real), model(fake)
    losses = [
        hinge_discriminator_loss([j.scores for j in ours], [j.scores for j in theirs]),
        hinge_generator_loss([j.scores for j in theirs]),
        feature_matching_loss([j.features for j in ours], [j.features for j in theirs]),
    ]
    assert all(loss.isfinite() for loss in losses)
    assert 1.5 < losses[0] < 2.5  # undecided: 1 + 1
    torch.stack(losses[1:]).sum().backward()
    assert fake.grad is not None
    assert fake.grad.isfinite().all()
    assert (fake.grad != 0).float().mean() > 0.5


def test_the_halved_rates_see_the_halved_signal() -> None:
    model, heard = Discriminators(SMALL), []
    for wave in model.waves:
        wave.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0].size(1)))
    model(torch.randn(1, 4000))
    assert heard == [4000, 2000, 1000]


def test_discriminators_learn_to_tell_noise_from_tones() -> None:
    torch.manual_seed(0)
    model = Discriminators(SMALL)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    tone = 0.1 * torch.sin(torch.arange(2000) * 0.3).repeat(2, 1)
    for _ in range(25):
        real, fake = model(tone), model(0.07 * torch.randn(2, 2000))
        loss = hinge_discriminator_loss([j.scores for j in real], [j.scores for j in fake])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0


@pytest.mark.parametrize("wrong", [{"stft_channels": 0}, {"wave_channels": 6}, {"wave_scales": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DiscriminatorConfig(**wrong)
