"""How a model's steps run: forward, with what is fused and how long a value is kept, and back, with what needs a gradient."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..errors import ConfigError, ConvlayersError, located
from ..functional import add, fits
from ..functional.pointwise import add_to
from ..kernels.arena import Arena
from ..kernels.recording import Recording
from ..layer import Bound, Layer, Shape, can_replay, has_bind, joined, sparing
from ..randomness import Place, training_step
from .chains import chained
from .fusion import Task, plan
from .graph import Step
from .replay import MOST_OF_INFERENCE, MOST_OF_TRAINING, Arrays, RecordedStep, Replay, Slot, copied

_NONE: dict[str, Any] = {}
_MOST_FITTED = 16  # batch sizes and types that passes are kept for
# Most of a training step's blocks are held until its end: with twice what is wanted, `vgg_small` took 278 MB in place of 262.
_STEP_SLACK = 1.25


@dataclass(frozen=True, slots=True)
class Fitted:
    """A layer bound to what it reads at one batch size: the shapes of x and y, their type, and the passes for them."""

    x: Shape
    y: Shape
    dtype: np.dtype
    bound: Bound


class Tape:
    """What a forward pass leaves for the backward pass: one cache a task, and the bound passes that made it, if any did.

    Of a recorded pass they lie in its memory, and serve until the next one.
    """

    __slots__ = ("__weakref__", "batch", "caches", "fitted", "number", "read", "step")

    def __init__(self, batch: int) -> None:
        self.batch, self.read = batch, False
        self.caches: list[Any] = []
        self.fitted: list[Fitted | None] = []
        self.step: RecordedStep | None = None
        self.number = 0  # which pass of that step


@dataclass(frozen=True, slots=True)
class Call:
    """A task with what every pass would ask about it, found out once: between kernels, Python's own caches are cold. Slots are
    read faster than a tuple's fields: a single image of `digits_cnn` took 0.97 of the time."""

    task: Task
    layer: Layer
    affine: Layer | None  # whose scale and shift `forward` is told, which is asked for at each pass
    options: dict[str, Any]  # what it is told besides
    sources: tuple[int, ...]
    done: tuple[int, ...]  # the sources that nobody reads any more
    learns: bool  # runs in training mode in training
    trains: bool  # has a parameter that is trained
    frozen: tuple[str, ...]  # its frozen parameters
    joins: bool
    needed: bool  # whether its gradient is wanted in training
    wanted: tuple[bool, ...]  # which of its sources' gradients are


def _joined(flowing: np.ndarray, gradient: np.ndarray, ours: bool) -> np.ndarray:
    """The sum of the gradients of a value that several layers read: in the array of a bound pass, which is ours, or a new one,
    since a layer may hand one array to two of them."""
    if ours and fits(flowing, gradient.shape, gradient.dtype):
        return add_to(gradient, flowing)
    return add([flowing, gradient])


def _can_replay(calls: Sequence[Call]) -> bool:
    return all(can_replay(layer) for call in calls for layer in (call.layer, call.affine) if layer is not None)


def _affines(calls: list[Call]) -> list[dict[str, Any]]:
    """The scale and shift of each call that takes one over, as an argument of its layer.

    All of them before the first kernel: one by one between kernels, which empty the caches, each took six times as long.
    """
    affines: list[dict[str, Any]] = []
    for call in calls:
        try:
            affines.append(_NONE if call.affine is None else {"affine": call.affine.scale_shift()})
        except ConvlayersError as error:
            raise located(error, call.task.step.place) from error
    return affines


