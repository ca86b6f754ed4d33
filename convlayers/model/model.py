"""A model: layers in the order of computation, what flows between them forward, and what flows back."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from ..errors import ArrayTypeError, ConvlayersError, FileFormatError, ShapeError, located
from ..functional import as_array
from ..layer import Layer, Node, Shape, build_layer, joined
from ..randomness import at_node, generator, training_step
from ..shapes import positive
from .fusion import Task, plan
from .graph import Step, as_nodes, ordered, unique_names


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: one cache a task."""

    caches: list[Any]
    batch: int


def _place(step: Step) -> str:
    return f'{type(step.layer).__name__} "{step.name}"'


class Model:
    """A graph of layers from `inputs` to `outputs`, nodes made by `cl.Input` and by calling layers on nodes.

    Weights are drawn from `seed`. A layer that stands in a model already keeps its weights: models that hold the same
    layer object share them. Arrays have a batch axis in front, `(N, *shape)`; with several inputs (outputs) a list goes in
    (comes out). `metadata` holds JSON values that travel with the model's files, such as labels and preprocessing.
    """

    def __init__(self, inputs: Node | Sequence[Node], outputs: Node | Sequence[Node], *, seed: int = 0) -> None:
        ins, outs = as_nodes(inputs, "inputs"), as_nodes(outputs, "outputs")
        nodes = ordered(ins, outs)
        values = {id(node): number for number, node in enumerate([*ins, *nodes])}
        steps = [
            Step(name, cast(Layer, node.layer), tuple(values[id(p)] for p in node.parents), values[id(node)])
            for name, node in zip(unique_names(nodes), nodes, strict=True)
        ]
        self._assemble([n.shape for n in ins], steps, [values[id(n)] for n in outs], seed)

    def _assemble(
        self,
        input_shapes: Sequence[Shape],
        steps: list[Step],
        outputs: list[int],
        seed: int,
        draws: np.random.Generator | None = None,
    ) -> None:
        """Build the layers in order, from `seed` unless `draws` says where weights come from."""
        self.seed = positive(seed, "seed", minimum=0)
        self.input_shapes = [tuple(shape) for shape in input_shapes]
        self.steps, self.outputs = steps, outputs
        self.metadata: dict[str, Any] = {}
        self.value_shapes: list[Shape] = list(self.input_shapes)
        seen: dict[int, str] = {}
        for number, step in enumerate(steps):
            shapes = [self.value_shapes[s] for s in step.sources]
            first_use = id(step.layer) not in seen
            self.value_shapes.append(self._build(step, shapes, first_use, draws or generator(seed, "init", number)))
            seen.setdefault(id(step.layer), step.name)
        self._owners = seen
        self._last_use = self._find_last_uses()
        self._needs_gradient = self._find_gradients()
        self._tasks = plan(steps, outputs, affine=False)
        self._tasks_of_inference = plan(steps, outputs, affine=True)
        self._step = 0

    def _build(self, step: Step, shapes: list[Shape], first_use: bool, rng: np.random.Generator) -> Shape:
        if first_use and step.layer.built_for is None:
            output = build_layer(step.layer, shapes, rng, _place(step))
            step.layer.built_for = shapes
            return output
        # The layer has its weights; a copy tells whether they fit here, and the output's shape.
        probe = type(step.layer)(**step.layer.config())
        output = build_layer(probe, shapes, rng, _place(step))
        for key, value in probe.params.items():
            if value.shape != step.layer.params[key].shape:
                raise ShapeError(
                    f"{_place(step)}: its {key} {step.layer.params[key].shape} is shared, and would be {value.shape} here"
                )
        return output

    def _find_last_uses(self) -> list[int]:
        last = [-1] * len(self.value_shapes)
        for number, step in enumerate(self.steps):
            for source in step.sources:
                last[source] = number
        for output in self.outputs:
            last[output] = len(self.steps)
        return last

    def _find_gradients(self) -> list[bool]:
        """Which values lie behind a layer with parameters: the others' gradients are nobody's business in training."""
        needed = [False] * len(self.value_shapes)
        for step in self.steps:
            needed[step.target] = bool(step.layer.params) or any(needed[s] for s in step.sources)
        return needed

    # Shapes and parameters

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
        """The live gradients, with the keys of `parameters()`."""
        return self._arrays("grads")

    def buffers(self) -> dict[str, np.ndarray]:
        """The live buffers: what is saved but not trained, such as running statistics."""
        return self._arrays("buffers")

    def zero_gradients(self) -> None:
        """Set every gradient to zero; `backward` adds."""
        for gradient in self.gradients().values():
            gradient.fill(0)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers."""
        return {key: array.copy() for key, array in {**self.parameters(), **self.buffers()}.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy `state` into the live arrays; every key and shape must fit, else nothing changes."""
        own = {**self.parameters(), **self.buffers()}
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            parts = [
                f"{what} {', '.join(keys)}" for what, keys in (("missing:", missing), ("not of this model:", extra)) if keys
            ]
            raise FileFormatError(f"the state does not fit the model; {'; '.join(parts)}")
        for key, array in own.items():
            value = np.asarray(state[key])
            if value.shape != array.shape or value.dtype.kind != array.dtype.kind:
                raise FileFormatError(
                    f"{key} is {array.dtype} of shape {array.shape} in the model; the state has {value.dtype} {value.shape}"
                )
        for key, array in own.items():
            array[...] = state[key]

    # Computation

    def _inputs(self, x: Any) -> list[np.ndarray]:
        given = list(x) if len(self.input_shapes) > 1 and isinstance(x, list | tuple) else [x]
        if len(given) != len(self.input_shapes):
            raise ArrayTypeError(f"the model takes {len(self.input_shapes)} inputs; got {len(given)}")
        arrays = []
        for value, shape in zip(given, self.input_shapes, strict=True):
            array = as_array(value, "the model's input")
            if array.shape[1:] != shape or array.ndim == 0:
                raise ShapeError(
                    f"the model takes a batch of samples of shape {shape}, so (N, {str(shape)[1:]}; got {array.shape}"
                )
            arrays.append(array)
        if any(len(a) != len(arrays[0]) for a in arrays):
            raise ShapeError(f"the inputs' batch sizes differ: {', '.join(str(len(a)) for a in arrays)}")
        return arrays

    def _run(self, x: Any, training: bool, tasks: list[Task], caches: list[Any] | None) -> list[Any]:
        values: list[Any] = self._inputs(x) + [None] * len(self.steps)
        for task in tasks:
            step = task.step
            if training:
                at_node(task.number)
            inputs = joined(step.layer, [values[s] for s in step.sources])
            try:
                values[task.target], cache = step.layer.forward(inputs, training=training, **task.options())
            except ConvlayersError as error:
                raise located(error, _place(step)) from error
            if caches is not None:
                caches.append(cache)
            for source in step.sources:
                if self._last_use[source] == task.number:
                    values[source] = None
        return values

    def trace(
        self, x: Any, *, training: bool = False, step: int = 0, seed: int | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Run the model step by step, nothing fused, and give each step's name and output as they are computed."""
        values: list[Any] = self._inputs(x) + [None] * len(self.steps)
        for number, at in enumerate(self.steps):
            with training_step(self.seed if seed is None else seed, step):
                at_node(number)
                inputs = joined(at.layer, [values[s] for s in at.sources])
                values[at.target], _ = at.layer.forward(inputs, training=training)
            yield at.name, values[at.target]

    def _outputs(self, values: list[Any]) -> Any:
        results = [values[o] for o in self.outputs]
        return results[0] if len(results) == 1 else results

    def __call__(self, x: Any) -> Any:
        """Inference: `(N, *input_shape)` to `(N, *output_shape)`.

        Batch normalization behind a convolution goes into its weights, call by call, so that weights may change between
        calls; the output differs by roundings from that of `forward(x, training=False)`, which keeps what `backward` needs.
        """
        return self._outputs(self._run(x, False, self._tasks_of_inference, None))

    def forward(self, x: Any, training: bool = True, *, step: int | None = None, seed: int | None = None) -> tuple[Any, Tape]:
        """The output, and the tape that `backward` reads.

        Layers that draw, such as Dropout, draw for `step` of a run with `seed`; by default each training pass is a step of
        its own, under the model's seed.
        """
        caches: list[Any] = []
        if not training:
            values = self._run(x, False, self._tasks, caches)
        else:
            if step is None:
                step, self._step = self._step, self._step + 1
            with training_step(self.seed if seed is None else seed, step):
                values = self._run(x, True, self._tasks, caches)
        result = self._outputs(values)
        first = result[0] if isinstance(result, list) else result
        return result, Tape(caches, len(first))

    def backward(self, dy: Any, tape: Tape, *, input_gradient: bool = True) -> Any:
        """Add to every layer's gradients; return the gradient with respect to the input, or None without `input_gradient`."""
        given = list(dy) if len(self.outputs) > 1 and isinstance(dy, list | tuple) else [dy]
        if len(given) != len(self.outputs):
            raise ArrayTypeError(
                f"the model has {len(self.outputs)} outputs, so backward takes as many gradients; got {len(given)}"
            )
        flowing: list[Any] = [None] * len(self.value_shapes)
        for output, gradient in zip(self.outputs, given, strict=True):
            expected = (tape.batch, *self.value_shapes[output])
            array = as_array(gradient, "dy")
            if array.shape != expected:
                raise ShapeError(f"dy must have the output's shape {expected}; got {array.shape}")
            flowing[output] = array if flowing[output] is None else flowing[output] + array
        caches = list(tape.caches)
        for task in reversed(self._tasks):
            gradient, flowing[task.target] = flowing[task.target], None
            cache = caches.pop()
            if gradient is not None:
                self._step_back(task.step, gradient, cache, flowing, input_gradient)
        results = flowing[: len(self.input_shapes)]
        return (results[0] if len(results) == 1 else results) if input_gradient else None

    def _step_back(self, step: Step, dy: Any, cache: Any, flowing: list[Any], input_gradient: bool) -> None:
        if not input_gradient and not any(self._needs_gradient[s] for s in step.sources):
            if step.layer.params:
                step.layer.accumulate(dy, cache)
            return
        gradients = step.layer.backward(dy, cache)
        for source, gradient in zip(step.sources, gradients if step.layer.joins else [gradients], strict=True):
            # A value that several layers read gets the sum; a new array, since a layer may hand one array to two of them.
            flowing[source] = gradient if flowing[source] is None else flowing[source] + gradient

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
        """A table as text: name, layer, output shape, parameters, multiply-adds for one sample."""
        from .summary import summary

        return summary(self)

    def save(self, path: Any) -> None:
        """Write the weights and the configuration as one safetensors file, whole or not at all."""
        from .store import save

        save(self, path)
