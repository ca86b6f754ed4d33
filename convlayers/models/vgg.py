"""VGG: pairs of 3x3 convolutions, and pooling behind each pair."""

from collections.abc import Sequence

from ..layer import Layer
from ..layers.dense import Dense, Flatten
from ..layers.global_pooling import GlobalAvgPool2d
from ..layers.max_pooling import MaxPool2d
from ..model import Sequential
from ._blocks import normalized


def vgg_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Pairs of 3x3 convolutions of 64, 128 and 256 filters with 2x2 pooling behind each pair, after VGG (Simonyan and
    Zisserman 2015), with batch normalization (Ioffe and Szegedy 2015) and a global average in place of the dense layers."""
    layers: list[Layer] = []
    for filters in (64, 128, 256):
        layers += [*normalized(filters), *normalized(filters), MaxPool2d(2)]
    return Sequential([*layers, GlobalAvgPool2d(), Flatten(), Dense(classes)], input_shape=input_shape, seed=seed)
