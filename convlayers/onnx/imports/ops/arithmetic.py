"""Arithmetic of two tensors or more, broadcast against each other, and of tensors with numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ....layer import Layer
from ....layers.arithmetic import Add, Divide, Maximum, Minimum, Multiply, Power, Subtract
from ....layers.elementary import AddConstant, MultiplyConstant, PowConstant
from ..handlers import handler
from ..op import Op, plain
from ..values import Constant, Tensor


def _number(op: Op, place: int) -> float | None:
    """The one number that an operand is, None for a tensor or for several numbers."""
    value, other = op.value(place), op.value(1 - place)
    if not isinstance(value, Constant) or not value.fixed or value.arrays[0].size != 1:
        return None
    if isinstance(other, Tensor) and value.arrays[0].ndim > other.rank:
        return None
    number = plain(float(value.arrays[0].reshape(-1)[0]))
    return number if np.isfinite(number) else None


def _placed(op: Op, value: Any, rank: int) -> Any:
    """Before opset 7 a second operand said where it begins: `axis` of the first. Afterwards it ends where the first does."""
    axis = op.get_int("axis")
    if op.version >= 7 or axis is None or not isinstance(value, Constant):
        return value
    behind = rank - axis % rank - value.arrays[0].ndim
    if behind < 0:
        op.refuse(f"its operand of shape {value.arrays[0].shape} does not fit behind axis {axis}")
    return value.map(lambda array: array.reshape(*array.shape, *[1] * behind))


def _operands(op: Op) -> list[Tensor]:
    """All inputs as tensors that can stand side by side."""
    ranks = [value.rank if isinstance(value, Tensor) else value.arrays[0].ndim for value in op.inputs if value is not None]
    tensors = [op.operand(value) if isinstance(value, Constant) else value for value in op.inputs]
    found = [t for t in tensors if t is not None]
    if op.batch and len({r for r, v in zip(ranks, op.inputs, strict=False) if isinstance(v, Tensor)}) > 1:
        op.refuse("its operands have different numbers of axes, so one's batch would meet the other's pixels")
    return found


def _joined(op: Op, join: Callable[[], Layer]) -> Tensor:
    if len(op.inputs) == 2 and isinstance(op.inputs[0], Tensor):
        op.inputs[1] = _placed(op, op.inputs[1], op.inputs[0].rank)
    tensors = _operands(op)
    return tensors[0] if len(tensors) == 1 else op.layer(join(), *tensors)


def _commutative(op: Op, with_number: Callable[[float], Layer], join: Callable[[], Layer]) -> Tensor:
    """Two operands in either order, one of which may be a number."""
    for place in (0, 1):
        number = _number(op, place)
        if number is not None:
            return op.layer(with_number(number), op.tensor(1 - place))
    return _joined(op, join)


@handler("Add")
def add(op: Op) -> Tensor:
    return _commutative(op, AddConstant, Add)


@handler("Sub")
def sub(op: Op) -> Tensor:
    number = _number(op, 1)
    return _joined(op, Subtract) if number is None else op.layer(AddConstant(-number), op.tensor(0))


@handler("Mul")
def mul(op: Op) -> Tensor:
    return _commutative(op, MultiplyConstant, Multiply)


@handler("Div")
def div(op: Op) -> Tensor:
    number = _number(op, 1)
    # Only a power of two has an exact reciprocal.
    if number and abs(np.frexp(number)[0]) == 0.5:
        return op.layer(MultiplyConstant(1 / number), op.tensor(0))
    return _joined(op, Divide)


@handler("Pow")
def power(op: Op) -> Tensor:
    number = _number(op, 1)
    return _joined(op, Power) if number is None else op.layer(PowConstant(number), op.tensor(0))


@handler("Sum")
def total(op: Op) -> Tensor:
    return _joined(op, Add)


@handler("Mean")
def mean(op: Op) -> Tensor:
    tensors = _operands(op)
    if len(tensors) == 1:
        return tensors[0]
    return op.layer(MultiplyConstant(1 / len(tensors)), op.layer(Add(), *tensors, part="sum"))


@handler("Max")
def maximum(op: Op) -> Tensor:
    return _joined(op, Maximum)


@handler("Min")
def minimum(op: Op) -> Tensor:
    return _joined(op, Minimum)
