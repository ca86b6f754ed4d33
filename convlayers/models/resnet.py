"""ResNet: blocks that add what they compute to their input."""

from collections.abc import Callable, Sequence

from ..layer import Layer, Node
from ..layers.activations import ReLU
from ..layers.arithmetic import Add
from ..layers.max_pooling import MaxPool2d
from ..model import Input, Model
from ._blocks import averaged_scores, chain, conv_norm, conv_norm_relu

Block = Callable[[int, int], list[Layer]]


def _basic(filters: int, stride: int) -> list[Layer]:
    """Two 3x3 convolutions."""
    return [*conv_norm_relu(filters, stride=stride), *conv_norm(filters)]


def _bottleneck(filters: int, stride: int) -> list[Layer]:
    """1x1 to fewer channels, 3x3 there, and 1x1 to four times as many."""
    return [*conv_norm_relu(filters, 1), *conv_norm_relu(filters, stride=stride), *conv_norm(4 * filters, 1)]


def _residual(x: Node, layers: list[Layer], stride: int, name: str) -> Node:
    """`ReLU(F(x) + x)`, F the layers; where F changes the size or the channels, x goes through a 1x1 projection."""
    y = chain(x, layers, name)
    if y.shape != x.shape:
        x = chain(x, conv_norm(y.shape[0], 1, stride=stride), f"{name}/shortcut")
    return ReLU()(Add()(y, x, name=f"{name}/add"), name=f"{name}/relu")


def _stages(x: Node, block: Block, depths: Sequence[int], filters: int) -> Node:
    """A stage of so many blocks for each of `depths`, called `stage1/0` and so on; from the second on, a stage begins with
    stride 2 and has twice the filters of the one before."""
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            x = _residual(x, block(filters << stage, stride), stride, f"stage{stage + 1}/{number}")
    return x


def resnet20(input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, seed: int = 0) -> Model:
    """ResNet-20 for small images (He et al. 2016, section 4.2): a 3x3 convolution, then three residual blocks each of 16, 32
    and 64 filters, the first of the 32 and of the 64 at stride 2; shortcuts that change size are 1x1 projections (option B)."""
    image = Input(input_shape)
    x = _stages(chain(image, conv_norm_relu(16), "stem"), _basic, (3, 3, 3), 16)
    return Model(image, chain(x, averaged_scores(classes), "classifier"), seed=seed)


def _resnet(block: Block, depths: Sequence[int], input_shape: Sequence[int], classes: int, seed: int) -> Model:
    image = Input(input_shape)
    stem = [*conv_norm_relu(64, 7, stride=2), MaxPool2d(3, stride=2, padding=1)]
    x = _stages(chain(image, stem, "stem"), block, depths, 64)
    return Model(image, chain(x, averaged_scores(classes), "classifier"), seed=seed)


def resnet18(input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, *, seed: int = 0) -> Model:
    """ResNet-18 (He et al. 2016, table 1): 7x7 at stride 2, 3x3 max pooling at stride 2, two residual blocks each of 64, 128,
    256 and 512 filters, two 3x3 convolutions a block; a global average and a logit a class. Images of any size.

    Shortcuts that change size are 1x1 projections (option B)."""
    return _resnet(_basic, (2, 2, 2, 2), input_shape, classes, seed)


def resnet50(input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, *, seed: int = 0) -> Model:
    """ResNet-50 (He et al. 2016, table 1): 7x7 at stride 2, 3x3 max pooling at stride 2, then 3, 4, 6 and 3 bottleneck blocks
    of 64, 128, 256 and 512 filters, each 1x1, 3x3 and 1x1 to four times the filters; a global average and a logit a class.

    Images of any size. The stride stands in a block's 3x3 convolution, as in torchvision ("v1.5"), where the paper has it in
    the 1x1 before that, which passes over three pixels of four. Shortcuts that change size are 1x1 projections (option B)."""
    return _resnet(_bottleneck, (3, 4, 6, 3), input_shape, classes, seed)
