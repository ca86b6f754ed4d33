"""VGG: stacks of 3x3 convolutions, and pooling behind each stack."""

from collections.abc import Sequence

from ..layer import Layer
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.max_pooling import MaxPool2d
from ..layers.normalization import BatchNorm2d
from ..model import Input, Model, Sequential
from ._blocks import averaged_scores, averaged_to, chain, conv_norm_relu, scores


def vgg_small(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Sequential:
    """Pairs of 3x3 convolutions of 64, 128 and 256 filters with 2x2 pooling behind each pair, after VGG (Simonyan and
    Zisserman 2015), with batch normalization (Ioffe and Szegedy 2015) and a global average in place of the dense layers."""
    layers: list[Layer] = []
    for filters in (64, 128, 256):
        layers += [*conv_norm_relu(filters), *conv_norm_relu(filters), MaxPool2d(2)]
    return Sequential([*layers, *averaged_scores(classes)], input_shape=input_shape, seed=seed)


def _vgg(
    depths: Sequence[int], shape: Sequence[int], classes: int, batch_norm: bool, hidden: int, dropout: float, seed: int
) -> Model:
    """`depths` says how many convolutions there are of 64, 128, 256, 512 and 512 filters.

    Those have a bias under batch normalization too, where it does nothing: torchvision's networks are so, and their weights.
    """
    layers: list[Layer] = []
    for filters, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
        for _ in range(depth):
            layers.append(Conv2d(filters, 3, padding=1, init="kaiming_normal"))
            layers += [BatchNorm2d(), ReLU()] if batch_norm else [ReLU()]
        layers.append(MaxPool2d(2))
    image = Input(shape)
    x = chain(image, layers, "features")
    head = [*averaged_to(x, 7), Dense(hidden), ReLU(), Dropout(dropout), Dense(hidden), ReLU(), Dropout(dropout)]
    return Model(image, chain(x, [*head, scores(classes)], "classifier"), seed=seed)


def vgg11(
    input_shape: Sequence[int] = (3, 224, 224),
    classes: int = 1000,
    *,
    batch_norm: bool = False,
    hidden: int = 4096,
    dropout: float = 0.5,
    seed: int = 0,
) -> Model:
    """VGG-11 (Simonyan and Zisserman 2015, configuration A): 1, 1, 2, 2 and 2 convolutions; otherwise as `vgg16`."""
    return _vgg((1, 1, 2, 2, 2), input_shape, classes, batch_norm, hidden, dropout, seed)


def vgg16(
    input_shape: Sequence[int] = (3, 224, 224),
    classes: int = 1000,
    *,
    batch_norm: bool = False,
    hidden: int = 4096,
    dropout: float = 0.5,
    seed: int = 0,
) -> Model:
    """VGG-16 (Simonyan and Zisserman 2015, configuration D): 2, 2, 3, 3 and 3 convolutions 3x3 of 64, 128, 256, 512 and 512
    filters, each with ReLU, and 2x2 max pooling behind each group; two dense layers of `hidden`, each with ReLU and dropout,
    and a logit a class. `batch_norm` normalizes behind each convolution (Ioffe and Szegedy 2015).

    Images have 32x32 pixels or more; of those over 224x224 the dense layers see an average of 7x7 pixels, as in torchvision.
    First values are by He et al. 2015; the paper began its deeper networks with the weights of a shallower one.
    """
    return _vgg((2, 2, 3, 3, 3), input_shape, classes, batch_norm, hidden, dropout, seed)
