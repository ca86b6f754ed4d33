"""What several architectures are made of."""

from collections.abc import Sequence
from functools import reduce

from ..layer import Layer, Node
from ..layers.activations import ReLU
from ..layers.adaptive_pooling import AdaptiveAvgPool2d
from ..layers.conv import Conv2d
from ..layers.dense import Dense, Flatten
from ..layers.global_pooling import GlobalAvgPool2d
from ..layers.normalization import BatchNorm2d
from ..shapes import positive


def conv_norm(filters: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1) -> list[Layer]:
    """A convolution padded to keep the size, and batch normalization in place of its bias; first values by He et al. 2015."""
    padding, init = kernel_size // 2, "kaiming_normal"
    conv = Conv2d(filters, kernel_size, stride=stride, padding=padding, groups=groups, bias=False, init=init)
    return [conv, BatchNorm2d()]


def conv_norm_relu(filters: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1) -> list[Layer]:
    """`conv_norm`, and ReLU."""
    return [*conv_norm(filters, kernel_size, stride=stride, groups=groups), ReLU()]


def scores(classes: int) -> Dense:
    """The last layer of a classifier: a logit a class."""
    return Dense(positive(classes, "classes"))


def averaged_scores(classes: int) -> list[Layer]:
    """The mean of each channel, and a logit a class: a head for images of any size."""
    return [GlobalAvgPool2d(), Flatten(), scores(classes)]


def averaged_to(x: Node, pixels: int) -> list[Layer]:
    """The values of `pixels` x `pixels` averages behind `x`, or of all its pixels along an axis that has fewer: PyTorch repeats
    those, which lets a dense layer compute nothing more."""
    return [AdaptiveAvgPool2d([min(pixels, size) for size in x.shape[1:]]), Flatten()]


def chain(x: Node, layers: Sequence[Layer], name: str) -> Node:
    """The layers one behind the other, behind `x`, called `name/0`, `name/1` and so on."""
    return reduce(lambda node, numbered: numbered[1](node, name=f"{name}/{numbered[0]}"), enumerate(layers), x)
