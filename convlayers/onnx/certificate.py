"""The certificate of an export: a JSON file beside the ONNX file that says what was checked, and with what result.

`docs/onnx.md` lists its fields. The ONNX file itself remembers enough to repeat the check; the certificate adds the digest of
the whole file, the versions that agreed, and some values after each layer, so that a file that was changed later can be told
where.
"""

import base64
import hashlib
import json
import math
import re
from os import PathLike, fspath
from os.path import basename
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import FileFormatError
from ..files import read_whole
from .compare import scale_of
from .record import kept

_FORMAT = "convlayers certificate 1"
_VALUES = 16
_MOST_BYTES = 1 << 26


class LayerValues(NamedTuple):
    """What a layer gave for the two samples: its value's name in the file, the largest magnitude, evenly spaced values."""

    value: str
    scale: float
    values: np.ndarray


class Certificate(NamedTuple):
    """See `docs/onnx.md`; `layers` by the layers' names."""

    file: str
    bytes: int
    sha256: str
    versions: dict[str, str]
    judge: str
    batches: tuple[dict[str, int], ...]
    errors: dict[str, float]
    tolerance: float
    tolerance_rule: str
    seconds: float
    layers: dict[str, LayerValues]


def path_of(path: str | PathLike[str]) -> Path:
    """`model.verify.json` for `model.onnx`."""
    place = Path(path)
    return place.with_name(f"{place.name.removesuffix('.onnx')}.verify.json")


def digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """The versions that take part in a check."""
    import onnx
    import onnxruntime

    from .. import __version__

    found = {"convlayers": __version__, "numpy": np.__version__}
    return {**found, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def layer_values(name: str, output: np.ndarray) -> LayerValues:
    """What to keep of a layer's output for the two samples, which the file calls `name`."""
    return LayerValues(name, scale_of(output), kept(output, _VALUES))


def write(certificate: Certificate) -> bytes:
    """The certificate as JSON."""
    layers = {
        name: {"value": e.value, "scale": e.scale, "values": base64.b64encode(e.values.astype("<f4").tobytes()).decode()}
        for name, e in certificate.layers.items()
    }
    return (json.dumps({"format": _FORMAT, **certificate._asdict(), "layers": layers}, indent=1) + "\n").encode()


def beside(path: str | PathLike[str]) -> Certificate | None:
    """The certificate of the file at `path`, None where there is none.

    Raises `FileFormatError` for a file in its place that is none, is damaged, or is of another ONNX file.
    """
    place = path_of(path)
    if not place.exists():
        return None
    try:
        certificate = _read(read_whole(place))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"{place} is not a whole certificate ({type(error).__name__}: {error})") from error
    if certificate.file != basename(fspath(path)):
        raise FileFormatError(f'{place} certifies "{certificate.file}", another file than {path}')
    return certificate


def _read(data: bytes) -> Certificate:
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has {len(data):,} bytes")
    entry = json.loads(data)
    if entry.pop("format") != _FORMAT:
        raise ValueError("it is of another format or version")
    if entry.keys() != set(Certificate._fields):
        raise ValueError(f"its fields are {', '.join(entry)}")
    for key, kind in (("file", str), ("bytes", int), ("judge", str), ("tolerance_rule", str), ("batches", list)):
        if type(entry[key]) is not kind:
            raise TypeError(f"{key} is {entry[key]!r}")
    if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    numbers = [*entry["errors"].values(), entry["tolerance"], entry["seconds"]]
    if not all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers) or not entry["errors"]:
        raise ValueError("its errors, tolerance and seconds are not numbers of at least 0")
    if any(error > entry["tolerance"] for error in entry["errors"].values()):
        raise ValueError("an error is above the tolerance")
    if not all(type(text) is str for text in entry["versions"].values()):
        raise TypeError("versions are not texts")
    if not all(batch.keys() == {"size", "seed"} for batch in entry["batches"]):
        raise ValueError("a batch is a size and a seed")
    entry["layers"] = {name: _layer(values) for name, values in entry["layers"].items()}
    return Certificate(**{**entry, "batches": tuple(entry["batches"])})


def _layer(entry: dict[str, Any]) -> LayerValues:
    scale, values = float(entry["scale"]), np.frombuffer(base64.b64decode(entry["values"], validate=True), "<f4")
    if type(entry["value"]) is not str or values.size > _VALUES or not 0 < scale < math.inf:
        raise ValueError("a layer's values are damaged")
    return LayerValues(entry["value"], scale, values)
