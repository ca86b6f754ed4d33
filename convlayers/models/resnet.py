"""ResNet: blocks that add what they compute to their input."""

from collections.abc import Sequence

from ..layer import Node
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.dense import Dense, Flatten
from ..layers.global_pooling import GlobalAvgPool2d
from ..layers.joins import Add
from ..layers.normalization import BatchNorm2d
from ..model import Input, Model
from ._blocks import chain, normalized


def _residual(x: Node, filters: int, stride: int) -> Node:
    """`ReLU(F(x) + x)`, F two 3x3 convolutions; where F changes the size or the channels, x goes through a 1x1 projection."""
    y = chain(x, [*normalized(filters, stride=stride), Conv2d(filters, 3, padding=1, bias=False), BatchNorm2d()])
    if y.shape != x.shape:
        x = chain(x, [Conv2d(filters, 1, stride=stride, bias=False), BatchNorm2d()])
    return ReLU()(Add()(y, x))


def resnet20(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Model:
    """ResNet-20 for small images (He et al. 2015, section 4.2): a 3x3 convolution, then three residual blocks each of 16, 32
    and 64 filters, the first of the 32 and of the 64 at stride 2; shortcuts that change size are 1x1 projections (option B)."""
    image = Input(input_shape)
    x = chain(image, normalized(16))
    for filters in (16, 32, 64):
        for block in range(3):
            x = _residual(x, filters, 2 if filters > 16 and block == 0 else 1)
    return Model(image, chain(x, [GlobalAvgPool2d(), Flatten(), Dense(classes)]), seed=seed)
