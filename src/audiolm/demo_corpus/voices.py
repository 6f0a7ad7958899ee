"""Synthetic speakers: espeak-ng through the library and voices inside the `espeakng-loader` wheel."""

import ctypes
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

_AUDIO_OUTPUT_SYNCHRONOUS = 2  # names and numbers of speak_lib.h
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class VoiceError(ValueError):
    """A voice that espeak-ng does not have, or text it cannot speak."""


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
    data_path = Path(espeakng_loader.get_data_path())
    if not (data_path / "voices" / "!v" / voice.variant).is_file():  # espeak-ng itself would go on without it
        raise VoiceError(f"espeak-ng has no voice variant {voice.variant!r}: see {data_path / 'voices' / '!v'}")
    blocks: list[np.ndarray] = []

    def keep(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _SynthCallback(keep)  # this name keeps it alive while the library may call it
    library = _private_library()
    try:
        sample_rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data_path).encode(), 0)
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
    return audio, sample_rate_hz


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
        found += [name for part in clause.decode().split() if (name := part.strip("',%=_:|"))]
    return found


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
