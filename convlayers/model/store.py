"""Models as files: safetensors, with the configuration in its metadata. Data is data: no pickle, no code."""

import hashlib
import json
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ConvlayersError, FileFormatError, located
from ..files import read_whole, write_whole
from .config import from_config
from .model import Model

# In a trainer's checkpoint, what is not the model's has this in its name, and no layer's parameter can.
FOREIGN = ":"
_KEY = "convlayers"


def _digest(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """What tells a damaged file from a whole one: safetensors checks sizes, and no contents."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype.str} {arrays[key].shape}".encode())
        digest.update(arrays[key].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def pack(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> bytes:
    """Arrays and JSON values as the bytes of one safetensors file."""
    from safetensors.numpy import save

    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    # One key: safetensors orders several by chance, and the same model should make the same file.
    sealed = {"contents": header, "sha256": _digest(contiguous, header)}
    return save(contiguous, metadata={_KEY: json.dumps(sealed)})


def unpack(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON values of a file that `pack` made. Raises `FileFormatError` for any other file.

    safetensors checks every size in the header against the file before it gives out memory.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = read_whole(path)
    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        sealed = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        header = sealed["contents"]
        if sealed["sha256"] != _digest(arrays, header):
            raise FileFormatError(f"{path} is damaged: its contents do not match its digest")
        return arrays, header
    except FileFormatError:
        raise
    except SafetensorError as error:
        raise FileFormatError(f"{path} is not a whole safetensors file: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is a safetensors file, but not one that convlayers wrote") from error


def copy_state(state: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> None:
    """Copy `state` into the live arrays `own`; where a key or a shape does not fit, `FileFormatError`, and nothing changes."""
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    parts = [f"{what} {', '.join(keys)}" for what, keys in (("missing:", missing), ("not of this model:", extra)) if keys]
    if parts:
        raise FileFormatError(f"the state does not fit the model; {'; '.join(parts)}")
    for key, array in own.items():
        value = np.asarray(state[key])
        if value.shape != array.shape or value.dtype.kind != array.dtype.kind:
            raise FileFormatError(
                f"{key} is {array.dtype} of shape {array.shape} in the model; the state has {value.dtype} {value.shape}"
            )
    for key, array in own.items():
        array[...] = state[key]


def model_from(arrays: dict[str, np.ndarray], config: dict[str, Any]) -> Model:
    """The model in a file's contents; arrays of a trainer may lie beside its own."""
    own = {key: array for key, array in arrays.items() if FOREIGN not in key}
    # The weights come from the file: nothing is drawn, and no more memory is taken than for what the file holds.
    model = from_config(config, limit=sum(array.size for array in own.values()))
    model.load_state_dict(own)
    return model


def save(model: Model, path: str | PathLike[str]) -> None:
    """Write the model to `path`."""
    write_whole(path, pack(model.state_dict(), model.to_config()))


def load(path: str | PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote, or the model in a trainer's checkpoint.

    Raises `FileFormatError` for a truncated, corrupt or foreign file, `LayerNotFoundError` with the id and the distribution
    that it came from where a plug-in is missing.
    """
    arrays, config = unpack(path)
    try:
        return model_from(arrays, config)
    except ConvlayersError as error:
        raise located(error, str(path)) from error
