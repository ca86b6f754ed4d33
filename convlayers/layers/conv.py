"""Convolution."""

import math

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, conv_groups, per_axis, positive, window
from ._checks import image_shape, switch


class Conv2d(Layer):
    """2-d convolution (cross-correlation, as in ONNX `Conv`).

    `y[n,m,p,q] = b[m] + sum_crs x[n,c, p s + r d - pad, q s + s' d - pad] w[m,c,r,s']`

    x `(N, C, H, W)` to y `(N, M, P, Q)`, with `P = floor((H + pads - d (R - 1) - 1) / s) + 1`. `weight` `(M, C/groups, R, S)`
    and `bias` `(M,)` are drawn from the uniform distribution with bound `1 / sqrt(fan_in)`, `fan_in = C/groups R S`: He et al.
    2015 with a = sqrt(5), PyTorch's default.

    `kernel_size`, `stride`, `dilation`: an int or one per axis. `padding`: an int, one per axis, a `(before, after)` pair
    per axis, `"same"` (SAME_UPPER) or `"valid"`. `algorithm`: see `functional.conv2d`.
    """

    fuses_relu = True
    absorbs_affine = True
    examples = (
        ({"out_channels": 5, "kernel_size": 3}, (3, 7, 8)),
        ({"out_channels": 4, "kernel_size": [2, 3], "stride": 2, "padding": [[1, 0], [2, 1]], "groups": 2}, (6, 9, 8)),
        ({"out_channels": 3, "kernel_size": 3, "dilation": 2, "padding": "same", "bias": False}, (2, 8, 7)),
        ({"out_channels": 6, "kernel_size": 3, "stride": 2, "padding": "same"}, (2, 9, 8)),
        ({"out_channels": 17, "kernel_size": 1}, (4, 5, 5)),
        ({"out_channels": 2, "kernel_size": 3, "algorithm": "einsum"}, (2, 6, 6)),
    )

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
    ) -> None:
        self.out_channels = positive(out_channels, "out_channels")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.groups = positive(groups, "groups")
        self.bias = switch(bias, "bias")
        self.algorithm = functional.check_algorithm(algorithm)
        # Any window checks the arguments themselves; the input is not known yet.
        window((1 << 30,) * 2, kernel_size, stride=stride, dilation=dilation, padding=padding)

    def _options(self) -> dict:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "algorithm": self.algorithm,
        }

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = image_shape(input_shape)
        kernel = per_axis(self.kernel_size, 2, "kernel_size")
        group = conv_groups(channels, self.out_channels, self.groups)
        win = window(size, kernel, stride=self.stride, dilation=self.dilation, padding=self.padding)
        bound = 1 / math.sqrt(group * math.prod(kernel))
        self.params["weight"] = rng.uniform(-bound, bound, (self.out_channels, group, *kernel)).astype(np.float32)
        if self.bias:
            self.params["bias"] = rng.uniform(-bound, bound, self.out_channels).astype(np.float32)
        return (self.out_channels, *win.output)

    def forward(self, x, *, training, affine=None, relu=False):
        weight, bias, options = self.params["weight"], self.params.get("bias"), self._options()
        if affine is not None:
            scale, shift = affine
            if x.size // x.shape[1] < weight[0].size:
                # The images have fewer pixels than a filter has weights: a pass over the output is the shorter one.
                return functional.scale_shift(functional.conv2d(x, weight, bias, **options), scale, shift, relu=relu), x
            weight, bias = weight * scale[:, None, None, None], shift if bias is None else bias * scale + shift
        y = functional.conv2d(x, weight, bias, **options, relu=relu)
        return y, (x, y if relu else None)

    def backward(self, dy, cache):
        x, y = cache
        dy = dy if y is None else functional.relu_backward(dy, y)
        self.accumulate(dy, (x, None))
        return self.backward_input(dy, (x, None))

    def backward_input(self, dy, cache):
        x, y = cache
        dy = dy if y is None else functional.relu_backward(dy, y)
        return functional.conv2d_backward_input(dy, self.params["weight"], x.shape, **self._options())

    def accumulate(self, dy, cache):
        x, y = cache
        dy = dy if y is None else functional.relu_backward(dy, y)
        options = self._options()
        dw, db = functional.conv2d_backward_weight(dy, x, self.params["weight"].shape, bias=self.bias, **options)
        self.grads["weight"] += dw
        if self.bias:
            self.grads["bias"] += db

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        weight = self.params["weight"]
        # Numbers even for "same": onnxruntime refuses SAME_UPPER with dilation.
        size = graph.shape(inputs[0])[1:]
        win = window(size, weight.shape[2:], stride=self.stride, dilation=self.dilation, padding=self.padding)
        return graph.op(
            "Conv",
            *inputs,
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
