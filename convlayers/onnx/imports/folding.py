"""Operators that read constants alone, computed while the graph is read: shape arithmetic, and weights that are prepared.

onnx's own reference evaluator computes them. It takes memory as it goes, so what an operator will need is known first.
"""

import math
from typing import Any

import numpy as np

from .values import RefusalError

# Values in one constant: the largest weights of published networks hold 2**27.
MOST_VALUES = 2**28
# Their output is no larger than their inputs together.
_GATHERING = {
    "ArgMax", "ArgMin", "Cast", "CastLike", "Compress", "Concat", "Constant", "CumSum", "DequantizeLinear", "Flatten",
    "Identity", "NonZero", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear",
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
_PRODUCTS = {"Gather", "GatherElements", "GatherND", "Gemm", "MatMul", "OneHot"}


def _length(array: Any) -> int:
    return abs(math.prod(int(n) for n in np.asarray(array).reshape(-1)))


def _range(start: Any, limit: Any, delta: Any) -> int:
    step = float(delta)
    return max(0, math.ceil((float(limit) - float(start)) / step)) if step else 0


def _size(op_type: str, inputs: list[np.ndarray]) -> int | None:
    """The most values that the operator can give, None for one that is not computed here."""
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
    if op_type == "Pad":
        borders = np.abs(inputs[1].astype(np.float64)).sum() if len(inputs) > 1 else 0
        return int((max(inputs[0].shape, default=1) + borders) ** inputs[0].ndim)
    return None


def can_fold(op_type: str, domain: str) -> bool:
    """Whether an operator is computed where all its inputs are constants."""
    others = ("ConstantOfShape", "Expand", "Tile", "Range", "Pad")
    return domain in ("", "ai.onnx") and op_type in {*_GATHERING, *_ELEMENTWISE, *_PRODUCTS, *others}


def evaluate(node: Any, opset: int, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
    """What `node` gives for these inputs. Raises `RefusalError` where it fails, or would take too much memory."""
    from onnx import TypeProto, helper
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "ConstantOfShape" and not node.attribute:
        return [np.zeros(_checked(node, inputs), np.float32)]
    try:
        size = _size(node.op_type, [array for array in inputs if array is not None])
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise RefusalError(f"its constants do not fit together ({error})") from error
    if size is None:
        raise RefusalError("it reads constants alone and is not computed while a file is read")
    if size > MOST_VALUES:
        raise RefusalError(f"it would make a constant of {size} values; {MOST_VALUES} are allowed")
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    values = [helper.make_value_info(name, TypeProto()) for name in feeds]
    outputs = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    graph = helper.make_graph([node], "constants", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            found: Any = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever an operator raises
        raise RefusalError(f"it cannot be computed: {' '.join(str(error).split())[:200]}") from error
    return [np.asarray(value) for value in found]


def _checked(node: Any, inputs: list[np.ndarray | None]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in np.asarray(inputs[0]).reshape(-1)) if inputs and inputs[0] is not None else ()
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_VALUES:
        raise RefusalError(f"it would make a constant of shape {shape}; {MOST_VALUES} values are allowed")
    return shape
