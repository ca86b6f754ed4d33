"""Resizing to any size, by any rule of ONNX."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..functional import NEAREST_MODES, RESIZE_MODES, TRANSFORMATIONS, Resampling, Taps
from ..layer import Layer, OnnxGraph, Shape
from ._checks import choice, finite, integers, numbers, switch
from ._maps import mapped

_POLICIES = ("stretch", "not_larger", "not_smaller")
_CROPS = "tf_crop_and_resize"
# From the opset on that a value is known in; those of 13 are not listed.
_SINCE = {"half_pixel_symmetric": 19}
_SINCE_AXES = 18


class Resize(Layer):
    """Each axis made longer or shorter: values of the output are weighted sums of values nearby, as ONNX `Resize` defines them.

    `scales` (numbers above 0; an axis of n becomes `floor(scale n)`) or `sizes`, a list for every spatial axis or for every
    axis of a sample. x `(N, C, *size)` to `(N, C, *output)`, or the channels are resized too. `mode`: `"nearest"`, `"linear"`,
    `"cubic"`; `convlayers/functional/resize.py` has the equations of every `coordinate_transformation_mode`, of
    `exclude_outside` and of `antialias`. `cubic_coeff_a` is that of the cubic, -0.75 in PyTorch. `nearest_mode` says which of
    two neighbours is nearest: `"round_prefer_floor"`, `"round_prefer_ceil"`, `"floor"`, `"ceil"`. `keep_aspect_ratio_policy`
    other than `"stretch"` takes for all axes the smallest (`"not_larger"`) or largest (`"not_smaller"`) of the scales to
    `sizes`. `"tf_crop_and_resize"` reads the region `roi`, `[start, ..., end, ...]` in parts of each axis, and gives
    `extrapolation_value` where that lies outside.

    The map is linear, axis by axis, so `dx` is that of the transposed maps.
    """

    replays = True
    examples = (
        ({"scales": [2, 2]}, (3, 4, 5)),
        ({"sizes": [7, 3]}, (3, 4, 5)),
        ({"scales": [2, 0.5], "mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, (2, 3, 4)),
        ({"sizes": [6, 9], "mode": "cubic", "coordinate_transformation_mode": "align_corners"}, (2, 4, 5)),
        ({"sizes": [3, 4], "mode": "cubic", "antialias": True, "exclude_outside": True}, (2, 7, 9)),
        ({"sizes": [3, 2], "antialias": True, "keep_aspect_ratio_policy": "not_larger"}, (2, 9, 8)),
        ({"scales": [1.3, 2.6, 0.7], "coordinate_transformation_mode": "half_pixel_symmetric"}, (4, 3, 5)),
        (
            {
                "sizes": [4, 5],
                "coordinate_transformation_mode": _CROPS,
                "roi": [-0.2, 0.1, 0.9, 1.3],
                "extrapolation_value": 1.5,
            },
            (2, 3, 4),
        ),
        ({"sizes": [5], "mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "align_corners"}, (2, 3)),
        ({"sizes": [1, 5, 3], "coordinate_transformation_mode": "pytorch_half_pixel"}, (2, 2, 3, 4)),
    )

    def __init__(
        self,
        scales: Sequence[float] | None = None,
        sizes: Sequence[int] | None = None,
        mode: str = "linear",
        coordinate_transformation_mode: str = "half_pixel",
        cubic_coeff_a: float = -0.75,
        exclude_outside: bool = False,
        nearest_mode: str = "round_prefer_floor",
        antialias: bool = False,
        keep_aspect_ratio_policy: str = "stretch",
        extrapolation_value: float = 0.0,
        roi: Sequence[float] | None = None,
    ) -> None:
        self.scales, self.sizes, self.roi = scales, sizes, roi
        self.mode = choice(mode, "mode", RESIZE_MODES)
        self.coordinate_transformation_mode = choice(
            coordinate_transformation_mode, "coordinate_transformation_mode", TRANSFORMATIONS
        )
        self.cubic_coeff_a = finite(cubic_coeff_a, "cubic_coeff_a")
        self.exclude_outside = switch(exclude_outside, "exclude_outside")
        self.nearest_mode = choice(nearest_mode, "nearest_mode", NEAREST_MODES)
        self.antialias = switch(antialias, "antialias")
        self.keep_aspect_ratio_policy = choice(keep_aspect_ratio_policy, "keep_aspect_ratio_policy", _POLICIES)
        self.extrapolation_value = finite(extrapolation_value, "extrapolation_value")
        self._check_sizes()

    def _check_sizes(self) -> None:
        if (self.scales is None) == (self.sizes is None):
            raise ConfigError(f"takes scales or sizes, one of the two; got {self.scales!r} and {self.sizes!r}")
        if self.scales is not None:
            numbers(self.scales, "scales", "a list of finite numbers above 0", lambda v: 0 < v < math.inf)
            if self.keep_aspect_ratio_policy != "stretch":
                raise ConfigError(f"keep_aspect_ratio_policy is for sizes; got {self.keep_aspect_ratio_policy!r} with scales")
        else:
            integers(self.sizes or (), "sizes", "a list of sizes of at least 1", lambda v: min(v) > 0)
        if self.antialias and self.mode == "nearest":
            raise ConfigError('antialias is for the modes "linear" and "cubic"; got mode "nearest"')
        if (self.roi is not None) != (self.coordinate_transformation_mode == _CROPS):
            given = f"{self.coordinate_transformation_mode!r} and {self.roi!r}"
            raise ConfigError(f"roi is for {_CROPS}, which needs it; got {given}")
        if self.roi is not None:
            numbers(self.roi, "roi", "a list of finite numbers, a start and an end for each axis", math.isfinite)
            if len(self.roi) != 2 * self._count:
                raise ConfigError(f"roi must have all starts and then all ends of {self._count} axes; got {self.roi!r}")

    @property
    def _count(self) -> int:
        """How many axes are resized."""
        return len(self.scales if self.scales is not None else self.sizes or ())

    def _axes(self, shape: Shape) -> range:
        """Those of a batch of samples of `shape`: all but its first, or the spatial ones."""
        if self._count not in (len(shape), len(shape) - 1):
            raise ShapeError(
                f"resizes {self._count} axes, all of a sample or all behind its channels; got a sample of shape {tuple(shape)}"
            )
        return range(len(shape) + 1 - self._count, len(shape) + 1)

    def _lengths(self, sizes: Shape) -> list[tuple[int, float]]:
        """For each resized axis, of these sizes, how long it becomes and its scale."""
        if self.scales is not None:
            # In float32, as shape inference and runtimes multiply.
            products = [np.float32(n) * np.float32(scale) for n, scale in zip(sizes, self.scales, strict=True)]
            lengths = [(int(np.floor(product)), float(scale)) for product, scale in zip(products, self.scales, strict=True)]
        else:
            ratios = [output / n for n, output in zip(sizes, self.sizes or (), strict=True)]
            lengths = list(zip(self.sizes or (), ratios, strict=True))
            if self.keep_aspect_ratio_policy != "stretch":
                scale = min(ratios) if self.keep_aspect_ratio_policy == "not_larger" else max(ratios)
                lengths = [(int(scale * n + 0.5), scale) for n in sizes]
        if min(length for length, _ in lengths) < 1:
            raise ShapeError(f"leaves nothing of an axis: {sizes} become {tuple(length for length, _ in lengths)}")
        return lengths

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        first = self._axes(input_shape)[0] - 1
        return (*input_shape[:first], *(length for length, _ in self._lengths(tuple(input_shape[first:]))))

    def _maps(self, shape: Shape, back: bool = False) -> dict[int, Taps]:
        """The map of each axis that changes, of a batch of samples of `shape`."""
        axes, how = self._axes(shape), self._resampling()
        sizes = tuple(shape[axis - 1] for axis in axes)
        regions = self.roi or [0.0] * len(axes) + [1.0] * len(axes)
        maps = {}
        for place, (axis, n, (length, scale)) in enumerate(zip(axes, sizes, self._lengths(sizes), strict=True)):
            region = float(regions[place]), float(regions[place + len(axes)])
            if (length, scale, region) != (n, 1.0, (0.0, 1.0)):
                maps[axis] = functional.resize_taps(n, length, scale, how, region)[back]
        return maps

    def _resampling(self) -> Resampling:
        return Resampling(
            self.mode, self.coordinate_transformation_mode, self.nearest_mode, float(self.cubic_coeff_a),
            bool(self.exclude_outside), bool(self.antialias),
        )  # fmt: skip

    def forward(self, x, *, training):
        return functional.resample(x, self._maps(x.shape[1:]), value=float(self.extrapolation_value)), x.shape

    def backward(self, dy, cache):
        return functional.resample_backward(dy, cache, self._maps(cache[1:], back=True))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        shape = graph.shape(inputs[0])
        axes = self._axes(shape)
        lengths = self._lengths(tuple(shape[axis - 1] for axis in axes))
        if not self._has_operator(graph, shape, lengths):
            return mapped(graph, inputs[0], len(shape) + 1, self._maps(shape), float(self.extrapolation_value))
        scales = np.array([1.0] * axes[0] + [scale for _, scale in lengths], np.float32)
        more: dict[str, Any] = {"antialias": 1} if self.antialias else {}
        if self.mode == "cubic":
            more |= {"cubic_coeff_a": float(self.cubic_coeff_a), "exclude_outside": int(self.exclude_outside)}
        if self.mode == "nearest":
            more |= {"nearest_mode": self.nearest_mode}
        how = self.coordinate_transformation_mode
        return graph.op("Resize", *inputs, None, scales, mode=self.mode, coordinate_transformation_mode=how, **more)

    def _has_operator(self, graph: OnnxGraph, shape: Shape, lengths: list[tuple[int, float]]) -> bool:
        """Whether onnxruntime computes the same by its operator.

        It places the values in float32, which is exact where scales are powers of two; it takes the length of an axis for
        whole, and for the modes beside "nearest" it has not every rank.
        """
        if self.coordinate_transformation_mode in ("align_corners", _CROPS):
            return False
        sizes = shape[-len(lengths) :]
        exact = (math.frexp(scale)[0] == 0.5 and scale * n == length for n, (length, scale) in zip(sizes, lengths, strict=True))
        if not all(exact):
            return False
        since = max(_SINCE.get(self.coordinate_transformation_mode, 13), _SINCE_AXES if self.antialias else 13)
        spatial = len(lengths) < len(shape)
        ranks = {"nearest": True, "linear": spatial and not self.exclude_outside, "cubic": spatial and len(shape) == 3}
        return graph.opset >= since and ranks[self.mode]
