"""Which parameters and buffers a pattern names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .model import Model


def matching(model: "Model", patterns: Sequence[str], what: str) -> list[str]:
    """Names of the parameters and buffers that a pattern matches, by their own name or by that of their layer, at any of the
    places where it stands. Raises `ConfigError` for a pattern that matches none."""
    owners = {id(layer): name for name, layer in model.layers()}
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [
            f"{owners[id(step.layer)]}.{key}"
            for step in model.steps
            for key in (*step.layer.params, *step.layer.buffers)
            if fnmatchcase(step.name, pattern) or fnmatchcase(f"{step.name}.{key}", pattern)
        ]
        if not hits:
            names = ", ".join(name for name, layer in model.layers() if layer.params or layer.buffers)
            raise ConfigError(
                f"{what}: {pattern!r} matches no parameter and no layer that has any; there are {names or 'none'}"
            )
        found.update(dict.fromkeys(hits))
    return list(found)
