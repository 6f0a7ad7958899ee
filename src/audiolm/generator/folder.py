"""The generator's folder: safetensors and JSON, written whole or not at all, read without running code from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiolm.checkpoint import StageCheckpoint, load_stage_checkpoint, weights_digest
from audiolm.codec.codec import Codec
from audiolm.codec.codecs import rebuild_codec
from audiolm.files import atomic_path, read_json, remove_leftovers, write_json
from audiolm.generator.card import model_card
from audiolm.generator.detector_file import FILE as DETECTOR_FILE
from audiolm.generator.detector_file import ForeignDetectorError, add_detector, read_detector
from audiolm.generator.model import AudioLM, stage_sets
from audiolm.generator.rows import LanguageModel
from audiolm.lm.transformer import Transformer, TransformerConfig
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.tokens.layout import Stage, StageLayout
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStore
from audiolm.untrusted.rebuilding import rebuilt
from audiolm.untrusted.tensor_files import safetensors_shapes
from audiolm.untrusted.values import from_values, require_number, require_plain

FORMAT = 2
MADE_BY = "`audiolm compose`"
LONGEST_WINDOW_SECONDS = 3600
OUTLINE: dict[str, type | tuple[type, ...]] = {  # of config.json
    "format": int,
    "spec": dict,
    "codec": dict,
    "stages": dict,
    "facts": dict,
}
OF_UNITS: dict[str, type | tuple[type, ...]] = {"tokenizer": dict, "units_per_second": (int, float)}  # of the hierarchy
STAGE_VALUES = {"transformer", "window_seconds", "step"}


class GeneratorError(ValueError):
    """A generator folder that cannot be made or read."""


@dataclass(frozen=True)
class Parts:
    """Everything a generator is made of, as read from the chain's checkpoints."""

    spec: TokenSpec
    codec: StageCheckpoint
    tokenizer: StageCheckpoint | None  # None: acoustic only
    stages: dict[Stage, StageCheckpoint]

    @property
    def modules(self) -> dict[str, StageCheckpoint]:
        """Every part that has weights, by the name of its file."""
        tokenizer = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        stages = {str(stage): checkpoint for stage, checkpoint in self.stages.items()}
        return {"codec": self.codec, **tokenizer, **stages}


def compose(root: Path, out: Path, *, acoustic_only: bool = False) -> str | None:
    """Put the best checkpoints of a chain's stages into one generator folder, with the detector of its audio if there is one.

    Args:
        root: the chain's folder, with `codec/`, `tokenizer/`, `tokens/`, `semantic/`, `coarse/` and `fine/` below it;
            of `detector/` the best checkpoint is taken along, else the detector that `out` has.
        out: the generator's folder; one that stands there is replaced once the new one is complete.
        acoustic_only: the baseline without units: `acoustic/` takes the place of `semantic/` and `coarse/`, and there is no
            tokenizer.

    Returns:
        Why a detector that is there was left out, or None: one of another generator's audio would be misleading, but it can only
        be trained again once this generator exists.

    Raises:
        FileNotFoundError: if a stage has no checkpoint, naming the command that makes it.
        GeneratorError: if checkpoints come from different chains, naming both sides.
    """
    parts = collect(root, acoustic_only=acoustic_only)
    facts = {**_facts(root, parts), "public_models": _public_models(parts)}
    remove_leftovers(out)
    with atomic_path(out) as folder:
        folder.mkdir()
        for name, checkpoint in parts.modules.items():
            _save(folder / f"{name}.safetensors", checkpoint.weights)
        write_json(
            folder / "config.json",
            {
                "format": FORMAT,
                "spec": parts.spec.as_dict(),
                "codec": parts.codec.config,
                **_of_units(parts),
                "stages": {
                    stage: {
                        "transformer": checkpoint.config["transformer"],
                        "window_seconds": checkpoint.config["window_seconds"],
                        "step": checkpoint.step,
                    }
                    for stage, checkpoint in parts.stages.items()
                },
                "facts": facts,
            },
        )
        (folder / "README.md").write_text(model_card(parts.spec, facts, acoustic_only=acoustic_only), encoding="utf-8")
        load_generator(folder)  # what cannot be loaded is not put in place
        left_out = _take_along_detector(root / "detector" / "best.ckpt", out, folder)
    return left_out


def _take_along_detector(trained: Path, out: Path, folder: Path) -> str | None:
    """Add the detector just trained, or the one that the folder had; returns why it was left out."""
    if not trained.exists() and not (out / DETECTOR_FILE).exists():
        return None
    checkpoint = load_stage_checkpoint(trained, stage="detector") if trained.exists() else read_detector(out)
    try:
        add_detector(folder, checkpoint, generator=generator_digest(folder))
    except ForeignDetectorError as error:
        return str(error).replace(str(folder), str(out))
    return None


