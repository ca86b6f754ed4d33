"""Normalization: activations brought to one mean and deviation."""

import math
from typing import ClassVar, NamedTuple

import numpy as np

from .. import functional
from ..functional import fits
from ..functional.batchnorm import BatchNormPass, BoundBatchNorm, bound_batch_norm
from ..functional.pointwise import add_gradient
from ..layer import Bound, Layer, OnnxGraph, Shape
from ._checks import number, sample_of_rank


class Sum(NamedTuple):
    """What a normalization that took over an addition leaves: its own cache, and y where the sum was rectified."""

    cache: BatchNormPass
    y: np.ndarray | None


class _BatchNorm(Layer):
    """Batch normalization, channel by channel (Ioffe and Szegedy 2015).

    `y = (x - mean) / sqrt(var + eps) weight + bias`, x and y `(N, C, ...)`, the others `(C,)`. In training, mean and variance
    (over the `m` values of a channel in the batch, divided by m) are those of the batch, and

    `dbias = sum dy`, `dweight = sum dy u` with `u = (x - mean) / sqrt(var + eps)`,
    `dx = weight / sqrt(var + eps) (dy - dbias / m - u dweight / m)`.

    In inference they are `running_mean` and `running_var`, constants, so `dx = weight / sqrt(var + eps) dy`. Each training pass
    moves those by `momentum` towards the batch's mean and its variance divided by `m - 1`, as in PyTorch: the one thing that a
    forward pass changes, so a model trains in one thread at a time, while any number may run inference. A layer at two places
    of a graph moves them twice.

    `weight` starts at 1 and `bias` at 0, `running_mean` at 0 and `running_var` at 1; nothing is drawn.
    """

    ranks: ClassVar[tuple[int, ...]]  # of the samples: numbers of spatial axes
    fuses_relu = True
    fuses_clip = True
    fuses_clip_in_training = True
    absorbs_residual_in_training = True
    replays = True

    def __init__(self, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps = number(eps, "eps", "greater than 0 and finite", lambda v: 0 < v < math.inf)
        self.momentum = number(momentum, "momentum", "at least 0 and at most 1", lambda v: 0 <= v <= 1)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *_ = sample_of_rank(input_shape, *self.ranks)
        self.params = {"weight": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
        self.buffers = {"running_mean": np.zeros(channels, np.float32), "running_var": np.ones(channels, np.float32)}
        return input_shape

    def forward(self, x, *, training, residual=None, relu=False):
        if residual is not None:
            y, cache = self.forward(x, training=training)
            y = functional.add([y, residual], relu=relu)
            return y, Sum(cache, y if relu else None)
        weight, bias = self.params["weight"], self.params["bias"]
        if not training:
            running = self.buffers["running_mean"], self.buffers["running_var"]
            return functional.batch_norm(x, weight, bias, *running, eps=self.eps, relu=relu)
        y, cache = functional.batch_norm(x, weight, bias, eps=self.eps, relu=relu)
        if x.size:
            self.follow(cache.moments, x.size // x.shape[1])
        return y, cache

    def follow(self, moments: np.ndarray, values: int) -> None:
        """Move the running statistics towards mean and biased variance, `(2, C)`, of so many values a channel."""
        running = self.buffers["running_mean"], self.buffers["running_var"]
        functional.batch_norm_follow(*running, moments, self.momentum, values)

    def bind(self, shape, dtype, *, training, residual=False, relu=False):
        channels, pixels = shape[1:2], math.prod(shape[2:])
        if not training or shape[0] * pixels < 2:
            return None
        norm = bound_batch_norm(shape, dtype, self.eps, self.momentum, relu)
        if residual:
            return None if pixels == 1 else self._bound_to_sums(norm, shape, dtype, relu)

        def forward(x):
            arrays = self.arrays()
            if all(fits(array, channels, dtype) for array in arrays):
                return norm.forward(x, *arrays)
            return self.forward(x, training=True, relu=relu)

        def backward(dy, cache):
            dw, db = self.gradients()
            if cache.training and fits(dw, channels, dtype) and fits(db, channels, dtype):
                return norm.backward(dy, cache, dw, db)
            return self.backward(dy, cache)

        return Bound(forward, backward, backward)

    def _bound_to_sums(self, norm: BoundBatchNorm, shape: Shape, dtype: np.dtype, relu: bool) -> Bound:
        """With the addition behind the layer taken over."""
        channels = shape[1:2]

        def forward(x, residual):
            arrays = self.arrays()
            if fits(residual, shape, dtype) and all(fits(array, channels, dtype) for array in arrays):
                y, cache = norm.forward(x, *arrays, residual)
                return y, Sum(cache, y if relu else None)
            return self.forward(x, training=True, residual=residual, relu=relu)

        def backward(dy, cache):
            dw, db = self.gradients()
            if cache.y is None or not (fits(dw, channels, dtype) and fits(db, channels, dtype)):
                return self.backward(dy, cache)
            return norm.backward_of_sum(dy, cache.cache, cache.y, dw, db)

        return Bound(forward, backward, backward)

    def backward(self, dy, cache):
        if isinstance(cache, Sum):
            dy = dy if cache.y is None else functional.relu_backward(dy, cache.y)
            return self.backward(dy, cache.cache), dy
        dx, dw, db = functional.batch_norm_backward(dy, cache)
        self.add_gradients(dw, db)
        return dx

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of weight and bias."""
        return self.grads["weight"], self.grads["bias"]

    def add_gradients(self, dw: np.ndarray, db: np.ndarray) -> None:
        """Add to `grads`."""
        add_gradient(self.grads["weight"], dw)
        add_gradient(self.grads["bias"], db)

    def scale_shift(self):
        return functional.batch_norm_affine(*self.arrays(), eps=self.eps)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weight, bias, running mean and variance, `(C,)` each: by name, since the dictionaries may be exchanged."""
        params, buffers = self.params, self.buffers
        return params["weight"], params["bias"], buffers["running_mean"], buffers["running_var"]

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # ONNX's momentum is the share of the old value, ours and PyTorch's that of the new one.
        return graph.op(
            "BatchNormalization",
            *inputs,
            *self.params.values(),
            *self.buffers.values(),
            epsilon=float(self.eps),
            momentum=float(1 - self.momentum),
        )

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return math.prod(output_shape)


class BatchNorm1d(_BatchNorm):
    """Batch normalization of vectors `(N, C)`, m = N, or of signals `(N, C, L)`, m = N L; the equations are `_BatchNorm`'s."""

    ranks = (0, 1)
    examples = (({}, (5,)), ({"eps": 0.01, "momentum": 0.5}, (33,)), ({}, (3, 67)), ({}, (2, 1)))


class BatchNorm2d(_BatchNorm):
    """Batch normalization of images `(N, C, H, W)`, m = N H W; the equations are `_BatchNorm`'s."""

    ranks = (2,)
    examples = (({}, (3, 4, 5)), ({"eps": 0.01, "momentum": 0.5}, (17, 1, 1)), ({}, (2, 9, 3)))


class BatchNorm3d(_BatchNorm):
    """Batch normalization of volumes `(N, C, D, H, W)`, m = N D H W; the equations are `_BatchNorm`'s."""

    ranks = (3,)
    examples = (({}, (3, 2, 3, 4)), ({"eps": 0.01, "momentum": 0.5}, (5, 1, 1, 1)), ({}, (2, 3, 1, 5)))
