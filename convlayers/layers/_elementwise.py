"""The base of activations that compute each value on its own."""

from collections.abc import Sequence
from typing import Any, ClassVar

from .. import functional
from ..layer import Layer


class _Elementwise(Layer):
    """`y = f(x)`, value by value; f is the activation that `convlayers.functional.activation` knows by the name `function`.

    `keeps_output`: the derivative is computed from y, so x need not be kept.
    """

    function: ClassVar[str]
    keeps_output: ClassVar[bool] = False
    replays = True
    examples: ClassVar[Sequence[tuple[dict[str, Any], Any]]] = (({}, (3, 4, 5)), ({}, (7,)), ({}, (2, 1, 67)))

    def constants(self) -> tuple[float, ...]:
        """What `function` takes beside x."""
        return ()

    def forward(self, x, *, training):
        y = functional.activation(self.function, x, *self.constants())
        return y, y if self.keeps_output else x

    def backward(self, dy, cache):
        return functional.activation_backward(self.function, dy, cache, *self.constants())
