"""What convolution and pooling share: ONNX's attributes of a window as ours."""

from collections.abc import Sequence
from typing import Any

from ..op import Op
from ..values import Tensor


def even(values: Sequence[Any]) -> Any:
    """One value where all are equal, else the list."""
    return values[0] if all(v == values[0] for v in values) else list(values)


def per_axis(op: Op, name: str, rank: int, default: int = 1) -> list[int]:
    """An attribute with one integer a spatial axis."""
    values = op.get_ints(name) or [default] * rank
    if len(values) != rank:
        op.refuse(f"attribute {name} must have {rank} values, one a spatial axis; got {values}")
    return list(values)


def spatial(op: Op, x: Tensor, rank: int) -> tuple[int, ...]:
    """The spatial axes of x, which must be `rank`."""
    if not op.batch or x.rank != rank + 2:
        op.refuse(f"it needs a tensor (N, C, ...) with {rank} spatial axes; got {x.rank} axes")
    return x.spatial


def padding(op: Op, x: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> Any:
    """`pads` or `auto_pad` as our `padding`."""
    rank, mode = len(kernel), op.get_string("auto_pad", "NOTSET")
    if mode == "SAME_UPPER":
        return "same"
    if mode == "SAME_LOWER":
        return [_lower(*axis) for axis in zip(spatial(op, x, rank), kernel, stride, dilation, strict=True)]
    if mode not in ("NOTSET", "VALID", ""):
        op.refuse(f"auto_pad {mode!r} is none of ONNX's")
    pads = op.get_ints("pads") or [0] * (2 * rank)
    if len(pads) != 2 * rank or mode == "VALID":
        pads = [0] * (2 * rank) if mode == "VALID" else op.refuse(f"pads must have {2 * rank} values; got {pads}")
    return compact(list(zip(pads[:rank], pads[rank:], strict=True)))


def compact(pairs: list[tuple[int, int]]) -> Any:
    """Pairs as one number, or one an axis, where they are even."""
    if all(before == after for before, after in pairs):
        return even([before for before, _ in pairs])
    return [list(pair) for pair in pairs]


def _lower(size: int, kernel: int, stride: int, dilation: int) -> list[int]:
    """SAME_LOWER: as SAME_UPPER, with the odd pixel in front."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return [total - total // 2, total // 2]
