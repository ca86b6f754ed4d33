"""Which steps run together: a layer takes over what stands behind it, as far as its class offers (see `convlayers.layer`)."""

from collections import Counter
from collections.abc import Sequence
from math import copysign
from typing import Any, NamedTuple

import numpy as np

from ..layer import Layer, Shape, has_scale_shift
from ..layers.activations import Clip, ReLU
from ..layers.arithmetic import Add
from ..layers.max_pooling import MaxPool2d
from .graph import Step

_NONE: dict[str, Any] = {}


class Task(NamedTuple):
    """A step, the values it reads, and what its layer takes over; `target` is the value of the last step taken over.

    A float as `relu` is a ReLU with that upper bound.

    A `chain` runs in place of the layers of this step and of those behind it (chains.py). With a `residual`, the layer takes
    over an addition: the second source is what it adds. `pooled`, it takes over the maximum of each 2 x 2.
    """

    number: int
    step: Step
    sources: tuple[int, ...]
    target: int
    affine: Layer | None
    relu: bool | float
    chain: Layer | None = None
    residual: bool = False
    pooled: bool = False

    @property
    def layer(self) -> Layer:
        """What runs."""
        return self.chain or self.step.layer

    def takes_residual(self, training: bool) -> bool:
        """Whether an addition behind it can go into the layer."""
        layer = self.step.layer
        able = layer.absorbs_residual_in_training if training else layer.absorbs_residual
        return able and not (self.relu or self.residual or self.pooled)

    def options(self) -> dict[str, Any]:
        """What `forward` is told beside its input, the scale and shift of `affine`, and the residual."""
        relu = {"relu": self.relu} if self.relu else _NONE
        return {**relu, "pooled": True} if self.pooled else relu


def _relu_of(layer: Layer, behind: Layer, *, inference: bool) -> bool | float:
    """True for a ReLU that a layer takes over, the upper bound of a Clip from 0 on, or False."""
    if layer.fuses_relu and type(behind) is ReLU:
        return True
    able = layer.fuses_clip if inference else layer.fuses_clip_in_training
    if able and type(behind) is Clip and behind.max is not None:
        low, high = behind.constants()
        # -0 is another value, and so is what float32 rounds to 0.
        return float(high) if low == 0 and copysign(1, low) > 0 and np.float32(high) > 0 else False
    return False


def _pools(layer: Layer, behind: Layer, shape: Shape) -> bool:
    """Whether a layer, whose output has this shape, takes over a pooling."""
    return layer.absorbs_max_pool and type(behind) is MaxPool2d and behind.halves(shape[1:])


def plan(steps: Sequence[Step], outputs: Sequence[int], *, affine: bool, shapes: Sequence[Shape] | None = None) -> list[Task]:
    """The steps in order as tasks. A layer takes over the step that alone reads its value, unless the model puts it out.

    `affine` lets batch normalization go into the layer before it, which is right in inference and where no gradient is asked.
    Where one is, a ReLU goes into the maximum behind it: the gradient is cut off on what a window keeps, not on the whole.
    Told the `shapes` of all values, an addition goes into a layer before it, and the maximum of each 2 x 2 where no gradient is
    asked.
    """
    reads = Counter(source for step in steps for source in step.sources)
    reads.update(outputs)
    sole_reader = {source: step for step in steps for source in step.sources if reads[source] == 1}
    postponed: dict[int, int] = {}  # values of such ReLUs, which are not computed, and what the maximum reads instead
    if not affine:
        waiting = (step for step in steps if type(step.layer) is ReLU and step.target in sole_reader)
        postponed = {r.target: r.sources[0] for r in waiting if sole_reader[r.target].layer.commutes_with_relu}
    tasks: list[Task] = []
    taken = set(postponed)
    for number, step in enumerate(steps):
        if step.target in taken:
            continue
        last, scaled = step, None
        sources = tuple(postponed.get(source, source) for source in step.sources)
        relu: bool | float = sources != step.sources
        behind = sole_reader.get(last.target)
        if affine and behind and step.layer.absorbs_affine and has_scale_shift(behind.layer):
            last, scaled = behind, behind.layer
            behind = sole_reader.get(last.target)
            taken.add(last.target)
        if behind and behind.target not in postponed and (rectified := _relu_of(step.layer, behind.layer, inference=affine)):
            last, relu = behind, rectified
            taken.add(last.target)
            behind = sole_reader.get(last.target)
        pooled = affine and behind is not None and shapes is not None and _pools(step.layer, behind.layer, shapes[last.target])
        if behind and pooled:
            last = behind
            taken.add(last.target)
        tasks.append(Task(number, step, sources, last.target, scaled, relu, pooled=pooled))
    return tasks if shapes is None else _with_residuals(tasks, reads, shapes, training=not affine)


def _with_residuals(tasks: Sequence[Task], reads: Counter[int], shapes: Sequence[Shape], training: bool) -> list[Task]:
    """Additions of two values of one shape into the layer that computes one of them for nobody else: in place of the addition,
    since there the other is known. Of two such layers, into the one with more weights. In training, a layer that stands at
    several places stays where it is, since the order of its passes may matter."""
    makers: dict[int, Task] = {}
    places = Counter(id(task.step.layer) for task in tasks) if training else Counter()
    for task in tasks:
        makers[task.target] = task
        able = [s for s in task.sources if reads[s] == 1 and s in makers and makers[s].takes_residual(training)]
        able = [s for s in able if places[id(makers[s].step.layer)] < 2]
        if able and _adds_two(task, shapes):
            source = max(able, key=lambda s: sum(p.size for p in makers[s].step.layer.params.values()))
            other = task.sources[1 - task.sources.index(source)]
            maker = makers.pop(source)
            sources = *maker.sources, other
            makers[task.target] = maker._replace(
                number=task.number, sources=sources, target=task.target, relu=task.relu, residual=True
            )
    return sorted(makers.values(), key=lambda task: task.number)


def _adds_two(task: Task, shapes: Sequence[Shape]) -> bool:
    """Whether it is the sum of two values, neither of them repeated along an axis."""
    return type(task.step.layer) is Add and len(task.sources) == 2 and len({shapes[s] for s in task.sources}) == 1
