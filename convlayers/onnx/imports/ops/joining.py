"""Concat, and the operators that hand on what they get."""

import numpy as np

from ....layers.dropout import Dropout
from ....layers.joins import Concat
from ..handlers import handler
from ..op import Op
from ..values import PROBES, Constant, Tensor, Value, constant

# TensorProto's floating-point types: float32, float16, double, bfloat16.
_FLOATS = (1, 10, 11, 16)
_FLOAT_NAMES = ("float32", "float16", "float64", "bfloat16")


@handler("Concat")
def concat(op: Op) -> Tensor:
    # What is empty joins nothing.
    op.inputs = [v for v in op.inputs if isinstance(v, Tensor) or (v is not None and v.arrays[0].size)]
    ranks = [v.rank if isinstance(v, Tensor) else v.arrays[0].ndim for v in op.inputs if v is not None]
    axis = op.axis(op.get_int("axis", 1), ranks[0])
    tensors = [_side(op, value, ranks[0]) if isinstance(value, Constant) else value for value in op.inputs]
    found = [t for t in tensors if t is not None]
    return found[0] if len(found) == 1 else op.layer(Concat(axis), *found)


def _side(op: Op, value: Constant, rank: int) -> Tensor:
    if value.arrays[0].ndim != rank:
        op.refuse(f'the constant "{value.name}" of shape {value.arrays[0].shape} does not have {rank} axes')
    return op.operand(value)


@handler("Identity")
def identity(op: Op) -> Value:
    return op.value(0) or op.refuse("input 0 is missing")


@handler("Cast")
def cast(op: Op) -> Value:
    if op.get_int("to") not in _FLOATS:
        op.refuse("it casts to integers, which have no gradient; a model computes with floats")
    return op.value(0) or op.refuse("input 0 is missing")


@handler("CastLike", since=15)
def cast_like(op: Op) -> Value:
    kind = op.value(1)
    if isinstance(kind, Constant) and kind.arrays[0].dtype.name not in _FLOAT_NAMES:
        op.refuse(f"it casts to {kind.arrays[0].dtype}; a model computes with floats")
    return op.value(0) or op.refuse("input 0 is missing")


@handler("Dropout")
def dropout(op: Op) -> tuple[Value, ...]:
    x = op.tensor(0)
    ratio = op.get_float("ratio", 0.5) if op.version < 12 else op.scalar(1, "ratio", 0.5)
    if not 0 <= ratio < 1:
        op.refuse(f"its ratio must be at least 0 and less than 1; got {ratio}")
    if ratio and op.scalar(2, "training_mode", False):
        op.refuse("it drops values at random (training mode); export the network for inference")
    y = op.layer(Dropout(ratio), x)
    if op.outputs < 2:
        return (y,)
    return y, constant("", [np.ones((*([n] if op.batch else []), *x.sample), bool) for n in PROBES])
