"""The worked examples of the literature, symbol by symbol and with their numbers, and the reference against plain loops."""

from itertools import product

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional, kernels
from convlayers.kernels import reference
from convlayers.shapes import window
from convlayers.testing import assert_close

# Every symbol is a prime of its own: a wrong symbol, or a sum of two, is another number.
SYMBOLS = {
    "0": 0,
    **dict(zip([f"i{r}{c}" for r in "123" for c in "123"], (2, 3, 5, 7, 11, 13, 17, 19, 23), strict=True)),
    **dict(zip([f"k{r}{c}" for r in "12" for c in "12"], (29, 31, 37, 41), strict=True)),
    **dict(zip([f"b{r}{c}" for r in "12" for c in "12"], (43, 47, 53, 59), strict=True)),
}
OUTPUTS = ("y11", "y12", "y21", "y22")

# The outputs of a 3x3 image I under a 2x2 kernel K.
Y = {
    "y11": "i11 k11 + i12 k12 + i21 k21 + i22 k22",
    "y12": "i12 k11 + i13 k12 + i22 k21 + i23 k22",
    "y21": "i21 k11 + i22 k12 + i31 k21 + i32 k22",
    "y22": "i22 k11 + i23 k12 + i32 k21 + i33 k22",
}
# The 36 partial derivatives dY/dI: one 3x3 table for each output.
DY_DI = {
    "y11": "k11 k12 0 / k21 k22 0 / 0 0 0",
    "y12": "0 k11 k12 / 0 k21 k22 / 0 0 0",
    "y21": "0 0 0 / k11 k12 0 / k21 k22 0",
    "y22": "0 0 0 / 0 k11 k12 / 0 k21 k22",
}
# The 16 partial derivatives dY/dK: one 2x2 table for each output.
DY_DK = {
    "y11": "i11 i12 / i21 i22",
    "y12": "i12 i13 / i22 i23",
    "y21": "i21 i22 / i31 i32",
    "y22": "i22 i23 / i32 i33",
}


def table(text, dtype="float64"):
    """A table of symbols as an image, `(1, 1, H, W)`."""
    rows = [[SYMBOLS[symbol] for symbol in row.split()] for row in text.split("/")]
    return np.array(rows, dtype)[None, None]


def value(sum_of_products):
    terms = [term.split() for term in sum_of_products.split(" + ")]
    return sum(SYMBOLS[a] * SYMBOLS[b] for a, b in terms)


IMAGE = table("i11 i12 i13 / i21 i22 i23 / i31 i32 i33")
KERNEL = table("k11 k12 / k21 k22")
_WAYS = [(isa, "direct") for isa in kernels.available()]
EVERY_WAY = pytest.mark.parametrize(("isa", "algorithm"), [*_WAYS, (kernels.isa(), "auto"), (kernels.isa(), "einsum")])


@EVERY_WAY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution_of_3x3_by_2x2(isa, algorithm, dtype):
    image, kernel = IMAGE.astype(dtype), KERNEL.astype(dtype)
    with kernels.using(isa=isa):
        y = functional.conv2d(image, kernel, algorithm=algorithm)
        np.testing.assert_array_equal(y.ravel(), [value(Y[name]) for name in OUTPUTS])
        for number, name in enumerate(OUTPUTS):
            dy = np.zeros((1, 1, 2, 2), dtype)
            dy.flat[number] = 1
            d_image, d_kernel, d_bias = functional.conv2d_backward(dy, image, kernel, algorithm=algorithm)
            np.testing.assert_array_equal(d_image, table(DY_DI[name]), err_msg=f"d{name}/dI")
            np.testing.assert_array_equal(d_kernel, table(DY_DK[name]), err_msg=f"d{name}/dK")
            assert d_bias == [1]


@EVERY_WAY
def test_gradients_are_convolutions_themselves(isa, algorithm):
    """`dK = I * dY` and `dI = pad(dY) * flip(K)`."""
    dy = table("b11 b12 / b21 b22")
    with kernels.using(isa=isa):
        d_image, d_kernel, _ = functional.conv2d_backward(dy, IMAGE, KERNEL, algorithm=algorithm)
        np.testing.assert_array_equal(d_kernel, functional.conv2d(IMAGE, dy, algorithm=algorithm))
        flipped = KERNEL[:, :, ::-1, ::-1]
        np.testing.assert_array_equal(d_image, functional.conv2d(dy, flipped, padding=1, algorithm=algorithm))


