#!/usr/bin/env python3
"""Measure how far each algorithm of a convolution lies from the exact result, and write the tables of docs/numerics.md.

    python tools/numerics.py                 on the fastest instruction set
    python tools/numerics.py --isa avx2      on another one

Operands are drawn so that results have unit variance. The exact result is the sum as it is defined, in `numpy.longdouble`, of
the same rounded operands.
"""

import argparse
import sys
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convlayers import functional as F
from convlayers import kernels
from convlayers.functional import plan
from convlayers.functional.algorithms.problem import DIRECTIONS, FORWARD, INPUT_GRADIENT
from convlayers.shapes import window

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "numerics.md"
MARKERS = "<!-- tools/numerics.py writes from here -->", "<!-- to here -->"


class Shape(NamedTuple):
    """Two images of `channels`, `side` x `side`, to filters of `kernel` x `kernel`, or with `row` of 1 x `kernel`."""

    kernel: int
    channels: int
    side: int
    stride: int = 1
    padding: str = "same"
    row: bool = False

    @property
    def taps(self) -> tuple[int, int]:
        return 1 if self.row else self.kernel, self.kernel

    @property
    def title(self) -> str:
        how = f", stride {self.stride}" if self.stride > 1 else ", no padding" if self.padding == "valid" else ""
        return f"{self.taps[0]}x{self.kernel}, {self.channels} channels, {self.side}x{self.side}{how}"

    @property
    def output(self) -> int:
        return self.side - self.kernel + 1 if self.padding == "valid" else -(-self.side // self.stride)


SHAPES = (
    *(Shape(3, channels, 16) for channels in (3, 16, 64, 512)),
    *(Shape(3, channels, 32, stride=2) for channels in (16, 64, 512)),
    *(Shape(kernel, 64, 32, stride=2) for kernel in (4, 5)),
    Shape(5, 32, 16),
    *(Shape(kernel, 64, 12, padding="valid") for kernel in (3, 5)),
    Shape(7, 32, 16),
    Shape(11, 16, 32),
    Shape(31, 8, 40),
    *(Shape(kernel, 64, 24, row=True) for kernel in (2, 3, 5, 7)),
)
FILTERS = 8  # as many as tell enough; the exact sum is slow
IMAGES = 2


def operands(shape: Shape, direction: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and dy, of which the direction reads two."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES, shape.channels, shape.side, shape.side))
    w = rng.standard_normal((FILTERS, shape.channels, *shape.taps))
    dy = rng.standard_normal((IMAGES, FILTERS, shape.output, shape.output))
    w /= np.sqrt((shape.channels if direction == FORWARD else FILTERS / shape.stride**2) * prod(shape.taps))
    if direction not in (FORWARD, INPUT_GRADIENT):
        dy /= np.sqrt(IMAGES * shape.output**2)
    return tuple(a.astype(dtype) for a in (x, w, dy))  # type: ignore[return-value]


def exact(shape: Shape, direction: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The definition, tap by tap, in long double."""
    x, w, dy = (a.astype(np.longdouble) for a in (x, w, dy))
    size, kernel, stride = x.shape[2:], w.shape[2:], shape.stride
    (top, bottom), (left, right) = window(size, kernel, stride=stride, padding=shape.padding).padding
    rows, columns = (stride * (n - 1) + 1 for n in dy.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    y, dx, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    for r, s in np.ndindex(kernel):
        read = (slice(None), slice(None), slice(r, r + rows, stride), slice(s, s + columns, stride))
        if direction == FORWARD:
            y += np.einsum("nchw,mc->nmhw", padded[read], w[:, :, r, s])
        elif direction == INPUT_GRADIENT:
            dx[read] += np.einsum("nmhw,mc->nchw", dy, w[:, :, r, s])
        else:
            dw[:, :, r, s] = np.einsum("nchw,nmhw->mc", padded[read], dy)
    return {FORWARD: y, INPUT_GRADIENT: dx[:, :, top : top + size[0], left : left + size[1]]}.get(direction, dw)


def computed(shape: Shape, algorithm: str, direction: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    how: dict[str, Any] = {"stride": shape.stride, "padding": shape.padding, "algorithm": algorithm}
    if direction == FORWARD:
        return F.conv2d(x, w, **how)
    if direction == INPUT_GRADIENT:
        return F.conv2d_backward_input(dy, w, x.shape, **how)
    return F.conv2d_backward_weight(dy, x, w.shape, **how)[0]


def cells(shape: Shape, direction: str, dtype: str) -> list[str]:
    """The largest and the mean error of every algorithm."""
    x, w, dy = operands(shape, direction, dtype)
    expected = exact(shape, direction, x, w, dy)
    how: dict[str, Any] = {"stride": shape.stride, "padding": shape.padding}
    refused = plan.plan_conv(direction, x.shape, w.shape, dtype, **how).refusals
    texts = []
    for algorithm in plan._MODULES:
        if algorithm in refused:
            texts.append("refused")
        else:
            error = np.abs(computed(shape, algorithm, direction, x, w, dy) - expected)
            texts.append(f"{error.max():.1e}, {error.mean():.0e}")
    return texts


def tables(isa: str) -> str:
    """One table for each data type."""
    parts = [f"Measured with the {isa} kernels and NumPy {np.__version__}. Each cell: largest error, mean error."]
    for dtype in ("float32", "float64"):
        parts.append(f"\n**{dtype}** (machine epsilon {np.finfo(dtype).eps:.1e})\n")
        parts.append("| shape | direction | " + " | ".join(plan._MODULES) + " |")
        parts.append("|---|---|" + "---|" * len(plan._MODULES))
        for shape in SHAPES:
            for direction in DIRECTIONS:
                parts.append(f"| {shape.title} | {direction} | " + " | ".join(cells(shape, direction, dtype)) + " |")
                print(parts[-1], file=sys.stderr, flush=True)
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=kernels.available(), default=kernels.isa())
    args = parser.parse_args()
    with kernels.using(isa=args.isa):
        text = tables(args.isa)
    print(text)
    before, rest = DOCUMENT.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    DOCUMENT.write_text(f"{before}{MARKERS[0]}\n\n{text}\n\n{MARKERS[1]}{after}")


if __name__ == "__main__":
    main()
