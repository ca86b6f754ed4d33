"""A model: layers in the order of computation, their arrays, and what goes in and comes out."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..functional import as_array
from ..layer import Layer, Node, Shape, build_layer, infer_shape
from ..randomness import NoDraws, generator, training_step
from ..shapes import positive
from .freezing import matching
from .graph import Step, as_nodes, check_name, in_order, ordered, replayed, unique_names
from .passes import Passes, Tape


def _one_or_all(values: Sequence[Any]) -> Any:
    """What a model gives: of one input or output itself, else a list."""
    return values[0] if len(values) == 1 else list(values)


class Model:
    """A graph of layers from `inputs` to `outputs`, nodes made by `cl.Input` and by calling layers on nodes.

    Weights are drawn from `seed`. A layer that stands in a model already keeps its weights: models that hold the same
    layer object share them. Arrays have a batch axis in front, `(N, *shape)`; several inputs go in as a list, or as a dict by
    `input_names`, and several outputs come out as a list. An output may be listed twice; its gradients add up.

    A model can be built on: `node(name)` is a value inside it, `input_nodes` are its inputs, and layers called on them make
    a new model that shares its layers. Called on nodes, `model(x, name="left")` stands in a larger graph as its layers
    do, with the same weights at every place; the layers there are called `left/conv1` and so on.

    Where the same shapes come in for the second time in a row, the model records which kernels run on which arrays, and runs
    those again from then on, to the same bits (replay.py).

    `freeze` keeps parameters as they are. `metadata` holds JSON values that travel with the model's files, such as labels
    and preprocessing.
    """

    def __init__(self, inputs: Node | Sequence[Node], outputs: Node | Sequence[Node], *, seed: int = 0) -> None:
        ins, outs = as_nodes(inputs, "inputs"), as_nodes(outputs, "outputs")
        nodes = ordered(ins, outs)
        input_names, names = unique_names(ins, nodes)
        values = {node: number for number, node in enumerate([*ins, *nodes])}
        steps = [
            Step(name, cast(Layer, node.layer), tuple(values[p] for p in node.parents), values[node])
            for name, node in zip(names, nodes, strict=True)
        ]
        self._assemble(ins, input_names, steps, [values[n] for n in outs], seed)
        self._nodes = [*ins, *nodes]
        for node, name in zip(nodes, names, strict=True):
            node.hint = node.hint or name

    def _assemble(
        self,
        inputs: Sequence[Node],
        input_names: list[str],
        steps: list[Step],
        outputs: list[int],
        seed: int,
        limit: int | None = None,
    ) -> None:
        """Build the layers in order, weights drawn from `seed`, or at most `limit` zeros in place of a file's."""
        self.seed = positive(seed, "seed", minimum=0)
        self.input_names, self.steps, self.outputs = input_names, steps, outputs
        self.input_shapes = [node.shape for node in inputs]
        self.value_shapes: list[Shape] = list(self.input_shapes)
        self.metadata: dict[str, Any] = {}
        self._nodes = list(inputs)
        zeros = None if limit is None else NoDraws(limit)
        names = self.value_names
        for number, step in enumerate(steps):
            shape = self._build(step, names, zeros or generator(seed, "init", number), limit)
            self.value_shapes.append(shape)
            self._nodes.append(Node(step.layer, [self._nodes[s] for s in step.sources], step.name, shape))
        self._step = 0
        self._own()
        self._freeze(frozenset())

    def _own(self) -> None:
        """Find the first place of each layer."""
        self._owners: dict[int, str] = {}
        for step in self.steps:
            self._owners.setdefault(id(step.layer), step.name)

    def __getstate__(self) -> dict[str, Any]:
        """For `copy` and `pickle`, without what refers to layers by their identity, and nodes, which refer to each other."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_nodes", "_owners", "passes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._nodes = [Node(None, (), *of) for of in zip(self.input_names, self.input_shapes, strict=True)]
        for step in self.steps:
            parents = [self._nodes[s] for s in step.sources]
            self._nodes.append(Node(step.layer, parents, step.name, self.value_shapes[step.target]))
        self._own()
        self._freeze(self._frozen)

    def _build(self, step: Step, names: Sequence[str], rng: np.random.Generator, limit: int | None) -> Shape:
        shapes = [self.value_shapes[s] for s in step.sources]
        reads = () if step.follows else [f'"{names[s]}" {self.value_shapes[s]}' for s in step.sources]
        if step.layer.built_for is not None:
            return infer_shape(step.layer, shapes, step.place, reads, limit)
        output = build_layer(step.layer, shapes, rng, step.place, reads)
        step.layer.built_for = shapes
        return output

    # Nodes, shapes and parameters

    @property
    def value_names(self) -> list[str]:
        """The names of the inputs and of the layers, by value number."""
        return [*self.input_names, *(step.name for step in self.steps)]

    @property
    def input_nodes(self) -> list[Node]:
        """The inputs' nodes, to build another model on."""
        return self._nodes[: len(self.input_shapes)]

    def node(self, name: str) -> Node:
        """The node of the layer or input called `name`, to build another model on: the two share the layers behind it."""
        if name not in self.value_names:
            raise ConfigError(f"the model has no layer {name!r}; there are {', '.join(self.value_names)}")
        return self._nodes[self.value_names.index(name)]

    @property
    def input_shape(self) -> Shape | list[Shape]:
        """The shape of one sample; a list for several inputs."""
        return self.input_shapes[0] if len(self.input_shapes) == 1 else self.input_shapes

    @property
    def output_shape(self) -> Shape | list[Shape]:
        """The shape of one sample's output; a list for several outputs."""
        shapes = [self.value_shapes[o] for o in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Each layer once, with its name, in the order of computation."""
        for step in self.steps:
            if self._owners[id(step.layer)] == step.name:
                yield step.name, step.layer

    def _arrays(self, kind: str) -> dict[str, np.ndarray]:
        return {f"{name}.{key}": array for name, layer in self.layers() for key, array in getattr(layer, kind).items()}

    def parameters(self) -> dict[str, np.ndarray]:
        """The live parameters, `"0.weight"` and so on, in layer order."""
        return self._arrays("params")

    def gradients(self) -> dict[str, np.ndarray]:
        """The live gradients, with the keys of `parameters()`; those of frozen parameters stay zero."""
        return self._arrays("grads")

    def buffers(self) -> dict[str, np.ndarray]:
        """The live buffers: what is saved but not trained, such as running statistics."""
        return self._arrays("buffers")

    # Freezing

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the frozen parameters and buffers."""
        return self._frozen

    def trainable_parameters(self) -> dict[str, np.ndarray]:
        """The live parameters that are not frozen."""
        return {name: array for name, array in self.parameters().items() if name not in self._frozen}

    def freeze(self, pattern: str, *more: str) -> list[str]:
        """Keep parameters and buffers as they are, and return their names.

        A pattern, as in file names (`*`, `?`, `[0-3]`), matches a layer's name and so all its arrays (`"features/*"`), or the
        name of one array (`"*.bias"`). `ConfigError` for one that matches nothing. A frozen parameter gets no gradient, no
        weight decay and no optimizer state, and the backward pass ends where nothing before is trained.

        A layer with a frozen buffer runs in inference mode in training too. So `freeze("norm1")` fixes a batch normalization
        whole, running statistics used and not moved, as in Keras; `freeze("norm1.weight", "norm1.bias")` fixes its parameters
        and lets it normalize by the batch, as PyTorch's `requires_grad` does.

        Freezing is the model's: another model over the same layers has its own. It travels with the configuration, so with
        saved models and checkpoints.
        """
        names = matching(self, (pattern, *more), "freeze")
        self._freeze(self._frozen | set(names))
        return names

    def unfreeze(self, pattern: str = "*", *more: str) -> list[str]:
        """Train again what the patterns match, by default everything, and return the names; patterns as for `freeze`."""
        names = matching(self, (pattern, *more), "unfreeze")
        self._freeze(self._frozen - set(names))
        return names

    def _freeze(self, names: frozenset[str]) -> None:
        gradients = self.gradients()
        for name in names & gradients.keys():
            gradients[name].fill(0)
        self._frozen = names
        owners = {name: number for number, name in self._owners.items()}
        frozen: dict[int, set[str]] = {}
        for owner, key in (name.split(".", 1) for name in names):
            frozen.setdefault(owners[owner], set()).add(key)
        self.passes = Passes(self.steps, self.value_shapes, self.outputs, frozen)

    def zero_gradients(self) -> None:
        """Set every gradient to zero; `backward` adds."""
        for gradient in self.gradients().values():
            gradient.fill(0)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers."""
        return {key: array.copy() for key, array in {**self.parameters(), **self.buffers()}.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy `state` into the live arrays; every key and shape must fit, else nothing changes."""
        from .store import copy_state

        copy_state(state, {**self.parameters(), **self.buffers()})

    # Computation

    def _given(self, x: Any) -> list[Any]:
        count = len(self.input_names)
        if count == 1 and type(x) is np.ndarray:
            return [x]
        return in_order(x, self.input_names, f"the model takes {count} input{'s' if count > 1 else ''}")

    def _inputs_of(self, given: list[Any]) -> list[np.ndarray]:
        arrays = [as_array(value, "the model's input") for value in given]
        for array, shape in zip(arrays, self.input_shapes, strict=True):
            if array.shape[1:] != shape or array.ndim == 0:
                raise ShapeError(
                    f"the model takes a batch of samples of shape {shape}, so (N, {str(shape)[1:]}; got {array.shape}"
                )
        if len(arrays) > 1 and any(len(a) != len(arrays[0]) for a in arrays):
            raise ShapeError(f"the inputs' batch sizes differ: {', '.join(str(len(a)) for a in arrays)}")
        return arrays

    def __call__(self, x: Any, *, name: str | None = None) -> Any:
        """Inference: `(N, *input_shape)` to `(N, *output_shape)`. On nodes: the model's layers behind them, see `Model`.

        A convolution takes over the batch normalization behind it, call by call, so that weights may change between calls,
        and an addition or a `Clip` from 0 on behind that, or a `MaxPool2d(2)`; the output differs by roundings from that of
        `forward(x, training=False)`, which keeps what `backward` needs. What Winograd's algorithm makes of weights stays for
        the next call, which asks whether they are what they were: up to eight times the bytes of layers of up to 2.5 MB.
        """
        given = self._given(x)
        if type(x) is not np.ndarray and any(isinstance(value, Node) for value in given):
            nodes = replayed(self.steps, as_nodes(given, "the model's input"), check_name(name) if name else None)
            return _one_or_all([nodes[output] for output in self.outputs])
        outputs = self.passes.infer_again(given)
        return _one_or_all(self.passes.inference(self._inputs_of(given)) if outputs is None else outputs)

    def trace(
        self, x: Any, *, training: bool = False, step: int = 0, seed: int | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Run the model step by step, nothing fused, and give each step's name and output as they are computed."""
        return self.passes.trace(self._inputs_of(self._given(x)), training, self.seed if seed is None else seed, step)

    def forward(self, x: Any, training: bool = True, *, step: int | None = None, seed: int | None = None) -> tuple[Any, Tape]:
        """The output, and the tape that `backward` reads.

        Layers that draw, such as Dropout, draw for `step` of a run with `seed`; by default each training pass is a step of
        its own, under the model's seed.
        """
        given = self._given(x)
        if not training:
            outputs, tape = self.passes.forward(self._inputs_of(given), None)
            return _one_or_all(outputs), tape
        with training_step(self.seed if seed is None else seed, self._step if step is None else step) as place:
            outputs, tape = self.passes.step_again(given) or self.passes.forward(self._inputs_of(given), place)
        if step is None:
            self._step += 1
        return _one_or_all(outputs), tape

    def backward(self, dy: Any, tape: Tape, *, input_gradient: bool = True) -> Any:
        """Add to the gradients of the parameters that are not frozen; return the gradient with respect to the input, or None
        without `input_gradient`.

        A tape that was read may be read again until the model's next `forward` in training, which may use its memory; then it
        is a `ConfigError`. One that was not read yet waits.
        """
        given = list(dy) if len(self.outputs) > 1 and isinstance(dy, list | tuple) else [dy]
        if len(given) != len(self.outputs):
            raise ArrayTypeError(
                f"the model has {len(self.outputs)} outputs, so backward takes as many gradients; got {len(given)}"
            )
        results: list[Any] | None = self.passes.backward_again(given, tape, input_gradient)
        if results is None:
            results = self.passes.backward(self._flowing(given, tape), tape, input_gradient)
        tape.read = True
        return _one_or_all(results) if input_gradient else None

    def _flowing(self, given: Sequence[Any], tape: Tape) -> list[Any]:
        flowing: list[Any] = [None] * len(self.value_shapes)
        for output, gradient in zip(self.outputs, given, strict=True):
            expected = (tape.batch, *self.value_shapes[output])
            array = as_array(gradient, "dy")
            if array.shape != expected:
                raise ShapeError(f"dy must have the output's shape {expected}; got {array.shape}")
            flowing[output] = array if flowing[output] is None else flowing[output] + array
        return flowing

    # Configuration, tables and files

    def to_config(self) -> dict[str, Any]:
        """The model's structure as JSON values; `from_config` reads it back."""
        from .config import to_config

        return to_config(self)

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Model":
        """A model with fresh weights from `to_config`'s values; layers come from the registry alone."""
        from .config import from_config

        return from_config(config)

    def summary(self) -> str:
        """A table as text: name, layer, what it reads where that is not the row above, output shape, parameters,
        multiply-adds and bytes of the output (float32) for one sample; `peak` is what inference holds at once."""
        from .summary import summary

        return summary(self)

    def to_dot(self) -> str:
        """The graph in Graphviz's language: for each layer its name, configuration and output shape."""
        from .drawing import to_dot

        return to_dot(self)

    def to_svg(self) -> str:
        """The graph as a picture, drawn without Graphviz."""
        from .drawing import to_svg

        return to_svg(self)

    def save_graph(self, path: Any) -> None:
        """Write the graph to a .svg file, drawn by Graphviz where its program `dot` is installed, or a .dot file."""
        from .drawing import save_graph

        save_graph(self, path)

    def save(self, path: Any) -> None:
        """Write the weights and the configuration as one safetensors file, whole or not at all."""
        from .store import save

        save(self, path)
