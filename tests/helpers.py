"""What tests share: kernels on every machine setting against the reference, random windows, and small networks."""

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import convlayers as cl
from convlayers import functional, kernels
from convlayers.kernels import reference
from convlayers.shapes import window
from convlayers.testing import assert_close, on_every_machine, spread

# The same cases in every run; a failure prints the smallest one.
random_cases = settings(derandomize=True, deadline=None, database=None, print_blob=False)

DTYPES = ("float32", "float64")


def edges(isa: str, dtype: str) -> tuple[int, int]:
    """Values a vector, and rows a tile: what decides where this instruction set's blocks end."""
    with kernels.using(isa=isa):
        return kernels.compiled(np.dtype(dtype)).layout()


def beside(block: int) -> list[int]:
    """The sizes beside the edges of blocks of `block`."""
    return sorted({n for n in (1, block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1) if n > 0})


def assert_kernel(
    compute: Callable[[], Sequence[np.ndarray]],
    expected: Sequence[np.ndarray],
    lengths: Sequence[int],
    what: str,
    dtype: str,
) -> None:
    """Fail unless `compute` gives `expected`, by sums of `lengths` products, on every machine setting."""
    for isa, arrays in on_every_machine(compute).items():
        for number, (actual, wanted, length) in enumerate(zip(arrays, expected, lengths, strict=True)):
            assert actual.dtype == dtype, f"{what}: result {number} is {actual.dtype}"
            assert_close(actual, wanted, length, f"{what}, {dtype} under {isa}, result {number}")


def check_winograd(
    images, channels, filters, size, *, padding, stride=1, dilation=1, kernel=3, groups=1, dtype="float32", seed=0
):
    """Fail unless `algorithm="winograd"` gives forward with and without ReLU, input gradient and weight gradient."""
    rng = np.random.default_rng(seed)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = rng.standard_normal((images, channels, *size)).astype(dtype)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
    b = rng.standard_normal(filters).astype(dtype)
    win = window(size, kernel, stride=stride, dilation=dilation, padding=padding)
    dy = rng.standard_normal((images, filters, *win.output)).astype(dtype)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "algorithm": "winograd"}
    y = reference.conv_forward(x, w, b, win, groups)
    expected = [y, np.maximum(y, 0), reference.conv_backward_input(dy, w, x.shape, win, groups)]
    forward, backward = w[0].size + 1, w.size // channels
    expected += reference.conv_backward_weight(dy, x, w.shape, win, groups)
    lengths = [forward, forward, backward, dy[:, 0].size, dy[:, 0].size]

    def compute():
        results = [functional.conv2d(x, w, b, **how), functional.conv2d(x, w, b, **how, relu=True)]
        results.append(functional.conv2d_backward_input(dy, w, x.shape, **how))
        return results + list(functional.conv2d_backward_weight(dy, x, w.shape, **how))

    assert_kernel(compute, expected, lengths, f"x {x.shape}, w {w.shape}, {how}, seed {seed}", dtype)


@st.composite
def windows(draw: st.DrawFn, largest_kernel: int = 4, *, dilations: bool = True, pad: int = 3) -> dict:
    """Two axes of a window that fits: kernel, stride, dilation, asymmetric padding, and the input's size."""
    axes = []
    for _ in range(2):
        kernel = draw(st.integers(1, largest_kernel))
        dilation = draw(st.integers(1, 3)) if dilations else 1
        before, after = draw(st.integers(0, pad)), draw(st.integers(0, pad))
        least = max(1, dilation * (kernel - 1) + 1 - before - after)
        axes.append((kernel, draw(st.integers(1, 3)), dilation, (before, after), draw(st.integers(least, least + 10))))
    kernel, stride, dilation, padding, size = zip(*axes, strict=True)
    return {"kernel": kernel, "stride": stride, "dilation": dilation, "padding": padding, "size": size}


def small_cnn(seed: int = 0) -> cl.Sequential:
    """One layer of each kind, one of them drawing, for samples of (2, 6, 8)."""
    layers = [cl.Conv2d(4, 3, padding="same"), cl.ReLU(), cl.MaxPool2d(2), cl.Flatten(), cl.Dropout(0.4), cl.Dense(3)]
    return cl.Sequential(layers, input_shape=(2, 6, 8), seed=seed)


def images(n: int = 3, dtype: str = "float32") -> np.ndarray:
    """A batch for `small_cnn`."""
    return spread((n, 2, 6, 8), np.random.default_rng(1), dtype)


def residual(seed: int = 0) -> cl.Model:
    """Two inputs, a join, and one layer at two places."""
    a, b = cl.Input((3, 6, 6)), cl.Input((3, 6, 6))
    conv = cl.Conv2d(3, 3, padding=1)
    joined = cl.Add()(conv(a, name="left"), conv(b, name="right"), a)
    return cl.Model([a, b], cl.Flatten()(cl.Tanh()(joined, name="bend")), seed=seed)
