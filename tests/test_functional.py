"""The door to the kernels: which arrays go in, what is converted, what is refused, and that nothing is written to."""

import numpy as np
import pytest

from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.functional import as_array
from convlayers.shapes import window
from convlayers.testing import assert_close

X = np.arange(2 * 3 * 5 * 6, dtype=np.float32).reshape(2, 3, 5, 6) / 50 - 1
W = np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3) / 50 - 1
B = np.arange(4, dtype=np.float32)
DY = np.arange(2 * 4 * 3 * 4, dtype=np.float32).reshape(2, 4, 3, 4) / 50 - 1

FORMS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "big-endian": lambda a: a.astype(">f4"),
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.float32, offset=1).reshape(a.shape),
    "list": lambda a: a.tolist(),
    "broadcast": lambda a: np.broadcast_to(a, a.shape),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_every_form_are_read_for_what_they_hold(form):
    x, w, b, dy = map(FORMS[form], (X, W, B, DY))
    options = {"stride": 1}
    if form == "list":  # lists hold Python's floats: float64
        x, w = np.asarray(x, np.float32), np.asarray(w, np.float32)
    y = functional.conv2d(x, w, b, **options)
    np.testing.assert_array_equal(y, functional.conv2d(X, W, B))
    gradients = functional.conv2d_backward(dy, x, w)
    for actual, expected in zip(gradients, functional.conv2d_backward(DY, X, W), strict=True):
        np.testing.assert_array_equal(actual, expected)
    win = window((5, 6), 2)
    np.testing.assert_array_equal(functional.max_pool2d(x, win)[0], functional.max_pool2d(X, win)[0])
    np.testing.assert_array_equal(functional.avg_pool2d(x, win), functional.avg_pool2d(X, win))
    np.testing.assert_array_equal(functional.relu(x), functional.relu(X))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint16", "bool", "float16"])
def test_integers_and_half_precision_become_float32(dtype):
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    array = as_array(x, "x")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, x.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float64", ">f8", "longdouble"])
def test_wide_floats_become_float64(dtype):
    assert as_array(np.ones(3, dtype), "x").dtype == np.float64
    assert functional.conv2d(X.astype(dtype), W).dtype == np.float64


def test_no_copy_where_none_is_needed():
    assert as_array(X, "x") is X
    assert np.shares_memory(as_array(X[:1], "x"), X)


def test_a_subclass_of_array_is_read_as_an_array():
    class Special(np.ndarray):
        """Whose operators may mean something else."""

    assert type(as_array(X.view(Special), "x")) is np.ndarray


@pytest.mark.parametrize(
    "value",
    [np.ones(2, complex), np.array(["a"]), np.array([object()]), None, "text", [[1, 2], [3]], np.array(["2020"], "M8[D]"), {}],
)
def test_what_holds_no_real_numbers_is_refused(value):
    with pytest.raises(ArrayTypeError, match="the image"):
        as_array(value, "the image")


def test_ranks_are_named():
    with pytest.raises(ShapeError, match=r"conv2d: x must have 4 axes \(N, C, H, W\); got shape \(3, 5, 6\)"):
        functional.conv2d(X[0], W)
    with pytest.raises(ShapeError, match="conv2d: w must have 4 axes"):
        functional.conv2d(X, W[0])
    with pytest.raises(ShapeError, match="max_pool2d: x must have 4 axes"):
        functional.max_pool2d(X[0], window((5, 6), 2))


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"conv2d: weight \(4, 2, 3, 3\) is for 2 input channels in 1 group\(s\); x has 3"):
        functional.conv2d(X, W[:, :2])
    with pytest.raises(ShapeError, match="conv2d: groups 2 must divide the 3 input channels"):
        functional.conv2d(X, W, groups=2)
    with pytest.raises(ShapeError, match=r"conv2d: b must have shape \(4,\), one value a filter; got \(3,\)"):
        functional.conv2d(X, W, B[:3])
    with pytest.raises(ShapeError, match="conv2d: kernel 3x3 does not fit the 2x6 input"):
        functional.conv2d(X[:, :, :2], W)
    for gradient in (DY[:1], DY[:, :3], DY[..., :2], DY[0]):
        with pytest.raises(ShapeError, match="conv2d: dy must have"):
            functional.conv2d_backward(gradient, X, W)
    win = window((5, 6), 2)
    with pytest.raises(ShapeError, match="avg_pool2d: dy must have the output's shape"):
        functional.avg_pool2d_backward(DY, X.shape, win)
    _, index = functional.max_pool2d(X, win)
    with pytest.raises(ShapeError, match="max_pool2d: dy must have the output's shape"):
        functional.max_pool2d_backward(DY, index, X.shape, win)
    with pytest.raises(ShapeError, match="relu: dy must have the output's shape"):
        functional.relu_backward(DY, X)


