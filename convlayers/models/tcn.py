"""Temporal convolutional network: a class for each moment of a signal, from what came before it."""

from collections.abc import Sequence

from ..layer import Layer, Node
from ..layers.activations import ReLU
from ..layers.arithmetic import Add
from ..layers.conv import Conv1d
from ..layers.dropout import Dropout2d
from ..model import Input, Model
from ..shapes import positive
from ._blocks import chain


def _residual(x: Node, filters: int, kernel_size: int, dilation: int, dropout: float, name: str) -> Node:
    """`ReLU(F(x) + x)`, F two causal convolutions; where the channels change, x goes through a 1x1 convolution."""
    causal = [[dilation * (kernel_size - 1), 0]]
    layers: list[Layer] = []
    for _ in range(2):
        conv = Conv1d(filters, kernel_size, padding=causal, dilation=dilation, init="kaiming_normal")
        layers += [conv, ReLU(), Dropout2d(dropout)]
    y = chain(x, layers, name)
    if y.shape != x.shape:
        x = Conv1d(filters, 1)(x, name=f"{name}/shortcut")
    return ReLU()(Add()(y, x, name=f"{name}/add"), name=f"{name}/relu")


def tcn(
    input_shape: Sequence[int] = (1, 784),
    classes: int = 10,
    *,
    filters: int = 25,
    levels: int = 8,
    kernel_size: int = 7,
    dropout: float = 0.05,
    seed: int = 0,
) -> Model:
    """TCN (Bai, Kolter and Koltun 2018): signals `(channels, length)` to logits `(classes, length)`, one for each moment.

    Residual blocks of two causal convolutions of `filters` channels, dilated by 1, 2, 4 and so on, one block a level, with ReLU
    and dropout of whole channels behind each; a 1x1 convolution to the classes. An output depends on its own moment and on
    the `2 (kernel_size - 1) (2^levels - 1)` before it, on nothing later. Defaults are the paper's for sequential MNIST.

    The paper normalizes weights (Salimans and Kingma 2016): `w = g v / ||v||`, which changes how the same functions are
    learned. Here weights are plain, and first values by He et al. 2015 give each filter the scale that g would.
    """
    for value, name in ((filters, "filters"), (levels, "levels"), (kernel_size, "kernel_size")):
        positive(value, name)
    signal = x = Input(input_shape)
    for level in range(levels):
        x = _residual(x, filters, kernel_size, 1 << level, dropout, f"level{level}")
    return Model(signal, Conv1d(positive(classes, "classes"), 1)(x, name="scores"), seed=seed)
