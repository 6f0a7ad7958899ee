"""Who speaks in which recording: of manifests, or of folders of audio."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from audiolm.evaluation.clips import Clip, folder_clips
from audiolm.evaluation.holding_out import held_out
from audiolm.evaluation.labelled import LabelledClips, is_long_enough, labelled
from audiolm.manifest import read_manifest
from audiolm.recordings import find_recordings, speakers_of
from audiolm.untrusted.values import MOST_ITEMS

SingleUtterance = Literal["refuse", "train"]


def speaker_clips(sources: Sequence[Path], *, single_utterance: SingleUtterance = "refuse") -> LabelledClips:
    """List recordings by speaker and hold a tenth of each speaker's out, by a hash of their ids: see `held_out`.

    Args:
        sources: manifests (all splits are taken), or folders of audio, of which speakers are read as `audiolm prepare` does.
            With several, labels and ids begin with the source's name: speakers of two corpora are different people.
        single_utterance: what to do with speakers of one recording, of whom none can be held out: "refuse", or "train" on them:
            they are then among the answers that can be wrong, and never asked for.

    Raises:
        FileNotFoundError: if a source is not there.
        ValueError: for sources of one name, recordings whose speaker is unknown, speakers of one recording (with "refuse"), or
            more speakers than a checkpoint can name.
    """
    names = [_name(source) for source in sources]
    if not sources or len(set(names)) < len(names):
        raise ValueError(f"data must name one or more folders or manifests, of different names; got {names}")
    known: list[tuple[Clip, str]] = []
    for source, name in zip(sources, names, strict=True):
        prefix = f"{name}/" if len(sources) > 1 else ""
        known += [(replace(clip, id=prefix + clip.id), prefix + speaker) for clip, speaker in _of_source(source)]
    by_speaker: dict[str, list[str]] = defaultdict(list)
    for clip, speaker in known:
        if is_long_enough(clip):
            by_speaker[speaker].append(clip.id)
    if len(by_speaker) > MOST_ITEMS:
        raise ValueError(
            f"There are {len(by_speaker)} speakers, and a checkpoint names at most {MOST_ITEMS}: take fewer."
        )
    single = sorted(speaker for speaker, ids in by_speaker.items() if len(set(ids)) == 1)
    if single and single_utterance == "refuse":
        raise ValueError(
            f"{len(single)} of {len(by_speaker)} speakers have one recording of a second or longer, such as "
            f"{', '.join(single[:3])}: none of theirs can be held out, so that nobody would know whether they are recognised. "
            "Add recordings, take them out, or train on them all the same with --model.single_utterance train."
        )
    chosen = {id_ for ids in by_speaker.values() for id_ in held_out(ids)}
    return labelled([(clip, speaker, clip.id) for clip, speaker in known], held_out=chosen)


def _name(source: Path) -> str:
    return source.resolve().parent.name if source.suffix == ".jsonl" else source.resolve().name


def _of_source(source: Path) -> list[tuple[Clip, str]]:
    if source.suffix == ".jsonl":
        manifest = read_manifest(source)
        return [
            (Clip(u.id, manifest.root / u.path, u.start, u.samples, u.sample_rate_hz, u.dc_offset), u.speaker)
            for u in manifest.utterances
        ]
    clips = folder_clips(source)
    _, speakers = speakers_of(find_recordings(source), root_name=source.resolve().name)
    unknown = [clip.id for clip in clips if clip.id not in speakers]
    if unknown:
        raise ValueError(
            f"Of {len(unknown)} recordings below {source} the speaker is not known, such as {unknown[0]}: they lie beside the "
            "folders of speakers. Move them into one, or out."
        )
    return [(clip, speakers[clip.id]) for clip in clips]
