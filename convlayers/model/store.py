"""Models as files: safetensors, with the configuration in its metadata. Data is data: no pickle, no code."""

import json
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ConvlayersError, FileFormatError, located
from ..files import read_whole, write_whole
from .config import from_config
from .model import Model

_KEY = "convlayers"


def pack(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> bytes:
    """Arrays and JSON values as the bytes of one safetensors file."""
    from safetensors.numpy import save

    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    return save(contiguous, metadata={_KEY: json.dumps(header)})


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
        header = json.loads(data[8 : 8 + size])["__metadata__"][_KEY]
        return arrays, json.loads(header)
    except SafetensorError as error:
        raise FileFormatError(f"{path} is not a whole safetensors file: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is a safetensors file, but not one that convlayers wrote") from error


def save(model: Model, path: str | PathLike[str]) -> None:
    """Write the model to `path`."""
    write_whole(path, pack(model.state_dict(), model.to_config()))


def load(path: str | PathLike[str]) -> Model:
    """Read a model that `Model.save` wrote.

    Raises `FileFormatError` for a truncated, corrupt or foreign file, `LayerNotFoundError` with the id and the distribution
    that it came from where a plug-in is missing.
    """
    arrays, config = unpack(path)
    try:
        model = from_config(config)
        model.load_state_dict(arrays)
    except ConvlayersError as error:
        raise located(error, str(path)) from error
    return model
