"""Windows over images whose size an exported file leaves open: what depends on it is computed in the graph."""

from typing import Any

import numpy as np

from ..layer import OnnxGraph, Shape
from ..shapes import Padding, Window

_INT64 = 7  # onnx.TensorProto.INT64


def lay_out(
    graph: OnnxGraph, x: str, size: Shape, win: Window, padding: Padding, filling: float, ceil_mode: bool = False
) -> tuple[str, Shape, Window]:
    """x, its size, and the window over it, as ONNX's operators are told them.

    Under `graph.dynamic_image`, padding that depends on the size, `"same"` with a stride or what `ceil_mode` reaches, comes
    as a `Pad` of `filling` before, and the size is one at which the declared padding is used to the last pixel.
    """
    if not graph.dynamic_image:
        return x, size, win
    reach = [d * (k - 1) + 1 for k, d in zip(win.kernel, win.dilation, strict=True)]
    depends = ceil_mode or (padding == "same" and max(win.stride) > 1)
    if depends:
        x = _padded(graph, x, win, np.array(reach), ceil_mode, filling)
        win = win._replace(padding=((0, 0),) * len(reach))
    axes = zip(win.output, win.stride, reach, win.padding, strict=True)
    return x, tuple((o - 1) * s + r - before - after for o, s, r, (before, after) in axes), win


def _padded(graph: OnnxGraph, x: str, win: Window, reach: np.ndarray, ceil_mode: bool, filling: float) -> str:
    """x with the padding of `shapes.window` and `shapes.extents`, from its size as the graph sees it."""
    rank, zeros = len(reach), np.zeros(2, np.int64)

    def op(kind: str, *inputs: Any, **attributes: Any) -> str:
        return graph.op(kind, *(np.array(v, np.int64) if not isinstance(v, str) else v for v in inputs), **attributes)

    n, stride = op("Slice", op("Shape", x), [2], [2 + rank]), np.array(win.stride)
    if ceil_mode:
        before: Any = np.array([before for before, _ in win.padding])
        room = op("Add", n, [sum(pair) for pair in win.padding] - reach)
        last = op("Div", op("Add", room, stride - 1), stride)
        # A last window that would start in the padding behind the image is none.
        beyond = op("GreaterOrEqual", op("Mul", last, stride), op("Add", n, before))
        last = op("Sub", last, op("Cast", beyond, to=_INT64))
        after = op("Max", op("Sub", op("Add", op("Mul", last, stride), reach - before), n), [0])
    else:
        last = op("Div", op("Sub", n, [1]), stride)
        total = op("Max", op("Sub", op("Add", op("Mul", last, stride), reach), n), [0])
        before = op("Div", total, [2])
        after = op("Sub", total, before)
    edges = op("Concat", zeros, before, zeros, after, axis=0)
    return graph.op("Pad", x, edges, np.array(filling, np.float32))
