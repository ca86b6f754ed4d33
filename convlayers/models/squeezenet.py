"""SqueezeNet: few weights, by 1x1 convolutions that narrow what the 3x3 ones see."""

from collections.abc import Sequence

from ..layer import Node
from ..layers._checks import choice
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.dense import Flatten
from ..layers.dropout import Dropout
from ..layers.global_pooling import GlobalAvgPool2d
from ..layers.joins import Concat
from ..layers.max_pooling import MaxPool2d
from ..model import Input, Model
from ..shapes import positive
from ._blocks import chain

# By version: the first convolution's filters and size, and how many fire modules stand behind each pooling.
_PLANS = {"1.0": (96, 7, (3, 4, 1)), "1.1": (64, 3, (2, 2, 4))}


def _conv(x: Node, filters: int, kernel_size: int, name: str) -> Node:
    return chain(x, [Conv2d(filters, kernel_size, padding=kernel_size // 2, init="kaiming_uniform"), ReLU()], name)


def _fire(x: Node, filters: int, name: str) -> Node:
    """1x1 to `filters` channels, then four times as many by 1x1 and as many by 3x3."""
    x = _conv(x, filters, 1, f"{name}/squeeze")
    sides = [_conv(x, 4 * filters, size, f"{name}/expand{size}x{size}") for size in (1, 3)]
    return Concat()(*sides, name=f"{name}/concat")


def squeezenet(
    input_shape: Sequence[int] = (3, 224, 224),
    classes: int = 1000,
    *,
    version: str = "1.0",
    dropout: float = 0.5,
    seed: int = 0,
) -> Model:
    """SqueezeNet (Iandola et al. 2016): a convolution at stride 2, eight fire modules that squeeze to 16, 16, 32, 32, 48, 48,
    64 and 64 channels, 3x3 max pooling at stride 2 at three places, dropout, a 1x1 convolution to `classes`, a global average.

    `version="1.0"` is the paper's, with 7x7 first; `"1.1"`, by the same authors, begins with 3x3 and pools earlier, for less
    than half the work. The last windows of pooling may hang over the end (`ceil_mode`). Images have 21x21 pixels or more, for
    1.1 17x17.
    """
    filters, kernel, groups = _PLANS[choice(version, "version", _PLANS)]
    image = Input(input_shape)
    x = chain(image, [Conv2d(filters, kernel, stride=2, init="kaiming_uniform"), ReLU()], "stem")
    number = 1
    for count in groups:
        x = MaxPool2d(3, stride=2, ceil_mode=True)(x, name=f"pool{number}")
        for _ in range(count):
            number += 1
            x = _fire(x, 16 * (number // 2), f"fire{number}")
    head = [Dropout(dropout), Conv2d(positive(classes, "classes"), 1), ReLU(), GlobalAvgPool2d(), Flatten()]
    return Model(image, chain(x, head, "classifier"), seed=seed)