def _of_units(parts: Parts) -> dict[str, Any]:
    if parts.tokenizer is None:
        return {}
    rate = float(parts.stages["semantic"].config["units_per_second"])
    return {"tokenizer": parts.tokenizer.config, "units_per_second": rate}


def collect(root: Path, *, acoustic_only: bool = False) -> Parts:
    """Read a chain's best checkpoints and check that they belong together."""
    store = TokenStore(root / "tokens")
    codec = load_stage_checkpoint(root / "codec" / "best.ckpt", stage="codec")
    made_with = {"codec": codec}
    if not acoustic_only:
        made_with["tokenizer"] = load_stage_checkpoint(root / "tokenizer" / "best.ckpt", stage="tokenizer")
    for name, checkpoint in made_with.items():
        if store.made_by.get(name) != checkpoint.digest:
            raise GeneratorError(
                f"{root / name / 'best.ckpt'} is not the {name} that made {store.folder}: it was trained again since. Make the "
                "tokens again (`make tokens`) and train the language models on them, or bring the old checkpoint back."
            )
    stages: dict[Stage, StageCheckpoint] = {}
    for stage in get_args(Stage):
        if stage not in stage_sets(store.spec)[acoustic_only]:
            continue
        path = root / stage / "best.ckpt"
        checkpoint = load_stage_checkpoint(path, stage=stage)
        theirs = TokenSpec.from_dict(checkpoint.config["spec"], source=str(path))
        store.spec.require_equal(theirs, ours=str(store.folder), theirs=str(path))
        if checkpoint.sources.get("tokens") != store.digest:
            raise GeneratorError(
                f"{path} was trained on other tokens than {store.folder} holds now. Train the {stage} stage again "
                f"(`make {stage}`)."
            )
        stages[stage] = checkpoint
    return Parts(store.spec, codec, made_with.get("tokenizer"), stages)


def is_generator(folder: Path) -> bool:
    """Whether a folder looks like one that `compose` wrote."""
    return (folder / "config.json").is_file() and (folder / "codec.safetensors").is_file()


def generator_digest(folder: Path) -> str:
    """sha256 over the configuration and weights of a generator folder: equal digests speak alike. Its detector is no part.

    Raises:
        FileNotFoundError, GeneratorError: as `load_generator`.
    """
    config = {key: value for key, value in _config(folder).items() if key != "facts"}  # those tell how long it trained
    modules = [name for name in ("codec", "tokenizer") if name in config]
    parts = (*modules, *config["stages"])  # names that `_config` knows: none leads out of the folder
    weights = {
        f"{part}.{name}": tensor for part in parts for name, tensor in _load(folder / f"{part}.safetensors").items()
    }
    return weights_digest(config, weights)


def load_generator_codec(folder: Path) -> Codec:
    """Read only the codec of a generator folder, onto the CPU.

    Raises:
        FileNotFoundError, GeneratorError, ValueError: as `load_generator`.
    """
    config = _config(folder)
    return rebuild_codec(_part(folder, "codec", config))


def load_generator(folder: Path) -> AudioLM:
    """Read a generator folder onto the CPU; see `AudioLM.from_pretrained`."""
    path = folder / "config.json"
    config = _config(folder)
    spec = TokenSpec.from_dict(config["spec"], source=str(path))
    expected = stage_sets(spec)["tokenizer" not in config]
    if set(config["stages"]) != expected:
        raise GeneratorError(
            f"{folder} has the stages {sorted(config['stages'])}, but its spec asks for {sorted(expected)}."
        )
    try:
        codec = rebuild_codec(_part(folder, "codec", config))
        tokenizer, units_per_second = None, None
        if "tokenizer" in config:
            units_per_second = require_number(
                config["units_per_second"], low=1e-3, high=spec.semantic_rate_hz, what=f"units_per_second in {path}"
            )
            tokenizer = SemanticTokenizer.from_checkpoint(_part(folder, "tokenizer", config))
        stages: dict[Stage, LanguageModel] = {
            stage: _language_model(folder, stage, config["stages"][stage], spec)
            for stage in get_args(Stage)
            if stage in expected
        }
    except GeneratorError:
        raise
    except ValueError as error:
        where = "" if str(folder) in str(error) else f"{folder}: "
        raise GeneratorError(f"{where}{error}") from error
    found = TokenSpec(
        sample_rate_hz=codec.sample_rate_hz,
        hop_samples=codec.hop_samples,
        levels=codec.levels,
        codebook_size=codec.codebook_size,
        coarse_levels=spec.coarse_levels,
        semantic_rate_hz=spec.semantic_rate_hz if tokenizer is None else tokenizer.rate_hz,
        clusters=spec.clusters if tokenizer is None else tokenizer.clusters,
    )
    spec.require_equal(found, ours=f"{folder}/config.json", theirs="its codec and tokenizer")
    return AudioLM(spec=spec, codec=codec, tokenizer=tokenizer, stages=stages, units_per_second=units_per_second)


