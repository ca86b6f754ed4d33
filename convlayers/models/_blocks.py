"""What several architectures are made of."""

from collections.abc import Sequence
from functools import reduce

from ..layer import Layer, Node
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.normalization import BatchNorm2d


def normalized(filters: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1) -> list[Layer]:
    """A convolution padded to keep the size, batch normalization in place of its bias, and ReLU."""
    padding = kernel_size // 2
    conv = Conv2d(filters, kernel_size, stride=stride, padding=padding, groups=groups, bias=False)
    return [conv, BatchNorm2d(), ReLU()]


def chain(x: Node, layers: Sequence[Layer]) -> Node:
    """The layers one behind the other, behind `x`."""
    return reduce(lambda node, layer: layer(node), layers, x)
