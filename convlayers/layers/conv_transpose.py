"""Transposed convolution along one, two and three axes."""

import math
from typing import Any, ClassVar

import numpy as np

from .. import functional
from ..functional import conv_transpose
from ..functional.conv import joint
from ..functional.pointwise import add_gradient
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, Transposed, conv_groups, per_axis, positive, transposed_window
from ._checks import sample_of_rank, switch
from ._relu import before_relu
from .initializers import check_initializer, initial_parameters


class _ConvTranspose(Layer):
    """What transposed convolutions of every rank share: all but the kernels."""

    rank: ClassVar[int]
    fuses_relu = True
    absorbs_affine = True
    replays = True

    def __init__(
        self,
        out_channels: int,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence = 1,
        padding: Padding = 0,
        output_padding: IntOrSequence = 0,
        dilation: IntOrSequence = 1,
        groups: int = 1,
        bias: bool = True,
        algorithm: str = "auto",
        init: str = "default",
    ) -> None:
        self.out_channels = positive(out_channels, "out_channels")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.output_padding = output_padding
        self.groups = positive(groups, "groups")
        self.bias = switch(bias, "bias")
        self.algorithm = functional.check_algorithm(algorithm)
        self._options = functional.conv_options(stride, padding, dilation, groups, output_padding, algorithm)
        self.init = check_initializer(init)
        # Any size checks the arguments themselves; the input is not known yet.
        self._window((1 << 33,) * self.rank)

    def _window(self, size: Shape) -> Transposed:
        how: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return transposed_window(size, self.kernel_size, **how, output_padding=self.output_padding)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = sample_of_rank(input_shape, self.rank)
        kernel = per_axis(self.kernel_size, self.rank, "kernel_size")
        group, taps = conv_groups(channels, self.out_channels, self.groups), math.prod(kernel)
        output = self._window(tuple(size)).output
        filters, biases = self.out_channels // self.groups, self.out_channels if self.bias else None
        fans = {"fan_in": group * taps, "fan_out": filters * taps}
        shape = (channels, filters, *kernel)
        self.params = initial_parameters(self.init, rng, shape, biases, **fans, groups=self.groups)
        return (self.out_channels, *output)

    def forward(self, x, *, training, affine=None, relu=False):
        weight, bias = self.params["weight"], self.params.get("bias")
        if affine is not None:
            scale, shift = joint(bias, affine)
            y = conv_transpose.forward(self.rank, x, weight, None, False, self._options)
            return functional.scale_shift(y, scale, shift, relu=relu), x
        y = conv_transpose.forward(self.rank, x, weight, bias, relu, self._options)
        return y, (x, y if relu else None)

    def backward(self, dy, cache):
        dy, x = before_relu(dy, cache)
        self.accumulate(dy, (x, None))
        return self.backward_input(dy, (x, None))

    def backward_input(self, dy, cache):
        dy, x = before_relu(dy, cache)
        return conv_transpose.backward_input(self.rank, dy, self.params["weight"], x.shape, self._options)

    def accumulate(self, dy, cache):
        dy, x = before_relu(dy, cache)
        dw, db = conv_transpose.backward_weight(self.rank, dy, x, self.params["weight"].shape, self.bias, self._options)
        add_gradient(self.grads["weight"], dw)
        if self.bias:
            add_gradient(self.grads["bias"], db)

    def affine_params(self, scale, shift):
        # (C, M/groups, R, S): the filters of a group are beside each other, and every input channel of the group has its own.
        weight, bias = self.params["weight"], self.params.get("bias")
        grouped = weight.reshape(self.groups, -1, weight[0].shape[0], weight[0, 0].size)
        scaled = (grouped * scale.reshape(self.groups, 1, -1, 1)).reshape(weight.shape)
        return {"weight": scaled, "bias": shift if bias is None else bias * scale + shift}

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # Numbers even for "same": runtimes and versions of the standard disagree on where the odd pixel goes.
        _, win, extra = self._window(graph.shape(inputs[0])[1:])
        x, zeros = inputs[0], [more // step for more, step in zip(extra, win.stride, strict=True)]
        if any(zeros):
            # onnxruntime refuses output padding of a stride or more, which dilation allows: so many zeros behind x give it.
            x = graph.op("Pad", x, np.array([0] * (self.rank + 4) + zeros, np.int64))
        return graph.op(
            "ConvTranspose",
            x,
            self.params["weight"],
            self.params.get("bias"),
            kernel_shape=list(win.kernel),
            strides=list(win.stride),
            dilations=list(win.dilation),
            group=self.groups,
            pads=[before for before, _ in win.padding] + [after for _, after in win.padding],
            output_padding=[more % step for more, step in zip(extra, win.stride, strict=True)],
        )

    def multiply_adds(self, input_shape: Shape, output_shape: Shape) -> int:
        return self.params["weight"].size * math.prod(input_shape[1:])


class ConvTranspose1d(_ConvTranspose):
    """1-d transposed convolution, x `(N, C, P)` to y `(N, M, H)` with `H = (P - 1) s + d (R - 1) + 1 - pads + output_padding`.

    `y[n,m,h] = b[m] + sum x[n,c,p] w[c,m,r]` over all `h = p s + r d - pad`; `weight` `(C, M/groups, R)`, `bias` `(M,)`.
    Arguments, gradients and first values are those of `ConvTranspose2d`.
    """

    rank = 1
    examples = (
        ({"out_channels": 5, "kernel_size": 2, "stride": 2}, (3, 5)),
        ({"out_channels": 4, "kernel_size": [3], "stride": 2, "padding": [[1, 0]], "groups": 2, "output_padding": 1}, (6, 4)),
        ({"out_channels": 2, "kernel_size": 4, "stride": 3, "padding": "same", "bias": False}, (2, 3)),
        ({"out_channels": 3, "kernel_size": 2, "dilation": 3, "output_padding": 2, "groups": 3}, (3, 1)),
    )


class ConvTranspose2d(_ConvTranspose):
    """2-d transposed convolution, as in ONNX `ConvTranspose`: the gradient of `Conv2d` with respect to its input.

    `y[n,m,h,w] = b[m] + sum x[n,c,p,q] w[c,m,r,s']` over all `h = p s + r d - pad`, `w = q s + s' d - pad`

    x `(N, C, P, Q)` to y `(N, M, H, W)`, with `H = (P - 1) s + d (R - 1) + 1 - pads + output_padding`; `weight`
    `(C, M/groups, R, S)`, `bias` `(M,)`. It enlarges by learned interpolation (Zeiler et al. 2010; Dumoulin and Visin 2016).

    `dx[n,c,p,q] = sum_mrs dy[n,m, p s + r d - pad, ...] w[c,m,r,s']`, which is `Conv2d` of dy with the same weight,
    `dw[c,m,r,s'] = sum_npq x[n,c,p,q] dy[n,m, p s + r d - pad, ...]`, `db[m] = sum_nhw dy[n,m,h,w]`.

    `padding` takes pixels away from the output; `"same"` leaves `P s` of them (SAME_UPPER). `output_padding`, less than the
    stride or the dilation, adds some behind. Otherwise arguments are those of `Conv2d`. PyTorch's default draws within
    `1 / sqrt(M/groups R S)`; for a named `init`, an output is taken for a sum of `C/groups R S` products.
    """

    rank = 2
    examples = (
        ({"out_channels": 5, "kernel_size": 2, "stride": 2}, (3, 4, 5)),
        ({"out_channels": 4, "kernel_size": [2, 3], "stride": [3, 2], "padding": [[1, 0], [0, 2]], "groups": 2}, (6, 3, 4)),
        ({"out_channels": 2, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False}, (2, 4, 3)),
        ({"out_channels": 3, "kernel_size": [4, 1], "stride": [2, 3], "padding": "same", "init": "orthogonal"}, (2, 3, 2)),
        ({"out_channels": 3, "kernel_size": 2, "dilation": [3, 1], "output_padding": [2, 0], "groups": 3}, (3, 1, 1)),
        ({"out_channels": 4, "kernel_size": 3, "padding": 1, "algorithm": "winograd", "init": "glorot_uniform"}, (2, 5, 6)),
    )


class ConvTranspose3d(_ConvTranspose):
    """3-d transposed convolution, x `(N, C, O, P, Q)` to y `(N, M, G, H, W)`, sizes as for `ConvTranspose2d`.

    `y[n,m,g,h,w] = b[m] + sum x[n,c,o,p,q] w[c,m,t,r,s']` over all `g = o s + t d - pad`, h and w alike; `weight`
    `(C, M/groups, T, R, S)`, `bias` `(M,)`. Arguments, gradients and first values are those of `ConvTranspose2d`.
    """

    rank = 3
    examples = (
        ({"out_channels": 3, "kernel_size": 2, "stride": 2}, (2, 2, 3, 2)),
        ({"out_channels": 4, "kernel_size": [2, 3, 1], "stride": [1, 2, 3], "padding": [0, 1, 0], "groups": 2}, (4, 2, 3, 2)),
        ({"out_channels": 2, "kernel_size": 3, "padding": "same", "stride": [2, 1, 2], "bias": False}, (2, 2, 2, 3)),
        ({"out_channels": 2, "kernel_size": 2, "dilation": [2, 1, 3], "output_padding": [1, 0, 2]}, (1, 2, 2, 1)),
    )
