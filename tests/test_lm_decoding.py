"""Decoding: legal ids only, the exact distribution, rows that do not feel each other."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from audiolm.lm.decoding import Decoder, decode
from audiolm.lm.losses import next_token_loss
from audiolm.lm.sampling import Sampling, sample_next
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.tokens.layout import Stage, StageLayout, collate
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec(clusters=5, codebook_size=4, levels=5, coarse_levels=2)
STAGES: list[Stage] = ["semantic", "coarse", "fine", "acoustic"]
TINY = TransformerConfig(layers=2, heads=2, dim=16, feed_forward=32, dropout=0.3)


def toy(layout: StageLayout) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(TINY, layout.vocabulary).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def prompts(layout: StageLayout) -> list[Tensor]:
    units, codes = torch.tensor([0, 0, 3, 1, 4, 4, 2]), torch.arange(14).view(2, 7) % 4
    if layout.stage == "semantic":
        return [layout.prefix(units[:n]) for n in (7, 1)] + [layout.prefix(None)]
    if layout.stage == "coarse":
        return [layout.prefix(units, codes), layout.prefix(units[:2], None), layout.prefix(units[:3], codes[:, :1])]
    if layout.stage == "acoustic":
        return [layout.prefix(None, codes), layout.prefix(None), layout.prefix(None, codes[:, :1])]
    return [layout.prefix(None, codes[:, :n]) for n in (7, 1, 3)]


def uniform_numbers(rows: int, steps: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("extreme", [None, 0.0, 1 - 2**-53])
def test_every_drawn_id_is_legal_and_rows_are_full_without_the_end(stage: Stage, extreme: float | None) -> None:
    layout = StageLayout(SPEC, stage)
    uniforms = uniform_numbers(3, 60) if extreme is None else torch.full((3, 60), extreme, dtype=torch.float64)
    rows = decode(toy(layout), layout, prompts(layout), steps=60, sampling=Sampling(1.5), uniforms=uniforms)
    for prompt, row in zip(prompts(layout), rows, strict=True):
        known = prompt[len(prompt) - layout.known_targets(prompt) :]
        parsed, ended = layout.parse(torch.cat([known, row]))  # refuses every illegal id
        assert not ended
        assert parsed.shape[-1] * layout.phases == len(known) + 60


@pytest.mark.parametrize("stage", STAGES)
def test_decoding_equals_drawing_from_the_uncached_model_one_row_at_a_time(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout).eval()
    uniforms = uniform_numbers(3, 12)
    rows = decode(model, layout, prompts(layout), steps=12, sampling=Sampling(0.8), uniforms=uniforms)
    for prompt, row, numbers in zip(prompts(layout), rows, uniforms, strict=True):
        tokens = prompt
        for step in range(12):
            start, stop = layout.legal_range((layout.known_targets(prompt) + step) % layout.phases)
            allowed = torch.zeros(layout.vocabulary, dtype=torch.bool)
            allowed[start:stop] = True
            if layout.end_id is not None:
                allowed[layout.end_id] = False
            if stage == "semantic":
                allowed[tokens[-1]] = False
            logits = model(tokens[None])[:, -1]
            tokens = torch.cat(
                [tokens, sample_next(logits, allowed=allowed, sampling=Sampling(0.8), uniform=numbers[step, None])]
            )
        assert torch.equal(row, tokens[len(prompt) :])


@pytest.mark.parametrize("stage", STAGES)
def test_a_row_does_not_depend_on_its_batch_mates_in_float64(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model, uniforms = toy(layout), uniform_numbers(3, 40)
    together = decode(model, layout, prompts(layout), steps=40, sampling=Sampling(), uniforms=uniforms)
    for number, prompt in enumerate(prompts(layout)):
        numbers = uniforms[number : number + 1]
        alone = decode(model, layout, [prompt], steps=40, sampling=Sampling(), uniforms=numbers)[0]
        assert torch.equal(alone, together[number])
    reordered = decode(model, layout, prompts(layout)[::-1], steps=40, sampling=Sampling(), uniforms=uniforms.flip(0))
    assert all(torch.equal(a, b) for a, b in zip(together, reordered[::-1], strict=True))


def test_rows_may_stand_at_different_phases() -> None:
    layout = StageLayout(SPEC, "fine")
    model, uniforms = toy(layout), uniform_numbers(3, 10)
    whole = prompts(layout)[0]
    first = decode(model, layout, [whole], steps=10, sampling=Sampling(), uniforms=uniforms[:1])[0]
    inside = [whole, torch.cat([whole, first[:1]]), torch.cat([whole, first[:5]])]
    staggered = torch.stack([torch.cat([uniforms[0, n:], torch.zeros(n, dtype=torch.float64)]) for n in (0, 1, 5)])
    rows = decode(model, layout, inside, steps=10, sampling=Sampling(), uniforms=staggered)
    assert torch.equal(rows[0], first)
    assert torch.equal(rows[1][:9], first[1:])
    assert torch.equal(rows[2][:5], first[5:])


@pytest.mark.parametrize("stage", ["semantic", "coarse"])
def test_the_end_token_is_drawn_only_where_permitted_and_ends_its_row_alone(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model, uniforms = toy(layout), uniform_numbers(3, 80)
    free = decode(model, layout, prompts(layout), steps=80, sampling=Sampling(), uniforms=uniforms, stop_at_end=True)
    assert len({len(row) for row in free}) > 1  # at random weights some rows end, at different places
    for number, (prompt, row) in enumerate(zip(prompts(layout), free, strict=True)):
        assert (row[:-1] != layout.end_id).all()
        assert len(row) == 80 or row[-1] == layout.end_id
        alone = decode(
            model, layout, [prompt], steps=80, sampling=Sampling(), uniforms=uniforms[number, None], stop_at_end=True
        )
        assert torch.equal(alone[0], row)


def test_stopping_is_meaningless_but_harmless_where_no_end_token_exists() -> None:
    layout = StageLayout(SPEC, "fine")
    arguments = {"steps": 6, "sampling": Sampling(), "uniforms": uniform_numbers(3, 6)}
    stopping = decode(toy(layout), layout, prompts(layout), stop_at_end=True, **arguments)
    assert all(map(torch.equal, stopping, decode(toy(layout), layout, prompts(layout), **arguments)))


@pytest.mark.parametrize("stage", STAGES)
def test_draws_follow_the_exact_distribution_to_the_last_code(stage: Stage) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout).eval()
    draws, prompt = 8000, prompts(layout)[0]
    known = layout.known_targets(prompt)
    frame = decode(
        model, layout, [prompt], steps=layout.phases, sampling=Sampling(), uniforms=uniform_numbers(1, layout.phases)
    )
    for offset in range(layout.phases):  # every phase, from a prompt that reaches into the frame
        tokens = torch.cat([prompt, frame[0][:offset]])
        start, stop = layout.legal_range((known + offset) % layout.phases)
        allowed = layout.allowed((known + offset) % layout.phases, tokens[-1:], may_end=True)[0]
        logits = model(tokens[None])[0, -1, start:stop].masked_fill(~allowed, -torch.inf)
        expected = draws * (logits / 1.3).softmax(0)
        rows = decode(
            model,
            layout,
            [tokens] * draws,
            steps=1,
            sampling=Sampling(1.3),
            uniforms=uniform_numbers(draws, 1, seed=offset),
            stop_at_end=True,
        )
        observed = torch.bincount(torch.cat(rows) - start, minlength=stop - start)
        assert (observed[~allowed] == 0).all()
        assert (observed[allowed] > 0).all()
        chi_square = ((observed - expected)[allowed].square() / expected[allowed]).sum().item()
        assert chi_square < 25  # at most 5 degrees of freedom: the chance to exceed 25 is 1.4e-4, and the seed is fixed


def test_the_mode_is_restored_and_the_result_may_enter_training() -> None:
    layout = StageLayout(SPEC, "semantic")
    for training in (True, False):
        model = toy(layout).train(training)
        arguments = {"steps": 20, "sampling": Sampling(), "uniforms": uniform_numbers(3, 20)}
        rows = decode(model.float(), layout, prompts(layout), **arguments)
        assert torch.backends.mkldnn.enabled
        assert all(module.training == training for module in model.modules())
        assert all(map(torch.equal, rows, decode(model, layout, prompts(layout), **arguments)))  # no dropout
    loss = next_token_loss(model, layout, collate([layout.sequence(rows[0], None, true_end=False)]))
    loss.nats.sum().backward()


def test_a_model_whose_weights_diverged_says_so_and_keeps_its_mode() -> None:
    layout = StageLayout(SPEC, "semantic")
    model = toy(layout).train()
    torch.nn.init.constant_(model.norm.weight, torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        decode(model, layout, prompts(layout), steps=2, sampling=Sampling(), uniforms=uniform_numbers(3, 2))
    assert model.training


def test_an_overfitted_model_speaks_its_training_sequence_at_low_temperature() -> None:
    layout = StageLayout(SPEC, "coarse")
    units = torch.tensor([0, 3, 1, 4, 2])
    codes = torch.randint(4, (2, 10), generator=torch.Generator().manual_seed(3))
    batch = collate([layout.sequence(units, codes, true_end=True)])
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(layers=2, heads=2, dim=32, feed_forward=64, dropout=0.0), layout.vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        next_token_loss(model, layout, batch).nats.sum().backward()
        optimizer.step()
    prompt = layout.prefix(units, codes[:, :3])
    row = decode(
        model, layout, [prompt], steps=100, sampling=Sampling(0.05), uniforms=uniform_numbers(1, 100), stop_at_end=True
    )[0]
    spoken, ended = layout.parse(row)
    assert ended
    assert torch.equal(spoken, codes[:, 3:])


def test_requests_that_cannot_be_met_are_refused() -> None:
    layout = StageLayout(SPEC, "semantic")
    model, good = toy(layout), {"steps": 2, "sampling": Sampling(), "uniforms": uniform_numbers(3, 2)}
    with pytest.raises(ValueError, match="0 prompts"):
        decode(model, layout, [], **good)
    with pytest.raises(ValueError, match="0 steps"):
        decode(model, layout, prompts(layout), **{**good, "steps": 0})
    with pytest.raises(ValueError, match=r"uniforms must be \(rows, steps\) = \(3, 2\)"):
        decode(model, layout, prompts(layout), **{**good, "uniforms": uniform_numbers(3, 1)})
    with pytest.raises(ValueError, match="different token specs or stages"):
        decode(toy(StageLayout(SPEC, "fine")), layout, prompts(layout), **good)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("pieces", [[1, 1, 10], [5, 7], [11, 1]])
def test_draws_in_pieces_are_those_in_one_go(stage: Stage, pieces: list[int]) -> None:
    layout = StageLayout(SPEC, stage)
    model, uniforms = toy(layout), uniform_numbers(3, 12)
    whole = decode(model, layout, prompts(layout), steps=12, sampling=Sampling(), uniforms=uniforms, stop_at_end=True)
    decoder = Decoder(model, layout, prompts(layout), steps=12, sampling=Sampling(), stop_at_end=True)
    parts = [decoder.draw(piece) for piece in uniforms.split(pieces, dim=1)]
    assert all(
        torch.equal(torch.cat(row), expected) for row, expected in zip(zip(*parts, strict=True), whole, strict=True)
    )
    if stage == "fine":  # in the other stages all rows may have ended before
        with pytest.raises(ValueError, match="at most 0 numbers"):
            decoder.draw(uniforms[:, :1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs")
@pytest.mark.parametrize("stage", STAGES)
def test_recorded_steps_draw_what_steps_draw(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = StageLayout(SPEC, stage)
    model, uniforms, prefixes = toy(layout).cuda(), uniform_numbers(2, 50), [prompts(layout)[0], prompts(layout)[0]]
    arguments = {"steps": 50, "sampling": Sampling(top_k=3), "uniforms": uniforms, "stop_at_end": True}
    recorded = decode(model, layout, prefixes, **arguments)
    monkeypatch.setattr("audiolm.lm.decoding.RECORDED_FROM_STEPS", 1000)
    assert all(map(torch.equal, recorded, decode(model, layout, prefixes, **arguments)))


def test_a_decoder_is_freed_without_the_garbage_collector() -> None:
    layout = StageLayout(SPEC, "coarse")
    decoder = Decoder(toy(layout), layout, prompts(layout), steps=20, sampling=Sampling())
    decoder.draw(uniform_numbers(3, 20))
    cache = weakref.ref(decoder._cache)
    gc.collect()
    gc.disable()
    try:
        del decoder
        assert cache() is None
    finally:
        gc.enable()
