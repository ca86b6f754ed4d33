"""AlexNet: the network that won ImageNet's competition of 2012."""

from collections.abc import Sequence

from ..layer import Layer
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from ..layers.max_pooling import MaxPool2d
from ..model import Input, Model
from ._blocks import averaged_to, chain, scores


def alexnet(
    input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, *, hidden: int = 4096, dropout: float = 0.5, seed: int = 0
) -> Model:
    """AlexNet (Krizhevsky, Sutskever and Hinton 2012) in its one-column form (Krizhevsky 2014), which is torchvision's.

    Convolutions of 64, 192, 384, 256 and 256 filters, 11x11 at stride 4, 5x5, then 3x3, with 3x3 max pooling at stride 2 behind
    the first two and the last; an average of 6x6 pixels, dropout, `hidden`, dropout, `hidden`, and a logit a class. Images have
    63x63 pixels or more; those under 223x223 leave fewer than 6x6 to average, and the first dense layer is as much smaller.
    """
    layers: list[Layer] = [Conv2d(64, 11, stride=4, padding=2), ReLU(), MaxPool2d(3, stride=2)]
    layers += [Conv2d(192, 5, padding=2), ReLU(), MaxPool2d(3, stride=2)]
    for filters in (384, 256, 256):
        layers += [Conv2d(filters, 3, padding=1), ReLU()]
    image = Input(input_shape)
    x = chain(image, [*layers, MaxPool2d(3, stride=2)], "features")
    head = [*averaged_to(x, 6), Dropout(dropout), Dense(hidden), ReLU(), Dropout(dropout), Dense(hidden), ReLU()]
    return Model(image, chain(x, [*head, scores(classes)], "classifier"), seed=seed)
