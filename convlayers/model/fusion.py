"""Which steps run together: a layer takes over what stands behind it, as far as its class offers (see `convlayers.layer`)."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..layer import Layer, has_scale_shift
from ..layers.activations import ReLU
from .graph import Step

_NONE: dict[str, Any] = {}
_RELU = {"relu": True}


class Task(NamedTuple):
    """A step and what its layer takes over from the steps behind it; `target` is the value of the last of them."""

    number: int
    step: Step
    target: int
    affine: Layer | None
    relu: bool

    def options(self) -> dict[str, Any]:
        """What `forward` is told beside its input."""
        options: dict[str, Any] = _RELU if self.relu else _NONE
        return options if self.affine is None else {**options, "affine": self.affine.scale_shift()}


def plan(steps: Sequence[Step], outputs: Sequence[int], *, affine: bool) -> list[Task]:
    """The steps in order as tasks. A layer takes over the step that alone reads its value, unless the model puts it out.

    `affine` lets batch normalization go into the layer before it, which is right in inference and where no gradient is asked.
    """
    reads = Counter(source for step in steps for source in step.sources)
    reads.update(outputs)
    sole_reader = {source: step for step in steps for source in step.sources if reads[source] == 1}
    tasks: list[Task] = []
    taken: set[int] = set()
    for number, step in enumerate(steps):
        if step.target in taken:
            continue
        last, scaled, relu = step, None, False
        behind = sole_reader.get(last.target)
        if affine and behind and step.layer.absorbs_affine and has_scale_shift(behind.layer):
            last, scaled = behind, behind.layer
            behind = sole_reader.get(last.target)
            taken.add(last.target)
        if behind and step.layer.fuses_relu and type(behind.layer) is ReLU:
            last, relu = behind, True
            taken.add(last.target)
        tasks.append(Task(number, step, last.target, scaled, relu))
    return tasks
