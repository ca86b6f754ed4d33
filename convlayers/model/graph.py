"""From nodes to an order of computation."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..layer import Layer, Node, Shape
from ..shapes import per_axis


class Step(NamedTuple):
    """One layer at one place: value `target` is computed from values `sources`; values are numbered, inputs first."""

    name: str
    layer: Layer
    sources: tuple[int, ...]
    target: int


def sample_shape(shape: Sequence[int], name: str) -> Shape:
    """`shape` as the shape of one sample: one to three axes or more, each of at least one."""
    if isinstance(shape, int) or not isinstance(shape, Sequence) or not shape:
        raise ArrayTypeError(f"{name} is the shape of one sample without the batch axis, such as (3, 32, 32); got {shape!r}")
    return per_axis(shape, len(shape), name)


def Input(shape: Sequence[int], name: str | None = None) -> Node:
    """An input of a graph: samples of `shape`, without the batch axis."""
    return Node(None, (), name, sample_shape(shape, "Input"))


def as_nodes(value: object, name: str) -> tuple[Node, ...]:
    """One node or several, as a tuple."""
    nodes = (value,) if isinstance(value, Node) else tuple(value) if isinstance(value, Iterable) else ()
    if not nodes or not all(isinstance(n, Node) for n in nodes):
        raise ArrayTypeError(f"{name} must be a node or several, from cl.Input or from calling a layer; got {value!r}")
    return nodes


def ordered(inputs: Sequence[Node], outputs: Sequence[Node]) -> list[Node]:
    """The layers' nodes, each after what it reads, in the order in which the outputs first reach them."""
    for node in inputs:
        if node.layer is not None:
            raise ShapeError("an input of a model is a cl.Input, not a layer's output")
    done: dict[int, Node] = {id(node): node for node in inputs}
    order: list[Node] = []
    # Depth first with a stack of its own: a deep network must not meet Python's recursion limit.
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, expanded = stack.pop()
        if id(node) in done:
            continue
        if node.layer is None:
            raise ShapeError(f"the graph reads an Input of shape {node.shape} that is not among the model's inputs")
        if expanded:
            done[id(node)] = node
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend((parent, False) for parent in reversed(node.parents))
    return order


def snake_case(name: str) -> str:
    """`MaxPool2d` to `max_pool2d`, `ReLU` to `relu`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])(?!(?<=e)LU)", "_", name)
    return parted.lower()


def check_name(name: str) -> str:
    """A layer's name: it becomes part of parameter names, in files too."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_\-/]*", name):
        raise ConfigError(f"a layer's name is letters, digits, _, - and /; got {name!r}")
    return name


def unique_names(nodes: Sequence[Node]) -> list[str]:
    """The nodes' own names, and for the rest the layer's name in snake case with a number where it repeats."""
    taken = {check_name(n.name) for n in nodes if n.name}
    if len(taken) < sum(1 for n in nodes if n.name):
        names = [n.name for n in nodes if n.name]
        raise ConfigError(f'two layers have the name "{next(n for n in names if names.count(n) > 1)}"')
    result = []
    for node in nodes:
        name = node.name or snake_case(type(node.layer).__name__)
        base, count = name, 0
        while not node.name and name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        result.append(name)
    return result
