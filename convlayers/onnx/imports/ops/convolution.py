"""Conv and ConvTranspose."""

from typing import Any

from ....layers.conv import Conv1d, Conv2d, Conv3d
from ....layers.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ..handlers import handler
from ..op import Op
from ..values import Tensor
from .windows import compact, even, padding, per_axis, spatial

_CONV: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, Any] = {1: ConvTranspose1d, 2: ConvTranspose2d, 3: ConvTranspose3d}


def _weight(op: Op, x: Tensor, classes: dict[int, Any]) -> Any:
    """The filters, for as many spatial axes as x has."""
    rank = x.rank - 2
    if rank not in classes:
        op.refuse(f"convolutions of {rank} spatial axes are not there; got a tensor of {x.rank} axes")
    weight = op.weight(1, "weight", x.rank)
    spatial(op, x, rank)
    kernel = op.get_ints("kernel_shape") or list(weight.shape[2:])
    if kernel != list(weight.shape[2:]) or not weight.size:
        op.refuse(f"kernel_shape {kernel} does not fit the weight of shape {weight.shape}")
    return weight


@handler("Conv")
def conv(op: Op) -> Tensor:
    x = op.tensor(0)
    weight = _weight(op, x, _CONV)
    filters, channels, *kernel = weight.shape
    groups, bias = op.get_int("group", 1), op.optional_weight(2, "bias", 1)
    if groups < 1 or channels * groups != x.sample[0]:
        op.refuse(f"its weight of shape {weight.shape} in {groups} groups does not fit {x.sample[0]} channels")
    stride, dilation = per_axis(op, "strides", len(kernel)), per_axis(op, "dilations", len(kernel))
    layer = _CONV[len(kernel)](
        filters,
        even(kernel),
        stride=even(stride),
        padding=padding(op, x, kernel, stride, dilation),
        dilation=even(dilation),
        groups=groups,
        bias=bias is not None,
    )
    return op.layer(layer, x, weight=weight, bias=bias)


@handler("ConvTranspose")
def conv_transpose(op: Op) -> Tensor:
    x = op.tensor(0)
    weight = _weight(op, x, _TRANSPOSED)
    channels, filters, *kernel = weight.shape
    groups, bias = op.get_int("group", 1), op.optional_weight(2, "bias", 1)
    if groups < 1 or channels != x.sample[0]:
        op.refuse(f"its weight of shape {weight.shape} in {groups} groups does not fit {x.sample[0]} channels")
    rank = len(kernel)
    stride, dilation = per_axis(op, "strides", rank), per_axis(op, "dilations", rank)
    pads, extra = _transposed_padding(op, x, kernel, stride, dilation)
    layer = _TRANSPOSED[rank](
        filters * groups,
        even(kernel),
        stride=even(stride),
        padding=pads,
        output_padding=even(extra),
        dilation=even(dilation),
        groups=groups,
        bias=bias is not None,
    )
    return op.layer(layer, x, weight=weight, bias=bias)


def _transposed_padding(op: Op, x: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> tuple[Any, list[int]]:
    """`padding` and `output_padding`; with `output_shape` or `auto_pad`, what leaves that many pixels."""
    rank = len(kernel)
    extra = per_axis(op, "output_padding", rank, 0)
    wanted, mode = op.get_ints("output_shape"), op.get_string("auto_pad", "NOTSET")
    if not wanted and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(x.spatial, stride, strict=True)]
    if not wanted:
        return padding(op, x, kernel, stride, dilation), extra
    if len(wanted) != rank:
        op.refuse(f"output_shape must have {rank} values; got {wanted}")
    pairs = []
    for i, size in enumerate(x.spatial):
        total = stride[i] * (size - 1) + extra[i] + (kernel[i] - 1) * dilation[i] + 1 - wanted[i]
        if total < 0 and not op.get_ints("output_shape"):
            op.refuse(f"auto_pad {mode} makes {wanted[i]} pixels, in onnxruntime {wanted[i] + total}; write output_shape out")
        extra[i] -= min(total, 0)  # an output larger than the convolution's has its last pixels empty
        half = max(total, 0) // 2
        pair = (half, max(total, 0) - half)
        pairs.append(pair if mode == "SAME_UPPER" else pair[::-1])
    return compact(pairs), extra
