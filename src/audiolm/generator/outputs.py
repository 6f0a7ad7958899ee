"""The folder that generated audio is written to: whole files, what made each, and never two kinds of settings in one."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from audiolm.audio import write_audio
from audiolm.files import LONGEST_NAME_BYTES, read_json, require_inside, write_json
from audiolm.generator.model import Generation
from audiolm.manifest import write_lines

MADE_BY = "`lightning predict -c stages/generate.yaml`"
LONGEST_ID_BYTES = LONGEST_NAME_BYTES - len(".wav.json")  # of an id's last part


def require_folder(folder: Path) -> None:
    """Stop where no folder can be.

    Raises:
        ValueError: if there is something else than a folder at this path or above it.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ValueError(
            f"the audio would go to the folder {folder}, but {there} is no folder: name another `--model.out`."
        )


class OutputFolder:
    """`<id>.wav` and `<id>.wav.json` of every finished utterance, `settings.json`, and at the end `generated.jsonl`.

    An utterance is finished when both its files are there; the JSON comes last, so a run may be killed anywhere.

    Args:
        settings: everything that decides how an utterance of some id and prompt sounds, as JSON's types.
        remedy: how another folder is named, for messages.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, remedy: str = "`--model.out`") -> None:
        self.folder, self.settings, self.remedy = folder, dict(settings), remedy

    def audio_path(self, id_: str) -> Path:
        """Where an utterance's audio is, or will be."""
        return self.folder / f"{require_inside(id_, what='the id of an utterance, which names its file,')}.wav"

    def row_path(self, id_: str) -> Path:
        """Where the line that describes it is: beside the audio; no prompt's audio or ours can have that name."""
        return self.audio_path(id_).with_name(self.audio_path(id_).name + ".json")

    def finished(self, ids: Iterable[str]) -> set[str]:
        """Which utterances are there already."""
        return {id_ for id_ in ids if os.path.isfile(self.row_path(id_)) and os.path.isfile(self.audio_path(id_))}

    def require_same_settings(self, ids: Iterable[str]) -> None:
        """Stop before anything is mixed.

        Raises:
            ValueError: if utterances were generated here with other settings, naming them; or if a file of the user's own
                has the name of one to be written.
        """
        path = self.folder / "settings.json"
        if not path.exists():
            foreign = next((path for path in map(self.audio_path, ids) if os.path.exists(path)), None)
            if foreign:
                raise ValueError(
                    f"{foreign} is there, but {path} is not: nobody says what made it. Name another folder."
                )
            return
        theirs = _object(path)
        differing = [key for key in {**theirs, **self.settings} if theirs.get(key) != self.settings.get(key)]
        if differing and any(self.folder.rglob("*.wav.json")):
            details = "; ".join(f"{key}: {theirs.get(key)} there, {self.settings.get(key)} now" for key in differing)
            raise ValueError(
                f"{self.folder} holds audio that was generated otherwise ({details}). Name another folder with "
                f"{self.remedy}, move this one away, or restore the settings."
            )

    def require_same_prompts(self, made_of: Mapping[str, Mapping[str, Any]]) -> None:
        """Stop where a recording, or the stretch of it that is used, was changed after it had been continued.

        Args:
            made_of: `Prompt.made_of` of the finished utterances, by id. The path is not compared: a corpus may move.

        Raises:
            ValueError: naming the files.
        """
        changed = {id_: details for id_, now in made_of.items() if (details := _changes(self._row(id_), now))}
        if changed:
            first, details = next(iter(changed.items()))
            raise ValueError(
                f"{len(changed)} recordings are others than those that {self.folder} was generated from, or other stretches "
                f"of them are used, such as for {self.audio_path(first)} ({details}). Name another folder with "
                f"{self.remedy}, or remove those files to make them again."
            )

    def open(self) -> None:
        """Note the settings; from here on the folder is incomplete until it is sealed."""
        for name in ("generated.jsonl", "done.json"):
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / "settings.json", self.settings)

    def write(self, id_: str, generation: Generation, *, prompt: Mapping[str, Any]) -> None:
        """Write one utterance and what it was made of: the settings, and `prompt` (`Prompt.made_of`)."""
        write_audio(self.audio_path(id_), generation.audio, sample_rate_hz=generation.sample_rate_hz)
        lengths = {
            "prompt_samples": generation.prompt_samples,
            "samples": len(generation.audio),
            "seconds": round(len(generation.audio) / generation.sample_rate_hz, 6),
        }
        write_json(self.row_path(id_), {"id": id_, **prompt, **lengths, **self._described()})

    def seal(self, ids: Iterable[str]) -> None:
        """List all utterances, one JSON line each, in `generated.jsonl`: the folder is complete."""
        rows = (json.dumps(self._row(id_), sort_keys=True) for id_ in sorted(ids))
        write_lines(self.folder / "generated.jsonl", rows)

    @property
    def sealed(self) -> bool:
        """Whether the folder is complete."""
        return (self.folder / "generated.jsonl").is_file()

    def _described(self) -> dict[str, Any]:
        return {key: self.settings[key] for key in ("generator", "mode", "seed", "sampling") if key in self.settings}

    def _row(self, id_: str) -> dict[str, Any]:
        return _object(self.row_path(id_))


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path, made_by=MADE_BY)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings: it is damaged. Remove it and run {MADE_BY} again.")
    return found


def _changes(row: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a prompt differs in from what a row, perhaps one that noted less, says of it."""
    differing = [key for key in now if key != "prompt" and row.get(key, now[key]) != now[key]]
    return "; ".join(f"{key}: {row[key]} there, {now[key]} now" for key in differing)
