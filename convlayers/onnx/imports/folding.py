"""Operators that read constants alone, computed while the graph is read: shape arithmetic, and weights that are prepared.

onnx's own reference evaluator computes them. It takes memory and time as it goes, so what an operator will need is known
first.
"""

import math
from typing import Any

import numpy as np

from ..limits import MOST_AXES, MOST_VALUES
from ..session import one_line
from .values import RefusalError

# Their output is no larger than their inputs together.
_GATHERING = {
    "ArgMax", "ArgMin", "Cast", "CastLike", "Compress", "Concat", "Constant", "CumSum", "DequantizeLinear", "Flatten",
    "Identity", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear",
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    "DepthToSpace", "SpaceToDepth", "TopK", "Trilu", "Unique", "ReverseSequence",
}  # fmt: skip
# Their inputs are broadcast against each other.
_ELEMENTWISE = {
    "Abs", "Add", "And", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean",
    "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "PRelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor", "Softmax", "LogSoftmax", "BitShift",
}  # fmt: skip
# Every value of one input may meet every value of the others.
_PRODUCTS = {"Gather", "GatherElements", "GatherND", "Gemm", "MatMul"}
_OTHERS = {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "NonZero"}
# The evaluator computes these value by value in Python; each counts as many.
_SLOW = {"Erf", "Gelu", "GatherElements", "GatherND", "ReverseSequence", "TopK", "Unique"}
_SLOWER = 64
# Values that all operators on constants may read and write.
_MOST_WORK = 2**29
# The evaluator has these since opset 19, where they came to mean no more for the types before it.
_SINCE = {"DequantizeLinear": 19, "QuantizeLinear": 19}
# TensorProto.STRING.
_STRING = 8
_FOLDED = _GATHERING | _ELEMENTWISE | _PRODUCTS | _OTHERS


class TooMuchError(RefusalError):
    """More memory or time than a file may take."""


def _length(array: Any) -> int:
    return abs(math.prod(int(n) for n in np.asarray(array).reshape(-1)))


def _range(start: Any, limit: Any, delta: Any) -> int:
    step = float(delta)
    return max(0, math.ceil((float(limit) - float(start)) / step)) if step else 0


def _most(node: Any, inputs: list[np.ndarray]) -> int:
    """The most values that the operator can give."""
    op_type = node.op_type
    sizes = [array.size for array in inputs]
    if op_type in _GATHERING:
        return max(sum(sizes), 1)
    if op_type in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))
    if op_type in _PRODUCTS:
        return math.prod(max(size, 1) for size in sizes)
    if op_type == "ConstantOfShape":
        return _length(inputs[0])
    if op_type == "Expand":
        return inputs[0].size * max(_length(inputs[1]), 1)
    if op_type == "Tile":
        return inputs[0].size * _length(inputs[1])
    if op_type == "Range":
        return _range(*(array.reshape(-1)[0] for array in inputs))
    if op_type == "OneHot":
        return inputs[0].size * abs(int(inputs[1].reshape(-1)[0]))
    if op_type == "NonZero":
        return inputs[0].size * max(inputs[0].ndim, 1)
    # Pad: its borders are an attribute in old opsets.
    pads = inputs[1].reshape(-1).tolist() if len(inputs) > 1 else [n for a in node.attribute for n in a.ints]
    return (max(inputs[0].shape, default=1) + sum(abs(int(n)) for n in pads)) ** inputs[0].ndim


def can_fold(op_type: str, domain: str) -> bool:
    """Whether an operator is computed where all its inputs are constants."""
    return domain == "" and op_type in _FOLDED


def size_of(node: Any, inputs: list[np.ndarray | None]) -> int:
    """The most values that `node` gives for these inputs. Raises `RefusalError` where those are too many."""
    if any(a.name == "sparse_value" for a in node.attribute) or any(a is not None and a.dtype.kind in "OSU" for a in inputs):
        raise RefusalError("it holds strings, or a sparse tensor; a model computes with dense tensors of numbers")
    try:
        size = _most(node, [array for array in inputs if array is not None])
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise RefusalError(f"its constants do not fit together ({one_line(error)})") from error
    if size > MOST_VALUES:
        raise TooMuchError(f"it would make a constant of {size} values; {MOST_VALUES} are allowed")
    return size


class Folding:
    """Computes operators on constants, and counts what they read and write: all of one file's together have a limit."""

    def __init__(self) -> None:
        self._left = _MOST_WORK

    def run(self, node: Any, opset: int, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
        """What `node` gives for these inputs. Raises `RefusalError` where it fails, or would give or compute too much."""
        values = size_of(node, inputs) + sum(array.size for array in inputs if array is not None)
        self._left -= values * (_SLOWER if node.op_type in _SLOW else 1)
        if self._left < 0:
            raise TooMuchError(f"the file computes more than {_MOST_WORK} values from constants alone")
        return evaluate(node, opset, inputs)


def evaluate(node: Any, opset: int, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    """What `node` gives for these inputs, which `size_of` knows to be few. Raises `RefusalError` where it fails."""
    from onnx import TypeProto, helper
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "ConstantOfShape" and not node.attribute:
        return [np.zeros(_shape(inputs), np.float32)]
    if node.op_type == "Cast" and any(a.name == "to" and a.i == _STRING for a in node.attribute):
        raise RefusalError("it casts to strings")
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    values = [helper.make_value_info(name, TypeProto()) for name in feeds]
    outputs = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    graph = helper.make_graph([node], "constants", values, outputs)
    version = max(opset, _SINCE.get(node.op_type, 1))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    try:
        with np.errstate(all="ignore"):
            found: Any = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever an operator raises
        raise RefusalError(f"it cannot be computed: {one_line(error)}") from error
    return [np.asarray(value) for value in found]


def _shape(inputs: list[np.ndarray | None]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in np.asarray(inputs[0]).reshape(-1)) if inputs and inputs[0] is not None else ()
    if min(shape, default=0) < 0 or len(shape) > MOST_AXES:
        raise RefusalError(f"it would make a constant of {len(shape)} axes of sizes {str(shape)[:100]}")
    return shape
