"""From nodes to an order of computation."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..layer import Layer, Node, Shape
from ..shapes import per_axis


class Step(NamedTuple):
    """One layer at one place: value `target` is computed from values `sources`; values are numbered, inputs first."""

    name: str
    layer: Layer
    sources: tuple[int, ...]
    target: int

    @property
    def place(self) -> str:
        """`Conv2d "conv1"`, for messages."""
        return f'{type(self.layer).__name__} "{self.name}"'

    @property
    def follows(self) -> bool:
        """Whether it reads the value computed just before and no other, as in a chain."""
        return self.sources == (self.target - 1,)


def sample_shape(shape: Sequence[int], name: str) -> Shape:
    """`shape` as the shape of one sample: one to three axes or more, each of at least one."""
    if isinstance(shape, int) or not isinstance(shape, Sequence) or not shape:
        raise ArrayTypeError(f"{name} is the shape of one sample without the batch axis, such as (3, 32, 32); got {shape!r}")
    return per_axis(shape, len(shape), name)


def Input(shape: Sequence[int], name: str | None = None) -> Node:
    """An input of a graph: samples of `shape`, without the batch axis. Its name is also that in an ONNX file."""
    return Node(None, (), name, sample_shape(shape, "Input"))


def as_nodes(value: object, name: str) -> tuple[Node, ...]:
    """One node or several, as a tuple."""
    nodes = (value,) if isinstance(value, Node) else tuple(value) if isinstance(value, Iterable) else ()
    if not nodes or not all(isinstance(n, Node) for n in nodes):
        raise ArrayTypeError(f"{name} must be a node or several, from cl.Input or from calling a layer; got {value!r}")
    return nodes


def in_order(x: Any, names: Sequence[str], rule: str) -> list[Any]:
    """What is given for the inputs called `names`, one by one: a value for one input, a list or a dict by name for several.

    `rule` says in an `ArrayTypeError` what is to be given.
    """
    if isinstance(x, dict):
        if x.keys() != set(names):
            raise ArrayTypeError(f"{rule}, called {', '.join(names)}; got {', '.join(map(str, x)) or 'none'}")
        return [x[name] for name in names]
    given = list(x) if len(names) > 1 and isinstance(x, list | tuple) else [x]
    if len(given) != len(names):
        raise ArrayTypeError(f"{rule}; got {len(given)}")
    return given


def ordered(inputs: Sequence[Node], outputs: Sequence[Node]) -> list[Node]:
    """The layers' nodes, each after what it reads, in the order in which the outputs first reach them.

    Raises `ShapeError` for a graph that is none: a cycle, an Input that is read and not listed, or listed and not read.
    """
    done: set[Node] = set()
    for node in inputs:
        if node.layer is not None:
            raise ShapeError(f"an input of a model is a cl.Input, not a layer's output; got {node}")
        if node in done:
            raise ShapeError(f"{node} is listed twice among the model's inputs")
        done.add(node)
    order: list[Node] = []
    # Depth first with a stack of its own: a deep network must not meet Python's recursion limit. A node is `open` from
    # its first visit to its second, with the nodes behind it that led here.
    stack: list[tuple[Node, Node | None, bool]] = [(node, None, False) for node in reversed(outputs)]
    opened: dict[Node, None] = {}
    while stack:
        node, reader, again = stack.pop()
        if node in done:
            continue
        if node.layer is None:
            name = f' "{node.name}"' if node.name else ""
            rule = f"the graph reads an Input{name} of shape {node.shape} that is not among the model's inputs"
            raise ShapeError(f"{rule}; it is what {reader} reads" if reader else rule)
        if again:  # all that it reads is there
            opened.pop(node)
            done.add(node)
            order.append(node)
        elif node in opened:
            path = list(opened)
            circle = [*path[path.index(node) :], node]
            raise ShapeError(f"the graph has a cycle: {' reads '.join(map(str, circle))}")
        else:
            opened[node] = None
            stack.append((node, None, True))
            stack.extend((parent, node, False) for parent in reversed(node.parents))
    read = {*outputs, *(parent for node in order for parent in node.parents)}
    for node in inputs:
        if node not in read:
            raise ShapeError(f"no output depends on the {node}; leave it out of the model's inputs")
    return order


def snake_case(name: str) -> str:
    """`MaxPool2d` to `max_pool2d`, `ReLU` to `relu`, `SiLU` to `silu`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])(?!(?<=[ei])LU)", "_", name)
    return parted.lower()


def check_name(name: str) -> str:
    """A layer's or an input's name: it becomes part of parameter names, in files too."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_\-/]*", name):
        raise ConfigError(f"a layer's name is letters, digits, _, - and /; got {name!r}")
    return name


def check_names(names: Sequence[str]) -> set[str]:
    """The names as a set, each of them valid and there once."""
    found: set[str] = set()
    for name in names:
        if check_name(name) in found:
            raise ConfigError(f'two layers have the name "{name}"')
        found.add(name)
    return found


def input_names(inputs: Sequence[Node], taken: set[str]) -> list[str]:
    """The inputs' names, for those without one `input`, or `input_1`, `input_2` and so on by place where there are several."""
    names = []
    for number, node in enumerate(inputs, 1):
        names.append(node.name or _free("input" if len(inputs) == 1 else f"input_{number}", taken))
        taken.add(names[-1])
    return names


def unique_names(inputs: Sequence[Node], nodes: Sequence[Node]) -> tuple[list[str], list[str]]:
    """Names for the inputs and for the layers' nodes: a node's own, else its hint, else its layer's class in snake case; with
    a number behind these where another has the name."""
    taken = check_names([node.name for node in (*inputs, *nodes) if node.name is not None])
    ins = input_names(inputs, taken)
    names = {node: node.name for node in nodes}
    # A name out of a former model goes before one that is made up.
    for node in sorted((node for node in nodes if node.name is None), key=lambda node: node.hint is None):
        names[node] = _free(node.hint or snake_case(type(node.layer).__name__), taken)
        taken.add(names[node] or "")
    return ins, [name for name in names.values() if name]


def _free(name: str, taken: set[str]) -> str:
    fresh, count = name, 0
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    return fresh


def replayed(steps: Sequence[Step], nodes: Sequence[Node], name: str | None) -> list[Node]:
    """All values' nodes when the steps stand behind `nodes`: the same layers, so the same weights."""
    values = list(nodes)
    for step in steps:
        node = step.layer(*(values[s] for s in step.sources), name=f"{name}/{step.name}" if name else None)
        node.hint = step.name
        values.append(node)
    return values
