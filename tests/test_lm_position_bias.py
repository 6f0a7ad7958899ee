"""Relative position buckets and the bias made from them."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from audiolm.lm.position_bias import PositionBias, distance_buckets


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (32, 2300), (64, 256), (8, 20), (2, 5)])
def test_buckets_equal_those_of_t5(buckets: int, max_distance: int) -> None:
    distances = torch.arange(5000)
    ours = distance_buckets(distances, buckets=buckets, max_distance=max_distance)
    theirs = T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=buckets, max_distance=max_distance
    )
    assert torch.equal(ours, theirs)


def test_the_bias_is_a_function_of_distance_alone_whatever_the_length() -> None:
    bias = PositionBias(3, buckets=8, max_distance=20)
    assert torch.equal(bias(50)[:, :7], bias(7))
    assert bias(50).shape == (3, 50)
    assert (bias(50)[:, 20:] == bias(50)[:, 20:21]).all()
