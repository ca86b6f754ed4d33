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
    """A step, the values it reads, and what its layer takes over; `target` is the value of the last step taken over.

    A `chain` runs in place of the layers of this step and of those behind it (chains.py).
    """

    number: int
    step: Step
    sources: tuple[int, ...]
    target: int
    affine: Layer | None
    relu: bool
    chain: Layer | None = None

    @property
    def layer(self) -> Layer:
        """What runs."""
        return self.chain or self.step.layer

    def options(self) -> dict[str, Any]:
        """What `forward` is told beside its input and the scale and shift of `affine`."""
        return _RELU if self.relu else _NONE


def plan(steps: Sequence[Step], outputs: Sequence[int], *, affine: bool) -> list[Task]:
    """The steps in order as tasks. A layer takes over the step that alone reads its value, unless the model puts it out.

    `affine` lets batch normalization go into the layer before it, which is right in inference and where no gradient is asked.
    Where one is, a ReLU goes into the maximum behind it: the gradient is cut off on what a window keeps, not on the whole.
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
        relu = sources != step.sources
        behind = sole_reader.get(last.target)
        if affine and behind and step.layer.absorbs_affine and has_scale_shift(behind.layer):
            last, scaled = behind, behind.layer
            behind = sole_reader.get(last.target)
            taken.add(last.target)
        if behind and step.layer.fuses_relu and type(behind.layer) is ReLU and behind.target not in postponed:
            last, relu = behind, True
            taken.add(last.target)
        tasks.append(Task(number, step, sources, last.target, scaled, relu))
    return tasks
