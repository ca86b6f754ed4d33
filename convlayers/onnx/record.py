"""What an exported file remembers of its check, so that the check can be repeated anywhere, without the model.

One metadata property holds JSON: the seed and the batch sizes of the inputs, the bound, and for each output its shape,
its scale and the float model's values (evenly spaced ones of a large output, as base64 of little-endian float32). Each
constant has a fingerprint, so that a weight that was changed later is found by its name.
"""

import base64
import hashlib
import json
import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import FileFormatError
from ..layer import Shape
from .compare import SAMPLES, scale_of

KEY = "convlayers_verification"
_VERSION = 2
# The version before drew every sample of a batch by itself.
_VERSIONS = (1, 2)
_VALUES = 1024
# Limits on what a file may make its reader draw or compare, far above any record of ours.
_MOST_SAMPLES = 256
_MOST_VALUES = 2**28


class Expected(NamedTuple):
    """One output of the float model: the shape of a sample, the largest magnitude, and the values kept."""

    shape: Shape
    scale: float
    values: np.ndarray


class Record(NamedTuple):
    """The check that an export passed."""

    seed: int
    batches: tuple[int, ...]
    bound: float
    inputs: dict[str, Shape]
    outputs: dict[str, Expected]
    constants: dict[str, str]
    pixels: bool = False  # whether the inputs are uint8
    samples: int | None = SAMPLES  # that are drawn for a batch; None is all of it


def kept(array: np.ndarray, most: int = _VALUES) -> np.ndarray:
    """All values of a small array, else `most` evenly spaced ones."""
    flat = np.asarray(array, np.float32).reshape(-1)
    if flat.size <= most:
        return flat
    return flat[np.arange(most, dtype=np.int64) * flat.size // most]


def expect(array: np.ndarray) -> Expected:
    """What to remember of an output, all batches one under the other."""
    return Expected(array.shape[1:], scale_of(array), kept(array))


def fingerprint(array: np.ndarray) -> str:
    """The first 64 bits of SHA-256 over an array's type, shape and values in C order."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def fingerprints(proto: Any) -> dict[str, str]:
    """The fingerprint of each constant of a file."""
    from onnx import numpy_helper

    return {tensor.name: fingerprint(numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer}


def write(record: Record) -> str:
    """The record as JSON."""
    outputs = {
        name: {"shape": e.shape, "scale": e.scale, "values": base64.b64encode(e.values.astype("<f4").tobytes()).decode()}
        for name, e in record.outputs.items()
    }
    entry = {"version": _VERSION, **record._asdict(), "outputs": outputs}
    del entry["samples"]  # the version says it
    return json.dumps(entry)


def _expected(entry: dict[str, Any], samples: int) -> Expected:
    shape, scale = _shape(entry["shape"]), float(entry["scale"])
    values = np.frombuffer(base64.b64decode(entry["values"], validate=True), "<f4")
    if values.size != min(samples * math.prod(shape), _VALUES) or not 0 < scale < math.inf:
        raise ValueError("an output's values do not fit its shape")
    return Expected(shape, scale, values)


def _shape(sizes: list[int]) -> Shape:
    if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) > _MOST_VALUES:
        raise ValueError(f"{sizes} is not the shape of a sample")
    return tuple(sizes)


def read(text: str, place: str) -> Record:
    """The record that `write` wrote. Raises `FileFormatError` for anything else, before memory is taken by its sizes."""
    try:
        entry = json.loads(text)
        if entry["version"] not in _VERSIONS:
            raise ValueError(f"its version is {entry['version']!r}, and this convlayers reads up to {_VERSION}")
        batches = tuple(entry["batches"])
        if not batches or not all(type(b) is int and b > 0 for b in batches) or sum(batches) > _MOST_SAMPLES:
            raise ValueError(f"{entry['batches']} are not batch sizes")
        inputs = {str(name): _shape(shape) for name, shape in entry["inputs"].items()}
        if sum(map(math.prod, inputs.values())) * sum(batches) > _MOST_VALUES:
            raise ValueError("its inputs are too large")
        outputs = {str(name): _expected(e, sum(batches)) for name, e in entry["outputs"].items()}
        limit = float(entry["bound"])
        if not 0 < limit < 1 or not inputs or not outputs:
            raise ValueError("it says nothing to compare")
        samples = SAMPLES if entry["version"] == _VERSION else None
        seed, pixels = int(entry["seed"]), bool(entry.get("pixels", False))
        return Record(seed, batches, limit, inputs, outputs, dict(entry["constants"]), pixels, samples)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"{place}: its verification record is damaged ({type(error).__name__}: {error})") from error