@EVERY_WAY
def test_transposed_convolution_of_2x2_by_2x2(isa, algorithm):
    """The gradient with respect to the image, as a forward pass; its own gradients are a convolution and `dY * B`."""
    b, dy = table("b11 b12 / b21 b22"), IMAGE
    with kernels.using(isa=isa):
        y = functional.conv_transpose2d(b, KERNEL, algorithm=algorithm)
        np.testing.assert_array_equal(y, functional.conv2d_backward_input(b, KERNEL, IMAGE.shape, algorithm=algorithm))
        assert y[0, 0, 0].tolist() == [value("b11 k11"), value("b11 k12 + b12 k11"), value("b12 k12")]
        assert y[0, 0, 1, 1] == value("b11 k22 + b12 k21 + b21 k12 + b22 k11")
        db, d_kernel, d_bias = functional.conv_transpose2d_backward(dy, b, KERNEL, algorithm=algorithm)
        np.testing.assert_array_equal(db.ravel(), [value(Y[name]) for name in OUTPUTS])
        np.testing.assert_array_equal(d_kernel, functional.conv2d(dy, b, algorithm=algorithm))
        assert d_bias == [IMAGE.sum()]


@EVERY_WAY
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_the_worked_example_lies_in_every_plane_of_a_volume(isa, algorithm, axis):
    image, kernel, dy = (np.expand_dims(a, axis) for a in (IMAGE, KERNEL, table("b11 b12 / b21 b22")))
    with kernels.using(isa=isa):
        y = functional.conv3d(image, kernel, algorithm=algorithm)
        np.testing.assert_array_equal(y.ravel(), [value(Y[name]) for name in OUTPUTS])
        flat = functional.conv2d_backward(dy.squeeze(axis), IMAGE, KERNEL, algorithm=algorithm)
        for actual, expected in zip(functional.conv3d_backward(dy, image, kernel, algorithm=algorithm), flat, strict=True):
            np.testing.assert_array_equal(actual.ravel(), expected.ravel())


@EVERY_WAY
def test_the_worked_example_row_by_row(isa, algorithm):
    """A row of the image under a row of the kernel is a sequence; the sum over the kernel's rows is one over channels."""
    rows = [IMAGE[0, :, first : first + 2].reshape(1, 2, 3) for first in (0, 1)]
    with kernels.using(isa=isa):
        y = [functional.conv1d(row, KERNEL[0], algorithm=algorithm) for row in rows]
    np.testing.assert_array_equal(np.ravel(y), [value(Y[name]) for name in OUTPUTS])


