"""ViSQOL, PESQ and STOI: functions from two waveforms to a number. Their packages are the extra `evaluation`."""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiolm.audio import is_silent

RATE_HZ = 16000  # of every waveform given here
PESQ_MOST_SECONDS = 60
VisqolMapping = Literal["polynomial", "polynomial-unscaled", "lattice"]
VISQOL_MAPPINGS: tuple[VisqolMapping, ...] = get_args(VisqolMapping)
PACKAGES = {"visqol": "visqol-python", "pesq": "pesq", "stoi": "pystoi"}  # measure to the package that computes it
_MODULES = {"visqol": "visqol", "pesq": "pesq", "stoi": "pystoi"}


class NotMeasurableError(ValueError):
    """A pair of waveforms that a measure is not defined for; the message is a short reason that can be counted."""


def installed_measures(measures: Iterable[str]) -> list[str]:
    """Those of `measures` whose packages are installed, or that need none."""
    return [name for name in measures if name not in _MODULES or importlib.util.find_spec(_MODULES[name]) is not None]


def require_packages(measures: Iterable[str], *, mapping: VisqolMapping = "polynomial") -> None:
    """Check that the packages of some measures are installed; measures computed here need none.

    Raises:
        ValueError: naming the measures, what is missing, and how to install it.
    """
    measures = list(measures)
    missing = [name for name in measures if name not in installed_measures(measures)]
    if missing:
        names = ", ".join(f"{name} (package {PACKAGES[name]})" for name in missing)
        raise ValueError(
            f'not installed: {names}. Run `pip install "audiolm[evaluation]"` (in a clone: `make setup-evaluation`; some '
            "of it needs a C compiler), or leave these measures out with --measures."
        )
    if "visqol" in measures and mapping == "lattice" and importlib.util.find_spec("ai_edge_litert") is None:
        raise ValueError(
            'the lattice mapping of ViSQOL needs a TFLite runtime: run `pip install "visqol-python[lattice]"`, or take '
            "--visqol-mapping polynomial"
        )


def visqol(estimate: Tensor, reference: Tensor, *, mapping: VisqolMapping = "polynomial") -> float:
    """ViSQOL in speech mode: 1 (bad) to 5 (as good as the reference).

    Args:
        estimate, reference: (samples,) float at 16 kHz, of equal length.
        mapping: from similarity to a mean opinion score. `polynomial` is the exponential fit of ViSQOL v3 scaled so that
            equal signals score 5.0; `polynomial-unscaled` is the same without the factor 1.245 (at most 4.02); `lattice`
            is the network that today's C++ tool takes by default (equal signals score about 4.7). On degraded speech they
            differ by up to 2 points: never compare numbers of different mappings. The AudioLM paper does not name its own.

    Raises:
        NotMeasurableError: if a side is silent (ViSQOL would answer NaN or 5.0), or without a patch of speech to compare
            (shorter than about 0.7 s).
        ValueError: if the package is not installed.

    Source: Chinen et al., "ViSQOL v3" (2020), in the port visqol-python. It takes 0.3 s per second of audio in clips of
    10 s, and 1 s per second in clips of 60 s.
    """
    api = _visqol_api(mapping)
    theirs, ours = _pair(estimate, reference)
    try:
        score = float(api.measure_from_arrays(theirs, ours, RATE_HZ).moslqo)
    except (IndexError, ValueError) as error:  # an empty list of patches
        raise NotMeasurableError("no stretch of speech long enough to compare") from error
    if not np.isfinite(score):
        raise NotMeasurableError("ViSQOL gave no finite number")
    return score


def pesq(estimate: Tensor, reference: Tensor) -> float:
    """Wide-band PESQ: 1.02 (bad) to 4.64 (as good as the reference).

    Args:
        estimate, reference: (samples,) float at 16 kHz, of equal length. Meant for clips of about 8 to 20 s.

    Raises:
        NotMeasurableError: if a side is silent, it finds no utterance, or the clip is shorter than 0.25 s or longer than
            60 s (the C code has room for 50 utterances and ends the process where there are more).
        ValueError: if the package is not installed.

    Source: ITU-T P.862.2, in the package `pesq` (the ITU's C code).
    """
    package = _package("pesq")
    theirs, ours = _pair(estimate, reference)
    if len(theirs) > PESQ_MOST_SECONDS * RATE_HZ:
        raise NotMeasurableError(f"longer than {PESQ_MOST_SECONDS} s")
    try:
        score = float(package.pesq(RATE_HZ, theirs, ours, "wb"))
    except package.NoUtterancesError as error:
        raise NotMeasurableError("no utterance found") from error
    except package.BufferTooShortError as error:
        raise NotMeasurableError("shorter than 0.25 s") from error
    except ValueError as error:  # it meets NaN where next to nothing is left of a signal
        raise NotMeasurableError("PESQ failed") from error
    if not np.isfinite(score):
        raise NotMeasurableError("PESQ gave no finite number")
    return score


def stoi(estimate: Tensor, reference: Tensor) -> float:
    """Short-time objective intelligibility, up to 1.0 (as intelligible as the reference).

    Args:
        estimate, reference: (samples,) float at 16 kHz, of equal length.

    Raises:
        NotMeasurableError: if a side is silent, or less than 0.4 s of the reference is within 40 dB of its loudest frame
            (the package would answer 1e-5).
        ValueError: if the package is not installed.

    Source: Taal et al. (2011), in the package `pystoi`.
    """
    theirs, ours = _pair(estimate, reference)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return float(_package("stoi").stoi(theirs, ours, RATE_HZ))
        except RuntimeWarning as error:
            raise NotMeasurableError("less than 0.4 s of speech") from error


def _pair(estimate: Tensor, reference: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(reference, estimate) in the order and type that the packages take."""
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise ValueError(
            f"expected two waveforms of one shape (samples,), got {tuple(estimate.shape)} and {tuple(reference.shape)}"
        )
    for name, audio in (("reference", reference), ("reconstruction", estimate)):
        if is_silent(audio):
            raise NotMeasurableError(f"the {name} is silent")
    return reference.double().cpu().numpy(), estimate.double().cpu().numpy()


def _package(measure: str) -> ModuleType:
    require_packages([measure])
    return importlib.import_module(_MODULES[measure])


@functools.cache
def _visqol_api(mapping: VisqolMapping) -> Any:
    require_packages(["visqol"], mapping=mapping)
    api = _package("visqol").VisqolApi()
    unscaled = mapping == "polynomial-unscaled"
    api.create(mode="speech", use_lattice_model=mapping == "lattice", use_unscaled_speech=unscaled)
    return api
