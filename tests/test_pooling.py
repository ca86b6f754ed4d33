"""What pooling layers promise: their values by hand, their draws, their errors."""

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, DataError, ShapeError
from convlayers.randomness import generator, training_step
from convlayers.shapes import window

NAN = np.nan


def inference(layer, x):
    return cl.Sequential([layer], input_shape=x.shape[1:])(x)


ONE_TO_16 = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def test_poolings_of_1_to_16():
    """The windows of 2 x 2 begin with 1 2 / 5 6."""
    expected = {
        cl.MinPool2d(2): [[1, 3], [9, 11]],
        cl.MixedPool2d(2, mix=1): [[6, 8], [14, 16]],
        cl.MixedPool2d(2, mix=0): [[3.5, 5.5], [11.5, 13.5]],
        cl.MixedPool2d(2): [[4.75, 6.75], [12.75, 14.75]],
        cl.MixedPool2d(2, mix="learned"): [[4.75, 6.75], [12.75, 14.75]],
        cl.LpPool2d(1, 2): [[14, 22], [46, 54]],
        cl.StochasticPool2d(2): [[66 / 14, 138 / 22], [546 / 46, 746 / 54]],
        cl.AdaptiveMaxPool2d(3): [[6, 7, 8], [10, 11, 12], [14, 15, 16]],
        cl.AdaptiveAvgPool2d((1, 3)): [[7.5, 8.5, 9.5]],
        cl.GlobalMaxPool2d(): [[16]],
        cl.GlobalAvgPool2d(): [[8.5]],
    }
    for layer, values in expected.items():
        np.testing.assert_allclose(inference(layer, ONE_TO_16)[0, 0], values, rtol=1e-6, err_msg=repr(layer))


def test_a_norm_is_one_of_magnitudes():
    x = np.array([[3, -4], [0, 0]], np.float32)[None, None]
    np.testing.assert_allclose(inference(cl.LpPool2d(2, 2), x), 5, rtol=1e-6)
    np.testing.assert_allclose(inference(cl.LpPool2d(3, 2), x), 91 ** (1 / 3), rtol=1e-6)
    # d(|3|^3 + |-4|^3)^(1/3): 3^2 and -(4^2) over y^2
    layer = cl.LpPool2d(3, 2)
    _, cache = layer.forward(x, training=True)
    dx = layer.backward(np.ones((1, 1, 1, 1), np.float32), cache)
    np.testing.assert_allclose(dx[0, 0], np.array([[9, -16], [0, 0]]) / 91 ** (2 / 3), rtol=1e-6)


def test_the_first_of_equal_maxima_in_a_volume():
    x = np.zeros((1, 1, 2, 2, 2), np.float32)
    x[0, 0, 0, 1, 0] = x[0, 0, 0, 1, 1] = x[0, 0, 1, 0, 0] = 7
    win = window((2, 2, 2), 2)
    _, index = functional.max_pool(x, win)
    dx = functional.max_pool_backward(np.ones((1, 1, 1, 1, 1), np.float32), index, x.shape, win)
    assert np.argwhere(dx).tolist() == [[0, 0, 0, 1, 0]]


def draw_many(x, steps, layer):
    for step in range(steps):
        with training_step(3, step):
            yield layer.forward(x, training=True)


def test_stochastic_draws_by_the_activations():
    """40,000 windows of 0 1 / 3 4 on padding: the shares of the three, within four standard deviations."""
    x = np.tile(np.array([[0, 1], [3, 4]], np.float32), (100, 100, 1, 1))
    layer = cl.StochasticPool2d(4, padding=1)
    outputs = np.concatenate([y.ravel() for y, _ in draw_many(x, 4, layer)])
    assert outputs.size == 40_000
    for value, share in ((0, 0), (1, 1 / 8), (3, 3 / 8), (4, 4 / 8)):
        assert abs((outputs == value).mean() - share) <= 4 * np.sqrt(share * (1 - share) / outputs.size), value
    assert abs(outputs.mean() - inference(layer, x[:1]).mean()) <= 4 * outputs.std() / 200