def _language_model(folder: Path, stage: Stage, values: dict[str, Any], spec: TokenSpec) -> LanguageModel:
    layout, path = StageLayout(spec, stage), folder / f"{stage}.safetensors"
    config = from_values(
        TransformerConfig, values["transformer"], source=f"the {stage} stage in {folder / 'config.json'}"
    )
    window_seconds = require_number(
        values["window_seconds"], low=1e-3, high=LONGEST_WINDOW_SECONDS, what=f"window_seconds of the {stage} stage"
    )
    model = rebuilt(lambda: Transformer(config, layout.vocabulary), _load(path), what=str(path))
    model.lay_out_for_decoding()
    return LanguageModel(model.requires_grad_(False).eval(), layout, window_seconds)


def _config(folder: Path) -> dict[str, Any]:
    """Read `config.json` and check its outline; what builds a part checks that part's values.

    Raises:
        GeneratorError: naming what is missing, unknown or of another kind.
    """
    path = folder / "config.json"
    config = read_json(path, made_by=MADE_BY)
    if not isinstance(config, dict) or type(config.get("format")) is not int or config["format"] != FORMAT:
        raise GeneratorError(f"{path} is not a generator of format {FORMAT}.")
    acoustic_only = isinstance(config.get("stages"), dict) and "acoustic" in config["stages"]
    outline = OUTLINE if acoustic_only else OUTLINE | OF_UNITS
    wrong = sorted(name for name, kind in outline.items() if name not in config or not isinstance(config[name], kind))
    unknown = sorted(set(config) - set(outline))
    if wrong or unknown:
        raise GeneratorError(
            f"{path} lacks or misnames {wrong or 'nothing'} and has unknown {str(unknown)[:200]}: it is damaged or of another "
            "version."
        )
    for stage, values in config["stages"].items():
        if stage not in get_args(Stage) or not isinstance(values, dict) or set(values) != STAGE_VALUES:
            raise GeneratorError(f"{path} says of the stage {stage[:80]!r} other things than {sorted(STAGE_VALUES)}.")
    for name in {"codec", "tokenizer", "stages"} & config.keys():
        require_plain(config[name], what=f"{name} in {path}")
    return config


def _part(folder: Path, name: str, config: dict[str, Any]) -> StageCheckpoint:
    return StageCheckpoint(name, config[name], _load(folder / f"{name}.safetensors"))


def _save(path: Path, weights: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}, str(path))


def _load(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped: they take memory when they are copied into a model that they fit."""
    try:
        safetensors_shapes(path)  # its size is checked before `safetensors` parses it
        return load_file(str(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: the folder was copied in part. {MADE_BY} writes all of it."
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type of numbers unknown to torch
        raise GeneratorError(f"{path} is damaged ({error}). Copy or compose the generator again.") from error


def _public_models(parts: Parts) -> list[str]:
    """The parts whose weights come from elsewhere, for the model card."""
    configs = {"codec": parts.codec.config}
    if parts.tokenizer is not None:
        configs["encoder"] = parts.tokenizer.config["encoder"]
    return [
        f"public {name} ({config['model_config']['model_type']})"
        for name, config in configs.items()
        if config["kind"] == "pretrained"
    ]


def _facts(root: Path, parts: Parts) -> dict[str, Any]:
    """What the model card says about data and training: read from the chain, not typed by hand."""
    facts: dict[str, Any] = {"stages": {}, "torch": torch.__version__}
    for stage in parts.modules:
        path = root / stage / "done.json"
        if path.is_file():
            facts["stages"][stage] = read_json(path, made_by=f"The {stage} stage")
    store = TokenStore(root / "tokens")
    rows = store.index["split"] == 0
    facts["train_hours"] = round(float(store.index["frames"][rows].sum()) / store.spec.frame_rate_hz / 3600, 3)
    facts["train_speakers"] = len(set(store.index["speaker"][rows].tolist()))
    if (root / "chain.json").is_file():
        facts["data"] = Path(read_json(root / "chain.json", made_by="make train-all")["data"]).name or "demo corpus"
    return facts
