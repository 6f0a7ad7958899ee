"""Values of a configuration that came from a file: of the right kind, and no larger than anything that can be meant."""

import functools
import math
import types
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

LARGEST_SIZE = 2**31  # of any whole number; a tensor of one such axis alone would take gigabytes
MOST_ITEMS = 4096  # of a list inside a configuration
MOST_DEPTH = 16
MOST_SAMPLE_RATE_HZ = 768_000


def from_values(cls: type[T], values: Any, *, source: str) -> T:
    """Make a configuration dataclass of a dict that holds exactly its fields.

    Args:
        source: what the dict is, for the message.

    Raises:
        ValueError: naming what is missing, unknown, of another kind or out of range.
    """
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise ValueError(f"{source} is no {cls.__name__} but {_shown(values)}: damaged, or of another version?")
    if set(values) != names:
        missing, unknown = sorted(names - set(values)), sorted(str(name)[:40] for name in set(values) - names)
        raise ValueError(
            f"{source} is not a {cls.__name__}: missing {missing}, unknown {unknown}. The file was probably written for "
            "another model or by another version."
        )
    try:
        return cls(**values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{source} is not a {cls.__name__}: {error}") from error


def require_types(config: Any) -> None:
    """Check every field of a dataclass against its annotation: no bool for a number, no text, no NaN, nothing huge.

    Raises:
        ValueError: naming the field and its value.
    """
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            shown = getattr(hint, "__name__", None) if isinstance(hint, type) and get_origin(hint) is None else hint
            raise ValueError(
                f"{type(config).__name__}.{name} must be {shown}, finite and less than {LARGEST_SIZE}, got {_shown(value)}"
            )


def require_number(value: Any, *, low: float, high: float, what: str) -> float:
    """Check that something is a finite number in [low, high] and give it as a float.

    Raises:
        ValueError: with `what` and the value.
    """
    if not _fits(value, float) or not low <= value <= high:
        raise ValueError(f"{what} must be a number from {low:g} to {high:g}, got {_shown(value)}")
    return float(value)


def require_whole(value: Any, *, low: int, high: int, what: str) -> int:
    """Check that something is a whole number in [low, high].

    Raises:
        ValueError: with `what` and the value.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high}, got {_shown(value)}")
    return value


def require_plain(value: Any, *, what: str, largest: float = math.inf, depth: int = 0) -> None:
    """Check that something consists of JSON's types, finite, not too long and not too deep: a list may hold itself.

    Args:
        largest: of any number.

    Raises:
        ValueError: naming `what` and the value.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"{what} is nested deeper than {MOST_DEPTH}")
    if isinstance(value, (dict, list)):
        if len(value) > MOST_ITEMS:
            raise ValueError(f"{what} holds {len(value)} values in one place, at most {MOST_ITEMS} are read")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and type(key) is not str:
                raise ValueError(f"{what} has the key {_shown(key)}, which is no text")
            require_plain(item, what=f"{what}.{str(key)[:40]}", largest=largest, depth=depth + 1)
    elif type(value) in (int, float):
        if not abs(value) <= largest or not abs(value) < math.inf:
            raise ValueError(f"{what} is {_shown(value)}, beyond {largest:g}")
    elif type(value) not in (str, bool, type(None)):
        raise ValueError(f"{what} is a {type(value).__name__}, not a plain value")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return {field.name: get_type_hints(cls)[field.name] for field in fields(cls)}


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and len(value) <= MOST_ITEMS and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return type(value) in (int, float) and abs(value) < LARGEST_SIZE
    if hint is int:
        return type(value) is int and abs(value) < LARGEST_SIZE
    return type(value) is hint


def _shown(value: Any) -> str:
    if type(value) is int and abs(value) > 10**30:
        return "a number of many digits"
    return repr(value)[:100] if not isinstance(value, (dict, list, tuple)) else f"a {type(value).__name__}"
