"""Layers by id: those of installed distributions, through entry points, and those of the running program.

A distribution lists its layers under the entry-point group `convlayers.layers`:

    [project.entry-points."convlayers.layers"]
    swish = "my_package:Swish"

The list is read as metadata; a layer's module is imported when its id is asked for. The built-in layers come the same way.
An id has one owner: a second one is an error that names both.
"""

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import LayerNotFoundError, PluginError, RegistryError
from .layer import Layer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "convlayers.layers"
PROGRAM = "the running program"
_ID = re.compile(r"[a-z][a-z0-9_]*")

_registered: dict[str, type[Layer]] = {}


class Source(NamedTuple):
    """Where a layer comes from; `distribution` as in "convlayers 0.1.0"."""

    id: str
    distribution: str


@lru_cache(maxsize=8)
def _scan(path: tuple[str, ...]) -> dict[str, list["EntryPoint"]]:
    from importlib.metadata import entry_points  # 40 ms, a third of the package's import

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        owners = found.setdefault(point.name, [])
        if all(_distribution(point) != _distribution(other) for other in owners):
            owners.append(point)
    return found


def _installed() -> dict[str, list["EntryPoint"]]:
    # sys.path tells when a folder of plug-ins was added; reading the metadata anew costs milliseconds.
    return _scan(tuple(sys.path))


def refresh() -> None:
    """Read the metadata anew, after a distribution was installed while the program runs."""
    _scan.cache_clear()


def _distribution(point: "EntryPoint") -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _owner(layer_id: str) -> "EntryPoint | None":
    owners = _installed().get(layer_id, [])
    if len(owners) > 1:
        names = " and ".join(_distribution(p) for p in owners)
        raise RegistryError(f'layer id "{layer_id}" has two owners: {names}; uninstall one of them')
    return owners[0] if owners else None


def register_layer(layer_id: str) -> Callable[[type[Layer]], type[Layer]]:
    """A class decorator that registers a layer in the running program: `@register_layer("swish")`."""
    if not isinstance(layer_id, str) or not _ID.fullmatch(layer_id):
        raise RegistryError(f"a layer id is snake_case, such as max_pool2d; got {layer_id!r}")

    def register(cls: type[Layer]) -> type[Layer]:
        if not (isinstance(cls, type) and issubclass(cls, Layer)):
            raise RegistryError(f'layer id "{layer_id}": {cls!r} is not a subclass of convlayers.Layer')
        other = _registered.get(layer_id)
        # The same class again is a module run twice, as notebooks do.
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise RegistryError(
                f'layer id "{layer_id}" has two owners in {PROGRAM}: '
                f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            )
        point = _owner(layer_id)
        if point is not None and point.value != f"{cls.__module__}:{cls.__qualname__}":
            raise RegistryError(
                f'layer id "{layer_id}" has two owners: {_distribution(point)} and {PROGRAM} '
                f"({cls.__module__}.{cls.__qualname__})"
            )
        _registered[layer_id] = cls
        return cls

    return register


def _load(point: "EntryPoint") -> type[Layer]:
    try:
        cls = point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            f'layer "{point.name}" of {_distribution(point)} could not be imported from {point.value} ({reason})'
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        raise RegistryError(
            f'layer "{point.name}" of {_distribution(point)}: {point.value} is not a subclass of convlayers.Layer'
        )
    return cls


def layer_class(layer_id: str, origin: str | None = None) -> type[Layer]:
    """The class behind an id. `origin` is the distribution that a saved model names, for the error's sake."""
    if layer_id in _registered:
        return _registered[layer_id]
    point = _owner(layer_id)
    if point is None:
        from difflib import get_close_matches

        near = get_close_matches(layer_id, [*_installed(), *_registered], 1)
        hint = (
            f"it came from {origin}; install that"
            if origin
            else f"did you mean {near[0]}?"
            if near
            else "see convlayers layers"
        )
        raise LayerNotFoundError(f'no layer has the id "{layer_id}"; {hint}')
    return _load(point)


def classes_of(package: str) -> dict[str, str]:
    """The layer classes that `package` itself brings, by class name, with their ids. Imports none of them."""
    points = [point for owners in _installed().values() for point in owners]
    return {point.attr: point.name for point in points if point.module.startswith(package + ".")}


def create_layer(layer_id: str, **config: Any) -> Layer:
    """A layer from its id and configuration. Raises `LayerNotFoundError`, `PluginError`, or what the constructor raises."""
    return layer_class(layer_id)(**config)


def available_layers() -> dict[str, str]:
    """Every id, sorted, with the distribution that it comes from. Imports no plug-in."""
    found = {layer_id: " and ".join(_distribution(p) for p in points) for layer_id, points in _installed().items()}
    for layer_id in _registered:
        found.setdefault(layer_id, PROGRAM)
    return dict(sorted(found.items()))


def source_of(cls: type[Layer]) -> Source:
    """The id of a layer class and its distribution. Raises `RegistryError` for a class that nobody registered."""
    for layer_id, registered in _registered.items():
        if registered is cls:
            return Source(layer_id, available_layers()[layer_id])
    exact = f"{cls.__module__}:{cls.__qualname__}"
    points = [point for owners in _installed().values() for point in owners]
    for point in points:
        if point.value == exact:
            return Source(point.name, _distribution(point))
    # A package may list a class under another module than the one that defines it.
    package = cls.__module__.partition(".")[0]
    for point in points:
        if point.module.partition(".")[0] == package and _load(point) is cls:
            return Source(point.name, _distribution(point))
    raise RegistryError(
        f'{cls.__module__}.{cls.__qualname__} is not registered; decorate it with @convlayers.register_layer("an_id") '
        f"or list it under the entry-point group {GROUP}"
    )
