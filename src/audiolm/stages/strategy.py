"""`--trainer.strategy` by one word: ddp or fsdp, for every stage."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info


def strategy_of(word: Any, *, stage: str, shards: bool, tensor_parallel_size: int) -> Any:
    """What Lightning is given for a word of the configuration; what is no word of ours is handed on as it is.

    Args:
        word: auto, ddp, fsdp, or anything else that Lightning knows.
        stage: name of the stage, for the log.
        shards: whether FSDP can divide it.
        tensor_parallel_size: processes that share each layer.

    Raises:
        ValueError: if layers are to be shared, but the strategy is not fsdp.
    """
    if word != "fsdp":
        if tensor_parallel_size != 1:
            raise ValueError(
                f"tensor_parallel_size is {tensor_parallel_size}, and trainer.strategy {word}: fsdp alone can share layers"
            )
        return word
    if not shards:
        rank_zero_info(
            f"{stage}: strategy fsdp means ddp here: this stage is small, and every process holds all of it."
        )
        return "ddp"
    rank_zero_info(
        f"{stage}: strategy fsdp is FSDP2 (fully_shard of every block"
        + (f", tensor parallel over {tensor_parallel_size} processes)." if tensor_parallel_size > 1 else ").")
    )
    arguments = {"tensor_parallel_size": tensor_parallel_size}
    return {"class_path": "audiolm.stages.sharded.ShardedStrategy", "init_args": arguments}
