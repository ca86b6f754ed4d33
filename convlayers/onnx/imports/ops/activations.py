"""Activations, and other functions of each value on its own."""

from collections.abc import Callable

import numpy as np

from ....layer import Layer
from ....layers import activations as plainly
from ....layers import elementary, smooth_activations, softmax
from ....layers.arithmetic import Add, Multiply
from ....layers.reshape import Reshape
from ..handlers import handler
from ..op import Op
from ..values import Constant, Tensor


def _simple(op_type: str, layer: Callable[[], Layer], since: int = 1) -> None:
    @handler(op_type, since)
    def read(op: Op) -> Tensor:
        return op.layer(layer(), op.tensor(0))


_simple("Relu", plainly.ReLU)
_simple("Sigmoid", smooth_activations.Sigmoid)
_simple("Tanh", smooth_activations.Tanh)
_simple("Mish", smooth_activations.Mish)
_simple("HardSwish", plainly.HardSwish)
_simple("Exp", elementary.Exp)
_simple("Log", elementary.Log)
_simple("Sqrt", elementary.Sqrt)
_simple("Erf", elementary.Erf)
_simple("Abs", elementary.Abs)
_simple("Neg", elementary.Negative)
_simple("Reciprocal", elementary.Reciprocal)
_simple("Softsign", elementary.Softsign)
# ONNX's Softplus is exact; ours is linear from a threshold on, where float32 cannot tell.
_simple("Softplus", smooth_activations.Softplus)


@handler("LeakyRelu")
def leaky_relu(op: Op) -> Tensor:
    return op.layer(plainly.LeakyReLU(op.get_float("alpha", 0.01)), op.tensor(0))


@handler("Elu")
def elu(op: Op) -> Tensor:
    return op.layer(smooth_activations.ELU(op.get_float("alpha", 1.0)), op.tensor(0))


@handler("Celu", since=12)
def celu(op: Op) -> Tensor:
    return op.layer(elementary.CELU(op.get_float("alpha", 1.0)), op.tensor(0))


@handler("ThresholdedRelu", since=10)
def thresholded_relu(op: Op) -> Tensor:
    return op.layer(elementary.ThresholdedReLU(op.get_float("alpha", 1.0)), op.tensor(0))


@handler("Selu")
def selu(op: Op) -> Tensor:
    # The constants of Klambauer et al. 2017 in float32, ONNX's default since opset 6.
    alpha, gamma = op.get_float("alpha", 1.6732632), op.get_float("gamma", 1.050701)
    if np.isclose([alpha, gamma], [1.6732632, 1.050701], rtol=1e-6, atol=0).all():
        return op.layer(smooth_activations.SELU(), op.tensor(0))
    return op.layer(elementary.MultiplyConstant(gamma), op.layer(smooth_activations.ELU(alpha), op.tensor(0), part="elu"))


@handler("HardSigmoid")
def hard_sigmoid(op: Op) -> Tensor:
    alpha, beta = op.get_float("alpha", 0.2), op.get_float("beta", 0.5)
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        return op.layer(plainly.HardSigmoid(), op.tensor(0))
    scaled = op.layer(elementary.MultiplyConstant(alpha), op.tensor(0), part="scale")
    return op.layer(plainly.Clip(0.0, 1.0), op.layer(elementary.AddConstant(beta), scaled, part="shift"))


@handler("Gelu", since=20)
def gelu(op: Op) -> Tensor:
    return op.layer(smooth_activations.GELU(op.get_string("approximate", "none")), op.tensor(0))


@handler("Swish", since=24)
def swish(op: Op) -> Tensor:
    alpha = op.get_float("alpha", 1.0)
    if alpha == 1:
        return op.layer(smooth_activations.SiLU(), op.tensor(0))
    scaled = op.layer(elementary.MultiplyConstant(alpha), op.tensor(0), part="scale")
    gate = op.layer(smooth_activations.Sigmoid(), scaled, part="sigmoid")
    return op.layer(Multiply(), op.tensor(0), gate)


@handler("PRelu")
def prelu(op: Op) -> Tensor:
    x, slope = op.tensor(0), op.value(1)
    if isinstance(slope, Constant) and slope.fixed and slope.trained | (slope.arrays[0].size == 1):
        array = slope.arrays[0]
        per_channel = op.batch and array.shape == (x.sample[0], *[1] * (len(x.sample) - 1))
        # Before opset 7 a slope for each channel was a vector.
        old = op.batch and op.version < 7 and array.shape == x.sample[:1]
        if array.size == 1 or per_channel or old:
            return op.layer(plainly.PReLU(per_channel=array.size > 1), x, weight=array.reshape(-1).astype(np.float32))
    if slope is None:
        op.refuse("its slope is missing")
    below = op.layer(plainly.Clip(None, 0.0), x, part="below")
    scaled = op.layer(Multiply(), below, op.tensor(1), part="scale")
    return op.layer(Add(), op.layer(plainly.ReLU(), x, part="above"), scaled)


def _clip(op: Op, low: float | None, high: float | None) -> Tensor:
    low, high = (None if v is None or not np.isfinite(np.float32(v)) else float(v) for v in (low, high))
    if low is None and high is None:
        return op.tensor(0)
    if low is not None and high is not None and low >= high:  # the upper bound comes last, and every value is it
        return op.layer(plainly.Clip(high, None), op.layer(plainly.Clip(None, high), op.tensor(0), part="above"))
    return op.layer(plainly.Clip(low, high), op.tensor(0))


@handler("Clip")
def clip_6(op: Op) -> Tensor:
    return _clip(op, _wide(op.get_float("min")), _wide(op.get_float("max")))


def _wide(bound: float | None) -> float | None:
    """Old files write the largest float32 where there is no bound."""
    return None if bound is None or abs(bound) >= 3.4e38 else bound


@handler("Clip", since=11)
def clip(op: Op) -> Tensor:
    return _clip(op, _wide(op.scalar(1, "min")), _wide(op.scalar(2, "max")))


def _softmax(op: Op, layer: Callable[[int], Layer]) -> Tensor:
    x = op.tensor(0)
    return op.layer(layer(op.axis(op.get_int("axis", -1), x.rank)), x)


def _softmax_1(op: Op, layer: Callable[[int], Layer]) -> Tensor:
    """Before opset 13: over all axes from `axis` on, as one."""
    x = op.tensor(0)
    axis = op.axis(op.get_int("axis", 1), x.rank)
    if axis == len(x.sample):
        return op.layer(layer(axis), x)
    flat = op.layer(Reshape([*x.sample[: axis - 1], -1]), x, part="flat")
    return op.layer(Reshape(list(x.sample)), op.layer(layer(axis), flat), part="shape")


@handler("Softmax")
def softmax_1(op: Op) -> Tensor:
    return _softmax_1(op, softmax.Softmax)


@handler("Softmax", since=13)
def softmax_13(op: Op) -> Tensor:
    return _softmax(op, softmax.Softmax)


@handler("LogSoftmax")
def log_softmax_1(op: Op) -> Tensor:
    return _softmax_1(op, softmax.LogSoftmax)


@handler("LogSoftmax", since=13)
def log_softmax_13(op: Op) -> Tensor:
    return _softmax(op, softmax.LogSoftmax)
