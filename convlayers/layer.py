"""The contract that every layer keeps, and nothing else.

A layer is one final class. Its constructor takes the configuration: plain JSON values, each kept as given in an attribute
of the same name. Then, in this order:

    build(input_shape, rng) -> output_shape       creates `params` (float32), once, when its model is built
    forward(x, *, training) -> (y, cache)         computes; `cache` is what `backward` will need
    backward(dy, cache) -> dx                     adds to `grads`, returns the gradient with respect to x
    to_onnx(graph, *inputs) -> output name        says the same in ONNX operators

Shapes are those of one sample, without the batch axis. What `backward` needs travels in the cache and never on `self`: one
layer can stand at two places of a graph, and two threads can run one model. A join (`joins = True`) takes a list of inputs:
`build` gets a list of shapes, `forward` a list of arrays, and `backward` returns one gradient for each.

Where half of `backward` will do, a model calls `accumulate` (a first layer's parameters alone) or `backward_input` (a frozen
layer's input alone). Both have a default that is right; a layer writes its own to save work.

A layer may take over what follows it, which saves passes over memory. A model asks for it where nobody else reads the value
in between; a layer that does not offer it sees nothing of this.

    fuses_relu = True        `forward(x, *, training, relu=False)`: with relu, `max(y, 0)`, and `backward` is that of both;
                             the same bits as a ReLU behind the layer gives
    fuses_clip = True        in inference without a gradient, `relu` may be a float: `min(max(y, 0), relu)`, to the bits of a
                             `Clip` from 0 to that behind the layer, as ReLU6 is
    fuses_clip_in_training = True
                             the same where a gradient is asked: then `backward` is that of both
    commutes_with_relu = True
                             for a layer that fuses a ReLU: one in front of it does the same as one behind it, forward and back,
                             so that in training it takes over that one too
    absorbs_affine = True    `forward(x, *, training, affine=None)`: in inference without a gradient, `affine` is
                             `(scale, shift)`, one value a channel each, and the output is `scale y + shift`
    absorbs_residual = True  `forward(x, *, training, residual=None)`: then, `residual` is an array that is added to the output,
                             behind the affine and in front of the ReLU, in place of an `Add` behind the layer
    absorbs_residual_in_training = True
                             the same in training: then `backward` returns two gradients, that of x and the residual's
    absorbs_max_pool = True  `forward(x, *, training, pooled=False)`: then, with pooled, the output is the maximum of each 2 x 2
                             of what it would be, in place of a `MaxPool2d(2)` behind the layer, its affine and its ReLU
    scale_shift()            what a layer passes to such a one before it: its own inference as `y = scale x + shift`
    affine_params(scale, shift)
                             `weight` and `bias` of the layer that gives `scale y + shift`, in the type of the two; an export
                             writes them where normalization is to be folded away

A layer whose kernels take no longer than the Python around them may be bound to one shape of its input, which a model asks
for once for each batch size:

    bind(shape, dtype, *, training, **options) -> Bound | None
                             `forward`, `backward` and `accumulate` as functions with all found out beforehand that follows
                             from shapes: the same bits and the same caches, for arrays that have the shape and type told,
                             C-contiguous. Parameters and gradients are looked up at each call, since they may be exchanged.
                             What `backward` returns is a new array, which the model may write to; `backward_onto(dy, cache,
                             array)`, which may be missing, adds an array to it in one pass. Told `affine=True` or
                             `residual=True`, `forward` takes them by these names at each call

A layer may let a model record its passes, which then runs the kernels again without the Python around them:

    replays = True           all that its passes compute they compute by `convlayers.functional`, or through
                             `convlayers.kernels.run`, from arrays into arrays, and which calls these are follows from shapes
                             and configuration alone, never from values. A class beneath it with passes of its own says so anew

A layer whose inputs must not be negative in training, as behind a ReLU, says `nonnegative = True`: `convlayers.testing` then
gives it such.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from .errors import ArrayTypeError, ConvlayersError, ExportError, ShapeError
from .randomness import NoDraws

Shape = tuple[int, ...]


class OnnxGraph(Protocol):
    """What `to_onnx` sees of the file being written; no import of onnx is needed to use it."""

    opset: int
    dynamic_image: bool  # the file leaves the sizes behind the channels open: nothing may be computed from those of `shape`

    def shape(self, name: str) -> Shape:
        """The shape of a layer's input or output, without the batch axis."""

    def op(self, op_type: str, *inputs: str | np.ndarray | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; an ndarray becomes a constant, a parameter keeps its name; returns the output's name (or names)."""

    def function(self, layer: Layer, inputs: Sequence[str], body: Callable[..., str]) -> str:
        """Add a registered layer as one node, an ONNX local function that keeps the layer's name; returns the output's name.

        `body(graph, *inputs)` adds the operators inside, on a graph like this one but without functions of its own.
        """


class Bound(NamedTuple):
    """A layer's passes for inputs of one shape and type (`Layer.bind`)."""

    forward: Callable[..., tuple[np.ndarray, Any]]
    backward: Callable[[np.ndarray, Any], np.ndarray]
    accumulate: Callable[[np.ndarray, Any], None]
    backward_onto: Callable[[np.ndarray, Any, np.ndarray], np.ndarray] | None = None


class Layer:
    """Base of all layers: holds the arrays, reads the configuration back, and gives defaults where a default is right.

    `params` are trained, `grads` has an array of the same shape for each, `buffers` are saved but not trained.
    `examples` lists `(configuration, input_shape)` pairs that `convlayers.testing` tries.
    """

    joins: ClassVar[bool] = False
    fuses_relu: ClassVar[bool] = False
    fuses_clip: ClassVar[bool] = False
    fuses_clip_in_training: ClassVar[bool] = False
    commutes_with_relu: ClassVar[bool] = False
    absorbs_affine: ClassVar[bool] = False
    absorbs_residual: ClassVar[bool] = False
    absorbs_max_pool: ClassVar[bool] = False
    absorbs_residual_in_training: ClassVar[bool] = False
    replays: ClassVar[bool] = False
    nonnegative: ClassVar[bool] = False
    examples: ClassVar[Sequence[tuple[dict[str, Any], Any]]] = ()

    params: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    built_for: Sequence[Shape] | None  # the inputs' shapes, once a model has built the layer

    def __new__(cls, *args: Any, **kwargs: Any) -> Layer:
        if any(isinstance(value, Node) for value in (*args, *kwargs.values())):
            raise ArrayTypeError(f"{cls.__name__} is a class; make a layer and call that on the node: {cls.__name__}(...)(x)")
        # Here rather than in __init__, so that a layer's constructor holds its configuration and nothing else.
        self = super().__new__(cls)
        self.params, self.grads, self.buffers, self.built_for = {}, {}, {}, None
        return self

    def __init__(self) -> None:
        """No configuration, unless a layer has one."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values, read from the attributes of the same names."""
        _, *names = inspect.signature(type(self).__init__).parameters
        return {name: _plain(getattr(self, name)) for name in names}

    def build(self, input_shape: Any, rng: np.random.Generator) -> Shape:
        """Create `params` for inputs of this shape and return the output's; by default nothing to create, the same shape."""
        return input_shape

    def forward(self, x: np.ndarray, *, training: bool) -> tuple[np.ndarray, Any]:
        """The output and what `backward` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        """Add to `grads` and return the gradient with respect to the input."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def bind(self, shape: Shape, dtype: np.dtype, *, training: bool) -> Bound | None:
        """The passes for inputs `(N, ...)` of this shape and type, or None where `forward` and `backward` are as fast."""
        return None

    def accumulate(self, dy: np.ndarray, cache: Any) -> None:
        """Add to `grads` alone: what a model calls where nobody needs the input's gradient, as in a first layer."""
        self.backward(dy, cache)

    def backward_input(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        """The gradient with respect to the input alone, `grads` untouched: what a model calls for a frozen layer."""
        return sparing(self, self.params).backward(dy, cache)

    def scale_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """For a layer whose inference is `scale x + shift` channel by channel: the two, `(C,)` each."""
        raise NotImplementedError(f"{type(self).__name__} is no scale and shift")

    def affine_params(self, scale: np.ndarray, shift: np.ndarray) -> dict[str, np.ndarray]:
        """For a layer with `weight` and `bias`: those of the layer that gives `scale y + shift`, `(channels,)` each."""
        raise NotImplementedError(f"{type(self).__name__} cannot take a scale and shift into its weights")

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        """Add the operators that compute this layer and return the output's name."""
        raise ExportError(f"{type(self).__name__} cannot be exported: it has no to_onnx")

    def multiply_adds(self, input_shape: Any, output_shape: Shape) -> int:
        """Multiply-adds of the forward pass for one sample, for `Model.summary`; by default none."""
        return 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def __call__(self, *nodes: Node, name: str | None = None) -> Node:
        """Place this layer in a graph, behind these nodes; see `convlayers.Model`."""
        place = type(self).__name__ + (f' "{name}"' if name else "")
        if not nodes:
            raise ShapeError(f"{place}: call a layer on the nodes it follows, as in Conv2d(8, 3)(x)")
        for node in nodes:
            if not isinstance(node, Node):
                raise ArrayTypeError(
                    f"{place}: call a layer on the nodes it follows, as in Conv2d(8, 3)(x); got {_named(node)}"
                )
        return Node(self, nodes, name, infer_shape(self, [node.shape for node in nodes], place, nodes))


def _plain(value: Any) -> Any:
    """`value` with Python's numbers for NumPy's."""
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value.item() if isinstance(value, np.generic) else value


def _named(value: object) -> str:
    """What stands where a node should, and what to do about it."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}; arrays go into a model, nodes come from cl.Input"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__}; give the nodes one by one, as in Add()(a, b)"
    return f"{value!r}, a layer that is called on no node yet" if isinstance(value, Layer) else repr(value)


def has_to_onnx(layer: Layer) -> bool:
    """Whether the layer says how it is exported."""
    return type(layer).to_onnx is not Layer.to_onnx


_PASSES = ("forward", "backward", "accumulate")


def has_bind(layer: Layer) -> bool:
    """Whether the layer can be bound to a shape: not where a class beneath the one that says how has passes of its own."""
    by = _definer(layer, "bind")
    return by is not Layer and all(issubclass(by, _definer(layer, name)) for name in _PASSES)


def can_replay(layer: Layer) -> bool:
    """Whether the layer's passes may be recorded: as for `has_bind`, the class that says so answers for its own."""
    by = _definer(layer, "replays")
    return layer.replays and all(issubclass(by, _definer(layer, name)) for name in (*_PASSES, "bind", "backward_input"))


def _definer(layer: Layer, name: str) -> type:
    return next(cls for cls in type(layer).__mro__ if name in vars(cls))


def has_scale_shift(layer: Layer) -> bool:
    """Whether the layer's inference is a scale and a shift of each channel."""
    return type(layer).scale_shift is not Layer.scale_shift


def has_affine_params(layer: Layer) -> bool:
    """Whether a scale and a shift of each channel can go into the layer's weights."""
    return type(layer).affine_params is not Layer.affine_params


class Node:
    """A value in a graph: an input of the model, where `layer` is None, or a layer's output. `shape` is that of a sample.

    `name` is the one given to it; a node without one has the `hint`, where that is free: its name in a model before.
    """

    def __init__(self, layer: Layer | None, parents: Sequence[Node], name: str | None, shape: Shape) -> None:
        self.layer, self.parents, self.name, self.shape = layer, tuple(parents), name, shape
        self.hint: str | None = None

    def __repr__(self) -> str:
        kind, name = type(self.layer).__name__ if self.layer else "Input", self.name or self.hint
        return f'{kind} "{name}" {self.shape}' if name else f"{kind} {self.shape}"


def joined(layer: Layer, values: Sequence[Any]) -> Any:
    """One input as itself, a join's inputs as a list."""
    return list(values) if layer.joins else values[0]


def sparing(layer: Layer, kept: Collection[str]) -> Layer:
    """A copy of `layer`, with the same arrays but for the gradients of `kept`: what adds to those is lost."""
    twin = copy(layer)
    twin.grads = {key: np.zeros_like(value) if key in kept else value for key, value in layer.grads.items()}
    return twin


def build_layer(
    layer: Layer, shapes: Sequence[Shape], rng: np.random.Generator, place: str, reads: Sequence[object] = ()
) -> Shape:
    """Build `layer` and give its gradients their memory; errors name the place, and what it reads."""
    try:
        if not layer.joins and len(shapes) != 1:
            raise ShapeError(f"takes one input; got {len(shapes)}")
        output = layer.build(joined(layer, shapes), rng)
    except ConvlayersError as error:
        raise type(error)(f"{place}: {error}{_reading(reads)}") from None
    layer.grads = {key: np.zeros(value.shape, value.dtype) for key, value in layer.params.items()}
    return tuple(int(n) for n in output)


def _reading(reads: Sequence[object]) -> str:
    return f"; it reads {', '.join(map(str, reads))}" if reads else ""


def infer_shape(
    layer: Layer, shapes: Sequence[Shape], place: str, reads: Sequence[object] = (), limit: int | None = None
) -> Shape:
    """The output's shape, from a copy of the layer that is thrown away. `ShapeError` where a built layer's weights do not fit.

    The copy's weights hold no more than `limit` values.
    """
    probe = type(layer)(**layer.config())
    output = build_layer(probe, shapes, NoDraws(limit), place, reads)
    for key, value in probe.params.items() if layer.built_for else ():
        if value.shape != layer.params[key].shape:
            raise ShapeError(
                f"{place}: its {key} {layer.params[key].shape} is shared, and would be {value.shape} here{_reading(reads)}"
            )
    return output
