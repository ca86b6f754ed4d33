"""Normalization within a sample: over all of it, over groups of its channels, or channel by channel.

No statistics are kept: training and inference compute the same, and a sample's result does not depend on its batch.
"""

import math
from typing import Any

import numpy as np

from .. import functional, kernels
from ..errors import ShapeError
from ..functional.pointwise import add_gradient
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import features, positive
from ._checks import batch_axis, number, sample_axis, switch


def _eps(value: float) -> float:
    return number(value, "eps", "greater than 0 and finite", lambda v: 0 < v < math.inf)


def _two_values(values: int, what: str) -> None:
    if values < 2:
        raise ShapeError(f"{what} needs two values at least, to have a variance; got {values}")


def _affine(shape: Shape) -> dict[str, np.ndarray]:
    return {"weight": np.ones(shape, np.float32), "bias": np.zeros(shape, np.float32)}


class LayerNorm(Layer):
    """Layer normalization (Ba, Kiros and Hinton 2016).

    `y = u weight + bias` with `u = (x - mean) / sqrt(var + eps)`; mean and variance (divided by m) are those of the m values
    of a sample from `axis` on, and `weight` and `bias` have the shape of those axes. `axis` counts the batch axis, as in ONNX:
    1 takes the whole sample, -1 the last axis alone. PyTorch's `normalized_shape` is what the sample holds there.

    With `g = dy weight`: `dx = (g - mean g - u mean(g u)) / sqrt(var + eps)`; `dweight = sum dy u` and `dbias = sum dy` over
    the axes in front. `weight` starts at 1 and `bias` at 0.
    """

    replays = True
    examples = (
        ({}, (3, 4, 5)),
        ({"axis": -1, "eps": 0.01}, (3, 5)),
        ({"axis": 2}, (2, 3, 67)),
        ({}, (33,)),
        ({}, (3, 1, 1)),
    )

    def __init__(self, axis: int = 1, *, eps: float = 1e-5) -> None:
        self.axis = batch_axis(axis)
        self.eps = _eps(eps)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        shape = input_shape[sample_axis(self.axis, input_shape) :]
        _two_values(features(shape), "what is normalized")
        self.params = _affine(shape)
        return input_shape

    def forward(self, x, *, training):
        return functional.layer_norm(x, *self.params.values(), axis=self.axis, eps=self.eps)

    def backward(self, dy, cache):
        dx, dw, db = functional.group_norm_backward(dy, cache)
        add_gradient(self.grads["weight"], dw)
        add_gradient(self.grads["bias"], db)
        return dx

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        (x,), shape = inputs, graph.shape(inputs[0])
        axis = sample_axis(self.axis, shape) + 1
        if graph.opset >= 17:
            return graph.op("LayerNormalization", x, *self.params.values(), axis=axis, epsilon=float(self.eps))
        axes = list(range(axis, len(shape) + 1))
        deviation = graph.op("Sub", x, graph.op("ReduceMean", x, axes=axes))
        var = graph.op("ReduceMean", graph.op("Mul", deviation, deviation), axes=axes)
        root = graph.op("Sqrt", graph.op("Add", var, np.array(float(self.eps))))
        scaled = graph.op("Mul", graph.op("Div", deviation, root), self.params["weight"])
        return graph.op("Add", scaled, self.params["bias"])

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return 2 * features(output_shape)  # the variance's and the output's


