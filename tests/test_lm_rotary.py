"""Rotary positions: scores depend on the distance alone, and the turn is that of the field's other implementations."""

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from audiolm.lm.rotary import Rotary, rotate
from audiolm.lm.transformer import Transformer, TransformerConfig


def random_heads(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_scores_depend_on_the_distance_alone() -> None:
    query, key = random_heads(2, 1, 3, 1, 8)
    rotary = Rotary(8)
    scores = []
    for shift in (0, 1, 777):
        turned = [rotate(x, *rotary(torch.tensor([[at + shift]]))) for x, at in ((query, 9), (key, 4))]
        scores.append((turned[0] * turned[1]).sum(-1))
    assert torch.allclose(scores[0], scores[1], atol=1e-12)
    assert torch.allclose(scores[0], scores[2], atol=1e-10)
    assert not torch.allclose(scores[0], (query * key).sum(-1), atol=1e-2)


def test_the_turn_is_that_of_llama() -> None:
    queries, keys = random_heads(2, 2, 3, 7, 8)
    cosines, sines = Rotary(8)(torch.arange(7)[None])
    theirs = apply_rotary_pos_emb(queries, keys, *(torch.cat([x, x], -1)[:, 0] for x in (cosines, sines)))
    for ours, expected in zip((queries, keys), theirs, strict=True):
        assert torch.allclose(rotate(ours, cosines, sines), expected, atol=1e-12)


def test_position_zero_is_not_turned_and_lengths_are_kept() -> None:
    x = random_heads(1, 1, 5, 6)
    turned = rotate(x, *Rotary(6)(torch.arange(5)[None]))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-12)
    assert rotate(x.bfloat16(), *Rotary(6)(torch.arange(5)[None])).dtype == torch.bfloat16


def test_a_model_with_rotary_positions_has_no_weights_for_them_and_tells_order() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(layers=1, heads=2, dim=16, feed_forward=32, dropout=0.0, positions="rope")
    model = Transformer(config, 20)
    assert not [name for name in model.state_dict() if "position" in name or "rotary" in name]
    torch.nn.init.normal_(model.blocks[0].query_key_value.weight)  # so that attention chooses
    one, other = model.hidden(torch.tensor([[1, 2, 3, 4]]))[0, -1], model.hidden(torch.tensor([[2, 1, 3, 4]]))[0, -1]
    assert not torch.allclose(one, other, atol=1e-4)
