"""MobileNet: depthwise and pointwise convolutions in turn."""

from collections.abc import Sequence

from ..layers.dense import Dense, Flatten
from ..layers.global_pooling import GlobalAvgPool2d
from ..model import Sequential
from ._blocks import normalized


def mobilenet_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Depthwise 3x3 and pointwise convolutions in turn, after MobileNet (Howard et al. 2017): 32 filters first, then pairs
    to 64, 128, 128, 256 and 256, at stride 2 before the first 128 and the first 256; a global average and a dense layer."""
    layers = normalized(32)
    for inputs, filters, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)):
        layers += [*normalized(inputs, groups=inputs, stride=stride), *normalized(filters, 1)]
    return Sequential([*layers, GlobalAvgPool2d(), Flatten(), Dense(classes)], input_shape=input_shape, seed=seed)
