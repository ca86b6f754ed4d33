"""Upsampling: images made larger by whole factors."""

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, per_axis
from ._checks import axes_of, channels_and_size, choice

# Spatial axes that a mode is for, by PyTorch's names; None is any number.
_RANKS = {"nearest": None, "linear": 1, "bilinear": 2, "trilinear": 3}


class Upsample(Layer):
    """Each spatial axis `scale` times as long: x `(N, C, *size)` to `(N, C, *(scale * size))`.

    `scale`: a whole number of at least 1, or one per spatial axis. `mode="nearest"` repeats pixels, `y[k] = x[floor(k / s)]`,
    for samples with one spatial axis or more. `"linear"` `(C, L)`, `"bilinear"` `(C, H, W)` and `"trilinear"` `(C, D, H, W)`
    interpolate along each axis between the two nearest pixels,

    `y[k] = (1 - f) x[i] + f x[i + 1]` with `i + f = (k + 1/2) / s - 1/2`, `0 <= f < 1`,

    where the outermost pixels go on for ever: PyTorch's `align_corners=False`, ONNX's `half_pixel`. `dx` adds up dy with the
    same weights. A pixel of weight 0 is not read, so NaN and infinity reach those outputs alone that depend on them.
    """

    replays = True
    examples = (
        ({"scale": 2}, (3, 4, 5)),
        ({"scale": [3, 1]}, (2, 1, 4)),
        ({"scale": 3}, (2, 5)),
        ({"scale": [2, 1, 3]}, (2, 2, 3, 2)),
        ({"scale": 2, "mode": "bilinear"}, (3, 4, 5)),
        ({"scale": [3, 4], "mode": "bilinear"}, (2, 3, 2)),
        ({"scale": [1, 5], "mode": "bilinear"}, (2, 1, 1)),
        ({"scale": 4, "mode": "linear"}, (2, 5)),
        ({"scale": [2, 3, 1], "mode": "trilinear"}, (2, 3, 2, 2)),
    )

    def __init__(self, scale: IntOrSequence, *, mode: str = "nearest") -> None:
        self.scale, self.mode = scale, choice(mode, "mode", _RANKS)
        per_axis(scale, _RANKS[mode] or axes_of(scale), "scale")

    def _options(self, shape: Shape) -> tuple[tuple[int, ...], bool]:
        """The scale of each spatial axis of a batch of `shape`, and whether to interpolate."""
        return per_axis(self.scale, len(shape) - 2, "scale"), self.mode != "nearest"

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, size = channels_and_size(input_shape, _RANKS[self.mode])
        return (channels, *(n * s for n, s in zip(size, per_axis(self.scale, len(size), "scale"), strict=True)))

    def forward(self, x, *, training):
        scale, linear = self._options(x.shape)
        return functional.upsample(x, scale, linear=linear), x.shape

    def backward(self, dy, cache):
        scale, linear = self._options(cache)
        return functional.upsample_backward(dy, cache, scale, linear=linear)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        channels, *size = graph.shape(inputs[0])
        scale, linear = self._options((1, channels, *size))
        if not linear or all(s & (s - 1) == 0 for s in scale):
            return graph.op(
                "Resize",
                *inputs,
                None,
                np.array([1, 1, *scale], np.float32),
                mode="linear" if linear else "nearest",
                coordinate_transformation_mode="half_pixel" if linear else "asymmetric",
                nearest_mode=None if linear else "floor",
            )
        # onnxruntime places the pixels in float32, which is exact for powers of two: a thousand pixels by 3 come out 5e-5 off.
        pairs, weight, cut = functional.interpolation(channels, scale, np.dtype(np.float32))
        edges = np.array([0, 0, *(before for before, _ in pairs)] * 2, np.int64)
        return graph.op(
            "ConvTranspose",
            graph.op("Pad", *inputs, edges, mode="edge"),
            weight,
            kernel_shape=list(weight.shape[2:]),
            strides=list(scale),
            pads=list(cut * 2),
            group=channels,
        )
