"""Raw pixels in, probabilities out: what stands around a network in use, built into its file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import functional
from ..errors import ConfigError, ExportError, ShapeError
from ..layer import Layer, Node, OnnxGraph, Shape
from ..layers.softmax import Softmax
from ..model import Input, Model
from .rewiring import rewire

LAYOUTS = ("NHWC", "NCHW")
_FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Preprocessing:
    """Makes an exported file take raw pixels: `x = (pixel - mean) * scale`, computed in float32 by its first operators.

    The file's input is uint8, `(N, H, W, C)` as an image file's array has it, or with `layout="NCHW"` `(N, C, H, W)`. `mean`
    (in pixel values) and `scale` are a number or one a channel; by default the pixels are divided by 255. `labels` go into
    the file's metadata as those of `export_onnx` do. `softmax=True` adds a softmax along axis 1 to the output, for a model
    that gives logits.

    Raises `ConfigError` for a number that is not finite, a scale of 0 or an unknown layout.
    """

    mean: float | Sequence[float] = 0.0
    scale: float | Sequence[float] = 1 / 255
    layout: str = "NHWC"
    labels: Sequence[Any] | None = None
    softmax: bool = False

    def __post_init__(self) -> None:
        _numbers(self.mean, "mean")
        if 0 in _numbers(self.scale, "scale"):
            raise ConfigError(f"a scale of 0 leaves nothing of the pixels; got {self.scale!r}")
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}")
        if not isinstance(self.softmax, bool):
            raise ConfigError(f"softmax must be True or False; got {self.softmax!r}")

    def describe(self) -> dict[str, Any]:
        """What the file's metadata says of it, in JSON values."""
        numbers = {"mean": _numbers(self.mean, "mean"), "scale": _numbers(self.scale, "scale")}
        plain = {name: values[0] if len(values) == 1 else values for name, values in numbers.items()}
        return {"input": "uint8", "layout": self.layout, **plain, "softmax": self.softmax}

    def around(self, model: Model) -> Model:
        """The model with pixels in front, sharing its layers. Raises `ExportError` for one that does not take images, or whose
        output has no classes; `ShapeError` where `mean` or `scale` have another number of channels."""
        shapes = model.input_shapes
        if len(shapes) != 1 or len(shapes[0]) != 3:
            raise ExportError(f"preprocessing is for a model with one input of images (C, H, W); it takes {shapes}")
        if self.softmax and len(model.outputs) != 1:
            raise ExportError(f"softmax is for a model with one output; it has {len(model.outputs)}")
        channels, height, width = shapes[0]
        raw = Input((height, width, channels) if self.layout == "NHWC" else shapes[0], model.input_names[0])
        first = _Pixels(self.mean, self.scale, self.layout)(raw, name=_free("preprocessing", model))
        outputs: list[Node] = rewire(model, [first])
        if self.softmax:
            outputs = [Softmax()(outputs[0], name=_free("probabilities", model))]
        return Model(raw, outputs)


def _free(name: str, model: Model) -> str:
    while name in model.value_names:
        name += "_1"
    return name


def _numbers(value: Any, name: str) -> list[float]:
    """`value`, a number or several, as a list."""
    given = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    listed = list(given) if isinstance(given, list | tuple) else [given]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in listed)
    if not listed or not plain:
        raise ConfigError(f"{name} must be a finite number or one a channel; got {value!r}")
    return listed


class _Pixels(Layer):
    """`y = (x - mean) * scale` of images `(N, H, W, C)` or `(N, C, H, W)`, to `(N, C, H, W)`."""

    def __init__(self, mean: Any, scale: Any, layout: str) -> None:
        self.mean, self.scale, self.layout = mean, scale, layout

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        height, width, channels = input_shape if self.layout == "NHWC" else (*input_shape[1:], input_shape[0])
        for name in ("mean", "scale"):
            if len(values := _numbers(getattr(self, name), name)) not in (1, channels):
                raise ShapeError(f"{name} has {len(values)} values, the images {channels} channels")
        return (channels, height, width)

    def _constants(self) -> list[np.ndarray]:
        """Mean and scale as float32, shaped to meet `(N, C, H, W)`."""
        return [np.array(_numbers(v, ""), np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.scale)]

    def forward(self, x, *, training):
        mean, scale = (value.astype(x.dtype) for value in self._constants())
        images = functional.permute(x, (0, 3, 1, 2)) if self.layout == "NHWC" else x
        return (images - mean) * scale, None

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        mean, scale = self._constants()
        x = graph.op("Cast", *inputs, to=_FLOAT)
        images = graph.op("Transpose", x, perm=[0, 3, 1, 2]) if self.layout == "NHWC" else x
        return graph.op("Mul", graph.op("Sub", images, mean) if mean.any() else images, scale)
