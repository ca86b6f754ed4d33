"""Linear maps along single axes in ONNX, for layers that no operator serves everywhere."""

from collections.abc import Mapping

import numpy as np

from ..functional import Taps
from ..layer import OnnxGraph


def mapped(graph: OnnxGraph, x: str, rank: int, maps: Mapping[int, Taps], value: float = 0.0) -> str:
    """x `(N, ...)` of `rank` axes under the maps of its axes, as `functional.resample` computes them."""
    for axis, taps in maps.items():
        one = taps.weight.shape[1] == 1 and (taps.weight[~taps.empty] == 1).all()
        x = _picked(graph, x, taps, axis) if one else _product(graph, x, rank, taps, axis)
    for axis, taps in maps.items():
        if taps.empty.any():
            outside = taps.empty.reshape(-1, *(1,) * (rank - 1 - axis))
            x = graph.op("Where", outside, np.array(value, np.float32), x)
    return x


def _picked(graph: OnnxGraph, x: str, taps: Taps, axis: int) -> str:
    return graph.op("Gather", x, taps.source[:, 0].astype(np.int64), axis=axis)


def _product(graph: OnnxGraph, x: str, rank: int, taps: Taps, axis: int) -> str:
    matrix = taps.matrix().astype(np.float32)
    if axis == rank - 2:
        return graph.op("MatMul", matrix, x)
    if axis == rank - 1:
        return graph.op("MatMul", x, np.ascontiguousarray(matrix.T))
    swapped = [*range(axis), rank - 1, *range(axis + 1, rank - 1), axis]
    y = graph.op("MatMul", graph.op("Transpose", x, perm=swapped), np.ascontiguousarray(matrix.T))
    return graph.op("Transpose", y, perm=swapped)
