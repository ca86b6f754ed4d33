"""Passes that are recorded and run again: the same bits as layer by layer."""

import contextlib

import numpy as np
import pytest
from replays import assert_replayed, drawn, replayed, small, train

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ShapeError
from convlayers.testing.machine import assert_same

MODELS = ("digits_cnn", "lenet5", "mnist_cnn", "vgg_small", "resnet20", "mobilenet_small")


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("name", MODELS)
def test_steps_of_models(name, isa):
    make = getattr(cl.models, name)
    with kernels.using(isa=isa):
        for input_gradient in (True, False):
            assert_replayed(make, (3, *make().input_shape), f"{name} under {isa}", input_gradient=input_gradient)


def layer_behind(shape, rng):
    """One of the layers that are recorded, for samples of this shape; it may not fit."""
    small, channels, one = int(rng.integers(1, 12)), shape[0], [cl.ReLU, cl.SiLU, cl.LeakyReLU, cl.Dropout]
    if len(shape) == 1:
        makers = [lambda: cl.Dense(small), cl.BatchNorm1d, cl.Softmax, *one]
    else:
        kernel, stride = int(rng.choice([1, 3, 3, 5])), int(rng.choice([1, 1, 2]))
        makers = [
            lambda: cl.Conv2d(3 * small, kernel, stride=stride, padding=small % 3, bias=small > 4),
            lambda: cl.Conv2d(channels, 3, groups=channels, padding="same", stride=stride),
            lambda: cl.ConvTranspose2d(small, 2, stride=stride),
            lambda: cl.Clip(0, small / 2),
            lambda: cl.MaxPool2d(int(rng.choice([2, 3])), stride=2),
            lambda: cl.AvgPool2d(2),
            cl.GlobalAvgPool2d,
            cl.BatchNorm2d,
            cl.BatchNorm2d,
            *one,
        ]
    return makers[rng.integers(len(makers))]()


def random_model(seed):
    rng = np.random.default_rng(seed)
    x = y = cl.Input(tuple(map(int, rng.integers(1, 18, 3))))
    for _ in range(rng.integers(2, 9)):
        with contextlib.suppress(ShapeError):
            behind = layer_behind(y.shape, rng)(y)
            joins = len(y.shape) == 3 and behind.shape[1:] == y.shape[1:] and rng.integers(3) == 0
            y = (cl.Add() if behind.shape == y.shape else cl.Concat())(behind, y) if joins else behind
    return cl.Model(x, cl.Dense(4)(cl.Flatten()(y)))


@pytest.mark.parametrize("isa", kernels.available())
def test_random_networks(isa):
    for seed in range(40):
        n = 1 + seed % 7
        with kernels.using(isa=isa):
            shape = (n, *random_model(seed).input_shape)
            back = bool(seed % 2)
            assert_replayed(lambda seed=seed: random_model(seed), shape, f"network {seed} under {isa}", input_gradient=back)


HOW = [
    {"stride": stride, "groups": groups, "algorithm": algorithm}
    for stride, groups, algorithm in (
        (1, 1, "direct"),
        (2, 1, "direct"),
        (1, 1, "winograd"),
        (2, 1, "winograd"),
        (1, 8, "direct"),
        (1, 8, "winograd"),
    )
]
BEHIND = [
    lambda: [cl.ReLU()],
    lambda: [cl.BatchNorm2d(), cl.Clip(0, 0.5)],
    lambda: [cl.BatchNorm2d(), cl.ReLU(), cl.MaxPool2d(2)],
]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 4, 5, 7])
def test_convolutions_and_what_they_take_over(kernel, how):
    """Few filters and more, whose gradients have other kernels; a bias beside a normalization; a clip and a maximum."""
    too_large = (kernel > 3 and how["groups"] > 1) or (kernel > 6 and how["stride"] > 1)
    if how["algorithm"] == "winograd" and (kernel < 3 or too_large):
        how = {**how, "algorithm": "auto"}
    for filters in (8, 24):
        for behind in BEHIND:

            def make(filters=filters, behind=behind):
                return small(cl.Conv2d(filters, kernel, padding=2, **how), *behind(), shape=(8, 10, 10))

            assert_replayed(make, (3, 8, 10, 10), f"{filters} filters, then {behind()}")


def test_values_that_are_not_finite_later():
    """The kernel for few filters leaves those to another: which one it is follows from values."""
    make = lambda: small(cl.Conv2d(3, 3, padding=1), cl.ReLU())  # noqa: E731
    inputs = [drawn((4, 3, 9, 8), seed) for seed in range(6)]
    inputs[4][1, 2, 0, 0], inputs[5][0, 0, 8, 7] = np.inf, np.nan
    together = make()
    with np.errstate(all="ignore"):
        assert_same(train(together, inputs, replay=True), train(make(), inputs, replay=False), "infinity and NaN")
    assert replayed(together)


