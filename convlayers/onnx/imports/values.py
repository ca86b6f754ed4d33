"""What stands behind a name of an ONNX graph while it is read: a tensor that depends on the input, or a constant.

A sample has no batch axis here, an ONNX tensor has one in front. With `batch` (the usual case) axis 0 of every tensor is the
batch, of any size; without, a tensor as a whole is one sample, and the model takes batches of those.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...layer import Node, Shape

# Shapes are computed twice, for batches of these two sizes: a number that differs is the batch's, or made from it.
PROBES = (5, 7)


@dataclass(frozen=True)
class Tensor:
    """A layer's output, or an input. `node` is its place in the convlayers graph."""

    node: Node
    batch: bool

    @property
    def sample(self) -> Shape:
        """The shape without the batch axis, where there is one."""
        return self.node.shape

    @property
    def rank(self) -> int:
        """The number of axes in ONNX's view."""
        return len(self.node.shape) + self.batch

    @property
    def spatial(self) -> Shape:
        """The axes behind batch and channels."""
        return self.node.shape[1:] if self.batch else self.node.shape[2:]


def behind(outputs: Iterable[Node]) -> list[Node]:
    """Every node that these depend on, each once, with themselves."""
    found: dict[Node, None] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting.extend(node.parents)
    return list(found)


class RefusalError(Exception):
    """Why one operator cannot become layers. `wanted` is the value that would have to be a constant."""

    def __init__(self, reason: str, wanted: Tensor | None = None) -> None:
        super().__init__(reason)
        self.wanted = wanted


@dataclass(frozen=True)
class Constant:
    """Numbers known while the graph is read: for both batch sizes of `PROBES` where they differ, else once.

    `trained` tells a weight, which becomes a parameter, from a fixed number: floats out of an initializer, more than one.
    """

    name: str
    arrays: tuple[np.ndarray, ...]
    trained: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it is the same for every batch size."""
        return len(self.arrays) == 1

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Constant":
        """The constant that `function` makes of it."""
        return replace(self, arrays=tuple(function(array) for array in self.arrays))


Value = Tensor | Constant


def constant(name: str, arrays: list[np.ndarray], trained: bool = False) -> Constant:
    """A `Constant`, held once where the arrays agree."""
    first = arrays[0]
    same = all(a.shape == first.shape and a.dtype == first.dtype and np.array_equal(a, first) for a in arrays[1:])
    return Constant(name, (first,) if same else tuple(arrays), trained)
