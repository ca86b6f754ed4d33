"""Borders along any axis of a sample, and cropping."""

from collections.abc import Sequence

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..functional import Taps
from ..layer import Layer, OnnxGraph, Shape
from ._checks import axes_behind_batch, choice, finite, integers, sample_axes
from ._maps import mapped

_OPERATOR_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "wrap": "wrap"}
_SINCE_WRAP = 19


class PadAxes(Layer):
    """Values added before and after each of `axes`, or taken away where `pads` are negative; as ONNX `Pad`.

    `pads`: the numbers before each axis and then those behind each, `[before_1, ..., behind_1, ...]`. `axes` count the batch,
    from 1 on, by default all of a sample; `Pad` is for borders around images alone. `mode`: `"constant"`, which puts `value`
    there, `"reflect"`, the axis mirrored in its outermost values, which are not repeated, `"replicate"`, the outermost values,
    `"wrap"`, the axis over and over. An axis is cropped first. `dx` gets dy from wherever a value was put.
    """

    replays = True
    examples = (
        ({"pads": [1, 0, 2, 0, 3, 1]}, (2, 3, 4)),
        ({"pads": [-1, 2, 2, -1], "axes": [3, 1], "value": 2.5}, (3, 2, 4)),
        ({"pads": [2, 5], "axes": [2], "mode": "reflect"}, (2, 3, 4)),
        ({"pads": [3, -1], "axes": [1], "mode": "replicate"}, (4, 3)),
        ({"pads": [1, 2, 3, 0], "axes": [1, 2], "mode": "wrap"}, (3, 4)),
        ({"pads": [0, 1], "mode": "reflect"}, (5,)),
    )

    def __init__(
        self, pads: Sequence[int], axes: Sequence[int] | None = None, mode: str = "constant", value: float = 0.0
    ) -> None:
        self.axes = None if axes is None else axes_behind_batch(axes)
        rule = "a list of ints, one before and one behind each axis"
        self.pads = integers(pads, "pads", rule, lambda v: len(v) % 2 == 0 if axes is None else len(v) == 2 * len(axes))
        self.mode = choice(mode, "mode", _OPERATOR_MODES)
        self.value = finite(value, "value")
        if mode != "constant" and value != 0:
            raise ConfigError(f'value is that of mode "constant"; got {value!r} with mode {mode!r}')

    def _pairs(self, shape: Shape) -> dict[int, tuple[int, int]]:
        """What each axis of a batch of samples of `shape` gets before and behind."""
        axes = range(1, len(self.pads) // 2 + 1) if self.axes is None else self.axes
        if self.axes is None and len(axes) != len(shape):
            raise ShapeError(f"pads {len(axes)} axes; got a sample of shape {tuple(shape)}")
        sample_axes(axes, shape)
        return {axis: (int(self.pads[i]), int(self.pads[i + len(axes)])) for i, axis in enumerate(axes)}

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        output = list(input_shape)
        for axis, (before, behind) in self._pairs(input_shape).items():
            n = input_shape[axis - 1]
            if n + min(before, 0) + min(behind, 0) < 1:
                raise ShapeError(f"pads {before} and {behind} leave nothing of axis {axis}, which has {n}")
            output[axis - 1] = n + before + behind
        return tuple(output)

    def _maps(self, shape: Shape) -> dict[int, Taps]:
        pairs = self._pairs(shape).items()
        return {axis: functional.border_taps(shape[axis - 1], *pair, self.mode) for axis, pair in pairs if any(pair)}

    def forward(self, x, *, training):
        return functional.resample(x, self._maps(x.shape[1:]), value=float(self.value)), x.shape

    def backward(self, dy, cache):
        maps = {axis: taps.transposed() for axis, taps in self._maps(cache[1:]).items()}
        return functional.resample_backward(dy, cache, maps)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        shape = graph.shape(inputs[0])
        pairs = self._pairs(shape)
        if not self._has_operator(graph, shape, pairs):
            return mapped(graph, inputs[0], len(shape) + 1, self._maps(shape))
        both = [pairs.get(axis, (0, 0)) for axis in range(len(shape) + 1)]
        edges = np.array([before for before, _ in both] + [behind for _, behind in both], np.int64)
        value = np.array(self.value, np.float32) if self.mode == "constant" else None
        return graph.op("Pad", *inputs, edges, value, mode=_OPERATOR_MODES[self.mode])

    def _has_operator(self, graph: OnnxGraph, shape: Shape, pairs: dict[int, tuple[int, int]]) -> bool:
        """Whether the operator means the same; not beyond a whole reflection, nor behind an axis that is cropped."""
        if self.mode == "constant":
            return True
        if self.mode == "wrap" and graph.opset < _SINCE_WRAP:
            return False
        reach = {"reflect": -1, "wrap": 0, "replicate": 1 << 62}[self.mode]
        return all(min(pair) >= 0 and max(pair) <= shape[axis - 1] + reach for axis, pair in pairs.items())
