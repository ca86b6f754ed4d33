#!/usr/bin/env python3
"""Time every algorithm of a convolution beside what its cost model says: where the constants of `cost` come from.

    python tools/costs.py                    every shape, on the fastest instruction set
    python tools/costs.py --isa avx2         on another one
    python tools/costs.py --only 31x31       shapes with this in their title

For each direction and algorithm: microseconds on one thread, as measured and as modelled, and on two threads; then whether
`algorithm="auto"` takes the fastest. The last lines sum up measured / modelled for each algorithm.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from benchlib.cases import CONVS, PASSES, Conv

from convlayers import kernels
from convlayers.functional.plan import Plan, plan_conv

SHAPES = (
    *CONVS,
    # Calls of few multiply-adds, and tiles that are hardly filled.
    Conv(1, 1, 8, 1, 3, 1, 1),
    Conv(8, 1, 12, 4, 3, 1, 1),
    Conv(64, 1, 8, 16, 3, 1, 1),
    Conv(16, 2, 32, 2, 3, 1, 1),
    Conv(16, 16, 32, 16, 3, 1, 1),
    Conv(4, 512, 7, 512, 3, 1, 1),
    Conv(8, 64, 56, 64, 1),
    Conv(16, 32, 32, 32, 5, 1, 2),
    Conv(64, 32, 8, 64, 5, 1, 2),
    Conv(64, 20, 12, 50, 5, 1, 0),
    Conv(64, 16, 12, 32, 5, 1, 0),
    Conv(16, 128, 14, 128, 5, 1, 2),
    Conv(8, 16, 64, 16, 5, 1, 2),
    # Large kernels.
    Conv(16, 32, 32, 32, 7, 1, 3),
    Conv(8, 64, 32, 64, 11, 1, 5),
    Conv(8, 1, 64, 8, 15, 1, 7),
    Conv(8, 16, 64, 16, 21, 1, 10),
    Conv(4, 8, 128, 8, 31, 1, 15),
    Conv(4, 16, 128, 16, 31, 1, 15),
    Conv(1, 32, 128, 32, 31, 1, 15),
    Conv(4, 3, 128, 16, 31, 1, 15),
    Conv(4, 16, 64, 16, 31, 2, 15),
    Conv(2, 4, 96, 4, 64, 1, 0),
    Conv(4, 32, 56, 32, 13, 1, 6, 32),
    Conv(4, 32, 64, 32, 31, 1, 15, 32),
    Conv(2, 16, 128, 16, 31, 1, 15, 16),
)
SLOW = 3e5  # microseconds: an estimate over this is not measured


def fastest(run: Callable[[], object], seconds: float) -> float:
    """The least of a few runs, in microseconds."""
    times, end = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def operands(case: Conv, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and dy."""
    rng = np.random.default_rng(0)
    shapes = (
        (case.batch, case.channels, case.side, case.side),
        (case.filters, case.channels // case.groups, case.kernel, case.kernel),
        (case.batch, case.filters, case.output, case.output),
    )
    x, w, dy = (rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes)
    return x, w, dy


class Timing(NamedTuple):
    """Of one algorithm in one direction, in microseconds."""

    algorithm: str
    modelled: float
    one: float
    two: float


def call(plan: Plan, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Callable[[], object]:
    """One direction by one algorithm, beneath the checks of the arguments."""
    run, problem = plan.run, plan.problem
    return {
        "forward": lambda: run.forward(problem, False)(x, w, None),
        "input gradient": lambda: run.backward_input(problem)(dy, w),
        "weight gradient": lambda: run.backward_weight(problem)(dy, x),
    }[problem.direction]


def measure(case: Conv, direction: str, dtype: str, seconds: float) -> tuple[str, list[Timing]]:
    """What auto takes, and the timings of every algorithm but the reference."""
    arrays = operands(case, dtype)
    x, w, _ = arrays
    how = {"stride": case.stride, "padding": case.padding, "groups": case.groups}
    auto = plan_conv(direction, x.shape, w.shape, dtype, **how)
    timings = []
    for name, modelled in auto.costs.items():
        if name == "einsum" or modelled > SLOW:
            continue
        run = call(plan_conv(direction, x.shape, w.shape, dtype, **how, algorithm=name), *arrays)
        run()
        figures = []
        for threads in (1, 2):
            with kernels.using(threads=threads):
                figures.append(fastest(run, seconds))
        timings.append(Timing(name, modelled, *figures))
    return auto.algorithm, timings


def verdict(chosen: str, timings: list[Timing]) -> str:
    """Whether `chosen` is the fastest, on one thread and on two, and by how much it is not."""
    found = {t.algorithm: t for t in timings}
    if chosen not in found or len(found) < 2:
        return chosen
    lost = max(getattr(found[chosen], n) / min(getattr(t, n) for t in timings) for n in ("one", "two"))
    return chosen if lost < 1.05 else f"{chosen}, {lost:.2f} of the fastest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="shapes whose title has this in it")
    parser.add_argument("--isa", choices=kernels.available())
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=0.02, help="for one timing")
    args = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    print("| shape | direction | algorithm | measured, us | modelled | measured / modelled | 2 threads | auto |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    with kernels.using(isa=args.isa):
        for case in (c for c in SHAPES if args.only in c.title):
            for direction in PASSES:
                chosen, timings = measure(case, direction, args.dtype, args.seconds)
                for t in timings:
                    ratios.setdefault(t.algorithm, []).append(t.one / t.modelled)
                    cells = (case.title, direction, t.algorithm, f"{t.one:.0f}", f"{t.modelled:.0f}")
                    rest = (f"{t.one / t.modelled:.2f}", f"{t.two:.0f}", verdict(chosen, timings) if t == timings[0] else "")
                    print("| " + " | ".join((*cells, *rest)) + " |", flush=True)
    print()
    for name, values in ratios.items():
        low, *_, high = statistics.quantiles(values, n=10) if len(values) > 1 else values * 2
        print(f"{name}: measured / modelled: median {statistics.median(values):.2f}, 8 of 10 in {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
