"""A layer under test: fresh copies of it, inputs for it, and passes through it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..layer import Layer, Shape, build_layer, joined
from ..randomness import generator, training_step
from .inputs import LIMIT, spread

STEP = 3  # any training step: layers that draw must draw the same at each visit


def _as_shapes(layer: Layer, input_shape: Any) -> list[Shape]:
    return [tuple(shape) for shape in input_shape] if layer.joins else [tuple(input_shape)]


def as_list(arrays: Any) -> list[np.ndarray]:
    """One array, or a join's several, as a list."""
    return list(arrays) if isinstance(arrays, list | tuple) else [arrays]


class Case:
    """What every check gets. Everything drawn depends on `seed` alone."""

    def __init__(self, layer: Layer, input_shape: Any, seed: int, export: Any) -> None:
        self.layer, self.cls = layer, type(layer)
        self.shapes, self.seed, self.export = _as_shapes(layer, input_shape), seed, export
        self.shape = joined(layer, self.shapes)

    @property
    def config(self) -> dict[str, Any]:
        return self.layer.config()

    def rng(self, purpose: str) -> np.random.Generator:
        return generator(self.seed, f"conformance {purpose}")

    def created(self) -> Layer:
        """A layer that is not built yet, from a configuration of its own."""
        return self.cls(**json.loads(json.dumps(self.config)))

    def built(self, dtype: Any = None) -> tuple[Layer, Shape]:
        """A layer that looks trained, its parameters as `build` made them or in `dtype`, and the shape `build` returned."""
        layer = self.created()
        output = build_layer(layer, self.shapes, self.rng("build"), self.cls.__name__)
        disturb(layer, self.rng("weights"))
        if layer.buffers:  # running statistics that are not those of a fresh layer
            self.forward(layer, self.inputs(5, np.float32, "statistics"), training=True)
        for arrays in (layer.params, layer.grads) if dtype else ():
            arrays.update({key: array.astype(dtype) for key, array in arrays.items()})
        return layer, output

    def inputs(self, n: int, dtype: Any = np.float32, purpose: str = "inputs") -> Any:
        """A batch of `n`: an array, or a list of them for a join."""
        rng, shift = self.rng(purpose), LIMIT * self.cls.nonnegative
        return joined(self.layer, [spread((n, *shape), rng, dtype) + np.dtype(dtype).type(shift) for shape in self.shapes])

    def gradient(self, y: np.ndarray, purpose: str = "gradient") -> np.ndarray:
        """A gradient to send back through an output like `y`."""
        return self.rng(purpose).standard_normal(y.shape).astype(y.dtype)

    @contextmanager
    def step(self, step: int = STEP) -> Iterator[None]:
        with training_step(self.seed, step):
            yield

    def forward(self, layer: Layer, x: Any, *, training: bool, step: int = STEP) -> tuple[np.ndarray, Any]:
        """The layer's forward pass at one training step."""
        with self.step(step):
            return layer.forward(x, training=training)

    def passes(self, layer: Layer, x: Any, *, training: bool) -> list[np.ndarray]:
        """Everything that a forward and a backward pass compute: output, input gradients, parameter gradients."""
        zero(layer)
        y, cache = self.forward(layer, x, training=training)
        dx = layer.backward(self.gradient(y), cache)
        return [y, *as_list(dx), *(g.copy() for g in layer.grads.values())]

    def sum_length(self, n: int, outputs: Shape) -> int:
        """No sum over a batch of `n` is longer: the bound that tolerances take."""
        return n * max(int(np.prod(shape)) for shape in [*self.shapes, outputs])


def disturb(layer: Layer, rng: np.random.Generator) -> None:
    """Move parameters off their first values: a scale of 1 or a bias of 0 hides what multiplies or adds it."""
    for value in layer.params.values():
        value += rng.uniform(-0.1, 0.1, value.shape).astype(value.dtype)


def zero(layer: Layer) -> None:
    for gradient in layer.grads.values():
        gradient.fill(0)


def contents(x: Any) -> list[bytes]:
    """The bytes of one array or several, to tell whether somebody wrote to them."""
    return [array.tobytes() for array in as_list(x)]
