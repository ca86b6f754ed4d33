"""Operators in order, with their names: what a graph and the body of a function have in common."""

from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError
from ..layer import Shape


class GraphNode(NamedTuple):
    """One operator; an absent optional input is an empty name, as in ONNX."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class NodeWriter:
    """Base of what `to_onnx` writes to: `op` adds to `nodes`, `shape` knows the inputs; constants are the heirs' own."""

    def __init__(self, opset: int, dynamic_image: bool, prefix: str, shapes: dict[str, Shape], taken: set[str]) -> None:
        """`shapes` holds the inputs; `prefix` stands before the nodes' names, and no name is one of `taken`."""
        self.opset, self.dynamic_image = opset, dynamic_image
        self.nodes: list[GraphNode] = []
        self._prefix = prefix
        self._shapes = dict(shapes)
        self._known = set(shapes)
        self._taken = {*shapes, *taken}

    def shape(self, name: str) -> Shape:
        """The shape of a layer's input or output, without the batch axis."""
        if name not in self._shapes:
            raise ExportError(f"the shape of {name!r} is not known; those of layers' inputs and outputs are")
        return self._shapes[name]

    def op(self, op_type: str, *inputs: str | np.ndarray | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node and return its output's name, or a tuple of names for several outputs.

        An input is a name, an ndarray (which becomes a constant; a parameter keeps its name; float64 is written as
        float32), or None for an optional input that is absent. An attribute that is None is left out.
        """
        name = self._fresh(f"{self._prefix}{op_type}")
        read = [self._input(op_type, value) for value in inputs]
        while read and not read[-1]:
            read.pop()
        made = (name, *(self._fresh(f"{name}:{i}") for i in range(1, outputs)))
        kept = {key: value for key, value in attributes.items() if value is not None}
        self._add(GraphNode(name, op_type, domain, tuple(read), made, kept))
        return name if outputs == 1 else made

    def _add(self, node: GraphNode) -> None:
        self.nodes.append(node)
        self._known.update(node.outputs)

    def _fresh(self, name: str) -> str:
        fresh, count = name, 0
        while fresh in self._taken:
            count += 1
            fresh = f"{name}_{count}"
        self._taken.add(fresh)
        return fresh

    def _input(self, op_type: str, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fiub":
                raise ExportError(f"a constant of {op_type} must hold real numbers; got dtype {value.dtype}")
            return self._constant(value)
        if not isinstance(value, str):
            raise ExportError(f"an input of {op_type} is a name, an ndarray or None; got {value!r}")
        if value not in self._known:
            raise ExportError(f"{op_type} reads {value!r}, and no input or operator before it has that name")
        return value

    def _constant(self, array: np.ndarray) -> str:
        """The name under which the operators read `array`."""
        raise NotImplementedError
