#!/usr/bin/env python3
"""How time and memory grow with the batch, the image and the channels, and where they jump.

    python tools/growth.py                       every series, as a table; jumps are marked
    python tools/growth.py --only side           series with this in their name
    python tools/growth.py --plots docs          also docs/growth-time.png and growth-memory.png, with matplotlib

Time is in nanoseconds for each multiply-add, which should fall to a constant; memory is the peak of the process over what it
held before (Linux), divided by the bytes of the operands and results. A jump is a size that costs 1.6 times as much for each
multiply-add as a neighbour not more than a third away. Calls under 50 microseconds are not judged: there the call itself shows.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import convlayers as cl
from convlayers import functional as F
from convlayers import kernels
from convlayers.kernels import memory
from convlayers.shapes import window
from convlayers.trainer.losses import get_loss

JUMP, NEAR, SHORTEST = 1.6, 4 / 3, 50e-6
# Powers of two, what lies beside them and beside the edges of a tile of 14 rows or 6, primes.
CHANNELS = (
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
    12,
    13,
    14,
    15,
    16,
    17,
    24,
    27,
    28,
    29,
    31,
    32,
    33,
    43,
    48,
    63,
    64,
    65,
    97,
    127,
    128,
    129,
    192,
)
SIDES = (1, 2, 3, 5, 7, 8, 9, 11, 13, 14, 15, 16, 17, 23, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 127, 128, 129)
LONG = (*SIDES, 255, 256, 257, 511, 512, 513, 1021, 1024, 2048, 4096)
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 24, 31, 32, 33, 64, 65, 127, 128)


class Work(NamedTuple):
    """Something to be measured."""

    run: Callable[[], object]
    multiply_adds: float
    operands: int  # bytes of the operands and results


class Point(NamedTuple):
    """A measured size of a series."""

    size: int
    seconds: float
    cost: float  # nanoseconds a multiply-add
    memory: float  # peak bytes over the bytes of operands and results; NaN where the system does not tell


def convolution(direction: str, batch: int, channels: int, height: int, width: int, filters: int, kernel: int = 3) -> Work:
    rng = np.random.default_rng(0)
    shapes = ((batch, channels, height, width), (filters, channels, kernel, kernel), (batch, filters, height, width))
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in shapes)
    run = {
        "forward": lambda: F.conv2d(x, w, padding="same"),
        "dx": lambda: F.conv2d_backward_input(dy, w, x.shape, padding="same"),
        "dw": lambda: F.conv2d_backward_weight(dy, x, w.shape, padding="same"),
    }[direction]
    # Taps over the image: those over the padding are multiplied by nothing that counts.
    taps = np.prod([sum(min(n, i + 2) - max(0, i - 1) for i in range(n)) for n in (height, width)]) if kernel == 3 else 0
    return Work(run, float(batch * channels * filters * taps), x.nbytes + w.nbytes + dy.nbytes)


def pooling(direction: str, batch: int, channels: int, side: int) -> Work:
    x = np.random.default_rng(0).standard_normal((batch, channels, side, side), np.float32)
    win = window(x.shape[2:], 3, stride=2, padding=1)
    y, index = F.max_pool2d(x, win)
    run = {
        "forward": lambda: F.max_pool2d(x, win),
        "backward": lambda: F.max_pool2d_backward(y, index, x.shape, win),
    }[direction]
    return Work(run, float(9 * y.size), x.nbytes + 2 * y.nbytes)


def training(batch: int, side: int) -> Work:
    """A step of a small network, without its optimizer."""
    layers = [cl.Conv2d(16, 3, padding="same"), cl.ReLU(), cl.MaxPool2d(2), cl.Conv2d(32, 3, padding="same"), cl.ReLU()]
    model = cl.Sequential([*layers, cl.Flatten(), cl.Dense(10)], input_shape=(3, side, side))
    x = np.random.default_rng(0).standard_normal((batch, 3, side, side), np.float32)
    targets, loss = np.arange(batch) % 10, get_loss("cross_entropy")

    def run() -> None:
        model.zero_gradients()
        y, tape = model.forward(x, step=0)
        model.backward(loss(y, targets)[1], tape, input_gradient=False)

    half = side // 2
    products = 2 * 432 * side**2 + 3 * 4608 * half**2 + 3 * 320 * half**2
    activations = 4 * batch * (3 * side**2 + 2 * 16 * side**2 + (16 + 2 * 32) * half**2)
    return Work(run, float(batch * products), activations + 3 * sum(p.nbytes for p in model.parameters().values()))


def every_series() -> dict[str, tuple[tuple[int, ...], Callable[[int], Work]]]:
    """By name: the sizes, and the work of one size."""
    found: dict[str, tuple[tuple[int, ...], Callable[[int], Work]]] = {}
    for d in ("forward", "dx", "dw"):
        found[f"batch, conv {d}"] = BATCHES, lambda n, d=d: convolution(d, n, 16, 16, 16, 16)
        found[f"side, conv {d}"] = SIDES, lambda n, d=d: convolution(d, 8, 16, n, n, 16)
        found[f"channels in, conv {d}"] = CHANNELS, lambda n, d=d: convolution(d, 8, n, 16, 16, 32)
        found[f"channels out, conv {d}"] = CHANNELS, lambda n, d=d: convolution(d, 8, 32, 16, 16, n)
        found[f"height at width 1, conv {d}"] = LONG, lambda n, d=d: convolution(d, 8, 16, n, 1, 16)
        found[f"width at height 1, conv {d}"] = LONG, lambda n, d=d: convolution(d, 8, 16, 1, n, 16)
    for d in ("forward", "backward"):
        found[f"side, max pool {d}"] = SIDES, lambda n, d=d: pooling(d, 16, 16, n)
    found["batch, training step"] = BATCHES, lambda n: training(n, 16)
    found["side, training step"] = tuple(n for n in SIDES if n > 1), lambda n: training(16, n)
    return found


def peak_over(run: Callable[[], object]) -> float:
    """Bytes that the process grew by while this ran; NaN where the system does not tell."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return float("nan")

    def field(name: str) -> int:
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(name))

    memory.forget_scratch()
    memory.release()
    ctypes.CDLL(None).malloc_trim(0)  # what lies free in the heap would hide as much growth
    clear.write_text("5")  # sets the peak back to what is held now
    before = field("VmRSS")
    run()
    return float(field("VmHWM") - before)


