"""Steps of the paper's evaluation: a command of ours, what it needs, where its result lies, and how that is read."""

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from audiolm.evaluation.chain_record import chain_record, make_command, stage_command
from audiolm.files import read_json
from audiolm.recognition.transcripts import transcript_files

Numbers = Mapping[str, Mapping[str, float | None]]  # label of a row to name of a column to number
HIERARCHY, CODES_ONLY = (
    "hierarchy",
    "acoustic-only",
)  # how the likelihood verb is told to call both kinds of continuation
READING = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # what a file of other fields does to a reader


@dataclass(frozen=True)
class Lack:
    """Something that is not there, and what would make it or name it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: unique among all steps.
        arguments: of `audiolm`.
        result: the file that it writes last.
        read: from the parsed result to its numbers.
        inputs: files and folders on which the result depends: where one is newer or other than before, the step runs again.
        lacking: why it cannot run; empty where it can.
        left_out: what parts of the result lack, where it can run without them.
        by_hand: people have a part in it, so that its result is read and the command left to them.
        always: it is run every time, because it sees by itself, and at once, whether anything is left to do.
    """

    name: str
    arguments: tuple[str, ...]
    result: Path
    read: Callable[[Any], Numbers]
    inputs: tuple[Path, ...] = ()
    lacking: tuple[Lack, ...] = ()
    left_out: tuple[Lack, ...] = ()
    by_hand: bool = False
    always: bool = False

    @property
    def record(self) -> str:
        """The file of its record: results in two folders are two runs."""
        return f"{self.result.parent.name}.json"

    @property
    def command(self) -> str:
        """As it is typed in a shell."""
        return "audiolm " + shlex.join(self.arguments)

    def content(self) -> Any:
        """The parsed result, or None where it has not been made.

        Raises:
            ValueError: naming the file, if it is damaged.
        """
        return read_json(self.result, made_by=f"`{self.command}`") if self.result.exists() else None

    def numbers(self, content: Any) -> Numbers:
        """What the result says.

        Raises:
            ValueError: naming the file, if it has not the fields that are read.
        """
        try:
            return self.read(content)
        except READING as error:
            said = f"{error} is not there" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{self.result} has not the fields that are read of it ({said}): another version wrote it, or it was edited. "
                f"Remove {self.result.parent} and run `{self.command}`."
            ) from error


@dataclass(frozen=True)
class Given:
    """What the user names, beside the chain; None where nothing was named.

    Attributes:
        root: the chain's folder.
        items, audio: an .item file and the recordings that it names.
        zerospeech: folder of the ZeroSpeech 2021 sets.
        transcripts: folder of transcribed recordings, in LibriSpeech's layout.
        data: recordings that conditions are made of; else the chain's test split.
        acoustic_only: folder of continuations of a model without units.
        recogniser, xvector: public models, by name or folder.
        limit: no more than so many recordings in each measure that can be limited.
        device: auto, cpu, cuda, …
        chain: the chain's own record, `chain.json`; empty where it has none.
    """

    root: Path
    items: Path | None = None
    audio: Path | None = None
    zerospeech: Path | None = None
    transcripts: Path | None = None
    data: Path | None = None
    acoustic_only: Path | None = None
    recogniser: str | None = None
    xvector: str | None = None
    limit: int | None = None
    device: str = "auto"

    @property
    def chain(self) -> dict[str, str]:
        """`chain.json`, or nothing."""
        return chain_record(self.root)

    @property
    def is_demo(self) -> bool:
        """Whether the chain learnt from the demo corpus, which is there."""
        return self.chain.get("data") == "" and (self.root / "demo-corpus").is_dir()

    @property
    def demo_phones(self) -> Path | None:
        """Folder of the demo's own recordings with aligned phones, where the chain is a demo."""
        return self.root / "demo-phones" if self.is_demo else None

    @property
    def phones(self) -> tuple[Path, ...]:
        """The item file and its recordings: those named, else the demo's own; none where there are none."""
        if self.items is not None and self.audio is not None:
            return (self.items, self.audio)
        return () if self.demo_phones is None else (self.demo_phones / "phoneme.item", self.demo_phones / "audio")

    @cached_property
    def transcripts_beside(self) -> tuple[Path, ...]:
        """Files of transcripts that came with the recordings. Looked for once: a corpus is large."""
        learnt = self.root / "demo-corpus" if self.is_demo else self.chain.get("data")
        named = self.data or (Path(learnt) if learnt else None)
        return () if named is None else tuple(transcript_files(named))

    @property
    def is_piano(self) -> bool:
        """Whether it is a chain of a piano preset."""
        return str(self.chain.get("preset", "")).startswith("piano")

    @property
    def continuations(self) -> Path:
        """Where the chain's continuations are: those of the generate stage, else those of `audiolm samples`."""
        made = self.root / "generate"
        return made if made.is_dir() and any(made.iterdir()) else self.root / "samples"

    @property
    def codes_only(self) -> Path | None:
        """Where continuations of a model without units are: the folder named, else `<root>/generate-acoustic` if it is there."""
        usual = self.root / "generate-acoustic"
        return self.acoustic_only or (usual if usual.is_dir() else None)

    def at(self, verb: str, *named: str | Path | None, limited: bool = False, measures: Sequence[str] = ()) -> Path:
        """The folder of a verb's results: of each set of options its own, of the chain alone one of the verb's name.

        Args:
            named: the data and models among the options on which the results depend; None where none was named.
            limited: whether they depend on the limit.
            measures: those that were chosen; none: the verb's own.
        """
        parts = [verb, *measures, *([f"limit{self.limit}"] if limited and self.limit is not None else [])]
        known = [self._identity(one) for one in named]
        digest = [hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()[:8]] if any(known) else []
        return self.root / "evaluation" / "-".join([*parts, *digest])

    def _identity(self, named: str | Path | None) -> str:
        """The same however it was typed, and in a chain that was moved; of what is no path here, the name."""
        if named is None or (isinstance(named, str) and not Path(named).exists()):
            return named or ""
        path, root = Path(named).resolve(), self.root.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    def verb(self, *words: str | Path) -> tuple[str, ...]:
        """The arguments of `audiolm evaluate …` on this chain."""
        return ("evaluate", *map(str, words), "--root", str(self.root))

    def limited(self) -> tuple[str, ...]:
        """The option, if there is a limit."""
        return () if self.limit is None else ("--limit", str(self.limit))

    def make(self, target: str) -> str:
        """The make command for a target of this chain."""
        return make_command(self.root, target)

    def train(self, stage: str) -> str:
        """The command that trains a stage of this chain."""
        return stage_command(self.root, stage, transcripts=self.transcripts if stage == "asr" else None)

    def again(self, *options: str) -> str:
        """This evaluation with these options, and with those given that are not among them."""
        given = [word for option in self.options if option[0] not in options for word in option]
        return shlex.join(("audiolm", "evaluate", "paper", "--root", str(self.root), *given, *options))

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """What was given beside the root, as it is typed."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "root"}
        return tuple(
            (f"--{name.replace('_', '-')}", str(value))
            for name, value in values.items()
            if value is not None and (name, value) != ("device", "auto")
        )

    def needs(self, path: Path, what: str, remedy: str) -> tuple[Lack, ...]:
        """A lack, where `path` is not there."""
        return () if path.exists() else (Lack(f"{what} ({path})", remedy),)
