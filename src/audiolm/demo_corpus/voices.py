"""Synthetic speakers: espeak-ng through the library and voices inside the `espeakng-loader` wheel."""

import ctypes
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
import torch
from torch import Tensor

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-rp", "en-gb-x-gbclan")
# Variants that sound like a person (no robots, whispers or echoes), each as far from the earlier ones as possible in
# mean MFCC and pitch. Women and men take turns; 30 variants and 7 accents have no common divisor, so that counting
# through both gives 210 different voices.
FEMALE = (
    "f1", "Alicia", "steph", "Andrea", "belinda", "shelby", "anika", "aunty",
    "f2", "Annie", "grandma", "f3", "linda", "f5", "f4",
)  # fmt: skip
MALE = (
    "Alex", "edward", "david", "Gene2", "iven2", "kaukovalta", "paul", "klatt3",
    "mike2", "ed", "miguel", "travis", "norbert", "m5", "adam",
)  # fmt: skip
VARIANTS = [voice for pair in zip(FEMALE, MALE, strict=True) for voice in zip(pair, "FM", strict=True)]

SILENCE = "SIL"  # the name of a pause among phones

_AUDIO_OUTPUT_SYNCHRONOUS = 2  # names and numbers of speak_lib.h
_PHONEME_EVENTS = 1
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_LIST_TERMINATED, _PHONEME = 0, 7


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h: something that happens at a sample of what is spoken."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class VoiceError(ValueError):
    """A voice that espeak-ng does not have, or text it cannot speak."""