def measure(size: int, work: Work, seconds: float) -> Point:
    work.run()
    grown = peak_over(work.run)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work.run()
        times.append(time.perf_counter() - start)
    least = min(times)
    return Point(size, least, 1e9 * least / work.multiply_adds, grown / work.operands)


def series(sizes: tuple[int, ...], build: Callable[[int], Work], seconds: float) -> list[Point]:
    """Every size; those that jump are measured again, and what does not jump every time is the machine's."""
    points = {n: measure(n, build(n), seconds) for n in sizes}
    for _ in range(3):
        for n in jumps(list(points.values())):
            again = measure(n, build(n), 5 * seconds)
            points[n] = min(points[n], again, key=lambda p: p.seconds)
    return list(points.values())


def jumps(points: list[Point]) -> dict[int, str]:
    """Which sizes cost much more than a neighbour."""
    found = {}
    for a in points:
        beside = [b for b in points if b.size != a.size and max(a.size, b.size) <= NEAR * min(a.size, b.size)]
        least = min(beside, key=lambda b: b.cost, default=a)
        if a.seconds >= SHORTEST and a.cost > JUMP * least.cost:
            found[a.size] = f"{a.cost / least.cost:.1f} times {least.size}"
    return found


def plot(results: dict[str, list[Point]], field: str, label: str, path: Path) -> None:
    """One panel for each series' first word, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image  # which matplotlib needs too

    panels = sorted({name.split(",")[0] for name in results})
    figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(9, 3 * -(-len(panels) // 2)), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for name, points in results.items():
            if name.split(",")[0] == panel:
                values = [getattr(p, field) for p in points]
                axis.plot([p.size for p in points], values, ".-", linewidth=0.8, markersize=3, label=name.split(", ")[1])
        axis.set(xscale="log", yscale="log", title=panel, ylabel=label)
        axis.legend(fontsize=6)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="series with this in their name")
    parser.add_argument("--threads", type=int, default=kernels.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.01, help="for one size")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    args = parser.parse_args()
    results = {}
    print("| series | size | microseconds | ns a multiply-add | memory | jump |\n|---|---:|---:|---:|---:|---|")
    with kernels.using(threads=args.threads):
        for name, (sizes, build) in every_series().items():
            if args.only not in name:
                continue
            points = results[name] = series(sizes, build, args.seconds)
            marked = jumps(points)
            for p in points:
                cells = (name, p.size, f"{p.seconds * 1e6:.0f}", f"{p.cost:.4f}", f"{p.memory:.1f}", marked.get(p.size, ""))
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if args.plots:
        plot(results, "cost", "ns a multiply-add", args.plots / "growth-time.png")
        plot(results, "memory", "peak / operands", args.plots / "growth-memory.png")


if __name__ == "__main__":
    main()
