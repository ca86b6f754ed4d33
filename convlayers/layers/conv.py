"""Convolution along one, two and three axes."""

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from .. import functional
from ..functional import conv
from ..functional.pointwise import add_gradient
from ..layer import Bound, Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, conv_groups, per_axis, positive, window
from ._checks import sample_of_rank, switch
from ._open_sizes import lay_out
from ._relu import before_relu
from .initializers import check_initializer, initial_parameters


class _Conv(Layer):
    """What convolutions of every rank share: all but the kernels."""

    rank: ClassVar[int]
    fuses_relu = True
    fuses_clip = True
    absorbs_affine = True
    replays = True
    absorbs_residual = True

    def __init__(
        self,
        out_channels: int,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence = 1,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        groups: int = 1,
        bias: bool = True,
        algorithm: str = "auto",
        init: str = "default",
    ) -> None:
        self.out_channels = positive(out_channels, "out_channels")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.groups = positive(groups, "groups")
        self.bias = switch(bias, "bias")
        self.algorithm = functional.check_algorithm(algorithm)
        self.options = functional.conv_options(stride, padding, dilation, groups, None, algorithm)
        self.init = check_initializer(init)
        self.kept = conv.Kept()  # in inference
        # Any window checks the arguments themselves; the input is not known yet.
        window((1 << 30,) * self.rank, kernel_size, stride=stride, dilation=dilation, padding=padding)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = sample_of_rank(input_shape, self.rank)
        kernel = per_axis(self.kernel_size, self.rank, "kernel_size")
        group = conv_groups(channels, self.out_channels, self.groups)
        win = window(size, kernel, stride=self.stride, dilation=self.dilation, padding=self.padding)
        shape, biases, taps = (self.out_channels, group, *kernel), self.out_channels if self.bias else None, math.prod(kernel)
        fans = {"fan_in": group * taps, "fan_out": self.out_channels // self.groups * taps}
        self.params = initial_parameters(self.init, rng, shape, biases, **fans, groups=self.groups)
        return (self.out_channels, *win.output)

    def forward(self, x, *, training, affine=None, residual=None, relu=False, pooled=False):
        weight, bias = self.params["weight"], self.params.get("bias")
        if affine is not None or residual is not None or isinstance(relu, float) or pooled:
            return conv.fused_forward(self.rank, x, weight, bias, affine, residual, relu, pooled, self.options), x
        y = conv.forward(self.rank, x, weight, bias, relu, self.options)
        return y, (x, y if relu else None)

    def bind(self, shape, dtype, *, training, affine=False, residual=False, relu=False, pooled=False):
        if not training:
            run = self._bound_for_inference(shape, dtype, affine, residual, relu, pooled)
            return Bound(run, self.backward, self.accumulate)
        sizes = self.rank, shape, self.params["weight"].shape, dtype
        forward_of = conv.bound_forward(*sizes, relu, self.options)

        def forward(x):
            y = forward_of(x, self.params["weight"], self.params.get("bias"))
            return y, (x, y if relu else None)

        add_gradients = conv.bound_add_backward_weight(*sizes, self.options)
        input_of = conv.bound_backward_input(*sizes, self.options)
        onto_of = conv.bound_backward_input_onto(*sizes, self.options)

        def accumulate(dy, cache):
            dy, x = before_relu(dy, cache)
            add_gradients(dy, x, self.grads["weight"], self.grads.get("bias"))

        def backward(dy, cache):
            dy, x = before_relu(dy, cache)
            accumulate(dy, (x, None))
            return input_of(dy, self.params["weight"])

        if onto_of is None:
            return Bound(forward, backward, accumulate)

        def backward_onto(dy, cache, array):
            dy, x = before_relu(dy, cache)
            accumulate(dy, (x, None))
            return onto_of(dy, self.params["weight"], array)

        return Bound(forward, backward, accumulate, backward_onto)

    def _bound_for_inference(
        self, shape: Shape, dtype: np.dtype, affine: bool, residual: bool, relu: bool | float, pooled: bool
    ) -> Callable:
        sizes = self.rank, shape, self.params["weight"].shape, dtype
        run = conv.bound_fused_forward(*sizes, affine, residual, relu, pooled, self.options, self.kept)
        fused = affine or residual or isinstance(relu, float) or pooled

        def forward(x, affine=None, residual=None):
            y = run(x, self.params["weight"], self.params.get("bias"), affine, residual)
            return y, None if fused else (x, y if relu else None)

        return forward

    def backward(self, dy, cache):
        dy, x = before_relu(dy, cache)
        self.accumulate(dy, (x, None))
        return self.backward_input(dy, (x, None))

    def backward_input(self, dy, cache):
        dy, x = before_relu(dy, cache)
        return conv.backward_input(self.rank, dy, self.params["weight"], x.shape, self.options)

    def accumulate(self, dy, cache):
        dy, x = before_relu(dy, cache)
        self.add_gradients(*conv.backward_weight(self.rank, dy, x, self.params["weight"].shape, self.bias, self.options))

    def add_gradients(self, dw: np.ndarray, db: np.ndarray) -> None:
        """Add to `grads`; db is empty where there is no bias."""
        add_gradient(self.grads["weight"], dw)
        if self.bias:
            add_gradient(self.grads["bias"], db)

    def affine_params(self, scale, shift):
        weight, bias = self.params["weight"], self.params.get("bias")
        weight = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        return {"weight": weight, "bias": shift if bias is None else bias * scale + shift}

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        weight = self.params["weight"]
        # Numbers even for "same": onnxruntime refuses SAME_UPPER with dilation.
        size = graph.shape(inputs[0])[1:]
        win = window(size, weight.shape[2:], stride=self.stride, dilation=self.dilation, padding=self.padding)
        x, _, win = lay_out(graph, inputs[0], size, win, self.padding, 0.0)
        return graph.op(
            "Conv",
            x,
            weight,
            self.params.get("bias"),
            kernel_shape=list(win.kernel),
            strides=list(win.stride),
            dilations=list(win.dilation),
            group=self.groups,
            pads=[before for before, _ in win.padding] + [after for _, after in win.padding],
        )

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return self.params["weight"].size * math.prod(output_shape[1:])


class Conv1d(_Conv):
    """1-d convolution (cross-correlation, as in ONNX `Conv`): `y[n,m,p] = b[m] + sum_cr x[n,c, p s + r d - pad] w[m,c,r]`.

    x `(N, C, L)` to y `(N, M, P)`, with `P = floor((L + pads - d (K - 1) - 1) / s) + 1`; `weight` `(M, C/groups, K)`, `bias`
    `(M,)`. Arguments, gradients and first values are those of `Conv2d`; long kernels, as in audio, go through FFTs.
    """

    rank = 1
    examples = (
        ({"out_channels": 5, "kernel_size": 3}, (3, 9)),
        ({"out_channels": 4, "kernel_size": [4], "stride": 3, "padding": [[2, 1]], "groups": 2, "dilation": 2}, (6, 17)),
        ({"out_channels": 6, "kernel_size": 5, "stride": 2, "padding": "same", "groups": 3, "bias": False}, (3, 1)),
        ({"out_channels": 3, "kernel_size": 7, "padding": "valid", "algorithm": "fft", "init": "glorot_normal"}, (2, 21)),
    )


class Conv2d(_Conv):
    """2-d convolution (cross-correlation, as in ONNX `Conv`).

    `y[n,m,p,q] = b[m] + sum_crs x[n,c, p s + r d - pad, q s + s' d - pad] w[m,c,r,s']`

    x `(N, C, H, W)` to y `(N, M, P, Q)`, with `P = floor((H + pads - d (R - 1) - 1) / s) + 1`; `weight` `(M, C/groups, R, S)`,
    `bias` `(M,)`. Gradients follow from the same map of indices:

    `dx[n,c, p s + r d - pad, ...] += dy[n,m,p,q] w[m,c,r,s']` (the transposed convolution, `ConvTranspose2d`),
    `dw[m,c,r,s'] = sum_npq dy[n,m,p,q] x[n,c, p s + r d - pad, ...]`, `db[m] = sum_npq dy[n,m,p,q]`.

    `kernel_size`, `stride`, `dilation`: an int or one per axis. `padding`: an int, one per axis, a `(before, after)` pair
    per axis, `"same"` (SAME_UPPER) or `"valid"`. `algorithm`: see `functional.conv2d`. `init`: how the parameters are drawn
    (`layers/initializers.py`), by default as PyTorch does.
    """

    rank = 2
    absorbs_max_pool = True
    examples = (
        ({"out_channels": 5, "kernel_size": 3}, (3, 7, 8)),
        ({"out_channels": 4, "kernel_size": [2, 3], "stride": 2, "padding": [[1, 0], [2, 1]], "groups": 2}, (6, 9, 8)),
        ({"out_channels": 3, "kernel_size": 3, "dilation": 2, "padding": "same", "bias": False}, (2, 8, 7)),
        ({"out_channels": 6, "kernel_size": 3, "stride": 2, "padding": "same"}, (2, 9, 8)),
        ({"out_channels": 17, "kernel_size": 1}, (4, 5, 5)),
        ({"out_channels": 2, "kernel_size": 3, "algorithm": "einsum", "init": "kaiming_normal"}, (2, 6, 6)),
    )


class Conv3d(_Conv):
    """3-d convolution (cross-correlation, as in ONNX `Conv`), of volumes or of films.

    `y[n,m,o,p,q] = b[m] + sum_ctrs x[n,c, o s + t d - pad, p s + r d - pad, q s + s' d - pad] w[m,c,t,r,s']`

    x `(N, C, D, H, W)` to y `(N, M, O, P, Q)`, each size as in `Conv2d`; `weight` `(M, C/groups, T, R, S)`, `bias` `(M,)`.
    Arguments, gradients and first values are those of `Conv2d`; an `algorithm` is that of the last two axes.
    """

    rank = 3
    examples = (
        ({"out_channels": 4, "kernel_size": 3, "padding": 1}, (2, 4, 5, 3)),
        (
            {
                "out_channels": 4,
                "kernel_size": [2, 1, 3],
                "stride": [2, 1, 2],
                "padding": [[1, 2], [0, 0], [2, 1]],
                "groups": 2,
            },
            (2, 5, 3, 6),
        ),
        ({"out_channels": 3, "kernel_size": [3, 2, 2], "stride": 2, "padding": "same", "bias": False}, (3, 1, 1, 1)),
        ({"out_channels": 3, "kernel_size": [3, 1, 1], "dilation": 2, "padding": "same", "init": "orthogonal"}, (2, 5, 2, 3)),
        ({"out_channels": 2, "kernel_size": [1, 1, 2], "padding": "valid"}, (3, 2, 3, 4)),
    )
