"""StageLayout: against the loop, its exact inverse, and what carries loss."""

import itertools

import hypothesis.strategies as st
import pytest
import reference
import torch
from hypothesis import given
from torch import Tensor

from audiolm.tokens.layout import Stage, StageLayout, collate, remove_repeats
from audiolm.tokens.spec import TokenSpec

STAGES: list[Stage] = ["semantic", "coarse", "fine", "acoustic"]
stages = st.sampled_from(STAGES)
specs = st.builds(
    lambda clusters, entries, coarse, fine: TokenSpec(
        clusters=clusters, codebook_size=entries, levels=coarse + fine, coarse_levels=coarse
    ),
    clusters=st.integers(2, 6),
    entries=st.integers(1, 6),
    coarse=st.integers(1, 3),
    fine=st.integers(1, 3),
)


def random_crop(spec: TokenSpec, *, frames: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    units = torch.randint(spec.clusters, ((frames + 1) // 2,), generator=random)
    return units, torch.randint(spec.codebook_size, (spec.levels, frames), generator=random)


@given(spec=specs, stage=stages, frames=st.integers(1, 20), end=st.booleans(), seed=st.integers(0, 99))
def test_sequence_agrees_with_the_loop_and_parse_inverts_it(
    spec: TokenSpec, stage: Stage, frames: int, end: bool, seed: int
) -> None:
    units, codes = random_crop(spec, frames=frames, seed=seed)
    layout = StageLayout(spec, stage)
    sequence = layout.sequence(units, codes, true_end=end)
    tokens, phases = reference.stage_sequence(
        stage=stage,
        clusters=spec.clusters,
        entries=spec.codebook_size,
        coarse=spec.coarse_levels,
        units=units.tolist(),
        codes=codes.tolist(),
        end=end,
    )
    assert sequence.inputs.tolist() == tokens[:-1]
    assert sequence.targets.tolist() == tokens[1:]
    assert sequence.phases.tolist() == phases[1:]

    parsed, ended = layout.parse(sequence.targets[sequence.phases >= 0])
    expected = {
        "semantic": remove_repeats(units),
        "coarse": codes[: spec.coarse_levels],
        "fine": codes[spec.coarse_levels :],
        "acoustic": codes[: spec.coarse_levels],
    }[stage]
    assert torch.equal(parsed, expected)
    assert ended == (end and stage != "fine")


@given(spec=specs, stage=stages, frames=st.integers(1, 20), end=st.booleans(), seed=st.integers(0, 99))
def test_every_counted_target_is_legal_where_it_stands_and_the_end_only_at_true_ends(
    spec: TokenSpec, stage: Stage, frames: int, end: bool, seed: int
) -> None:
    layout = StageLayout(spec, stage)
    sequence = layout.sequence(*random_crop(spec, frames=frames, seed=seed), true_end=end)
    for token, target, phase in zip(sequence.inputs, sequence.targets, sequence.phases.tolist(), strict=True):
        if phase >= 0:
            start, stop = layout.legal_range(phase)
            assert start <= target < stop
            assert layout.allowed(phase, token[None], may_end=end)[0, target - start]
    ends = (sequence.targets == layout.end_id).nonzero().flatten().tolist() if layout.end_id is not None else []
    assert ends == ([len(sequence.targets) - 1] if end and stage != "fine" else [])


@given(spec=specs, stage=stages)
def test_the_legal_ranges_and_the_conditioning_ids_share_out_the_vocabulary(spec: TokenSpec, stage: Stage) -> None:
    layout = StageLayout(spec, stage)
    ranges = [range(*layout.legal_range(phase)) for phase in range(layout.phases)]
    legal = [token for ids in ranges for token in ids]
    conditioning = {
        "semantic": [],
        "coarse": range(spec.clusters),
        "fine": range(spec.coarse_levels * spec.codebook_size),
        "acoustic": [],
    }[stage]
    assert sorted([*legal, *conditioning, layout.start_id]) == list(range(layout.vocabulary))
    sizes = [len(ids) for ids in ranges]
    if stage == "semantic":
        assert sizes == [spec.clusters + 1]
    else:
        assert sizes == [spec.codebook_size + (stage != "fine" and phase == 0) for phase in range(layout.phases)]


@given(spec=specs, stage=stages, frames=st.integers(1, 12), known=st.integers(0, 12), seed=st.integers(0, 9))
def test_a_prefix_begins_the_training_sequence_and_knows_its_targets(
    spec: TokenSpec, stage: Stage, frames: int, known: int, seed: int
) -> None:
    units, codes = random_crop(spec, frames=frames, seed=seed)
    layout = StageLayout(spec, stage)
    whole = layout.sequence(units, codes, true_end=False)
    if stage == "semantic":
        prefix = layout.prefix(units[:known] if known else None)
        targets = len(remove_repeats(units[:known]))
    elif stage != "fine":
        prefix = layout.prefix(units if stage == "coarse" else None, codes[: spec.coarse_levels, :known])
        targets = min(known, frames) * layout.phases
    else:
        prefix, targets = layout.prefix(None, codes[: spec.coarse_levels]), 0
    tokens = torch.cat([whole.inputs, whole.targets[-1:]])
    assert torch.equal(prefix, tokens[: len(prefix)])
    assert layout.known_targets(prefix) == targets


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_semantic_stage_forbids_the_previous_token(stage: Stage) -> None:
    layout = StageLayout(TokenSpec(clusters=4, codebook_size=4, levels=2, coarse_levels=1), stage)
    start, stop = layout.legal_range(0)
    for previous in range(layout.vocabulary):
        allowed = layout.allowed(0, torch.tensor([previous]), may_end=True)[0]
        forbidden = [start + place for place in (~allowed).nonzero().flatten().tolist()]
        assert forbidden == ([previous] if stage == "semantic" and start <= previous < stop else [])
    assert (~layout.allowed(0, torch.tensor([start]), may_end=False)).sum() == {
        "semantic": 2,
        "coarse": 1,
        "fine": 0,
        "acoustic": 1,
    }[stage]


def test_collate_pads_on_the_right_without_loss_and_says_how_much() -> None:
    layout = StageLayout(TokenSpec(clusters=4, codebook_size=4, levels=2, coarse_levels=1), "coarse")
    short = layout.sequence(torch.tensor([1]), torch.tensor([[0], [0]]), true_end=False)
    long = layout.sequence(torch.tensor([1, 2]), torch.tensor([[0, 1, 2], [0, 1, 2]]), true_end=True)
    batch = collate([short, long])
    assert batch.inputs.shape == (2, 6)
    assert torch.equal(batch.inputs[0, :2], short.inputs)
    assert (batch.phases[0, 2:] == -1).all()
    assert batch.counted.sum(1).tolist() == [1, 4]
    assert int(batch.padded) == 4
    assert torch.equal(batch.to("cpu").targets, batch.targets)


SPEC = TokenSpec(clusters=4, codebook_size=4, levels=3, coarse_levels=2)


@pytest.mark.parametrize(
    ("stage", "targets", "complaint"),
    [
        ("semantic", [1, 1], "token 1 is id 1"),
        ("semantic", [1, 4, 2], "token 1 is id 4"),  # an end token in the middle
        ("semantic", [5], "token 0 is id 5"),
        ("coarse", [6, 10, 6], "do not fill whole frames of 2 levels"),
        ("coarse", [6, 10, 10, 6], "token 2 is id 10"),
        ("fine", [8, 12], "token 1 is id 12"),
        ("acoustic", [2, 1, 2], "do not fill whole frames of 2 levels"),
        ("acoustic", [2, 6, 6, 2], "token 2 is id 6"),
        ("acoustic", [1, 6], "token 0 is id 1"),
    ],
)
def test_parse_refuses_what_the_layout_forbids(stage: Stage, targets: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StageLayout(SPEC, stage).parse(torch.tensor(targets))


def test_streams_that_are_missing_empty_or_of_another_size_are_refused() -> None:
    units, codes = torch.tensor([0, 1]), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="coarse stage needs units"):
        StageLayout(SPEC, "coarse").sequence(None, codes, true_end=False)
    with pytest.raises(ValueError, match="needs codes of 3 levels"):
        StageLayout(SPEC, "fine").sequence(None, codes[:2], true_end=False)
    with pytest.raises(ValueError, match=r"units must lie in \[0, 4\), got 0 to 4"):
        StageLayout(SPEC, "semantic").sequence(torch.tensor([0, 4]), None, true_end=False)
    with pytest.raises(ValueError, match="codes must have 2 dimension"):
        StageLayout(SPEC, "coarse").sequence(units, codes[0], true_end=False)
    with pytest.raises(ValueError, match="no frames"):
        StageLayout(SPEC, "fine").sequence(None, codes[:, :0], true_end=False)
    with pytest.raises(ValueError, match="there is no fine stage"):
        StageLayout(TokenSpec(levels=3, coarse_levels=3), "fine")
    with pytest.raises(ValueError, match="holds its start token once, this one 0 times"):
        StageLayout(SPEC, "coarse").known_targets(torch.tensor([1, 2]))


def test_the_layout_takes_the_16_bit_tokens_of_a_store() -> None:
    units = torch.tensor([65535, 0]).to(torch.uint16)
    sequence = StageLayout(TokenSpec(clusters=65536), "semantic").sequence(units, None, true_end=True)
    assert sequence.targets.tolist() == [65535, 0, 65536]


@pytest.mark.parametrize("stage", STAGES)
def test_the_legal_ranges_of_a_cycle_stand_side_by_side(stage: Stage) -> None:
    layout = StageLayout(TokenSpec(), stage)
    ranges = [layout.legal_range(phase) for phase in range(layout.phases)]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


def test_the_acoustic_stage_is_the_coarse_stage_without_units() -> None:
    """The same codes in the same order under the same masks; only the ids are shifted by the units that it lacks."""
    units, codes = torch.tensor([0, 0, 3]), torch.arange(12).view(3, 4) % 4
    coarse, acoustic = StageLayout(SPEC, "coarse"), StageLayout(SPEC, "acoustic")
    theirs, ours = (layout.sequence(units, codes, true_end=True) for layout in (coarse, acoustic))
    counted = theirs.phases >= 0
    assert torch.equal(theirs.targets[counted] - SPEC.clusters, ours.targets)
    assert torch.equal(theirs.phases[counted], ours.phases)
    assert ours.inputs[0] == acoustic.start_id
    assert acoustic.size(None, 4, true_end=True) == (len(ours.inputs), len(ours.targets))
    assert torch.equal(acoustic.sequence(None, codes, true_end=True).inputs, ours.inputs)  # units are not needed
    with pytest.raises(ValueError, match="acoustic stage needs codes, got none"):
        acoustic.sequence(units, None, true_end=True)
