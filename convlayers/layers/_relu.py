"""The ReLU that a layer takes over from the step behind it (`Layer.fuses_relu`)."""

from typing import Any

import numpy as np

from .. import functional


def before_relu(dy: np.ndarray, cache: tuple[Any, np.ndarray | None]) -> tuple[np.ndarray, Any]:
    """The gradient in front of the ReLU, and the layer's input.

    `cache` is `(x, y)` with the output that the ReLU left, and `dy` passes where `y > 0`; `(x, None)` where no ReLU was run.
    """
    x, y = cache
    return dy if y is None else functional.relu_backward(dy, y), x
