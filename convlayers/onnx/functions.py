"""What an ONNX local function says of the layer that wrote it: its doc string, as JSON.

    {"layer": "swish", "distribution": "convlayers-swish 0.3.1", "config": {"slope": 0.5}, "params": ["slope"]}

A function of the domain `convlayers.functions` is called by the layer's id (`swish_2`, ... for further bodies). Its inputs are
the layer's, then its parameters and buffers in the order of `params`. So a reader that has the layer can make it anew; one that
has not runs the operators inside.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import ConvlayersError, ExportError
from ..layer import Layer
from ..registry import source_of

DOMAIN = "convlayers.functions"
_MOST_CHARACTERS = 1 << 20
_MOST_PARAMS = 1024


class Described(NamedTuple):
    """A layer by its id, the distribution that it came from, its configuration, and the names of its arrays in order."""

    layer: str
    distribution: str
    config: dict[str, Any]
    params: tuple[str, ...]


def describe(layer: Layer, params: Sequence[str]) -> str:
    """The doc string of a layer's function. Raises `ExportError` for a layer that is not registered, or whose configuration
    is not JSON."""
    try:
        source = source_of(type(layer))
        entry = Described(source.id, source.distribution, layer.config(), tuple(params))
        return json.dumps(entry._asdict(), allow_nan=False)
    except (ConvlayersError, TypeError, ValueError, RecursionError) as error:
        raise ExportError(f"a function needs a registered layer with a configuration of JSON values: {error}") from error


def described(text: str) -> Described | None:
    """What `describe` wrote; None for any other text."""
    if len(text) > _MOST_CHARACTERS:
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.keys() != set(Described._fields):
        return None
    layer, distribution, config, params = (entry[field] for field in Described._fields)
    names = isinstance(params, list) and len(params) <= _MOST_PARAMS and all(isinstance(name, str) for name in params)
    if not names or len(set(params)) < len(params) or not isinstance(config, dict) or not isinstance(distribution, str):
        return None
    if not isinstance(layer, str) or not re.fullmatch("[a-z][a-z0-9_]*", layer):
        return None
    return Described(layer, distribution, config, tuple(params))
