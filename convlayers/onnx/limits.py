"""What a file may ask of its reader, checked before anything is done with it.

A file of a few bytes can say that a tensor has 2**60 values, nest a graph in a graph, or call functions that call each other:
onnx's own checker, its inliner and onnxruntime follow it as far as memory and time go.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..errors import FileFormatError
from ..shapes import features

# Values in one constant, and in one sample: the largest weights of published networks hold 2**27.
MOST_VALUES = 2**28
# Axes of a tensor, as every version of NumPy can have them, with the batch.
MOST_AXES = 31
# Operators of a file, with its functions written out. Published networks have up to 5,000.
MOST_NODES = 100_000
_DEEPEST_GRAPH, _DEEPEST_CALL = 16, 32
_TERM = rb"[A-Za-z]*(\.\.\.[A-Za-z]*)?"
_EQUATION = re.compile(rb"(?!$)%b(,%b)*(->%b)?" % (_TERM, _TERM, _TERM))

Key = tuple[str, str]

_CRASHES = "reads values whose type onnx's shape inference may not know, and does not check"
_NOT_RUN: dict[Key, str] = {
    ("", "Loop"): "could run for ever",
    **dict.fromkeys([("", "EyeLike"), ("", "RegexFullMatch")], _CRASHES),
    **{("ai.onnx.ml", name): _CRASHES for name in ("DictVectorizer", "LabelEncoder", "TreeEnsemble")},
}


def domain_of(part: Any) -> str:
    """The domain of an operator or a function; ONNX's own has two names."""
    return "" if part.domain == "ai.onnx" else part.domain


def parts(*roots: Any) -> Iterator[tuple[int, Any]]:
    """Graphs or functions, and every graph inside an operator, with their depth."""
    waiting = [(0, root) for root in roots]
    while waiting:
        depth, part = waiting.pop()
        yield depth, part
        for node in part.node:
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else []
                waiting += [(depth + 1, graph) for graph in (*graphs, *attribute.graphs)]


def is_external(tensor: Any) -> bool:
    """Whether a tensor's values lie in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a file, in subgraphs and functions too."""
    for _, part in parts(proto.graph, *proto.functions):
        yield from getattr(part, "initializer", ())
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors


def check_limits(proto: Any, place: str) -> None:
    """Sizes, depth and calls of a parsed file. Raises `FileFormatError`."""
    count = 0
    for depth, part in parts(proto.graph, *proto.functions):
        count += len(part.node)
        if count > MOST_NODES:
            raise FileFormatError(f"{place}: more than {MOST_NODES} operators")
        if depth > _DEEPEST_GRAPH:
            raise FileFormatError(f"{place}: graphs are nested more than {_DEEPEST_GRAPH} deep")
        # Protobuf gives bytes for a text that is no UTF-8.
        if odd := next((name for name in _names(part) if not isinstance(name, str)), None):
            raise FileFormatError(f"{place}: the name {odd!r:.80} is not UTF-8")
        for node in part.node:
            if node.op_type == "Einsum":
                _check_equation(node, place)
    for tensor in tensors(proto):
        if min(tensor.dims, default=0) < 0 or features(tensor.dims) > MOST_VALUES:
            shape = tuple(tensor.dims)
            raise FileFormatError(
                f'{place}: tensor "{tensor.name}" has the shape {shape}; at most {MOST_VALUES} values are read'
            )
    _check_calls(proto, place)


def _names(part: Any) -> Iterator[Any]:
    """What a graph or a function calls its values and its operators."""
    yield part.name
    for node in part.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in getattr(part, "initializer", ()):
        yield tensor.name
    for end in (*part.input, *part.output):
        yield end if isinstance(end, str | bytes) else end.name


def _check_equation(node: Any, place: str) -> None:
    """Letters and at most one `...` a term. onnx's shape inference, which onnxruntime has too, reads others for ever."""
    for attribute in node.attribute:
        if attribute.name == "equation" and not _EQUATION.fullmatch(attribute.s.replace(b" ", b"")):
            name, equation = node.name or ", ".join(node.output), attribute.s or attribute.ref_attr_name
            raise FileFormatError(f'{place}: the Einsum "{name}" must have an equation such as ij,jk->ik; got {equation!r:.80}')


def _check_calls(proto: Any, place: str) -> None:
    """No function calls itself, and all of them written out are no more than `MOST_NODES` operators."""
    functions: dict[Key, Any] = {}
    for function in proto.functions:
        key = (domain_of(function), function.name)
        if key in functions:
            raise FileFormatError(f'{place}: the function "{function.name}" is defined twice')
        functions[key] = function
    calls = {key: _operators(function) for key, function in functions.items()}
    sizes: dict[Key, int] = {}

    def size(key: Key, above: tuple[Key, ...]) -> int:
        if key not in calls:
            return 1
        if key in above:
            raise FileFormatError(f'{place}: the function "{key[1]}" calls itself')
        if len(above) == _DEEPEST_CALL:
            raise FileFormatError(f"{place}: functions call functions more than {_DEEPEST_CALL} deep")
        if key not in sizes:
            sizes[key] = total(calls[key], (*above, key))
        return sizes[key]

    def total(operators: Counter[Key], above: tuple[Key, ...]) -> int:
        count = sum(times * size(key, above) for key, times in operators.items())
        if count > MOST_NODES:
            raise FileFormatError(f"{place}: its functions make more than {MOST_NODES} operators")
        return count

    total(_operators(proto.graph), ())
    for key in calls:
        size(key, ())


def _operators(root: Any) -> Counter[Key]:
    """How often a graph or a function calls which operator, its inner graphs too."""
    return Counter((domain_of(node), node.op_type) for _, part in parts(root) for node in part.node)


def check_runnable(proto: Any, place: str) -> None:
    """For a file that is about to be run: no operator that takes its reader down. Raises `FileFormatError`."""
    for _, part in parts(proto.graph, *proto.functions):
        for node in part.node:
            reason = _NOT_RUN.get((domain_of(node), node.op_type))
            if reason:
                name = node.name or ", ".join(node.output)
                raise FileFormatError(f'{place}: the {node.op_type} "{name}" {reason}; files with one are not run')
