"""Dense layers, and the reshaping in front of them."""

import numpy as np

from .. import functional
from ..errors import ShapeError
from ..functional.dense import add_weight_gradient, bound_linear
from ..functional.pointwise import add_gradient
from ..layer import Bound, Layer, OnnxGraph, Shape
from ..shapes import features, positive
from ._checks import switch
from ._relu import before_relu
from .initializers import check_initializer, initial_parameters


class Flatten(Layer):
    """All values of a sample in one row, `(N, ...)` to `(N, features)`, in C order; the gradient is the reshape back."""

    replays = True
    examples = (({}, (3, 4, 5)), ({}, (7,)))

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return (features(input_shape),)

    def forward(self, x, *, training):
        return x.reshape(len(x), -1) if x.size else x.reshape(len(x), features(x.shape[1:])), x.shape

    def backward(self, dy, cache):
        return dy.reshape(cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Flatten", *inputs, axis=1)


def _rows(x: np.ndarray) -> np.ndarray:
    """`(N, ..., features)` as a matrix."""
    return x if x.ndim == 2 else x.reshape(features(x.shape[:-1]), x.shape[-1])


class Dense(Layer):
    """`y = x @ weight.T + bias`; x `(N, in)`, `weight` `(out, in)`, `bias` `(out,)`, y `(N, out)`.

    Samples of more axes are taken row by row, x `(N, ..., in)` to `(N, ..., out)`, as by PyTorch's `Linear`; for all values of
    a sample at once, put `Flatten` before it. `dx = dy @ weight`, `dweight = dy.T @ x`, `dbias = sum_n dy`. `init` says how
    the parameters are drawn (`layers/initializers.py`), by default as PyTorch's `Linear` does.
    """

    fuses_relu = True
    replays = True
    examples = (
        ({"out_features": 5}, (7,)),
        ({"out_features": 33, "bias": False}, (18,)),
        ({"out_features": 4, "init": "orthogonal"}, (6,)),
        ({"out_features": 6}, (3, 2, 5)),
        ({"out_features": 19, "bias": False}, (4, 7)),
    )

    def __init__(self, out_features: int, *, bias: bool = True, init: str = "default") -> None:
        self.out_features = positive(out_features, "out_features")
        self.bias = switch(bias, "bias")
        self.init = check_initializer(init)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if not input_shape:
            raise ShapeError("takes vectors (features,), or rows of them; got a sample of shape ()")
        shape = self.out_features, input_shape[-1]
        biases = self.out_features if self.bias else None
        self.params = initial_parameters(self.init, rng, shape, biases, fan_in=shape[1], fan_out=shape[0])
        return (*input_shape[:-1], self.out_features)

    def forward(self, x, *, training, relu=False):
        y = functional.linear(_rows(x), self.params["weight"], self.params.get("bias"), relu=relu)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y, (x, y if relu else None)

    def bind(self, shape, dtype, *, training, relu=False):
        if len(shape) != 2 or shape[1] != self.params["weight"].shape[-1]:
            return None  # of weights that do not fit, `forward` says so
        linear = bound_linear(shape[0], self.params["weight"].shape, dtype, relu)

        def forward(x):
            y = linear.forward(x, self.params["weight"], self.params.get("bias"))
            return y, (x, y if relu else None)

        def accumulate(dy, cache):
            dy, x = before_relu(dy, cache)
            linear.add_weight_gradient(dy, x, self.grads["weight"])
            self._add_bias_gradient(dy)

        def backward(dy, cache):
            dy, x = before_relu(dy, cache)
            accumulate(dy, (x, None))
            return linear.backward_input(dy, self.params["weight"])

        return Bound(forward, backward, accumulate)

    def backward(self, dy, cache):
        dy, x = before_relu(dy, cache)
        self.accumulate(dy, (x, None))
        return self.backward_input(dy, (x, None))

    def backward_input(self, dy, cache):
        dy, x = before_relu(dy, cache)
        return functional.linear_backward_input(_rows(dy), self.params["weight"]).reshape(x.shape)

    def accumulate(self, dy, cache):
        dy, x = before_relu(dy, cache)
        dy = _rows(dy)
        add_weight_gradient(dy, _rows(x), self.grads["weight"])
        self._add_bias_gradient(dy)

    def _add_bias_gradient(self, dy: np.ndarray) -> None:
        if self.bias:
            add_gradient(self.grads["bias"], functional.column_sums(dy))

    def affine_params(self, scale, shift):
        return {"weight": self.params["weight"] * scale[:, None], "bias": self.params.get("bias", 0) * scale + shift}

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        weight, bias = self.params["weight"], self.params.get("bias")
        if len(graph.shape(inputs[0])) == 1:
            return graph.op("Gemm", *inputs, weight, bias, transB=1)
        y = graph.op("MatMul", *inputs, graph.op("Transpose", weight, perm=[1, 0]))
        return y if bias is None else graph.op("Add", y, bias)

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return self.params["weight"].size * features(input_shape[:-1])