@dataclass(frozen=True)
class SpokenPhone:
    """A stretch of speech in which one phone is spoken: espeak-ng's name of it without stress marks, or SILENCE."""

    phone: str
    onset_seconds: float
    offset_seconds: float


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker."""

    accent: str  # an espeak-ng language, such as en-us or en-gb-scotland
    variant: str  # the throat: a file of espeak-ng's voices/!v
    pitch: int = 50  # 0 to 99; 50 is the variant's own
    pitch_range: int = 50  # 0 (monotone) to 99
    words_per_minute: int = 165
    gender: str = ""  # "F" or "M", for the corpus's JSON

    @property
    def name(self) -> str:
        """What espeak-ng calls it: en-us+f2."""
        return f"{self.accent}+{self.variant}"


def demo_voices(count: int) -> list[Voice]:
    """The first `count` of a fixed list of voices that differ in accent, throat, pitch, melody and tempo.

    Raises:
        VoiceError: if there are not so many.
    """
    if not 1 <= count <= len(ACCENTS) * len(VARIANTS):
        raise VoiceError(f"there are 1 to {len(ACCENTS) * len(VARIANTS)} demo voices, {count} were asked for")
    voices = []
    for index in range(count):
        draw = random.Random(f"voice {index}")  # the number alone decides, so that more voices keep the earlier ones
        variant, gender = VARIANTS[index % len(VARIANTS)]
        voices.append(
            Voice(
                accent=ACCENTS[index % len(ACCENTS)],
                variant=variant,
                pitch=draw.randint(35, 65),
                pitch_range=draw.randint(35, 75),
                words_per_minute=draw.randint(135, 190),
                gender=gender,
            )
        )
    return voices


def synthesize(text: str, voice: Voice, *, seed: int = 0) -> tuple[Tensor, int]:
    """Speak `text`.

    espeak-ng keeps state that outlives even a restart of its engine (where the flutter of the pitch stands, for one),
    and seeds its noise from the clock. So each call loads its own copy of the library, seeds it, and unloads it: the
    result depends on the arguments alone, and threads do not meet. This takes 6 ms.

    Args:
        text: words and punctuation, UTF-8.
        seed: of breath and fricative noise.

    Returns:
        (samples,) float32 in [-1, 1], mono, and its rate in Hz (22050).

    Raises:
        VoiceError: for an unknown accent or variant, or text that gives no sound.
    """
    audio, sample_rate_hz, _ = synthesize_with_phones(text, voice, seed=seed)
    return audio, sample_rate_hz


def synthesize_with_phones(text: str, voice: Voice, *, seed: int = 0) -> tuple[Tensor, int, list[SpokenPhone]]:
    """Speak `text`, and say when each phone is spoken: as `synthesize`, and the phones from beginning to end without gaps.

    espeak-ng says where its synthesizer begins a phone; a phone lasts until the next one begins, so a plosive's closure belongs
    to the phone before it.
    """
    data_path = Path(espeakng_loader.get_data_path())
    if not (data_path / "voices" / "!v" / voice.variant).is_file():  # espeak-ng itself would go on without it
        raise VoiceError(f"espeak-ng has no voice variant {voice.variant!r}: see {data_path / 'voices' / '!v'}")
    blocks: list[np.ndarray] = []
    begun = [(SILENCE, 0)]  # phones, and the samples at which they begin

    def keep(samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(_is_listed, events):  # type: ignore[arg-type]  # a pointer can be iterated over
            if event.type == _PHONEME:
                phone = _plain(event.id.string.decode()) or SILENCE
                if phone != SILENCE or begun[-1][0] != SILENCE:  # a long pause is several of espeak-ng's
                    begun.append((phone, event.sample))
        return 0

    callback = _SynthCallback(keep)  # this name keeps it alive while the library may call it
    library = _private_library()
    try:
        sample_rate_hz = library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data_path).encode(), _PHONEME_EVENTS
        )
        if sample_rate_hz <= 0:
            raise VoiceError(f"espeak-ng does not start with the data in {data_path}: reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise VoiceError(f"espeak-ng has no voice {voice.name!r}: the accent {voice.accent!r} is unknown to it")
        # half the volume: at the usual one some variants are clipped
        parameters = {_RATE: voice.words_per_minute, _VOLUME: 50, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
        for parameter, value in parameters.items():
            library.espeak_SetParameter(parameter, value, 0)
        buffer = text.encode() + b"\0"
        library.espeak_Synth(buffer, ctypes.c_size_t(len(buffer)), 0, 0, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
        library.espeak_Terminate()
    finally:
        _unload(library)
    audio = torch.from_numpy(np.concatenate(blocks).astype(np.float32) / 2**15) if blocks else torch.zeros(0)
    if not audio.any():
        raise VoiceError(f"espeak-ng made no sound of {text!r}")
    return audio, sample_rate_hz, _phones(begun, len(audio), sample_rate_hz)


def _is_listed(event: _Event) -> bool:
    return bool(event.type != _LIST_TERMINATED)


def _phones(begun: Sequence[tuple[str, int]], samples: int, sample_rate_hz: int) -> list[SpokenPhone]:
    ends = [*(at for _, at in begun[1:]), samples]
    return [
        SpokenPhone(phone, start / sample_rate_hz, end / sample_rate_hz)
        for (phone, start), end in zip(begun, ends, strict=True)
        if start < end  # of two that begin together the first is not heard
    ]


def phonemes(texts: Sequence[str], *, accent: str = "en-us") -> list[list[str]]:
    """How espeak-ng would speak each text: its own names of phonemes, with stress marks left out.

    Raises:
        VoiceError: if there is no such accent, or the library cannot be loaded.
    """
    library = _private_library()
    try:
        library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
        if library.espeak_SetVoiceByName(accent.encode()) != 0:
            raise VoiceError(f"espeak-ng does not know the accent {accent!r}")
        translate = library.espeak_TextToPhonemes
        translate.restype = ctypes.c_char_p
        return [_phonemes(translate, text) for text in texts]
    finally:
        library.espeak_Terminate()
        _unload(library)


def _phonemes(translate: Callable[..., bytes], text: str) -> list[str]:
    rest = ctypes.c_char_p(text.encode())
    found: list[str] = []
    while rest.value:  # a clause at a time
        clause = translate(ctypes.byref(rest), _CHARS_UTF8, ord(" ") << 8)  # names between spaces
        found += [name for part in clause.decode().split() if (name := _plain(part))]
    return found


def _plain(name: str) -> str:
    """A phoneme's name without stress, length and pauses: nothing, where it is a pause."""
    return name.strip("',%=_:|")


def _private_library() -> ctypes.CDLL:
    with tempfile.NamedTemporaryFile(suffix=".so") as copy:  # a loaded library outlives its file
        shutil.copyfile(espeakng_loader.get_library_path(), copy.name)
        try:
            return ctypes.CDLL(copy.name)
        except OSError as error:
            raise VoiceError(
                f"the espeak-ng library cannot be loaded ({error}). If {Path(copy.name).parent} forbids programs "
                "(noexec), set TMPDIR to a folder that allows them; else reinstall espeakng-loader."
            ) from error


def _unload(library: ctypes.CDLL) -> None:
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(library._handle)