def test_options_out_of_range():
    for options in (
        {"stride": 0},
        {"padding": -1},
        {"dilation": 0},
        {"groups": 0},
        {"algorithm": "slow"},
    ):
        (name,) = options
        with pytest.raises(ConfigError, match=name):
            functional.conv2d(X, W, **options)
        with pytest.raises(ConfigError, match=name):
            functional.conv2d_backward(DY, X, W, **options)


def test_no_images_or_no_pixels_where_there_is_nothing_to_sum():
    for algorithm in ("auto", "einsum"):
        y = functional.conv2d(X[:0], W, B, algorithm=algorithm)
        assert y.shape == (0, 4, 3, 4)
        dx, dw, db = functional.conv2d_backward(DY[:0], X[:0], W, algorithm=algorithm)
        assert dx.shape == (0, 3, 5, 6)
        np.testing.assert_array_equal(dw, np.zeros_like(W))
        np.testing.assert_array_equal(db, np.zeros(4))
    y, index = functional.max_pool2d(X[:0], window((5, 6), 2))
    assert y.shape == index.shape == (0, 3, 2, 3)
    assert functional.max_pool2d_backward(y, index, (0, 3, 5, 6), window((5, 6), 2)).shape == (0, 3, 5, 6)
    assert functional.relu(X[:0]).shape == (0, 3, 5, 6)


@pytest.mark.parametrize(("channels", "filters"), [(0, 2), (2, 0), (0, 0)])
def test_convolutions_without_channels_or_filters_are_refused(channels, filters):
    x, w = np.zeros((1, channels, 4, 4), np.float32), np.zeros((filters, channels, 3, 3), np.float32)
    with pytest.raises(ShapeError, match="channel"):
        functional.conv2d(x, w)
    with pytest.raises(ShapeError, match="channel"):
        functional.conv2d_backward(np.zeros((1, filters, 2, 2), np.float32), x, w)


def test_the_bias_gradient_does_not_need_pixels():
    """Padding alone can make an output from an image without rows; its bias still counts."""
    x, dy = np.zeros((1, 1, 0, 4), np.float32), np.ones((1, 1, 4, 8), np.float32)
    for algorithm in ("auto", "einsum"):
        dw, db = functional.conv2d_backward_weight(dy, x, (1, 1, 1, 1), padding=2, algorithm=algorithm)
        assert (dw.item(), db.item()) == (0, 32)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_numbers_beyond_a_machine_integer_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.* must be at most"):
        functional.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 1, 1)), **{name: 2**40})


def test_the_index_of_a_maximum_is_that_of_the_forward_pass():
    win = window((5, 6), 2)
    y, index = functional.max_pool2d(X, win)
    for wrong in (index[:1], index[..., :1], index[0], index.astype(np.float32), None):
        with pytest.raises(ShapeError, match="index"):
            functional.max_pool2d_backward(y, wrong, X.shape, win)
    strided = np.repeat(index, 2, axis=-1)[..., ::2]
    expected = functional.max_pool2d_backward(y, index, X.shape, win)
    np.testing.assert_array_equal(functional.max_pool2d_backward(y, strided, X.shape, win), expected)


def test_a_window_for_a_larger_image_is_refused():
    win = window((50, 60), 2)
    with pytest.raises(ShapeError, match="window 3 of axis 0 holds padding alone"):
        functional.max_pool2d(X, win)
    with pytest.raises(ShapeError, match="window 3 of axis 0 holds padding alone"):
        functional.avg_pool2d(X, win)


def test_read_only_arrays_stay_as_they_are():
    arrays = [a.copy() for a in (X, W, B, DY)]
    for array in arrays:
        array.flags.writeable = False
    x, w, b, dy = arrays
    functional.conv2d(x, w, b)
    functional.conv2d_backward(dy, x, w)
    functional.relu_backward(x, functional.relu(x))
    for array, before in zip(arrays, (X, W, B, DY), strict=True):
        np.testing.assert_array_equal(array, before)


def test_all_gradients_are_those_of_the_parts():
    dx, dw, db = functional.conv2d_backward(DY, X, W)
    np.testing.assert_array_equal(dx, functional.conv2d_backward_input(DY, W, X.shape))
    np.testing.assert_array_equal(dw, functional.conv2d_backward_weight(DY, X, W.shape)[0])
    assert_close(db, DY.astype(np.float64).sum(axis=(0, 2, 3)), 24, "db")