@EVERY_WAY
def test_many_channels_sum_over_filters(isa, algorithm):
    """`dI_i = sum_j pad(dO_j) * flip(K_ij)`, `dK_ij = I_i * dO_j`, `db_j = sum dO_j`, channel by channel."""
    rng = np.random.default_rng(1)
    x, w = rng.integers(-4, 5, (1, 3, 5, 4)).astype(float), rng.integers(-4, 5, (2, 3, 2, 2)).astype(float)
    dy = rng.integers(-4, 5, (1, 2, 4, 3)).astype(float)
    with kernels.using(isa=isa):
        dx, dw, db = functional.conv2d_backward(dy, x, w, algorithm=algorithm)
        for i in range(3):
            parts = [functional.conv2d(dy[:, j : j + 1], w[j, i, ::-1, ::-1][None, None], padding=1) for j in range(2)]
            np.testing.assert_array_equal(dx[:, i : i + 1], sum(parts))
            for j in range(2):
                np.testing.assert_array_equal(dw[j, i], functional.conv2d(x[:, i : i + 1], dy[:, j : j + 1])[0, 0])
    np.testing.assert_array_equal(db, dy.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("isa", kernels.available())
def test_max_pooling_and_its_gradient(isa):
    a = np.array([[5, 2, 7, 4], [6, 3, 2, 1], [8, 6, 5, 9], [1, 3, 6, 1]], np.float32)[None, None]
    win = window((4, 4), 2)
    with kernels.using(isa=isa):
        b, index = functional.max_pool2d(a, win)
        da = functional.max_pool2d_backward(table("b11 b12 / b21 b22", "float32"), index, a.shape, win)
    np.testing.assert_array_equal(b[0, 0], [[6, 7], [8, 9]])
    np.testing.assert_array_equal(da, table("0 0 b12 0 / b11 0 0 0 / b21 0 0 b22 / 0 0 0 0"))


@pytest.mark.parametrize("isa", kernels.available())
def test_max_and_average_of_1_to_16(isa):
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    with kernels.using(isa=isa):
        highest = cl.Sequential([cl.MaxPool2d(2, stride=2)], input_shape=(1, 4, 4))(x)
        average = cl.Sequential([cl.AvgPool2d(2, stride=2)], input_shape=(1, 4, 4))(x)
        dx = functional.avg_pool2d_backward(np.float32([[[[4, 8], [12, 16]]]]), x.shape, window((4, 4), 2))
    np.testing.assert_array_equal(highest[0, 0], [[6, 8], [14, 16]])
    np.testing.assert_array_equal(average[0, 0], [[3.5, 5.5], [11.5, 13.5]])
    np.testing.assert_array_equal(dx[0, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_dense_network_by_hand():
    """`z = W a + b`, `a = s(z)`, `c = (1/n) ||a_L - y||^2`, and its gradients, with the numbers of a 2-2-1 network."""
    model = cl.Sequential([cl.Dense(2), cl.Sigmoid(), cl.Dense(1)], input_shape=(2,))
    w1, b1 = np.array([[0.5, -1.0], [1.5, 2.0]]), np.array([0.25, -0.75])
    w2, b2 = np.array([[2.0, -3.0]]), np.array([0.5])
    model.load_state_dict({"0.weight": w1, "0.bias": b1, "2.weight": w2, "2.bias": b2})
    a0, target = np.array([1.0, 0.5]), np.array([0.1])

    z1 = w1 @ a0 + b1
    np.testing.assert_array_equal(z1, [0.25, 1.75])
    a1 = 1 / (1 + np.exp(-z1))
    a2 = w2 @ a1 + b2
    d_a2 = 2 * (a2 - target)  # n = 1
    d_a1 = w2.T @ d_a2
    d_z1 = a1 * (1 - a1) * d_a1
    by_hand = {
        "0.weight": np.outer(d_z1, a0),
        "0.bias": d_z1,
        "2.weight": np.outer(d_a2, a1),
        "2.bias": d_a2,
    }

    y, tape = model.forward(a0[None])
    dx = model.backward(2 * (y - target), tape)
    # The parameters' gradients are kept in float32.
    assert_close(y, a2[None], 4, "output")
    assert_close(dx, (w1.T @ d_z1)[None], 4, "input gradient")
    for name, gradient in model.gradients().items():
        assert_close(gradient, by_hand[name], 4, name)


def _conv_by_loops(x, w, win, groups):
    n, _, height, width = x.shape
    y = np.zeros((n, len(w), *win.output))
    for i, m, p, q, c, r, s in product(*map(range, (*y.shape, *w.shape[1:]))):
        h = p * win.stride[0] + r * win.dilation[0] - win.padding[0][0]
        v = q * win.stride[1] + s * win.dilation[1] - win.padding[1][0]
        if 0 <= h < height and 0 <= v < width:
            channel = m // (len(w) // groups) * w.shape[1] + c
            y[i, m, p, q] += x[i, channel, h, v] * w[m, c, r, s]
    return y


@pytest.mark.parametrize("groups", [1, 2])
def test_reference_convolution_is_the_definition(groups):
    rng = np.random.default_rng(2)
    win = window((5, 6), (2, 3), stride=(2, 1), dilation=(1, 2), padding=((1, 0), (2, 1)))
    x, w = rng.integers(-4, 5, (2, 4, 5, 6)), rng.integers(-4, 5, (6, 4 // groups, 2, 3))
    y = _conv_by_loops(x, w, win, groups)
    np.testing.assert_array_equal(reference.conv_forward(x, w, None, win, groups), y)
    # The gradients are the transpose: <dy, conv(x, w)> = <dx, x> = <dw, w>.
    dy = rng.integers(-4, 5, y.shape)
    dx = reference.conv_backward_input(dy, w, x.shape, win, groups)
    dw, db = reference.conv_backward_weight(dy, x, w.shape, win, groups)
    assert (dy * y).sum() == (dx * x).sum() == (dw * w).sum()
    np.testing.assert_array_equal(db, dy.sum(axis=(0, 2, 3)))


def test_patches_and_fold_are_transposes():
    rng = np.random.default_rng(3)
    win = window((7, 6), 3, stride=2, padding=1, ceil_mode=True)
    x = rng.integers(-4, 5, (2, 3, 7, 6)).astype(float)
    columns = reference.patches(x, win)
    other = rng.integers(-4, 5, columns.shape).astype(float)
    assert (columns * other).sum() == (x * reference.fold(other, x.shape, win)).sum()