def test_stochastic_draws_by_step_and_sends_the_gradient_to_the_drawn():
    x = np.random.default_rng(4).random((2, 3, 8, 8), np.float32)
    layer = cl.StochasticPool2d(2)
    (first, cache), (other, _) = draw_many(x, 2, layer)
    (again, _), *_ = draw_many(x, 1, layer)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    dx = layer.backward(np.ones_like(first), cache)
    assert dx.sum() == first.size
    np.testing.assert_array_equal(np.sort(x[dx == 1]), np.sort(first.ravel()))


def test_a_window_of_zeros_gives_zero_and_no_gradient():
    x = np.zeros((1, 1, 2, 4), np.float32)
    x[..., 2:] = 1
    for training in (True, False):
        layer = cl.StochasticPool2d(2)
        y, cache = layer.forward(x, training=training)
        dx = layer.backward(np.ones_like(y), cache)
        assert y.ravel().tolist() == [0, 1]
        assert not dx[..., :2].any()


def test_stochastic_pooling_of_what_is_hardly_there():
    """The smallest numbers, whose products with a draw are rounded to 0 or to themselves; NaN and infinity."""
    tiny = np.nextafter(np.float32(0), np.float32(1))
    x = np.array([[0, tiny, 0, 0, NAN, 1, np.inf, 1]], np.float32).reshape(1, 1, 1, 8)
    win = window((1, 8), (1, 2))
    for draw in (0, 0.5, 1 - 2**-24):
        y, index = functional.stochastic_pool(x, win, np.full((1, 1, 1, 4), draw, np.float32))
        np.testing.assert_array_equal(y.ravel(), np.float32([tiny, 0, NAN, NAN]))
        assert index.ravel()[0] == 1


def test_a_learned_mix_follows_its_gradient():
    """The loss wants the maximum: the logit's gradient is m (1 - m) times the sum of max - average, and m grows."""
    layer = cl.MixedPool2d(2, mix="learned")
    model = cl.Sequential([layer], input_shape=(1, 4, 4))
    y, tape = model.forward(ONE_TO_16)
    model.backward(-np.ones_like(y), tape)
    np.testing.assert_allclose(layer.grads["mix_logit"], [-0.25 * 4 * 2.5], rtol=1e-6)
    layer.params["mix_logit"][:] = 1000  # however far an update goes, the mix stays between the two
    np.testing.assert_allclose(model(ONE_TO_16)[0, 0], [[6, 8], [14, 16]], rtol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.LpPool2d(0.5, 2), ConfigError, r"p must be at least 1 and finite; got 0\.5"),
        (lambda: cl.LpPool2d(float("inf"), 2), ConfigError, "p must be at least 1 and finite; got inf"),
        (lambda: cl.LpPool2d("2", 2), ConfigError, "p must be at least 1 and finite; got '2'"),
        (lambda: cl.MixedPool2d(2, mix=1.5), ConfigError, r'mix must be between 0 and 1, or "learned"; got 1\.5'),
        (lambda: cl.MixedPool2d(2, mix=-0.1), ConfigError, r'mix must be between 0 and 1, or "learned"; got -0\.1'),
        (lambda: cl.MixedPool2d(2, mix="max"), ConfigError, "mix must be between 0 and 1, or \"learned\"; got 'max'"),
        (lambda: cl.MixedPool2d(2, mix=True), ConfigError, "mix must be between 0 and 1"),
        (lambda: cl.MixedPool2d(2, count_include_pad=1), ArrayTypeError, "count_include_pad is True or False; got 1"),
        (lambda: cl.MaxPool1d((2, 2)), ConfigError, "kernel_size is an int or 1 ints"),
        (lambda: cl.MaxPool3d((2, 2)), ConfigError, "kernel_size is an int or 3 ints"),
        (lambda: cl.AvgPool3d(2, padding=-1), ConfigError, "padding must be at least 0; got -1"),
        (lambda: cl.MinPool2d(2, dilation=0), ConfigError, "dilation must be at least 1; got 0"),
        (lambda: cl.StochasticPool2d(2, ceil_mode=0), ArrayTypeError, "ceil_mode is True or False; got 0"),
        (lambda: cl.AdaptiveAvgPool2d(0), ConfigError, "output_size must be at least 1; got 0"),
        (lambda: cl.AdaptiveMaxPool3d((2, 2)), ConfigError, "output_size is an int or 3 ints, one per axis"),
        (lambda: cl.AdaptiveMaxPool1d(None), ArrayTypeError, "output_size is an int"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.MaxPool1d(2), (3, 4, 5), r"takes signals \(C, L\); got a sample of shape \(3, 4, 5\)"),
        (cl.LpPool2d(2, 2), (3, 4), r"takes images \(C, H, W\); got a sample of shape \(3, 4\)"),
        (cl.AvgPool3d(2), (3, 4, 5), r"takes volumes \(C, D, H, W\); got a sample of shape \(3, 4, 5\)"),
        (cl.GlobalMaxPool1d(), (3,), r"takes signals \(C, L\); got a sample of shape \(3,\)"),
        (cl.AdaptiveAvgPool3d(1), (3, 4), r"takes volumes \(C, D, H, W\)"),
        (cl.AdaptiveAvgPool2d(7), (3, 9, 5), "output_size 7x7 is larger than the 9x5 input; use at most its size"),
        (cl.AdaptiveMaxPool1d(4), (3, 3), "output_size 4 is larger than the 3 input"),
        (cl.StochasticPool2d(2), (1, 1, 1), "kernel 2x2 does not fit the 1x1 input; pad it or use a smaller kernel"),
        (cl.MaxPool3d(3), (1, 3, 3, 2), "kernel 3x3x3 does not fit the 3x3x2 input"),
        (cl.MixedPool2d(2, padding=2), (1, 3, 3), "window 0 of axis 0 holds padding alone"),
        (cl.AvgPool1d(2, padding=[[0, 4]]), (1, 4), "window 2 of axis 0 holds padding alone"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape, generator(0, "test"))


