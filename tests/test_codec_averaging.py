"""Averaged weights: a plain mean of the past at first, replaced entries at once, counts and flags copied."""

import copy

import torch

from audiolm.codec.averaging import update_average
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.soundstream import SoundStream

TINY = SoundStreamConfig(channels=2, dim=4, strides=(2, 4), levels=2, codebook_size=4, pool_factor=2)


def test_weights_follow_an_exponential_average_oracle() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    average = copy.deepcopy(network)
    expected = network.weight.detach().clone()
    for step in range(1, 40):
        network.weight.data.normal_()
        update_average(average, network, decay=0.7, step=step)
        rate = 1 - min(0.7, (1 + step) / (10 + step))
        expected = expected * (1 - rate) + network.weight.detach() * rate
        torch.testing.assert_close(average.weight.detach(), expected)


def test_codebooks_are_averaged_but_for_entries_that_were_just_replaced() -> None:
    torch.manual_seed(0)
    network = SoundStream(TINY)
    network.quantizer.initialised.fill_(True)
    average = copy.deepcopy(network)
    network.quantizer.codebooks.normal_()
    network.quantizer.fresh[0, 1] = True
    update_average(average, network, decay=0.75, step=10**6)
    ours, theirs = average.quantizer.codebooks, network.quantizer.codebooks
    assert torch.equal(ours[0, 1], theirs[0, 1])
    torch.testing.assert_close(ours[1], 0.25 * theirs[1])
    assert average.quantizer.ready


def test_an_average_becomes_ready_with_its_network() -> None:
    network = SoundStream(TINY).train()
    average = copy.deepcopy(network)
    for step in range(1, 8):
        network(torch.randn(2, 64))
        update_average(average, network, decay=0.9, step=step)
        assert average.quantizer.ready == network.quantizer.ready
        if network.quantizer.ready:
            break
    assert network.quantizer.ready
    assert torch.equal(average.quantizer.codebooks, network.quantizer.codebooks)  # entries begin where k-means put them
