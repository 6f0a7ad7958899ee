"""LightningCLI for the stages: base configuration, the chain's folder, precision, checkpoints, and what changed."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from audiolm.cli import TRAINER_VERBS, load
from audiolm.errors import OutOfMemoryError, is_out_of_memory
from audiolm.files import read_json, set_aside, write_json
from audiolm.generator.stage_sampling import stage_sampling
from audiolm.stages.checkpoint_io import AtomicCheckpointIO
from audiolm.stages.data_wait import DataWait
from audiolm.stages.failure import FirstCause
from audiolm.stages.global_batch import share_batches
from audiolm.stages.heartbeat import Heartbeat
from audiolm.stages.one_run import WRITING_VERBS, one_run, prepared, slurm_without_requeue
from audiolm.stages.progress import StageProgress
from audiolm.stages.record import StageRecord
from audiolm.stages.resume import FOLDER as RESUME_FOLDER
from audiolm.stages.resume import NEWEST, ResumeCheckpoints
from audiolm.stages.strategy import strategy_of

EXPECTED_WARNINGS = (  # what Lightning says of things that are meant
    ".*does not have many workers.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*exists and is not empty.*",
    ".*returned `None`, this fit will run with no optimizer.*",  # the tokenizer stage
    ".*your dataloader is not resumable.*",  # the data module is: its batches are numbered
    ".*when logging on epoch level in distributed setting.*",  # torchmetrics have added up all processes already
    ".*`srun` command is available on your system but is not used.*",  # a run on a login node, or on one machine
    ".*predict returned None.*",  # the tokens go to the store
    ".*across ranks is zero.*",  # a finished prediction started again
    ".*module\\(s\\) in eval mode at the start of training.*",  # the tokenizer that HuBERT's units come from
    ".*Detected call of `lr_scheduler.step\\(\\)` before.*",  # the discriminators' schedule, before they start
)

# Options that say where or how fast, but not what: a run goes on when they are switched.
HOW_NOT_WHAT = (
    *("root", "workers", "split", "micro_batch_size", "attention", "activation_checkpointing", "compile"),
    *("skip_limit", "max_unreadable_share"),  # how much trouble is borne
)


class StageCLI(LightningCLI):
    """Runs one verb of one stage.

    `--root` names the chain's folder; model, data, checkpoints and logs all live under it. What a configuration leaves open
    (null) is filled in here, once, before anything is built: precision, checkpoint folder, log folder.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--root` and the two checkpoint groups: `checkpoint` keeps the best, `resume` the newest."""
        parser.add_argument("--root", type=str, default="checkpoints", help="folder of the chain")
        parser.add_argument(
            "--tensor_parallel_size", type=int, default=1, help="with strategy fsdp: processes that share each layer"
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ResumeCheckpoints, "resume")
        parser.add_argument(
            "--collective_timeout_minutes",
            type=float,
            default=30.0,
            help="how long processes wait for one that stays away",
        )
        parser.link_arguments("root", "model.init_args.root")
        parser.link_arguments("root", "data.init_args.root")

    def before_instantiate_classes(self) -> None:
        """Fill in what the configuration leaves open, and look at what the classes could not say well."""
        config = self.config[self.subcommand]
        folder = Path(config.root) / stage_name(config.model)
        if (
            stage_name(config.model) == "generate"
        ):  # its settings.json says how its files were made, a refused start leaves nothing
            self.save_config_callback = None
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(folder)
        config.resume.dirpath = config.resume.dirpath or str(folder / RESUME_FOLDER)
        if config.trainer.precision is None:
            config.trainer.precision = machine_precision(config.trainer.accelerator)
        config.trainer.strategy = strategy_of(
            config.trainer.strategy,
            stage=stage_name(config.model),
            shards=load(config.model.class_path).shards,
            tensor_parallel_size=config.tensor_parallel_size,
        )
        config.trainer.default_root_dir = config.trainer.default_root_dir or str(folder)
        if config.trainer.logger is None:
            config.trainer.logger = {
                "class_path": "audiolm.stages.csv_log.CsvLog",
                "init_args": {"save_dir": str(folder), "name": "log"},
            }
        if config.trainer.enable_progress_bar is False:  # Lightning refuses a bar beside it
            shown = [
                callback for callback in self.trainer_defaults["callbacks"] if not isinstance(callback, ProgressBar)
            ]
            self.trainer_defaults = {**self.trainer_defaults, "callbacks": shown}
        if sampling := (config.model.get("init_args") or {}).get("sampling"):
            stage_sampling(sampling.as_dict())  # what is built key by key does not name the stage of a wrong number

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; then share each step's batch among the processes."""
        super().instantiate_classes()
        if self.subcommand in ("fit", "validate", "test"):
            share_batches(self.trainer, self.model, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer, with checkpoints that are written whole or not at all."""
        trainer = super().instantiate_trainer(**kwargs, plugins=[AtomicCheckpointIO(), *slurm_without_requeue()])
        return prepared(trainer, self.model, minutes=self._get(self.config_init, "collective_timeout_minutes"))

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand not in WRITING_VERBS:
            super()._run_subcommand(subcommand)
            return
        with one_run(self.trainer, self.model, verb=subcommand):
            super()._run_subcommand(subcommand)

    def fit(self, **arguments: Any) -> None:
        """Train, in the trainer's place; where memory runs out, say which settings decide how much is needed."""
        if arguments.get("ckpt_path") == "last":
            arguments["ckpt_path"] = NEWEST
        try:
            self.trainer.fit(**arguments)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(out_of_memory_words(self.config[self.subcommand], error)) from error

    def before_fit(self) -> None:
        """A stage that is now configured otherwise, or made from other things, starts afresh; the old one is set aside."""
        config = self.config[self.subcommand]
        folder = self.model.folder
        if self.trainer.global_rank == 0:
            identity = {
                "model": plain(config.model.as_dict(), without=HOW_NOT_WHAT),
                "data": plain(config.data.as_dict(), without=HOW_NOT_WHAT),
                "sources": {**self.datamodule.sources(), **self.model.sources()},
            }
            path = folder / "identity.json"
            made_so = (
                plain(read_json(path, made_by="lightning fit"), without=HOW_NOT_WHAT) if path.exists() else identity
            )
            if made_so != identity:
                aside = set_aside(folder)
                print(
                    f"{folder} was made with another configuration or from other tokens: moved to {aside}, starting afresh."
                )
            write_json(path, identity)
        self.trainer.strategy.barrier()


def stage_name(model: Any) -> str:
    """The stage that a `model` section configures: the language models' by their layout, the others' by their class."""
    arguments = model.get("init_args") or {}
    return arguments.get("stage") or load(model.class_path).stage


def plain(value: Any, *, without: tuple[str, ...] = ()) -> Any:
    """JSON's types only, without some keys."""
    if isinstance(value, dict):
        return {key: plain(item, without=without) for key, item in value.items() if key not in without}
    if isinstance(value, (list, tuple)):
        return [plain(item, without=without) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def out_of_memory_words(config: Any, error: BaseException) -> str:
    """Which settings of a stage that ran out of memory to change, from the whole configuration of its verb."""
    data, model = config.data.get("init_args") or {}, config.model.get("init_args") or {}
    said = str(error).partition("\n")[0] or type(error).__name__
    words = f"The {stage_name(config.model)} stage ran out of memory ({said}). "
    if model.get("activation_checkpointing") is False:
        words += "Set model.init_args.activation_checkpointing: true: less memory, more time, and the run goes on. Or l"
    else:
        words += "L"
    at_once = min(data["batch_size"], data.get("micro_batch_size") or data["batch_size"])
    return words + (
        f"ower data.init_args.micro_batch_size (at most {at_once} now), the windows that a process has in memory at once: the "
        f"step stays the same, and the run goes on. Shorter windows (data.init_args.window_seconds, {data['window_seconds']} "
        "now) start the stage afresh."
    )


def machine_precision(accelerator: Any) -> str:
    """The fastest precision that trains well here: bf16 where the processor multiplies it in hardware, else fp32.

    On a GPU, bf16 from Ampere on; on a CPU, with AMX or AVX512-BF16 (several times the rate of fp32, see benchmarks/).
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if gpu:
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("amx_tile") or capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bf16-mixed" if fast else "32-true"


def run_stage(base: Path, arguments: list[str] | None = None) -> StageCLI:
    """Parse the command line, build the stage and run it.

    Args:
        base: the configuration beneath all others.
        arguments: instead of the command line's.
    """
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it
    defaults = {"default_config_files": [str(base)]}
    return StageCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "callbacks": [FirstCause(), StageProgress(), StageRecord(), Heartbeat(), DataWait()],
            "use_distributed_sampler": False,
        },
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_kwargs={verb: dict(defaults) for verb in TRAINER_VERBS},
        args=arguments,
    )
