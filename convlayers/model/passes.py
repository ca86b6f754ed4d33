"""How a model's steps run: forward, with what is fused and how long a value is kept, and back, with what needs a gradient."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConvlayersError, located
from ..functional import add
from ..layer import Layer, joined, sparing
from ..randomness import Place, training_step
from .chains import chained
from .fusion import Task, plan
from .graph import Step


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass: one cache a task."""

    caches: list[Any]
    batch: int


class Call(NamedTuple):
    """A task with what every pass would ask about it, found out once: between kernels, Python's own caches are cold."""

    task: Task
    layer: Layer
    options: dict[str, Any] | None  # what `forward` is told beside its input, None where that is asked for at each pass
    sources: tuple[int, ...]
    done: tuple[int, ...]  # the sources that nobody reads any more
    learns: bool  # runs in training mode in training
    trains: bool  # has a parameter that is trained
    frozen: tuple[str, ...]  # its frozen parameters
    needed: bool  # whether its gradient is wanted in training
    wanted: tuple[bool, ...]  # which of its sources' gradients are


class Passes:
    """The passes over `steps`, which compute the values from number `inputs` on; `outputs` are kept to the end.

    `frozen` holds the names of a layer's frozen parameters and buffers by the layer's `id`. A frozen parameter gets no
    gradient, and nothing flows back to where nobody needs it. A layer with a frozen buffer runs in inference mode: training
    would move the buffer.
    """

    def __init__(
        self, steps: Sequence[Step], inputs: int, outputs: Sequence[int], frozen: Mapping[int, Collection[str]]
    ) -> None:
        self.steps, self._frozen = steps, frozen
        self.tasks = chained(plan(steps, outputs, affine=False), outputs, lambda layer: not self._frozen_of(layer))
        self.tasks_of_inference = plan(steps, outputs, affine=True)
        # Which values lie behind a parameter that is trained: the others' gradients are nobody's business in training.
        needed = [False] * (inputs + len(steps))
        for step in steps:
            needed[step.target] = self._trains(step.layer) or any(needed[s] for s in step.sources)
        self.calls = self._calls(self.tasks, outputs, needed)
        self.calls_of_inference = self._calls(self.tasks_of_inference, outputs, needed)

    def _calls(self, tasks: Sequence[Task], outputs: Sequence[int], needed: list[bool]) -> list[Call]:
        last_use = {source: task.number for task in tasks for source in task.sources}
        last_use.update(dict.fromkeys(outputs, len(self.steps)))
        return [self._call(task, last_use, needed) for task in tasks]

    def _call(self, task: Task, last_use: Mapping[int, int], needed: list[bool]) -> Call:
        layer, sources = task.layer, task.sources
        return Call(
            task,
            layer,
            task.options() if task.affine is None else None,
            sources,
            done=tuple(s for s in sources if last_use[s] == task.number),
            learns=self._learns(layer),
            trains=self._trains(layer),
            frozen=tuple(name for name in self._frozen_of(layer) if name in layer.params),
            needed=needed[task.target],
            wanted=tuple(needed[s] for s in sources),
        )

    def _frozen_of(self, layer: Layer) -> Collection[str]:
        return self._frozen.get(id(layer), ())

    def _trains(self, layer: Layer) -> bool:
        return not layer.params.keys() <= set(self._frozen_of(layer))

    def _learns(self, layer: Layer) -> bool:
        return not any(name in layer.buffers for name in self._frozen_of(layer))

    def inference(self, inputs: Sequence[np.ndarray]) -> list[Any]:
        """All values, those that nobody reads any more as None."""
        return self._run(self.calls_of_inference, inputs, None, None)

    def forward(self, inputs: Sequence[np.ndarray], place: Place | None) -> tuple[list[Any], list[Any]]:
        """The values as from `inference`, and the caches that `backward` takes; in training, `place` is where layers draw."""
        caches: list[Any] = []
        return self._run(self.calls, inputs, place, caches), caches

    def _run(self, calls: list[Call], inputs: Sequence[np.ndarray], place: Place | None, caches: Any) -> list[Any]:
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        for call in calls:
            task, layer, sources = call.task, call.layer, call.sources
            options = task.options() if call.options is None else call.options
            if place is not None:
                place.node = task.number
            read: Any = [values[s] for s in sources] if layer.joins else values[sources[0]]
            training = place is not None and call.learns
            try:
                values[task.target], cache = layer.forward(read, training=training, **options)
            except ConvlayersError as error:
                raise located(error, task.step.place) from error
            if caches is not None:
                caches.append(cache)
            for source in call.done:
                values[source] = None
        return values

    def trace(self, inputs: Sequence[np.ndarray], training: bool, seed: int, at: int) -> Iterator[tuple[str, np.ndarray]]:
        """Each step's name and output, nothing fused, drawing for training step `at` of a run with `seed`."""
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        for number, step in enumerate(self.steps):
            with training_step(seed, at) as place:
                place.node = number
                read = joined(step.layer, [values[s] for s in step.sources])
                values[step.target], _ = step.layer.forward(read, training=training and self._learns(step.layer))
            yield step.name, values[step.target]

    def backward(self, flowing: list[Any], caches: Sequence[Any], input_gradient: bool) -> None:
        """Send the gradients in `flowing`, one a value, back: adds to the layers' gradients, leaves those of the inputs."""
        left = list(caches)
        for call in reversed(self.calls):
            target = call.task.target
            dy, flowing[target] = flowing[target], None
            cache = left.pop()
            if dy is not None and (input_gradient or call.needed):
                self._back(call, dy, cache, flowing, input_gradient)

    def _back(self, call: Call, dy: np.ndarray, cache: Any, flowing: list[Any], input_gradient: bool) -> None:
        layer = call.layer
        trained = sparing(layer, call.frozen) if call.frozen else layer
        if not (input_gradient or any(call.wanted)):
            trained.accumulate(dy, cache)
            return
        dx: Any = trained.backward(dy, cache) if call.trains or not call.frozen else layer.backward_input(dy, cache)
        for source, gradient, needed in zip(call.sources, dx if layer.joins else (dx,), call.wanted, strict=True):
            # A value that several layers read gets the sum; a new array, since a layer may hand one array to two of them.
            if needed or input_gradient:
                flowing[source] = gradient if flowing[source] is None else add([flowing[source], gradient])
