"""U-Net: a class for each pixel."""

from collections.abc import Sequence

from ..errors import ShapeError
from ..layer import Layer
from ..layers.activations import ReLU
from ..layers.conv import Conv2d
from ..layers.conv_transpose import ConvTranspose2d
from ..layers.dropout import Dropout
from ..layers.joins import Concat
from ..layers.max_pooling import MaxPool2d
from ..model import Input, Model
from ..shapes import positive
from ._blocks import chain, conv_norm_relu


def _pair(filters: int, batch_norm: bool) -> list[Layer]:
    """Two 3x3 convolutions with ReLU, padded to keep the size."""
    if batch_norm:
        return [*conv_norm_relu(filters), *conv_norm_relu(filters)]
    convs = [Conv2d(filters, 3, padding=1, init="kaiming_normal") for _ in range(2)]
    return [layer for conv in convs for layer in (conv, ReLU())]


def unet(
    input_shape: Sequence[int] = (1, 64, 64),
    classes: int = 2,
    *,
    width: int = 64,
    depth: int = 4,
    batch_norm: bool = False,
    dropout: float = 0.5,
    seed: int = 0,
) -> Model:
    """U-Net (Ronneberger, Fischer and Brox 2015): images to logits `(classes, H, W)`, one for each pixel; for
    `"cross_entropy"` with a label a pixel or, with one class, `"binary_cross_entropy"` with a mask.

    Down: pairs of 3x3 convolutions, `width` filters at first, then 2x2 max pooling and twice the filters, `depth` times, and
    dropout behind the last pair. Up again: a 2x2 transposed convolution to half the filters, what the way down had at that size
    beside it, and another pair. Convolutions are padded, so that the output has the image's size, where the paper has them
    shrink it and crops what it joins. Height and width are multiples of `2^depth`.
    """
    image = Input(input_shape)
    for value, name in ((width, "width"), (depth, "depth")):
        positive(value, name)
    if any(size % 2**depth for size in image.shape[1:]):
        raise ShapeError(f"unet halves images {depth} times, so their sizes are multiples of {2**depth}; got {image.shape}")
    x, sides = image, []
    for level in range(depth):
        sides.append(chain(x, _pair(width << level, batch_norm), f"down{level}"))
        x = MaxPool2d(2)(sides[-1], name=f"down{level}/pool")
    x = chain(x, [*_pair(width << depth, batch_norm), Dropout(dropout)], "bottom")
    for level in reversed(range(depth)):
        larger = ConvTranspose2d(width << level, 2, stride=2, init="kaiming_normal")(x, name=f"up{level}/enlarge")
        joined = Concat()(sides[level], larger, name=f"up{level}/concat")
        x = chain(joined, _pair(width << level, batch_norm), f"up{level}")
    return Model(image, Conv2d(positive(classes, "classes"), 1)(x, name="scores"), seed=seed)
