"""What other programs write as several operators and is one layer here: merged where nobody else reads the values in between.

    Dense without bias, + a parameter `(out,)`              Dense
    a convolution without bias, + a parameter `(C, 1, 1)`   the convolution
    x sigmoid(x)                                            SiLU

So a bias is named, trained and frozen with its layer, and the network has the layers that its author wrote.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ...layer import Layer, Node, build_layer
from ...layers.arithmetic import Add, Multiply
from ...layers.conv import Conv1d, Conv2d, Conv3d
from ...layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ...layers.dense import Dense
from ...layers.elementary import AddConstant
from ...layers.parameter import Parameter
from ...layers.smooth_activations import Sigmoid, SiLU
from ...randomness import NoDraws
from .values import behind

# The axis of a sample that has the outputs of a layer, a bias each.
_OUTPUTS: dict[type, int] = {Dense: -1}
_OUTPUTS |= dict.fromkeys((Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d), 0)


def merge(outputs: Sequence[Node]) -> None:
    """Change the nodes that compute `outputs`, in their places."""
    nodes = behind(outputs)
    # A parameter reads the batch size alone.
    reading = [node for node in nodes if type(node.layer) is not Parameter]
    readers = Counter([*outputs, *(parent for node in reading for parent in node.parents)])
    places = Counter(node.layer for node in nodes)
    # The values that are read once, of layers that stand in one place.
    own = {node for node in nodes if readers[node] == places[node.layer] == 1}
    for node in nodes:
        for product, value in _sums(node, own):
            whole = _with_bias(product, value) if product in own and product.shape == node.shape else None
            if whole is not None:
                node.layer, node.parents, node.name = whole, product.parents, product.name
                break
        for x, gate in _orders(node, Multiply):
            if type(gate.layer) is Sigmoid and gate.parents == (x,) and readers[gate] == 1:
                node.layer, node.parents, node.name = _built(SiLU(), x), (x,), gate.name
                break


def _orders(node: Node, join: type) -> Iterator[tuple[Node, Node]]:
    """The two values that `node` joins, either way round."""
    if type(node.layer) is join and len(node.parents) == 2:
        a, b = node.parents
        yield from ((a, b), (b, a))


def _sums(node: Node, own: Collection[Node]) -> Iterator[tuple[Node, np.ndarray]]:
    """What `node` adds: a value, and an array that is the same for every sample."""
    if type(node.layer) is AddConstant:
        yield node.parents[0], np.array([node.layer.value])
    for product, value in _orders(node, Add):
        if value in own and type(value.layer) is Parameter and value.layer.trainable:
            yield product, value.layer.params["value"]


def _with_bias(product: Node, value: np.ndarray) -> Layer | None:
    """The layer that gives `product`, with `value` as its bias; None where it has one, or `value` is none."""
    layer, axis = product.layer, _OUTPUTS.get(type(product.layer))
    shape = (1,) * (len(product.shape) - value.ndim) + value.shape
    if layer is None or axis is None or layer.config()["bias"] or not shape[axis] == product.shape[axis] == value.size:
        return None
    whole = _built(type(layer)(**{**layer.config(), "bias": True}), *product.parents)
    whole.params = {"weight": layer.params["weight"], "bias": value.reshape(-1).astype(np.float32)}
    return whole


def _built(layer: Layer, *parents: Node) -> Layer:
    shapes = [parent.shape for parent in parents]
    build_layer(layer, shapes, NoDraws(), type(layer).__name__)
    layer.built_for = shapes
    return layer