class GroupNorm(Layer):
    """Group normalization (Wu and He 2018).

    x and y `(N, C, ...)`; the C channels form `groups` groups of neighbours, and `u = (x - mean) / sqrt(var + eps)` with mean
    and variance (divided by m) over the m values of a group in a sample. `y = u weight + bias`, `weight` and `bias` `(C,)`.

    With `g = dy weight`: `dx = (g - mean g - u mean(g u)) / sqrt(var + eps)`, the means over the group; `dweight = sum dy u`
    and `dbias = sum dy` over batch and pixels. `weight` starts at 1 and `bias` at 0.
    """

    replays = True
    examples = (
        ({"groups": 2}, (4, 3, 5)),
        ({"groups": 3, "eps": 0.01}, (15, 1, 1)),
        ({"groups": 1}, (3, 67)),
        ({"groups": 2}, (34,)),
        ({"groups": 2}, (2, 3, 1, 2)),
    )

    def __init__(self, groups: int, *, eps: float = 1e-5) -> None:
        self.groups = positive(groups, "groups")
        self.eps = _eps(eps)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if not input_shape or input_shape[0] % self.groups:
            raise ShapeError(f"groups {self.groups} must divide the channels of a sample (C, ...); got {tuple(input_shape)}")
        _two_values(features(input_shape) // self.groups, "a group")
        self.params = _affine(input_shape[:1])
        return input_shape

    def forward(self, x, *, training):
        return functional.group_norm(x, *self.params.values(), groups=self.groups, eps=self.eps)

    def backward(self, dy, cache):
        dx, dw, db = functional.group_norm_backward(dy, cache)
        add_gradient(self.grads["weight"], dw)
        add_gradient(self.grads["bias"], db)
        return dx

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # ONNX's GroupNormalization has a weight a channel from opset 21 on only; this serves every opset.
        (x,), shape = inputs, graph.shape(inputs[0])
        rest = -1 if graph.dynamic_image else features(shape) // self.groups
        grouped = graph.op("Reshape", x, np.array([0, self.groups, rest]))
        one = _affine((self.groups,))
        unit = graph.op("InstanceNormalization", grouped, *one.values(), epsilon=float(self.eps))
        whole = graph.op("Reshape", unit, graph.op("Shape", x) if graph.dynamic_image else np.array([0, *shape]))
        weight, bias = (_beside_pixels(graph, value, shape) for value in self.params.values())
        return graph.op("Add", graph.op("Mul", whole, weight), bias)

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return 2 * features(output_shape)  # the variance's and the output's


def _beside_pixels(graph: OnnxGraph, value: np.ndarray, shape: Shape) -> Any:
    """One value a channel, shaped to meet a sample of `shape`; the parameter keeps its name in the file."""
    return graph.op("Unsqueeze", value, np.arange(1, len(shape))) if len(shape) > 1 else value


class InstanceNorm(Layer):
    """Instance normalization, channel by channel of each sample (Ulyanov, Vedaldi and Lempitsky 2016).

    x and y `(N, C, ...)`, signals, images or volumes. `y = (x - mean) / sqrt(var + eps)` with mean and variance (divided by m)
    over the m pixels of a channel; `affine` adds a trained `weight` and `bias` `(C,)`, which start at 1 and 0. That is
    `GroupNorm` with a group for each channel, and so are the gradients. No running statistics, as is PyTorch's default.
    """

    replays = True
    examples = (
        ({}, (3, 4, 5)),
        ({"affine": True, "eps": 0.01}, (2, 67)),
        ({"affine": True}, (5, 1, 7)),
        ({}, (2, 3, 2, 3)),
    )

    def __init__(self, *, eps: float = 1e-5, affine: bool = False) -> None:
        self.eps = _eps(eps)
        self.affine = switch(affine, "affine")

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) < 2:
            raise ShapeError(f"takes signals, images or volumes (C, ...); got a sample of shape {tuple(input_shape)}")
        _two_values(features(input_shape[1:]), "a channel")
        self.params = _affine(input_shape[:1]) if self.affine else {}
        return input_shape

    def forward(self, x, *, training):
        weight, bias = self.params.values() if self.affine else map(kernels.constant, _affine(x.shape[1:2]).values())
        return functional.group_norm(x, weight, bias, groups=x.shape[1], eps=self.eps)

    def backward(self, dy, cache):
        if not self.affine:
            kernels.constant(cache.weight)
        dx, dw, db = functional.group_norm_backward(dy, cache)
        if self.affine:
            add_gradient(self.grads["weight"], dw)
            add_gradient(self.grads["bias"], db)
        return dx

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        affine = self.params or _affine(graph.shape(inputs[0])[:1])
        return graph.op("InstanceNormalization", *inputs, *affine.values(), epsilon=float(self.eps))

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return 2 * features(output_shape)  # the variance's and the output's
