"""Recorded steps, on a stand-in for a GPU's graphs: what is recorded waits for nothing, and replays to the same draws."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from audiolm.lm import decoding, recording
from audiolm.lm.decoding import Decoder, decode
from audiolm.lm.sampling import Sampling
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.tokens.layout import Stage, StageLayout
from audiolm.tokens.spec import TokenSpec

SPEC = TokenSpec(clusters=5, codebook_size=4, levels=5, coarse_levels=2)
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero", "aten::equal"}


def storages(values: Any) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}


class Graph:
    """Keeps the operations that were dispatched, with their tensors, and does them again on the same tensors."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        for function, arguments, named, output in self.operations:
            writes = any(r.alias_info is not None and r.alias_info.is_write for r in function._schema.returns)
            is_view = bool(storages(output)) and storages(output) <= storages((arguments, named))
            if is_view and not writes:
                continue
            again = function(*arguments, **named)
            if not is_view:
                for new, old in zip(tree_leaves(again), tree_leaves(output), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


class Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        assert function._schema.name not in WAITS, f"{function._schema.name} waits for the device"
        output = function(*arguments, **(named or {}))
        self.graph.operations.append((function, arguments, named or {}, output))
        return output


@contextlib.contextmanager
def record(graph: Graph, **_: Any) -> Iterator[None]:
    with Recorder(graph):
        yield


class RecordedOnCpu(recording.RecordedSteps):
    """A GPU records without doing; the stand-in does, which is undone."""

    def _record(self, phase: int) -> Any:
        tensors = [*self.state, self.cache._column]
        before = [tensor.clone() for tensor in tensors]
        graph = super()._record(phase)
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        return graph


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Decoders record from here on; the graphs that they made."""
    made: list[Graph] = []

    def graph() -> Graph:
        made.append(Graph())
        return made[-1]

    stream = SimpleNamespace(wait_stream=lambda _: None)
    cuda = SimpleNamespace(
        CUDAGraph=graph,
        graph=record,
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: contextlib.nullcontext(),
        device=lambda _: contextlib.nullcontext(),
        graph_pool_handle=lambda: 0,
    )
    monkeypatch.setattr(recording, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(decoding, "can_record", lambda _: True)
    monkeypatch.setattr(decoding, "RecordedSteps", RecordedOnCpu)
    monkeypatch.setattr(decoding, "RECORDED_FROM_STEPS", 4)
    return made


def toy(layout: StageLayout, positions: str) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(layers=2, heads=2, dim=16, feed_forward=32, dropout=0.0, positions=positions)
    model = Transformer(config, layout.vocabulary).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def prompts(layout: StageLayout) -> list[torch.Tensor]:
    units, codes = torch.tensor([0, 3, 1, 4, 2]), torch.arange(14).view(2, 7) % 4
    if layout.stage == "semantic":
        return [layout.prefix(units), layout.prefix(units[:2])]
    if layout.stage == "coarse":
        return [layout.prefix(units, codes), layout.prefix(units[:2], codes[:, :2])]
    return [layout.prefix(None, codes), layout.prefix(None, codes[:, :3])]


@pytest.mark.parametrize("positions", ["t5", "rope"])
@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine", "acoustic"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, top_k=3, top_p=0.9)])
@pytest.mark.parametrize("stop_at_end", [False, True])
def test_recorded_steps_draw_what_steps_draw(
    stage: Stage,
    positions: str,
    sampling: Sampling,
    recorded: list[Graph],
    monkeypatch: pytest.MonkeyPatch,
    *,
    stop_at_end: bool,
) -> None:
    layout = StageLayout(SPEC, stage)
    model = toy(layout, positions)
    uniforms = torch.rand(2, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    arguments = {"steps": 36, "sampling": sampling, "uniforms": uniforms, "stop_at_end": stop_at_end}
    replayed = decode(model, layout, prompts(layout), **arguments)
    assert len(recorded) == layout.phases
    monkeypatch.setattr(decoding, "can_record", lambda _: False)
    assert all(map(torch.equal, replayed, decode(model, layout, prompts(layout), **arguments)))


@pytest.mark.usefixtures("recorded")
def test_a_recorded_decoder_is_freed_without_the_garbage_collector() -> None:
    layout = StageLayout(SPEC, "coarse")
    decoder = Decoder(toy(layout, "t5"), layout, prompts(layout), steps=20, sampling=Sampling())
    decoder.draw(torch.rand(2, 20, dtype=torch.float64))
    cache = weakref.ref(decoder._cache)
    gc.collect()
    gc.disable()
    try:
        del decoder
        assert cache() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("recorded")
def test_few_steps_are_not_recorded() -> None:
    layout = StageLayout(SPEC, "fine")
    assert Decoder(toy(layout, "t5"), layout, prompts(layout), steps=11, sampling=Sampling())._recorded is None
    assert Decoder(toy(layout, "t5"), layout, prompts(layout), steps=12, sampling=Sampling())._recorded is not None
