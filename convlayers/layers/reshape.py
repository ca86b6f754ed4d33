"""Layers that move values and compute nothing: borders, axes in another order, another shape, nothing at all."""

import math
from collections.abc import Sequence

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import Padding, Pairs, padded, padding_rule, reshaped
from ._checks import axes_of, channels_and_size, choice, integers, number


class Pad(Layer):
    """A border around each channel: x `(N, C, *size)` to `(N, C, *(before + size + after))`.

    `padding`: an int, one per spatial axis, or a `(before, after)` pair per spatial axis. `mode`, by PyTorch's names:
    `"constant"`, the border holds `value`; `"reflect"`, the image mirrored in its outermost pixels, which are not repeated;
    `"replicate"`, the outermost pixels. `dx` is the part of dy inside, plus what the border has of the same pixels.
    """

    replays = True
    examples = (
        ({"padding": 1}, (3, 4, 5)),
        ({"padding": [[2, 0], [0, 3]], "value": -1.5}, (2, 1, 4)),
        ({"padding": [2, 3], "mode": "reflect"}, (2, 3, 4)),
        ({"padding": [[0, 3], [1, 0]], "mode": "reflect"}, (1, 4, 2)),
        ({"padding": 2, "mode": "replicate"}, (3, 1, 1)),
        ({"padding": [[1, 2]], "mode": "replicate"}, (3, 5)),
        ({"padding": 1, "mode": "reflect"}, (2, 2, 3, 4)),
    )

    def __init__(self, padding: Padding, *, mode: str = "constant", value: float = 0.0) -> None:
        if isinstance(padding, str):
            raise ConfigError(f"padding is an int, one per axis or a pair per axis; got {padding!r}")
        self.padding = padding
        self.mode = choice(mode, "mode", functional.PAD_MODES)
        self.value = number(value, "value", "a finite number", math.isfinite)
        if mode != "constant" and value != 0:
            raise ConfigError(f'value is that of mode "constant"; got {value!r} with mode {mode!r}')
        self._pairs(axes_of(padding))

    def _pairs(self, rank: int) -> Pairs:
        pairs = padding_rule(self.padding, rank)
        assert not isinstance(pairs, str)
        return pairs

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, size = channels_and_size(input_shape)
        return (channels, *padded(size, self._pairs(len(size)), self.mode))

    def forward(self, x, *, training):
        return functional.pad(x, self._pairs(x.ndim - 2), mode=self.mode, value=self.value), x.shape

    def backward(self, dy, cache):
        return functional.pad_backward(dy, cache, self._pairs(dy.ndim - 2), mode=self.mode)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        pairs = self._pairs(len(graph.shape(inputs[0])) - 1)
        edges = np.array([0, 0, *(before for before, _ in pairs), 0, 0, *(after for _, after in pairs)], np.int64)
        value = np.array(self.value, np.float32) if self.mode == "constant" else None
        return graph.op("Pad", *inputs, edges, value, mode="edge" if self.mode == "replicate" else self.mode)


def _is_target(shape: Sequence[int]) -> bool:
    return all(n > 0 or n == -1 for n in shape) and list(shape).count(-1) < 2


class Reshape(Layer):
    """The values of a sample, in C order, in another `shape`: `(N, ...)` to `(N, *shape)`; the gradient is the reshape back.

    `shape` is a sample's, without the batch axis; one of its sizes may be -1, which stands for what is left.
    """

    replays = True
    examples = (({"shape": [4, 3, 5]}, (3, 4, 5)), ({"shape": [-1]}, (3, 4, 5)), ({"shape": [2, -1, 1]}, (6,)))

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = integers(shape, "shape", "a list of sizes of at least 1, one of which may be -1", _is_target)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return reshaped(input_shape, self.shape)

    def forward(self, x, *, training):
        return x.reshape(len(x), *reshaped(x.shape[1:], self.shape)), x.shape

    def backward(self, dy, cache):
        return dy.reshape(cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # 0 keeps the batch axis as it is; a -1 takes what an open size leaves.
        shape = self.shape if graph.dynamic_image else reshaped(graph.shape(inputs[0]), self.shape)
        return graph.op("Reshape", *inputs, np.array([0, *shape], np.int64))


class Permute(Layer):
    """The axes of a sample in another order: `y[n, ...]` has axis `axes[i]` of x as its axis i + 1.

    The batch is axis 0 and stays where it is, so `axes` has the numbers from 1 on: `Permute([2, 3, 1])` makes `(N, H, W, C)` of
    `(N, C, H, W)`. The gradient goes back by the inverse order.
    """

    replays = True
    examples = (({"axes": [2, 3, 1]}, (3, 4, 5)), ({"axes": [3, 1, 2]}, (1, 4, 3)), ({"axes": [1]}, (7,)))

    def __init__(self, axes: Sequence[int]) -> None:
        rule = "a list of the numbers from 1 to that of a sample's axes, in any order"
        self.axes = integers(axes, "axes", rule, lambda a: sorted(a) == list(range(1, len(a) + 1)))

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != len(self.axes):
            raise ShapeError(f"orders {len(self.axes)} axes; got a sample of shape {tuple(input_shape)}")
        return tuple(input_shape[axis - 1] for axis in self.axes)

    def forward(self, x, *, training):
        return functional.permute(x, (0, *self.axes)), None

    def backward(self, dy, cache):
        return functional.permute(dy, np.argsort((0, *self.axes)).tolist())

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Transpose", *inputs, perm=[0, *map(int, self.axes)])


class Identity(Layer):
    """`y = x`, `dx = dy`: a place in a network where nothing happens, such as a head that was taken off."""

    replays = True
    examples = (({}, (3, 4, 5)), ({}, (7,)))

    def forward(self, x, *, training):
        return x, None

    def backward(self, dy, cache):
        return dy

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Identity", *inputs)
