"""How a model's steps run: forward, with what is fused and how long a value is kept, and back, with what needs a gradient."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConvlayersError, located
from ..functional import add
from ..layer import Layer, joined, sparing
from ..randomness import at_node, training_step
from .fusion import Task, plan
from .graph import Step


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: one cache a task."""

    caches: list[Any]
    batch: int


class Passes:
    """The passes over `steps`, which compute the values from number `inputs` on; `outputs` are kept to the end.

    `frozen` holds the names of a layer's frozen parameters and buffers by the layer's `id`. A frozen parameter gets no
    gradient, and nothing flows back to where nobody needs it. A layer with a frozen buffer runs in inference mode: training
    would move the buffer.
    """

    def __init__(
        self, steps: Sequence[Step], inputs: int, outputs: Sequence[int], frozen: Mapping[int, Collection[str]]
    ) -> None:
        self.steps = steps
        self.tasks = plan(steps, outputs, affine=False)
        self.tasks_of_inference = plan(steps, outputs, affine=True)
        count = inputs + len(steps)
        self.last_use = [-1] * count
        for number, step in enumerate(steps):
            for source in step.sources:
                self.last_use[source] = number
        for output in outputs:
            self.last_use[output] = len(steps)
        self._frozen = frozen
        # Which values lie behind a parameter that is trained: the others' gradients are nobody's business in training.
        self._needed = [False] * count
        for step in steps:
            self._needed[step.target] = self._trains(step.layer) or any(self._needed[s] for s in step.sources)

    def _frozen_of(self, layer: Layer) -> Collection[str]:
        return self._frozen.get(id(layer), ())

    def _trains(self, layer: Layer) -> bool:
        return not layer.params.keys() <= set(self._frozen_of(layer))

    def _in_training(self, layer: Layer, training: bool) -> bool:
        return training and not any(name in layer.buffers for name in self._frozen_of(layer))

    def inference(self, inputs: Sequence[np.ndarray]) -> list[Any]:
        """All values, those that nobody reads any more as None."""
        return self._run(self.tasks_of_inference, inputs, False, None)

    def forward(self, inputs: Sequence[np.ndarray], training: bool) -> tuple[list[Any], list[Any]]:
        """The values as from `inference`, and the caches that `backward` takes."""
        caches: list[Any] = []
        return self._run(self.tasks, inputs, training, caches), caches

    def _run(self, tasks: list[Task], inputs: Sequence[np.ndarray], training: bool, caches: Any) -> list[Any]:
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        for task in tasks:
            step, layer, mode = task.step, task.step.layer, False
            if training:
                at_node(task.number)
                mode = self._in_training(layer, training)
            read = joined(layer, [values[s] for s in step.sources])
            try:
                values[task.target], cache = layer.forward(read, training=mode, **task.options())
            except ConvlayersError as error:
                raise located(error, step.place) from error
            if caches is not None:
                caches.append(cache)
            for source in step.sources:
                if self.last_use[source] == task.number:
                    values[source] = None
        return values

    def trace(self, inputs: Sequence[np.ndarray], training: bool, seed: int, at: int) -> Iterator[tuple[str, np.ndarray]]:
        """Each step's name and output, nothing fused, drawing for training step `at` of a run with `seed`."""
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        for number, step in enumerate(self.steps):
            with training_step(seed, at):
                at_node(number)
                read = joined(step.layer, [values[s] for s in step.sources])
                values[step.target], _ = step.layer.forward(read, training=self._in_training(step.layer, training))
            yield step.name, values[step.target]

    def backward(self, flowing: list[Any], caches: Sequence[Any], input_gradient: bool) -> None:
        """Send the gradients in `flowing`, one a value, back: adds to the layers' gradients, leaves those of the inputs."""
        left = list(caches)
        for task in reversed(self.tasks):
            dy, flowing[task.target] = flowing[task.target], None
            cache = left.pop()
            if dy is None or not (input_gradient or self._needed[task.target]):
                continue
            wanted = [input_gradient or self._needed[s] for s in task.step.sources]
            self._step_back(task.step, dy, cache, flowing, wanted)

    def _step_back(self, step: Step, dy: np.ndarray, cache: Any, flowing: list[Any], wanted: list[bool]) -> None:
        layer = step.layer
        frozen = [name for name in self._frozen_of(layer) if name in layer.params]
        trained = sparing(layer, frozen) if frozen else layer
        if not any(wanted):
            trained.accumulate(dy, cache)
            return
        dx: Any = trained.backward(dy, cache) if self._trains(layer) or not frozen else layer.backward_input(dy, cache)
        for source, gradient, needed in zip(step.sources, dx if layer.joins else [dx], wanted, strict=True):
            # A value that several layers read gets the sum; a new array, since a layer may hand one array to two of them.
            if needed:
                flowing[source] = gradient if flowing[source] is None else add([flowing[source], gradient])
