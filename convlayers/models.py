"""Reference architectures, ready to train."""

from collections.abc import Sequence
from functools import reduce

from .layer import Layer, Node
from .layers.activations import ReLU
from .layers.conv import Conv2d
from .layers.dense import Dense, Flatten
from .layers.global_pooling import GlobalAvgPool2d
from .layers.joins import Add
from .layers.max_pooling import MaxPool2d
from .layers.normalization import BatchNorm2d
from .model import Input, Model, Sequential


def digits_cnn(input_shape: Sequence[int] = (1, 8, 8), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Two 3x3 convolutions of 16 and 32 filters, each with ReLU and 2x2 pooling, then 64 dense: for small images."""
    return Sequential(
        [
            Conv2d(16, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d(32, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Dense(64),
            ReLU(),
            Dense(classes),
        ],
        input_shape=input_shape,
        seed=seed,
    )


def lenet5(input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, *, seed: int = 0) -> Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: two 5x5 convolutions of 6 and 16 filters, 120, 84 dense."""
    return Sequential(
        [
            Conv2d(6, 5, padding=2),
            ReLU(),
            MaxPool2d(2),
            Conv2d(16, 5),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Dense(120),
            ReLU(),
            Dense(84),
            ReLU(),
            Dense(classes),
        ],
        input_shape=input_shape,
        seed=seed,
    )


def mnist_cnn(input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Two 3x3 convolutions of 32 and 64 filters at full size, 2x2 pooling, 128 dense: MNIST's usual example."""
    return Sequential(
        [
            Conv2d(32, 3, padding=1),
            ReLU(),
            Conv2d(64, 3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Dense(128),
            ReLU(),
            Dense(classes),
        ],
        input_shape=input_shape,
        seed=seed,
    )


def _normalized(filters: int, kernel_size: int = 3, *, stride: int = 1, groups: int = 1) -> list[Layer]:
    """A convolution padded to keep the size, batch normalization in place of its bias, and ReLU."""
    padding = kernel_size // 2
    conv = Conv2d(filters, kernel_size, stride=stride, padding=padding, groups=groups, bias=False)
    return [conv, BatchNorm2d(), ReLU()]


def vgg_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Pairs of 3x3 convolutions of 64, 128 and 256 filters with 2x2 pooling behind each pair, after VGG (Simonyan and
    Zisserman 2015), with batch normalization (Ioffe and Szegedy 2015) and a global average in place of the dense layers."""
    layers: list[Layer] = []
    for filters in (64, 128, 256):
        layers += [*_normalized(filters), *_normalized(filters), MaxPool2d(2)]
    return Sequential([*layers, GlobalAvgPool2d(), Flatten(), Dense(classes)], input_shape=input_shape, seed=seed)


def mobilenet_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Depthwise 3x3 and pointwise convolutions in turn, after MobileNet (Howard et al. 2017): 32 filters first, then pairs
    to 64, 128, 128, 256 and 256, at stride 2 before the first 128 and the first 256; a global average and a dense layer."""
    layers = _normalized(32)
    for inputs, filters, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1)):
        layers += [*_normalized(inputs, groups=inputs, stride=stride), *_normalized(filters, 1)]
    return Sequential([*layers, GlobalAvgPool2d(), Flatten(), Dense(classes)], input_shape=input_shape, seed=seed)


def _chain(x: Node, layers: Sequence[Layer]) -> Node:
    return reduce(lambda node, layer: layer(node), layers, x)


def _residual(x: Node, filters: int, stride: int) -> Node:
    """`ReLU(F(x) + x)`, F two 3x3 convolutions; where F changes the size or the channels, x goes through a 1x1 projection."""
    y = _chain(x, [*_normalized(filters, stride=stride), Conv2d(filters, 3, padding=1, bias=False), BatchNorm2d()])
    if y.shape != x.shape:
        x = _chain(x, [Conv2d(filters, 1, stride=stride, bias=False), BatchNorm2d()])
    return ReLU()(Add()(y, x))


def resnet20(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Model:
    """ResNet-20 for small images (He et al. 2015, section 4.2): a 3x3 convolution, then three residual blocks each of 16, 32
    and 64 filters, the first of the 32 and of the 64 at stride 2; shortcuts that change size are 1x1 projections (option B)."""
    image = Input(input_shape)
    x = _chain(image, _normalized(16))
    for filters in (16, 32, 64):
        for block in range(3):
            x = _residual(x, filters, 2 if filters > 16 and block == 0 else 1)
    return Model(image, _chain(x, [GlobalAvgPool2d(), Flatten(), Dense(classes)]), seed=seed)