@pytest.mark.parametrize("algorithm", ["fft", "einsum"])
def test_what_numpy_computes_is_not_recorded(algorithm):
    make = lambda: small(cl.Conv2d(4, 5, algorithm=algorithm), cl.BatchNorm2d(), cl.ReLU())  # noqa: E731
    assert_replayed(make, (3, 3, 9, 8), algorithm, recorded=False)


def test_a_layer_that_is_not_recorded():
    make = lambda: small(cl.Conv2d(4, 3), cl.ReLU(), cl.StochasticPool2d(2))  # noqa: E731
    assert_replayed(make, (3, 3, 9, 8), "StochasticPool2d", recorded=False)


@pytest.mark.parametrize("layer", [cl.Dropout, cl.Dropout2d])
def test_dropout_draws_anew(layer):
    results = []
    for replay in (False, True):
        model, x = small(cl.Conv2d(6, 3), layer(0.5), cl.ReLU(), layer(0.3)), drawn((4, 3, 9, 8))
        results.append([])
        with kernels.using(replay=replay):
            for step in (None, None, 7, 5, None, 7):
                y, tape = model.forward(x, step=step, seed=5)
                results[-1] += [y, model.backward(np.ones_like(y), tape), model(x)]
        assert replayed(model) == replay
    assert_same(results[1], results[0], layer.__name__)
    masks = [y.tobytes() for y in results[1][::3]]
    assert len(set(masks)) == 5, "another mask at every step"
    assert masks[2] == masks[5], "the same one at the same step"


def test_a_decoder():
    """Transposed convolutions, with a bias beside a normalization, and pooling of several kinds."""

    def make():
        up = cl.ConvTranspose2d(4, 2, stride=2)
        layers = [cl.AvgPool2d(2), up, cl.BatchNorm2d(), cl.ReLU(), cl.MaxPool2d(2), cl.ConvTranspose2d(3, 3), cl.LeakyReLU()]
        return small(*layers, cl.AdaptiveAvgPool2d(2), shape=(3, 8, 8))

    assert_replayed(make, (3, 3, 8, 8), "a decoder")


def test_gates():
    """Sums and products of samples of unequal shapes, as squeeze-and-excitation has them."""

    def make():
        x = cl.Input((6, 5, 4))
        y = cl.Conv2d(6, 3, padding=1)(x)
        gates = cl.Sigmoid()(cl.Conv2d(6, 1)(cl.GlobalAvgPool2d()(y)))
        bias = cl.GlobalMaxPool2d()(y)
        return cl.Model(x, cl.Dense(3)(cl.Flatten()(cl.Add()(cl.Multiply()(y, gates), bias, cl.Subtract()(y, x)))))

    assert_replayed(make, (3, 6, 5, 4), "gates")


def test_graphs():
    """Residuals, sums of gradients, several inputs and outputs."""

    def make():
        left, right = cl.Input((4, 6, 6)), cl.Input((4, 6, 6))
        x = cl.Add()(cl.Conv2d(4, 3, padding=1)(left), right)
        y = cl.Add()(cl.BatchNorm2d()(cl.Conv2d(4, 3, padding=1)(cl.ReLU()(x))), x)
        joint = cl.Concat()(cl.ReLU()(y), x, right)
        return cl.Model([left, right], [cl.GlobalAvgPool2d()(joint), cl.Softmax()(cl.Dense(3)(cl.Flatten()(y)))])

    results = {}
    for replay in (False, True):
        model, results[replay] = make(), []
        with kernels.using(replay=replay):
            for step in range(5):
                xs = [drawn((3, 4, 6, 6), 2 * step + n) for n in (0, 1)]
                ys, tape = model.forward(xs, step=step)
                back = model.backward([drawn(y.shape, step) for y in ys], tape)
                results[replay] += [*ys, *back, *model(xs), *(g.copy() for g in model.gradients().values())]
        assert replayed(model) == replay
    assert_same(results[True], results[False], "a graph")


def test_an_output_that_is_listed_twice():
    x = cl.Input((5,))
    y = cl.Dense(4)(x)
    model = cl.Model(x, [y, y])
    for step in range(4):
        outputs, tape = model.forward(drawn((3, 5), step), step=step)
        model.zero_gradients()
        model.backward([drawn((3, 4), 1), drawn((3, 4), 2)], tape)
        expected = (drawn((3, 4), 1) + drawn((3, 4), 2)).sum(axis=0)
        np.testing.assert_allclose(model.gradients()["dense.bias"], expected, rtol=1e-5)
        assert_same(outputs[1:], outputs[:1], "the two")
