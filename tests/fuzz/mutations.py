"""Ways to spoil a file. Every one is a function of (content, random): the same seed gives the same file."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

INTERESTING = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**48,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
PARENT = "../../../tmp/escaped"
MOST_BYTES = 2**20  # a mutation may repeat parts of a file, but not for ever

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if spoilt:
            spoilt[_place(rng, len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def set_bytes(content: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        if spoilt:
            spoilt[_place(rng, len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(rng, len(content) + 1)]


def overwrite_integer(content: bytes, rng: random.Random) -> bytes:
    number, width = rng.choice(INTERESTING), rng.choice("BHIQ")
    packed = struct.pack(rng.choice("<>") + width, number % 2 ** (8 * struct.calcsize(width)))
    at = _place(rng, len(content) + 1)
    return content[:at] + packed + content[at + len(packed) :]


def insert_bytes(content: bytes, rng: random.Random) -> bytes:
    at = _place(rng, len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 4, 16, 1000))) + content[at:]


def delete_chunk(content: bytes, rng: random.Random) -> bytes:
    first = _place(rng, len(content) + 1)
    return content[:first] + content[first + rng.choice((1, 2, 16, 256, 4096)) :]


def repeat_chunk(content: bytes, rng: random.Random) -> bytes:
    first = _place(rng, len(content) + 1)
    chunk = content[first : first + rng.choice((1, 16, 256, 4096))]
    return (content[:first] + chunk * rng.choice((2, 3, 100)) + content[first:])[:MOST_BYTES]


def zero_chunk(content: bytes, rng: random.Random) -> bytes:
    first = _place(rng, len(content) + 1)
    chunk = content[first : first + rng.choice((4, 64, 1024))]
    return content[:first] + bytes(len(chunk)) + content[first + len(chunk) :]


def replace_all(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\0" * 100, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe" * 50, rng.randbytes(500)))


def _place(rng: random.Random, length: int) -> int:
    """Often near the beginning, where headers are, or near the end, where zip archives have theirs."""
    if not length:
        return 0
    near = min(length, rng.choice((16, 128, 1024, length, length)))
    at = rng.randrange(near)
    return length - 1 - at if rng.random() < 0.2 else at


BYTES: tuple[Mutation, ...] = (
    flip_bits, flip_bits, set_bytes, truncate, overwrite_integer, overwrite_integer, insert_bytes, delete_chunk,
    repeat_chunk, zero_chunk, replace_all,
)  # fmt: skip


def _strange_values(rng: random.Random) -> Any:
    nested: Any = 1
    for _ in range(rng.choice((3, 50, 400))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return rng.choice(
        (
            None, True, False, "", "x" * 10_000, PARENT, "/etc/passwd", "a\0b", "\ud800", "..", [], {}, [[]], {"": None}, nested,
            0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, -(10**9), 0.5, -0.5, 1e-300, 1e308,
            float("nan"), float("inf"), "1", [1] * 5000, ["a", 1, None],
        )
    )  # fmt: skip


def change_value(value: Any, rng: random.Random) -> Any:
    """Spoil one place of a value made of JSON's types: replace, remove, add, double or rename something."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        spoilt = dict(value)
        what = rng.random()
        if what < 0.7:
            spoilt[key] = change_value(value[key], rng)
        elif what < 0.8:
            del spoilt[key]
        elif what < 0.9:
            spoilt[rng.choice(("unknown", "", PARENT, key + "x"))] = _strange_values(rng)
        else:
            spoilt[key + "_"] = spoilt.pop(key)
        return spoilt
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        what = rng.random()
        if what < 0.7:
            return [*value[:at], change_value(value[at], rng), *value[at + 1 :]]
        return value[:at] + value[at + 1 :] if what < 0.85 else [*value[:at], *value[at:], *value[at:]]
    if type(value) in (int, float) and rng.random() < 0.4:
        return rng.choice(
            (
                value + 1,
                value - 1,
                value * 2,
                -value,
                value * 1000,
                value / 1000.5 if abs(value) < 1e9 else 0.5,
                str(value)[:50],
            )
        )
    return _strange_values(rng)


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Spoil one to three places of a JSON document; of JSON lines, in one line."""
    lines = content.split(b"\n")
    whole = len([line for line in lines if line]) < 2 or not _parses(lines[0])
    at = 0 if whole else rng.randrange(len(lines))
    text = content if whole else lines[at]
    if not _parses(text):
        return flip_bits(content, rng)
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = change_value(value, rng)
    spoilt = json.dumps(value).encode()
    return spoilt if whole else b"\n".join([*lines[:at], spoilt, *lines[at + 1 :]])


def _parses(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
