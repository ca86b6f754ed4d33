"""Layers that run as one in training because none of their channels reads another: a depthwise convolution and the batch
normalizations around it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from .. import kernels
from ..functional import as_array, depthwise_chain
from ..functional.algorithms.problem import DIRECTIONS, FORWARD, Problem
from ..functional.plan import planned
from ..layer import Layer
from ..layers.conv import Conv2d
from ..layers.normalization import BatchNorm2d
from .fusion import Task

_NO_RELU: dict[str, Any] = {}
_RELU = {"relu": True}


class DepthwiseChain(Layer):
    """Batch normalization or none, depthwise convolution, batch normalization; the ReLUs are the normalizations'.

    The same bits as the layers one by one, which is how it runs in inference and wherever one pass does not fit. The arrays
    are the layers'.
    """

    def __init__(self, before: BatchNorm2d | None, conv: Conv2d, after: BatchNorm2d, relu_before: bool, relu_after: bool):
        self.before, self.conv, self.after = before, conv, after
        self.relu_before, self.relu_after = relu_before, relu_after
        parts = (before, _RELU if relu_before else _NO_RELU), (conv, _NO_RELU), (after, _RELU if relu_after else _NO_RELU)
        self._parts: list[tuple[Layer, dict[str, Any]]] = [(layer, how) for layer, how in parts if layer is not None]
        self.params = {f"{i}.{name}": array for i, (layer, _) in enumerate(self._parts) for name, array in layer.params.items()}
        self._problems: dict[Any, Problem | None] = {}

    def __repr__(self) -> str:
        return f"DepthwiseChain({', '.join(repr(layer) for layer, _ in self._parts)})"

    def forward(self, x, *, training):
        x = as_array(x, "batch_norm: x")
        problem = self._problem(x) if training else None
        if problem is None:
            return self._one_by_one(x, training)
        before = None if self.before is None else _norm(self.before, self.relu_before)
        weight, bias, after = self.conv.params["weight"], self.conv.params.get("bias"), _norm(self.after, self.relu_after)
        y, done = depthwise_chain.forward(x, before, weight, bias, after, problem)
        if self.before is not None and done.before is not None:
            self.before.follow(done.before.moments, x.size // x.shape[1])
        self.after.follow(done.after.moments, y.size // y.shape[1])
        return y, (problem, done)

    def backward(self, dy, cache):
        problem, done = cache
        if problem is None:
            for (layer, _), left in zip(reversed(self._parts), reversed(done), strict=True):
                dy = layer.backward(dy, left)
            return dy
        dx, dw, db, before, after = depthwise_chain.backward(dy, done, self.conv.params["weight"], self.conv.bias, problem)
        self.conv.add_gradients(dw, db)
        self.after.add_gradients(*after)
        if self.before is not None:
            self.before.add_gradients(*before)
        return dx

    def _one_by_one(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, tuple[None, list[Any]]]:
        caches = []
        for layer, how in self._parts:
            x, cache = layer.forward(x, training=training, **how)
            caches.append(cache)
        return x, (None, caches)

    def _problem(self, x: np.ndarray) -> Problem | None:
        """The convolution of x where it can run as one with the normalizations, with channels enough for the threads."""
        key = x.shape, x.dtype, kernels.isa()
        if key not in self._problems:
            self._problems[key] = self._direct(x)
        return self._problems[key] if x.shape[1] >= 2 * kernels.threads_over(x.size) else None

    def _direct(self, x: np.ndarray) -> Problem | None:
        """The convolution of x if it is a direct one each way, of planes of more than one pixel, which have other kernels."""
        weight = self.conv.params["weight"]
        if x.ndim != 4 or x.shape[1] != len(weight) or not x.size:
            return None
        plans = [planned(way, x.shape, weight.shape, x.dtype.name, self.conv.options) for way in DIRECTIONS]
        problem = plans[DIRECTIONS.index(FORWARD)].problem
        planes = x.shape[2] * x.shape[3], problem.y[2] * problem.y[3]
        return problem if all(plan.algorithm == "direct" for plan in plans) and min(planes) > 1 else None


def _norm(layer: BatchNorm2d, relu: bool) -> depthwise_chain.Norm:
    return depthwise_chain.Norm(layer.params["weight"], layer.params["bias"], layer.eps, relu)


def chained(tasks: Sequence[Task], outputs: Sequence[int], free: Callable[[Layer], bool]) -> list[Task]:
    """`tasks` with those joined that can run as one; `free` tells of which layers nothing is frozen."""
    reads = Counter(source for task in tasks for source in task.sources)
    reads.update(outputs)
    writer = {task.target: task for task in tasks}
    reader = {source: task for task in tasks for source in task.sources if reads[source] == 1}

    def norm(task: Task | None) -> Task | None:
        return task if task and type(task.layer) is BatchNorm2d and free(task.layer) and task.target not in taken else None

    taken: set[int] = set()
    joined: dict[int, Task] = {}  # by the number of the first task that goes into it
    for task in tasks:
        if not (_depthwise(task.layer) and free(task.layer)) or task.relu:
            continue
        before = norm(writer.get(task.sources[0])) if reads[task.sources[0]] == 1 else None
        after = norm(reader.get(task.target))
        if after is None:
            continue
        first = before or task
        taken |= {t.target for t in (before, task, after) if t is not None}
        layers = cast(BatchNorm2d, before.layer) if before else None, cast(Conv2d, task.layer), cast(BatchNorm2d, after.layer)
        chain = DepthwiseChain(*layers, before is not None and before.relu, after.relu)
        joined[first.number] = first._replace(target=after.target, relu=False, chain=chain)
    return [joined.get(task.number, task) for task in tasks if task.number in joined or task.target not in taken]


def _depthwise(layer: Layer) -> bool:
    """Whether each channel has one filter of its own."""
    return type(layer) is Conv2d and layer.groups > 1 and layer.params["weight"].shape[:2] == (layer.groups, 1)
