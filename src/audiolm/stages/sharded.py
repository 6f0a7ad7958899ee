"""FSDP2: the weights, gradients and optimizer state of a stage divided among processes."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from audiolm.stages import sharded_checkpoint

DEFAULT_TIMEOUT = timedelta(minutes=30)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes, or over groups of `tensor_parallel_size` that split every matrix among them.

    Lightning's strategy, with checkpoints that are there whole or not at all and that run no code when they are read. Every
    process writes its own part; another number of processes, or one without FSDP, goes on from it.

    Args:
        tensor_parallel_size: processes that share each layer; they must divide the heads of the model.
        timeout: after which a process gives up waiting for the others.

    Raises:
        ValueError: if `tensor_parallel_size` does not divide the number of processes.
    """

    def __init__(self, *, tensor_parallel_size: int = 1, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=True,
            timeout=timeout,
        )
        self.tensor_parallel_size = tensor_parallel_size

    def setup_environment(self) -> None:
        """Divide the processes into data-parallel ranks of `tensor_parallel_size` each."""
        world = self.num_nodes * self.num_processes
        if self.tensor_parallel_size < 1 or world % self.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size is {self.tensor_parallel_size}, which does not divide the {world} processes of this run"
            )
        self._data_parallel_size = world // self.tensor_parallel_size
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` as the folder `filepath`, every process its part of the tensors.

        Raises:
            OSError: if the disk is full, in words; the checkpoint before stays.
        """
        path = Path(self.broadcast(str(filepath)))
        sharded_checkpoint.write(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a folder that any number of processes wrote, or the file of a run without FSDP, into model and optimizers."""
        path = Path(self.broadcast(str(checkpoint_path)))
        assert self.model is not None
        model, optimizers = self.model, self.optimizers
        return sharded_checkpoint.read_into(path, model, optimizers)


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, *, precision: str) -> None:
    """Divide the parameters of `module` over `mesh`, block by block; what is in no block is one group of its own.

    Blocks are gathered just before they are needed and freed again after. In bf16 training on GPUs they travel as bf16, half
    the bytes, and gradients are summed in float32. On CPUs they travel as they are: autocast leaves a normalisation of
    float32 there to float32 weights, and torch refuses to mix the two.
    """
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    in_half = precision == "bf16-mixed" and mesh.device_type == "cuda"
    policy = half if in_half else MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=frozen)
