"""LeNet-5, and two small networks of its kind."""

from collections.abc import Sequence

from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.dense import Dense, Flatten
from ..layers.max_pooling import MaxPool2d
from ..model import Sequential
from ._blocks import scores


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
            scores(classes),
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
            scores(classes),
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
            scores(classes),
        ],
        input_shape=input_shape,
        seed=seed,
    )
