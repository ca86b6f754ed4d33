"""MobileNet: depthwise and pointwise convolutions in turn."""

from collections.abc import Sequence

from ..layer import Layer, Node
from ..layers.activations import Clip
from ..layers.arithmetic import Add
from ..layers.dense import Flatten
from ..layers.dropout import Dropout
from ..layers.global_pooling import GlobalAvgPool2d
from ..model import Input, Model, Sequential
from ._blocks import averaged_scores, chain, conv_norm, conv_norm_relu, scores


def mobilenet_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Depthwise 3x3 and pointwise convolutions in turn, after MobileNet (Howard et al. 2017): 32 filters first, then pairs
    to 64, 128, 128, 256 and 256, at stride 2 before the first 128 and the first 256; a global average and a dense layer."""
    layers = conv_norm_relu(32)
    for inputs, filters, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)):
        layers += [*conv_norm_relu(inputs, groups=inputs, stride=stride), *conv_norm_relu(filters, 1)]
    return Sequential([*layers, *averaged_scores(classes)], input_shape=input_shape, seed=seed)


def _conv_norm_relu6(filters: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1) -> list[Layer]:
    return [*conv_norm(filters, kernel_size, stride=stride, groups=groups), Clip(0, 6)]


def _inverted_residual(x: Node, filters: int, stride: int, expansion: int, name: str) -> Node:
    """1x1 to `expansion` times the channels, 3x3 depthwise there, 1x1 to `filters`; x is added where the shape is its own."""
    wide = expansion * x.shape[0]
    layers = _conv_norm_relu6(wide, 1) if expansion > 1 else []
    layers += [*_conv_norm_relu6(wide, stride=stride, groups=wide), *conv_norm(filters, 1)]
    y = chain(x, layers, name)
    return Add()(y, x, name=f"{name}/add") if stride == 1 and y.shape == x.shape else y


def mobilenet_v2(
    input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, *, dropout: float = 0.2, seed: int = 0
) -> Model:
    """MobileNetV2 (Sandler et al. 2018, table 2, at width 1): a 3x3 convolution at stride 2, 17 inverted residuals with ReLU6
    and linear bottlenecks, 1x1 to 1280 channels, a global average, dropout, and a logit a class. Images of any size."""
    image = Input(input_shape)
    x = chain(image, _conv_norm_relu6(32, stride=2), "stem")
    number = 0
    for expansion, filters, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for repeat in range(count):
            number += 1
            x = _inverted_residual(x, filters, stride if repeat == 0 else 1, expansion, f"block{number}")
    head = [*_conv_norm_relu6(1280, 1), GlobalAvgPool2d(), Flatten(), Dropout(dropout), scores(classes)]
    return Model(image, chain(x, head, "classifier"), seed=seed)
