"""The stamp of a chain: which data, preset, codec and encoder its folder belongs to."""

import hashlib
from pathlib import Path

from audiolm.files import read_json, write_json


class ChainError(ValueError):
    """A chain's folder is asked to serve other data, another preset, codec or encoder."""


def check_chain(
    root: Path, *, data: str, preset: str, codec: str = "", encoder: str = "", configs: Path | None = None
) -> None:
    """Claim a folder for (data, preset, codec, encoder), or check that it was claimed so; remember the configurations' digests.

    Args:
        root: the chain's folder.
        data: the corpus, or "" for the demo corpus.
        preset: demo, small, paper, piano or piano-demo.
        codec: name or folder of a public codec, or "" for one trained here.
        encoder: a public encoder and its layer, or "" for one trained here.
        configs: folder that holds `lightning.yaml` and `stages/`; by default the working directory.

    Raises:
        ChainError: if the folder belongs to other data, another preset, codec or encoder, naming `RUN=`; or if the preset
            does not exist.
        FileNotFoundError: if `data` is not there.
    """
    configs = configs or Path.cwd()
    if preset != "paper" and not (configs / "stages" / preset / "semantic.yaml").is_file():
        raise ChainError(
            f"There is no preset {preset!r} of a whole chain: PRESET is demo, small, paper, piano or piano-demo."
        )
    if data and not Path(data).is_dir():
        raise FileNotFoundError(
            f"DATA={data} is not a folder. Name a Libri-Light or LibriSpeech tree, or a folder of audio."
        )
    ours = {
        "data": str(Path(data).resolve()) if data else "",
        "preset": preset,
        "codec": str(Path(codec).resolve()) if codec and Path(codec).is_dir() else codec,
        "encoder": encoder,
    }
    absent = {"data": "(the demo corpus)", "codec": "(trained here)", "encoder": "(trained here)"}
    path = root / "chain.json"
    if path.exists():
        found = {
            "codec": "",
            "encoder": "",
            **read_json(path, made_by="make train-all"),
        }  # the first stamps knew of no other codec
        differing = [
            f"{key.upper()}={found.get(key) or absent.get(key)} there, {ours[key] or absent.get(key)} now"
            for key in ours
            if found.get(key) != ours[key]
        ]
        if differing:
            raise ChainError(
                f"{root} belongs to another chain: {'; '.join(differing)}. Start a second chain beside it with RUN=NAME "
                "(it goes to checkpoints/runs/NAME), or move that folder away."
            )
    digests = {
        str(file.relative_to(configs)): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in [
            configs / "lightning.yaml",
            *sorted((configs / "stages").glob("*.yaml")),
            *sorted((configs / "stages" / preset).glob("*.yaml")),
        ]
        if file.is_file()
    }
    stamp = {**ours, "configs": digests}
    if not path.exists() or read_json(path, made_by="make train-all") != stamp:
        write_json(path, stamp)
