"""How a good file becomes a bad one: damaged bytes, and damage to what the bytes say.

`mutated(data, rng)` is all of it. Structured damage goes through protobuf's own description of the messages: any field of any
message can be changed, emptied, doubled or exchanged for one from elsewhere, so what ONNX adds to its format is covered as it
comes. The attacks that chance would not find are in fuzz_attacks.py.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from fuzz_attacks import ATTACKS, NUMBERS
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from onnx import ModelProto

FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
NAMES = ("", ".", "..", "a/b", "../x", "__class__", "__dict__", "params", "\x00", "\n", "é\u202e", "x" * 3000, "'\"{}%s", "N")
INTEGERS = (Field.CPPTYPE_INT32, Field.CPPTYPE_INT64, Field.CPPTYPE_UINT32, Field.CPPTYPE_UINT64, Field.CPPTYPE_ENUM)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes to an ONNX file; its structure and its bytes can both be changed."""
    if rng.random() < 0.8:
        proto = ModelProto.FromString(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            with contextlib.suppress(DecodeError):  # graphs nested deeper than protobuf reads
                (rng.choice(ATTACKS) if rng.random() < 0.25 else changed_field)(proto, rng)
        data = proto.SerializeToString()
        if rng.random() < 0.9:
            return data
    for _ in range(rng.choice((1, 1, 2, 8))):
        data = damaged(data, rng)
    return data


# Bytes


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A flipped byte, a cut, or a span deleted, doubled or inserted."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 4, 16, 256)))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[end:]
    if kind == 2:
        return data[:end] + data[start:]
    if kind == 3:
        return data[:start] + rng.randbytes(end - start) + data[start:]
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32))):
        if flipped:
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8) if kind == 4 else rng.randrange(256)
    return bytes(flipped)


# Fields


def messages(message: Any) -> Iterator[Any]:
    """A message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == Field.CPPTYPE_MESSAGE:
            for inner in value if hasattr(value, "extend") else [value]:
                yield from messages(inner)


def changed_field(proto: Any, rng: random.Random) -> None:
    """Any field of any message: another value, none, one more, one less, or in another order."""
    found = list(messages(proto))
    message = rng.choice(found)
    field = rng.choice(message.DESCRIPTOR.fields if rng.random() < 0.1 else [f for f, _ in message.ListFields()] or [None])
    if field is None:
        return
    try:
        value = getattr(message, field.name)
        if hasattr(value, "extend"):
            changed_list(value, field, found, rng)
        else:
            changed_value(message, field, found, rng)
    except (ValueError, TypeError):  # a value that this field cannot have even here
        return


def changed_value(message: Any, field: Any, found: list[Any], rng: random.Random) -> None:
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.cpp_type == Field.CPPTYPE_MESSAGE:
        getattr(message, field.name).CopyFrom(twin(field.message_type, found, rng))
    else:
        setattr(message, field.name, scalar(field, getattr(message, field.name), found, rng))


def changed_list(values: Any, field: Any, found: list[Any], rng: random.Random) -> None:
    inner = field.cpp_type == Field.CPPTYPE_MESSAGE
    kind, place = rng.randrange(6), rng.randrange(len(values)) if values else 0
    if kind == 0 or not values:
        values.extend([twin(field.message_type, found, rng) if inner else scalar(field, None, found, rng)])
    elif kind == 1:
        del values[place]
    elif kind == 2:
        values.extend([values[place]])
    elif kind == 3:
        rng.shuffle(order := list(values))
        del values[:]
        values.extend(order)
    elif inner:
        values[place].CopyFrom(twin(field.message_type, found, rng))
    else:
        values[place] = scalar(field, values[place], found, rng)


def twin(kind: Any, found: list[Any], rng: random.Random) -> Any:
    """A copy of another message of this type, an empty one where there is none."""
    copy = GetMessageClass(kind)()
    same = [m for m in found if m.DESCRIPTOR.full_name == kind.full_name]
    if same:
        copy.CopyFrom(rng.choice(same))
    return copy


def scalar(field: Any, value: Any, found: list[Any], rng: random.Random) -> Any:
    """Another value for a field: an odd one, or one that the same field has elsewhere."""
    if field.type == Field.TYPE_BYTES:
        return damaged(value or b"x", rng)
    if field.cpp_type in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.cpp_type in INTEGERS:
        return rng.choice((rng.choice(NUMBERS), rng.randrange(-3, 30), (value or 0) + rng.choice((-1, 1))))
    if rng.random() < 0.3:
        return rng.choice(NAMES)
    same = [getattr(m, field.name) for m in found if field.name in m.DESCRIPTOR.fields_by_name]
    flat = [s for v in same for s in ([v] if isinstance(v, str) else v) if isinstance(s, str)]
    return rng.choice(flat or NAMES)