class Passes:
    """The passes over `steps`, which compute the last of the values whose `shapes` these are; `outputs` are kept to the end.

    `frozen` holds the names of a layer's frozen parameters and buffers by the layer's `id`. A frozen parameter gets no
    gradient, and nothing flows back to where nobody needs it. A layer with a frozen buffer runs in inference mode: training
    would move the buffer.
    """

    def __init__(
        self, steps: Sequence[Step], shapes: Sequence[Shape], outputs: Sequence[int], frozen: Mapping[int, Collection[str]]
    ) -> None:
        self.steps, self._shapes, self._outputs, self._frozen = steps, shapes, outputs, frozen
        self._fitted: dict[Any, list[Fitted | None]] = {}
        tasks = plan(steps, outputs, affine=False, shapes=shapes)
        self.tasks = chained(tasks, outputs, lambda layer: not self._frozen_of(layer))
        self.tasks_of_inference = plan(steps, outputs, affine=True, shapes=shapes)
        # Which values lie behind a parameter that is trained: the others' gradients are nobody's business in training.
        needed = [False] * len(shapes)
        for step in steps:
            needed[step.target] = self._trains(step.layer) or any(needed[s] for s in step.sources)
        self.calls = self._calls(self.tasks, outputs, needed)
        self.calls_of_inference = self._calls(self.tasks_of_inference, outputs, needed)
        self._inference = Slot(_can_replay(self.calls_of_inference), MOST_OF_INFERENCE)
        # The gradients of an output that is listed twice are added up outside.
        self._training = Slot(_can_replay(self.calls) and len(set(outputs)) == len(outputs), MOST_OF_TRAINING)

    def _calls(self, tasks: Sequence[Task], outputs: Sequence[int], needed: list[bool]) -> list[Call]:
        last_use = {source: task.number for task in tasks for source in task.sources}
        last_use.update(dict.fromkeys(outputs, len(self.steps)))
        return [self._call(task, last_use, needed) for task in tasks]

    def _call(self, task: Task, last_use: Mapping[int, int], needed: list[bool]) -> Call:
        layer, sources = task.layer, task.sources
        return Call(
            task,
            layer,
            task.affine,
            task.options(),
            sources,
            done=tuple(s for s in sources if last_use[s] == task.number),
            learns=self._learns(layer),
            trains=self._trains(layer),
            joins=layer.joins,
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

    def _fit(self, calls: list[Call], batch: int, dtype: np.dtype, training: bool) -> list[Fitted | None]:
        """The calls bound for a batch size and a type, kept for the next pass."""
        key = calls is self.calls, batch, dtype, training, kernels.settings()
        fitted = self._fitted.get(key)
        if fitted is None:
            if len(self._fitted) >= _MOST_FITTED:
                self._fitted.clear()
            fitted = self._fitted[key] = [self._bound(call, batch, dtype, training) for call in calls]
        return fitted

    def _bound(self, call: Call, batch: int, dtype: np.dtype, training: bool) -> Fitted | None:
        if call.joins or not has_bind(call.layer):
            return None
        x, y = (batch, *self._shapes[call.sources[0]]), (batch, *self._shapes[call.task.target])
        fused = {"affine": call.affine is not None, "residual": call.task.residual}
        options = {**call.options, **{name: True for name, there in fused.items() if there}}
        try:
            bound = call.layer.bind(x, dtype, training=training and call.learns, **options)
        except ConvlayersError:
            return None  # `forward` says the same, of the arrays that it gets
        return None if bound is None else Fitted(x, y, dtype, bound)

    def infer_again(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """The outputs, where this pass is recorded."""
        return self._inference.run(given)

    def inference(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs."""
        calls = self.calls_of_inference
        if self._inference.wanted(inputs):
            replay, outputs = self._recorded(calls, inputs, None, None)
            self._inference.keep(replay, replay)
            return outputs
        return self._run(calls, self._fit(calls, len(inputs[0]), inputs[0].dtype, False), inputs, None, None)

    def step_again(self, given: Sequence[Any]) -> tuple[list[np.ndarray], Tape] | None:
        """What `forward` gives in training, where this pass is recorded."""
        outputs = self._training.run(given)
        if outputs is None:
            return None
        tape = Tape(len(given[0]))
        self._training.recorded.follow(tape)
        return outputs, tape

    def forward(self, inputs: Sequence[np.ndarray], place: Place | None) -> tuple[list[np.ndarray], Tape]:
        """The outputs as from `inference`, and what `backward` takes; in training, `place` is where layers draw."""
        tape = Tape(len(inputs[0]))
        if place is not None and self._training.wanted(inputs):
            replay, outputs = self._recorded(self.calls, inputs, place, tape)
            step = RecordedStep(replay, tape.caches, tape.fitted)
            if self._training.keep(replay, step):
                step.follow(tape)
            return outputs, tape
        fitted = self._fit(self.calls, tape.batch, inputs[0].dtype, place is not None)
        return self._run(self.calls, fitted, inputs, place, tape), tape

    def _recorded(
        self, calls: list[Call], inputs: Sequence[np.ndarray], place: Place | None, tape: Tape | None
    ) -> tuple[Replay, list[np.ndarray]]:
        """A pass that is written down, and its outputs."""
        arrays = Arrays(dict.fromkeys(step.layer for step in self.steps))
        with Recording(arrays, Arena() if place is None else Arena(_STEP_SLACK)) as recording:
            own = [copied(x) for x in inputs]
            fitted = [self._bound(call, len(own[0]), own[0].dtype, place is not None) for call in calls]
            outputs = self._run(calls, fitted, own, place, tape)
        return Replay(recording, arrays, own, outputs), [copied(y) for y in outputs]

    def _run(
        self,
        calls: list[Call],
        fitted: list[Fitted | None],
        inputs: Sequence[np.ndarray],
        place: Place | None,
        tape: Tape | None,
    ) -> list[np.ndarray]:
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        affines = _affines(calls) if tape is None else [_NONE] * len(calls)
        for call, fit, fused in zip(calls, fitted, affines, strict=True):
            task = call.task
            if place is not None:
                place.node = task.number
            read: Any = [values[s] for s in call.sources] if call.joins else values[call.sources[0]]
            if task.residual:
                fused = {**fused, "residual": values[call.sources[1]]}
            try:
                if fit is not None and fits(read, fit.x, fit.dtype):
                    values[task.target], cache = fit.bound.forward(read, **fused)
                else:
                    fit, training = None, place is not None and call.learns
                    values[task.target], cache = call.layer.forward(read, training=training, **call.options, **fused)
            except ConvlayersError as error:
                raise located(error, task.step.place) from error
            if tape is not None:
                tape.caches.append(cache)
                tape.fitted.append(fit)
            for source in call.done:
                values[source] = None
        return [values[number] for number in self._outputs]

    def trace(self, inputs: Sequence[np.ndarray], training: bool, seed: int, at: int) -> Iterator[tuple[str, np.ndarray]]:
        """Each step's name and output, nothing fused, drawing for training step `at` of a run with `seed`."""
        values: list[Any] = [*inputs, *[None] * len(self.steps)]
        for number, step in enumerate(self.steps):
            with training_step(seed, at) as place:
                place.node = number
                read = joined(step.layer, [values[s] for s in step.sources])
                values[step.target], _ = step.layer.forward(read, training=training and self._learns(step.layer))
            yield step.name, values[step.target]

    def backward_again(self, given: Sequence[Any], tape: Tape, input_gradient: bool) -> list[np.ndarray] | None:
        """The gradients of the inputs, or nothing without `input_gradient`, where this pass is recorded."""
        step = tape.step
        if step is None:
            return None
        if tape.number != step.passes:
            raise ConfigError(
                "backward: a tape that was read serves until the model's next forward pass in training, which has come since; "
                "give it the tape of that pass"
            )
        recorded = step.backward.get(input_gradient)
        return None if recorded is None else recorded.run(given)

    def backward(self, flowing: list[Any], tape: Tape, input_gradient: bool) -> list[Any]:
        """Send the gradients in `flowing`, one a value, back: adds to the layers' gradients, returns those of the inputs."""
        step, count = tape.step, len(self._shapes) - len(self.steps)
        if step is None or input_gradient in step.backward or not step.forward.arrays.hold():
            self._send(flowing, tape, input_gradient)
            return flowing[:count]
        with Recording(step.forward.arrays, step.forward.recording.arena) as recording:
            own = list(flowing)
            given = [copied(flowing[number]) for number in self._outputs]
            for number, gradient in zip(self._outputs, given, strict=True):
                own[number] = gradient
            self._send(own, tape, input_gradient)
        found = own[:count] if input_gradient else []
        if any(gradient is None for gradient in found):
            step.backward[input_gradient] = None
            return found
        recorded = Replay(recording, step.forward.arrays, given, found)
        step.backward[input_gradient] = recorded if recorded.complete else None
        return [copied(gradient) for gradient in found]

    def _send(self, flowing: list[Any], tape: Tape, input_gradient: bool) -> None:
        left, fitted = list(tape.caches), list(tape.fitted)
        for call in reversed(self.calls):
            target = call.task.target
            dy, flowing[target] = flowing[target], None
            cache, fit = left.pop(), fitted.pop()
            if dy is not None and (input_gradient or call.needed):
                fit = fit if fit is not None and not call.frozen and fits(dy, fit.y, fit.dtype) else None
                self._back(call, fit, dy, cache, flowing, input_gradient)

    def _back(
        self, call: Call, fit: Fitted | None, dy: np.ndarray, cache: Any, flowing: list[Any], input_gradient: bool
    ) -> None:
        layer = call.layer
        trained: Layer | Bound = sparing(layer, call.frozen) if call.frozen else layer if fit is None else fit.bound
        if not (input_gradient or any(call.wanted)):
            trained.accumulate(dy, cache)
            return
        if fit is not None and (onto := fit.bound.backward_onto) is not None:
            source = call.sources[0]
            if fits(flowing[source], fit.x, fit.dtype):
                flowing[source] = onto(dy, cache, flowing[source])
                return
        dx: Any = trained.backward(dy, cache) if call.trains or not call.frozen else layer.backward_input(dy, cache)
        gradients = dx if layer.joins or call.task.residual else (dx,)
        for source, gradient, needed in zip(call.sources, gradients, call.wanted, strict=True):
            if needed or input_gradient:
                ours = fit is not None and gradient is not dy
                flowing[source] = gradient if flowing[source] is None else _joined(flowing[source], gradient, ours)
