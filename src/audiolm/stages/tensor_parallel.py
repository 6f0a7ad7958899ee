"""Tensor parallelism: every layer of a language model split among a few processes, by heads and by hidden units."""

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from audiolm.lm.transformer import Transformer


def split_layers(model: Transformer, mesh: DeviceMesh) -> None:
    """Split the matrices of every block over `mesh`, in place: each process keeps its heads and its hidden units.

    Embedding, norms, position bias and head stay whole on every process.

    Raises:
        ValueError: if the processes do not divide the heads.

    Source: Megatron-LM (arXiv 1909.08053), section 3.
    """
    processes, heads = mesh.size(), model.config.heads
    if heads % processes:
        raise ValueError(
            f"tensor_parallel_size is {processes}, which does not divide the {heads} heads of this model: each process keeps "
            "whole heads"
        )
    for block in model.blocks:
        parallelize_module(
            block,
            mesh,
            {
                "query_key_value": ColwiseParallel(),
                "attention_output": RowwiseParallel(),
                "feed_forward_input": ColwiseParallel(),
                "feed_forward_output": RowwiseParallel(),
            },
        )

    def own_heads(bias: Tensor) -> Tensor:
        """The rows of this process's heads; their gradients are gathered again."""
        return DTensor.from_local(bias, mesh, [Replicate()]).redistribute(placements=[Shard(0)]).to_local()

    model.own_heads = own_heads
