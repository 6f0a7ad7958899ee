"""The trained encoder: frames, lengths, masks, objectives against slow versions, and that learning happens."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.processes import Draws
from audiolm.semantic.augmentation import Augmentation, augmented, mixed, warped
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.semantic.contrastive import contrastive_loss
from audiolm.semantic.encoders import rebuild_encoder
from audiolm.semantic.gumbel import GumbelQuantizer, annealed_temperature, diversity_loss
from audiolm.semantic.masking import span_mask
from audiolm.semantic.objectives import (
    BestRqConfig,
    BestRqObjective,
    Hearing,
    Objective,
    W2vBertConfig,
    W2vBertObjective,
    hear_masked,
)
from audiolm.semantic.random_projection import RandomProjectionQuantizer
from audiolm.semantic.spectrogram import LogMel

TINY = ConformerConfig(
    dim=32, contrastive_layers=2, masked_layers=2, heads=2, feed_forward=64, subsampling_channels=4, dropout=0.0
)


def hearing(spectra: torch.Tensor, inside: torch.Tensor | None = None, *, seed: int = 0) -> Hearing:
    inside = torch.ones(len(spectra), spectra.shape[1] // 4, dtype=torch.bool) if inside is None else inside
    samples = 640 * inside.sum(1)
    audio = torch.zeros(len(spectra), 640 * inside.shape[1])
    return Hearing(audio, samples, spectra, spectra, inside, draws(len(spectra), seed))


def draws(rows: int, seed: int = 0) -> Draws:
    return Draws(seed, examples=range(rows))


def tiny_encoder(seed: int = 0) -> ConformerEncoder:
    torch.manual_seed(seed)
    encoder = ConformerEncoder(TINY)
    encoder.spectrogram.set_statistics(torch.full((80,), -3.0), torch.full((80,), 2.0))
    return encoder.eval()


@given(samples=st.integers(1, 20000))
@settings(max_examples=20, deadline=None)
def test_frames_are_the_ceiling_of_samples_over_640(samples: int) -> None:
    assert tiny_encoder()(torch.randn(1, samples)).shape == (1, -(-samples // 640), 32)


def test_a_padded_batch_gives_what_each_recording_gives_alone() -> None:
    encoder = tiny_encoder()
    lengths = [16000, 7001, 640, 1, 12800]
    rows = [torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in lengths]
    batch = torch.full((5, 16000), float("nan"))  # what follows a recording is not even a number
    for padded, row in zip(batch, rows, strict=True):
        padded[: len(row)] = row
    states = encoder.hidden_states(batch, torch.tensor(lengths), layers=range(5))
    for number, row in enumerate(rows):
        alone = encoder.hidden_states(row[None], layers=range(5))
        for layer in range(5):
            frames = alone[layer].shape[1]
            assert torch.allclose(states[layer][number, :frames], alone[layer][0], atol=2e-5)
            assert not states[layer][number, frames:].any()


def test_forward_gives_the_layer_asked_for() -> None:
    encoder, audio = tiny_encoder(), torch.randn(1, 3200)
    states = encoder.hidden_states(audio, layers=range(5))
    assert encoder.layer == 3  # 7 / 12 of two layers above the first two
    assert torch.equal(encoder(audio), states[3])
    assert len({float(state.detach().sum()) for state in states}) == 5
    with pytest.raises(ValueError, match=r"layers 0 to 4; there is no layer \[5\]"):
        encoder.hidden_states(audio, layers=[5])
    with pytest.raises(ValueError, match=r"\[-1\]"):
        ConformerEncoder(TINY, layer=-1)


def test_a_rebuilt_encoder_gives_the_same_features() -> None:
    encoder, audio = tiny_encoder(), torch.randn(1, 5000)
    other = rebuild_encoder(encoder.config_dict()).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(audio), encoder(audio))


def test_the_paper_size_is_that_of_w2v_bert_xl() -> None:
    config = ConformerConfig()
    assert config.usual_layer == 12 + 7
    one = ConformerEncoder(replace(config, contrastive_layers=1, masked_layers=1))
    block = sum(parameter.numel() for parameter in one.blocks[0].parameters())
    front = sum(parameter.numel() for parameter in one.subsampling.parameters())
    assert 0.57e9 < config.layers * block + front < 0.62e9


def test_sizes_that_do_not_fit_are_refused() -> None:
    for wrong, word in (({"heads": 3}, "heads"), ({"kernel": 4}, "odd"), ({"mel_bins": 82}, "mel_bins")):
        with pytest.raises(ValueError, match=word):
            ConformerConfig(dim=32, **{"heads": 2, **wrong})


def test_a_spectrum_is_centred_on_its_ten_milliseconds() -> None:
    spectrogram, audio = LogMel(), torch.zeros(1, 16000)
    audio[0, 8000 : 8000 + 160] = torch.randn(160)  # step 50
    loud = spectrogram.raw(audio, steps=100)[0].mean(1)
    assert int(loud.argmax()) == 50
    assert torch.allclose(loud[:47], loud[0].expand(47))


@given(batch=st.integers(1, 4), frames=st.integers(1, 60), probability=st.floats(0.001, 0.9), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_masks_hide_some_frames_and_leave_some(batch: int, frames: int, probability: float, seed: int) -> None:
    torch.manual_seed(seed)
    lengths = torch.randint(1, frames + 1, (batch,))
    inside = torch.arange(frames) < lengths[:, None]
    masked = span_mask(inside, probability=probability, draws=draws(batch, seed))
    assert not (masked & ~inside).any()
    assert masked.any(1).equal(torch.where(lengths > 1, True, masked.any(1)))
    assert ((inside & ~masked).any(1) | (lengths == 1)).all()


def test_spans_are_ten_frames_and_as_many_as_the_probability_says() -> None:
    masked = span_mask(torch.ones(200, 500, dtype=torch.bool), probability=0.065, draws=draws(200))
    expected = 1 - (1 - 0.065) ** 10  # a frame is free if none of the ten starts that reach it was drawn
    assert abs(float(masked[:, 20:].float().mean()) - expected) < 0.01
    runs = "".join("1" if value else "0" for value in masked[0].tolist()).split("0")
    assert min(len(run) for run in runs[1:-1] if run) >= 10


def test_the_contrastive_loss_is_that_of_the_slow_loop() -> None:
    torch.manual_seed(0)
    context, targets = torch.randn(3, 12, 5), torch.randn(3, 12, 5)
    masked = torch.rand(3, 12) < 0.6
    masked[2] = False
    masked[2, 4] = True  # a single masked frame: nothing to compare with
    loss, accuracy = contrastive_loss(context, targets, masked, draws=draws(3), distractors=7, temperature=0.1)
    rows = [(row, frame) for row in range(2) for frame in range(12) if masked[row, frame]]
    counts = masked.sum(1)
    uniform = draws(3).uniform(12, 7)
    losses, right = [], []
    for row, frame in rows:
        others = [f for f in range(12) if masked[row, f] and f != frame]
        similarity = [torch.cosine_similarity(context[row, frame], targets[row, frame], dim=0) / 0.1]
        for number in uniform[row, frame]:
            other = others[int(number * (counts[row] - 1))]
            similarity.append(torch.cosine_similarity(context[row, frame], targets[row, other], dim=0) / 0.1)
        scores = torch.stack(similarity)
        losses.append(scores.logsumexp(0) - scores[0])
        right.append(float((scores[0] > scores[1:]).all()))
    assert torch.allclose(loss, torch.stack(losses).mean(), atol=1e-5)
    assert abs(float(accuracy) - sum(right) / len(right)) < 1e-6


def test_a_batch_without_two_masked_frames_counts_nothing() -> None:
    one = torch.zeros(1, 3, dtype=torch.bool)
    one[0, 1] = True
    loss, accuracy = contrastive_loss(
        torch.randn(1, 3, 4, requires_grad=True), torch.randn(1, 3, 4), one, draws=draws(1)
    )
    loss.backward()
    assert float(loss.detach()) == float(accuracy) == 0.0


def test_the_gumbel_quantizer_is_hard_but_has_a_gradient() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(dim=6, codes=5, code_dim=4).train()
    latents = torch.randn(30, 6, requires_grad=True)
    vectors, ids, shares = quantizer(latents, temperature=2.0, noise=torch.rand(30, 5) + 1e-3)
    distances = torch.cdist(vectors, quantizer.codebook)
    assert (distances.min(1).values < 1e-3).all()
    assert ids.equal(quantizer.scores(copy.deepcopy(quantizer.centre)(latents)).argmax(1))
    assert math.isclose(float(shares.sum()), 1.0, rel_tol=1e-5)
    vectors.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.any()
    vectors, ids, _ = quantizer.eval()(latents, temperature=2.0)
    assert torch.equal(vectors, quantizer.codebook[ids])


def test_a_step_that_is_not_finite_leaves_the_quantizers_mean_alone() -> None:
    quantizer = GumbelQuantizer(dim=3, codes=4, code_dim=2).train()
    quantizer(torch.full((5, 3), float("nan")), temperature=1.0)
    assert quantizer.centre.mean.isfinite().all()


def test_temperature_falls_and_diversity_is_zero_at_even_use() -> None:
    assert annealed_temperature(0) == 2.0
    assert annealed_temperature(10**7) == 0.5
    assert annealed_temperature(100, decay=0.99) == pytest.approx(2 * 0.99**100)
    assert float(diversity_loss(torch.full((8,), 1 / 8))) == pytest.approx(0, abs=1e-6)
    assert float(diversity_loss(torch.eye(8)[0])) == pytest.approx(7 / 8)


def test_random_projection_names_the_nearest_code_and_never_learns() -> None:
    quantizer = RandomProjectionQuantizer(bins=8, codes=16, code_dim=4, seed=3)
    spectra = torch.randn(2, 12, 8)
    ids = quantizer(spectra)
    for row in range(2):
        for frame in range(3):
            projected = spectra[row, 4 * frame : 4 * frame + 4].reshape(-1) @ quantizer.projection
            projected = projected / projected.norm()
            assert int(ids[row, frame]) == int((quantizer.codebook - projected).norm(dim=1).argmin())
    assert not list(quantizer.parameters())
    assert torch.equal(RandomProjectionQuantizer(bins=8, codes=16, code_dim=4, seed=3)(spectra), ids)


def test_what_lies_behind_the_mask_has_no_influence() -> None:
    encoder, heard = tiny_encoder(), torch.randn(1, 80, 80)
    masked = torch.zeros(1, 20, dtype=torch.bool)
    masked[0, 5:15] = True
    outputs = []
    for change in (0.0, 100.0):
        changed = heard + change * masked.repeat_interleave(4, 1)[..., None]
        outputs.append(hear_masked(encoder, hearing(changed), masked, noise=0.1))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", ["w2v-bert", "best-rq"])
def test_the_objective_is_learned(kind: str) -> None:
    encoder = tiny_encoder().train()
    objective: Objective = (
        W2vBertObjective(W2vBertConfig(codes=8, code_dim=16, distractors=20, gumbel_decay=0.99), encoder)
        if kind == "w2v-bert"
        else BestRqObjective(BestRqConfig(codes=8), encoder)
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=3e-3)
    random = torch.Generator().manual_seed(0)
    pattern = torch.randn(4, 80, generator=random).repeat_interleave(20, 0)  # four sounds of 200 ms, over and over
    heard = pattern.repeat(2, 1)[None].repeat(4, 1, 1) + 0.1 * torch.randn(4, 160, 80, generator=random)
    losses = []
    for step in range(200 if kind == "w2v-bert" else 60):
        outcome = objective(encoder, hearing(heard, seed=step), step=step)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        losses.append(float(outcome.parts["prediction"]))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert len(outcome.ids.unique()) >= 4
    assert outcome.ids.max() < 8


def test_rows_behind_a_recordings_end_do_not_change_the_loss() -> None:
    encoder = tiny_encoder()
    objective = BestRqObjective(BestRqConfig(codes=8), encoder).eval()
    heard = torch.randn(2, 80, 80)
    inside = torch.arange(20) < torch.tensor([[20], [11]])
    losses = []
    for filler in (0.0, 5.0):
        filled = torch.where(inside.repeat_interleave(4, 1)[..., None], heard, torch.tensor(filler))
        losses.append(float(objective(encoder, hearing(filled, inside), step=0).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_no_augmentation_changes_nothing_and_a_warp_moves_a_peak() -> None:
    raw = torch.randn(3, 8, 80)
    assert torch.equal(augmented(raw, Augmentation(), draws=draws(3)), raw)
    assert torch.allclose(warped(raw, torch.ones(3)), raw, atol=1e-6)
    peak = torch.zeros(1, 2, 80)
    peak[..., 40] = 1.0
    assert int(warped(peak, torch.tensor([0.8]))[0, 0].argmax()) == 50
    assert not torch.equal(augmented(raw, Augmentation(warp=0.1, tilt=0.5, noise=1.0), draws=draws(3)), raw)


def test_mixed_in_sound_lies_so_many_decibels_below() -> None:
    raw = torch.full((2, 4, 80), -2.0)
    raw[1] = -8.0
    louder = mixed(raw, share=1.0, noise_db=(10.0, 10.0), draws=draws(2))
    gained = (louder - raw).exp() - 1  # energy added, in proportion
    assert torch.allclose(gained, torch.full_like(gained, 0.1), atol=1e-4)
