"""Which function turns an operator into layers: keyed by domain, operator and the opset since which it reads it so.

A handler gets an `Op` and returns the value of its output, or a tuple of values for several:

    @handler("LeakyRelu", since=1)
    def leaky_relu(op: Op) -> Tensor:
        return op.layer(LeakyReLU(op.get_float("alpha", 0.01)), op.tensor(0))

A package brings handlers for operators of its own through the entry-point group `convlayers.onnx_import`; the name says domain,
operator and opset of the domain, and the function is imported when a file first needs it:

    [project.entry-points."convlayers.onnx_import"]
    "com.example/Swish/1" = "my_package.onnx:swish"

An operator has one owner at each opset: a second one is an error that names both.
"""

import re
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import PluginError, RegistryError
from ...registry import PROGRAM

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .op import Op

GROUP = "convlayers.onnx_import"
FAMILIES = (
    "activations",
    "arithmetic",
    "convolution",
    "joining",
    "linear",
    "normalization",
    "pooling",
    "reduction",
    "resizing",
    "reshaping",
    "selection",
)
Handler = Callable[["Op"], Any]


class Entry(NamedTuple):
    """One way to read an operator: `load` gives the handler, `owner` says where it is from."""

    since: int
    owner: str
    load: Callable[[], Handler]


_FAMILIES_AT = f"{__package__}.ops."
_registered: dict[tuple[str, str], list[Entry]] = {}


def handler(op_type: str, since: int = 1, domain: str = "") -> Callable[[Handler], Handler]:
    """A decorator: this function reads `op_type` of `domain` from opset `since` on, until a later one takes over."""

    def register(function: Handler) -> Handler:
        owner = "convlayers" if function.__module__.startswith(_FAMILIES_AT) else PROGRAM
        entries = _registered.setdefault(("" if domain == "ai.onnx" else domain, op_type), [])
        # A function of the same name again is a module run twice, as notebooks do.
        entries[:] = [e for e in entries if (e.since, e.owner, _name(e.load())) != (since, owner, _name(function))]
        entries.append(Entry(since, owner, lambda: function))
        _installed.cache_clear()
        return function

    return register


def _name(function: Handler) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def _loaded(point: "EntryPoint", owner: str) -> Handler:
    try:
        function = point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            f'the ONNX handler "{point.name}" of {owner} could not be imported from {point.value} ({reason})'
        ) from error
    if not callable(function):
        raise RegistryError(f'the ONNX handler "{point.name}" of {owner}: {point.value} is not a function')
    return function


def _key(name: str) -> tuple[str, str, int] | None:
    """Domain, operator and opset; None where the name does not say them."""
    match = re.fullmatch(r"([\w.-]+)/(\w+)/([0-9]{1,9})", name)
    return ("" if match[1] == "ai.onnx" else match[1], match[2], int(match[3])) if match else None


class _Installed(NamedTuple):
    entries: dict[tuple[str, str], list[Entry]]
    misnamed: list[str]


@lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> _Installed:
    from importlib.metadata import entry_points

    for family in FAMILIES:
        import_module(f".ops.{family}", __package__)
    found, misnamed = {key: list(entries) for key, entries in _registered.items()}, []
    for point in entry_points(group=GROUP):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
        key = _key(point.name)
        if key is None:
            misnamed.append(f'"{point.name}" of {owner}')
            continue
        domain, op_type, since = key
        entries = found.setdefault((domain, op_type), [])
        if all((entry.since, entry.owner) != (since, owner) for entry in entries):
            entries.append(Entry(since, owner, partial(_loaded, point, owner)))
    ordered = {key: sorted(entries, key=lambda entry: entry.since) for key, entries in sorted(found.items())}
    return _Installed(ordered, misnamed)


def available_handlers() -> dict[tuple[str, str], list[Entry]]:
    """Every operator that can be imported, by domain and name, with its entries by opset."""
    return _installed(tuple(sys.path)).entries


def misnamed() -> list[str]:
    """Entry points of the group whose names are not domain/Operator/opset, so that nobody knows what they read."""
    return _installed(tuple(sys.path)).misnamed


def find(domain: str, op_type: str, version: int) -> Entry | None:
    """What reads an operator in a file of this opset; None where nothing does. Raises `RegistryError` for two owners."""
    entries = [e for e in available_handlers().get((domain, op_type), ()) if e.since <= version]
    newest = [entry for entry in entries if entry.since == entries[-1].since]
    if len(newest) > 1:
        place = f"{domain or 'ai.onnx'}/{op_type}/{newest[0].since}"
        owners = " and ".join(entry.owner for entry in newest)
        raise RegistryError(f"the ONNX operator {place} has two owners: {owners}; uninstall one of them")
    return newest[0] if newest else None
