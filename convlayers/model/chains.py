"""Layers that run as one in training because none of their channels reads another: a depthwise convolution and the batch
normalizations around it."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np

from .. import kernels
from ..functional import as_array, fits
from ..functional._arrays import check_gradient
from ..functional.algorithms.problem import DIRECTIONS, FORWARD, Problem
from ..functional.depthwise_chain import BoundChain, ChainPass, Norm, bound_chain
from ..functional.plan import planned
from ..layer import Bound, Layer, Shape
from ..layers.conv import Conv2d
from ..layers.normalization import BatchNorm2d
from .fusion import Task

_NO_RELU: dict[str, Any] = {}


class Fused(NamedTuple):
    """What a pass as one leaves for its gradient, and the passes that left it."""

    chain: BoundChain
    done: ChainPass


class DepthwiseChain(Layer):
    """Batch normalization or none, depthwise convolution, batch normalization; the ReLUs are the normalizations'.

    Bound to a shape it runs as one, to the same bits as the layers one by one; that is how it runs in inference and wherever
    one pass does not fit. The arrays are the layers'.
    """

    replays = True

    def __init__(
        self,
        before: BatchNorm2d | None,
        conv: Conv2d,
        after: BatchNorm2d,
        relu_before: bool | float,
        relu_after: bool | float,
    ) -> None:
        self.before, self.conv, self.after = before, conv, after
        self.relu_before, self.relu_after = relu_before, relu_after
        relus = [{"relu": relu} if relu else _NO_RELU for relu in (relu_before, relu_after)]
        parts = (before, relus[0]), (conv, _NO_RELU), (after, relus[1])
        self._parts: list[tuple[Layer, dict[str, Any]]] = [(layer, how) for layer, how in parts if layer is not None]
        self.params = {f"{i}.{name}": array for i, (layer, _) in enumerate(self._parts) for name, array in layer.params.items()}

    def __repr__(self) -> str:
        return f"DepthwiseChain({', '.join(repr(layer) for layer, _ in self._parts)})"

    def forward(self, x, *, training):
        caches = []
        for layer, how in self._parts:
            x, cache = layer.forward(x, training=training, **how)
            caches.append(cache)
        return x, caches

    def bind(self, shape, dtype, *, training):
        problem = self._problem(shape, dtype) if training else None
        if problem is None:
            return None
        before = None if self.before is None else Norm(self.before.eps, self.before.momentum, self.relu_before)
        chain = bound_chain(problem, before, Norm(self.after.eps, self.after.momentum, self.relu_after))
        channels = problem.w[:1]

        def forward(x):
            first = None if self.before is None else self.before.arrays()
            second, weight, bias = self.after.arrays(), self.conv.params["weight"], self.conv.params.get("bias")
            others = (*second, *(first or ())) if bias is None else (bias, *second, *(first or ()))
            if fits(weight, problem.w, dtype) and all(fits(array, channels, dtype) for array in others):
                y, done = chain.forward(x, first, weight, bias, second)
                return y, Fused(chain, done)
            return self.forward(x, training=True)

        return Bound(forward, self.backward, self.backward)

    def backward(self, dy, cache):
        if isinstance(cache, Fused):
            return self._backward_as_one(dy, *cache)
        for (layer, _), left in zip(reversed(self._parts), reversed(cache), strict=True):
            dy = layer.backward(dy, left)
        return dy

    def _backward_as_one(self, dy: np.ndarray, chain: BoundChain, done: ChainPass) -> np.ndarray:
        dtype, conv = done.x.dtype, self.conv
        before = None if self.before is None else self.before.gradients()
        given = [conv.grads["weight"], conv.grads.get("bias"), *self.after.gradients(), *(before or ())]
        dw, db, *norms = taken = [g if g is None or fits(g, g.shape, dtype) else np.zeros(g.shape, dtype) for g in given]
        weight = as_array(conv.params["weight"], "conv2d: w", 4, dtype)
        dy = check_gradient(dy, done.z.shape, "batch_norm", dtype)
        dx = chain.backward(dy, done, weight, norms[2:] or None, dw, db, norms[:2])
        for gradient, array in zip(given, taken, strict=True):
            if gradient is not None and gradient is not array:
                kernels.unrecordable()
                gradient += array
        return dx

    def _problem(self, shape: Shape, dtype: np.dtype) -> Problem | None:
        """The convolution where it can run as one with the normalizations: a direct one each way, of planes of more than one
        pixel, which have other kernels, with channels enough for the threads."""
        weight = self.conv.params["weight"].shape
        if len(shape) != 4 or shape[1] != weight[0] or not prod(shape) or shape[1] < 2 * kernels.threads_over(prod(shape)):
            return None
        plans = [planned(way, shape, weight, dtype.name, self.conv.options) for way in DIRECTIONS]
        problem = plans[DIRECTIONS.index(FORWARD)].problem
        planes = prod(shape[2:]), prod(problem.y[2:])
        return problem if all(plan.algorithm == "direct" for plan in plans) and min(planes) > 1 else None


def chained(tasks: Sequence[Task], outputs: Sequence[int], free: Callable[[Layer], bool]) -> list[Task]:
    """`tasks` with those joined that can run as one; `free` tells of which layers nothing is frozen."""
    reads = Counter(source for task in tasks for source in task.sources)
    reads.update(outputs)
    writer = {task.target: task for task in tasks}
    reader = {source: task for task in tasks for source in task.sources if reads[source] == 1}

    def norm(task: Task | None) -> Task | None:
        able = task is not None and type(task.layer) is BatchNorm2d and not task.residual and free(task.layer)
        return task if task and able and task.target not in taken else None

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
