"""A chain of layers."""

from collections.abc import Sequence

from ..errors import ArrayTypeError
from ..layer import Layer
from .graph import Input, Step, check_names, input_names, sample_shape
from .model import Model


class Sequential(Model):
    """Layers one after the other, for samples of `input_shape`; shapes are inferred and checked here.

    A layer is named by its place, "0", "1" and so on; a `(name, layer)` pair gives it a name of its own.
    """

    def __init__(self, layers: Sequence[Layer | tuple[str, Layer]], *, input_shape: Sequence[int], seed: int = 0) -> None:
        if not isinstance(layers, Sequence) or isinstance(layers, str):
            raise ArrayTypeError(f"layers is a list of layers; got {layers!r}")
        steps = []
        for number, item in enumerate(layers):
            name, layer = item if isinstance(item, tuple) and len(item) == 2 else (str(number), item)
            if not isinstance(layer, Layer):
                hint = "; call it: ReLU()" if isinstance(layer, type) else ""
                raise ArrayTypeError(f"layer {number} of Sequential is {layer!r}, not a layer{hint}")
            steps.append(Step(name, layer, (number,), number + 1))
        taken = check_names([step.name for step in steps])
        image = Input(sample_shape(input_shape, "input_shape"))
        self._assemble([image], input_names([image], taken), steps, [len(steps)], seed)