def test_stochastic_pooling_trains_on_no_negative_values():
    model = cl.Sequential([("pool", cl.StochasticPool2d(2))], input_shape=(1, 2, 2))
    x = np.array([[1, 2], [-0.25, NAN]], np.float32)[None, None]
    with pytest.raises(DataError, match=r'^StochasticPool2d "pool": takes no values below 0, .* got -0\.25; put a ReLU before'):
        model.forward(x)


def test_what_a_gradient_needs_is_that_of_the_forward_pass():
    x, win = np.ones((1, 2, 4, 4, 4), np.float32), window((4, 4, 4), 2)
    y, index = functional.max_pool(x, win)
    for wrong in (index[:1], index[0], None, index[::-1]):
        with pytest.raises(ShapeError, match="index must be what the forward pass gave"):
            functional.max_pool_backward(y, wrong, x.shape, win)
    for call in (
        lambda: functional.max_pool_backward(y[..., :1], index, x.shape, win),
        lambda: functional.avg_pool_backward(y[:, :1], x.shape, win),
        lambda: functional.global_max_pool_backward(y, index[0], x.shape),
        lambda: functional.global_avg_pool_backward(y, x.shape),
    ):
        with pytest.raises(ShapeError, match="dy must have the output's shape"):
            call()


def test_ranks_are_named():
    x = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ShapeError, match=r"avg_pool: x must have 5 axes \(N, C, D, H, W\); got shape \(2, 3, 4\)"):
        functional.avg_pool(x, window((4, 4, 4), 2))
    with pytest.raises(ShapeError, match=r"max_pool: x must have 3 axes \(N, C, L\); got shape \(3, 4\)"):
        functional.max_pool(x[0], window((4,), 2))
    with pytest.raises(ShapeError, match=r"global_max_pool: x must be \(N, C, ...\) with one pixel at least; got \(2, 3, 0\)"):
        functional.global_max_pool(x[..., :0])
