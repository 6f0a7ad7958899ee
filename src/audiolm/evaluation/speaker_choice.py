"""Whose recordings a speaker classifier is asked about: labels it knows, recordings it did not train on."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from audiolm.evaluation.clips import Clip, stamped
from audiolm.evaluation.speaker_clips import _name, _of_source
from audiolm.evaluation.split_file import RecordingNames, Split
from audiolm.manifest import read_manifest
from audiolm.utterances import Split as SplitName


@dataclass(frozen=True)
class Asked:
    """Recordings to ask about.

    Attributes:
        clips: in the order of their ids.
        speakers: the classifier's label of each, by id.
        held_out: ids of those that it did not train on.
    """

    clips: list[Clip]
    speakers: dict[str, str]
    held_out: set[str]


def asked_clips(
    source: Path,
    labels: Collection[str],
    split: Split,
    *,
    of_split: SplitName | None = None,
    all_recordings: bool = False,
) -> Asked:
    """Choose recordings of known speakers that are held out.

    Args:
        source: a manifest, or a folder of audio whose folders name speakers.
        labels: of the classifier. With several corpora, the stage puts a corpus's name before its speakers and ids.
        split: what the classifier was trained on.
        of_split: of a manifest, only its utterances.
        all_recordings: take those too that the classifier trained on; they are not in `held_out`.

    Raises:
        FileNotFoundError: if the source is not there.
        ValueError: for speakers that the classifier does not know, naming some; or if no recording is held out.
    """
    known = _of_source(source)
    if of_split is not None:
        chosen = {utterance.id for utterance in read_manifest(source).split(of_split)}
        known = [(clip, speaker) for clip, speaker in known if clip.id in chosen]
    prefix = f"{_name(source)}/"
    speakers = {clip.id: speaker if speaker in labels else prefix + speaker for clip, speaker in known}
    _require_known(speakers, labels, source)
    held_out = {clip.id for clip, _ in known if clip.id in split.held_out or prefix + clip.id in split.held_out}
    trained = {clip.id for clip, _ in known if clip.id in split.trained or prefix + clip.id in split.trained}
    strangers = [clip.id for clip, _ in known if clip.id not in held_out | trained]
    if len(strangers) == len(known):
        # another corpus of the same speakers, none of which was trained on; or the same one, listed otherwise
        trained_names = RecordingNames(split.trained)
        held_out = {id_ for id_ in strangers if id_ not in trained_names}
    clips = sorted((c for c, _ in known if all_recordings or c.id in held_out), key=lambda clip: clip.id)
    if not held_out:
        raise ValueError(
            f"of {len(known)} recordings of {source}{f' ({of_split} split)' if of_split else ''} none is held out: the "
            "classifier trained on all of them. Name another split with --split, or other recordings of its speakers with --data."
        )
    return Asked(stamped(clips), speakers, held_out)


def _require_known(speakers: dict[str, str], labels: Collection[str], source: Path) -> None:
    unknown = sorted({Path(label).name for label in speakers.values() if label not in labels})
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(set(speakers.values()))} speakers of {source} are not among the {len(labels)} that the "
            f"classifier knows ({', '.join(sorted(labels)[:3])}, …), such as {', '.join(unknown[:3])}: it could only be wrong "
            "about them. Train the speaker stage on recordings of theirs too (`--model.data` of stages/speaker.yaml), or name "
            "recordings of speakers it knows."
        )
