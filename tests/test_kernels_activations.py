"""Activations and softmax: compiled kernels against the reference, known digits and PyTorch, on every setting."""

import math

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel

from convlayers import functional, kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.kernels import reference
from convlayers.testing import assert_close, on_every_machine, spread

NAN, INF = np.nan, np.inf
BLOCK, CHUNK = 64, 16384  # values of a loop, and of a thread's turn

# Constants of each, where it has any.
CONSTANTS = {
    "celu": (1.5, 0.0),
    "clip": (-1.0, 1.5),
    "elu": (1.5, 2.0),
    "leaky_relu": (0.1, 0.0),
    "softplus": (2.0, 20.0),
}
NAMES = list(reference.ACTIVATIONS)
KEEP_OUTPUT = ("sigmoid", "tanh")


def passes(name, x, dy, constants=None):
    constants = CONSTANTS.get(name, ()) if constants is None else constants
    y = functional.activation(name, x, *constants)
    return y, functional.activation_backward(name, dy, y if name in KEEP_OUTPUT else x, *constants)


def drawn(dtype, seed=0):
    """Values of every size: small, around the bends, in the tails."""
    rng = np.random.default_rng(seed)
    far = 80 if dtype == "float32" else 690
    parts = [
        rng.uniform(-6, 6, 2000),
        rng.uniform(-far, far, 500),
        rng.standard_normal(500) * 10.0 ** rng.uniform(-20, 0, 500),
    ]
    return np.concatenate(parts).astype(dtype), rng.standard_normal(3000).astype(dtype)


def test_every_activation_has_its_reference():
    assert sorted(kernels.compiled(np.dtype("float32")).ACTIVATIONS) == sorted(NAMES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_against_the_reference(name, dtype):
    x, dy = drawn(dtype)
    constants = CONSTANTS.get(name, ())
    expected = [reference.activation(name, x, *constants), reference.activation_backward(name, dy, x, *constants)]
    assert_kernel(lambda: passes(name, x, dy), expected, [1, 1], name, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_float32_values_keep_their_digits(name):
    """A few units in the last place of every value, however small, and of the slope or of 1."""
    x, _ = drawn("float32")
    constants, eps = CONSTANTS.get(name, ()), np.finfo(np.float32).eps
    wanted, slope = (reference.activation(name, x, *constants), reference.activation_backward(name, 1.0, x, *constants))
    # The argument of the exponential is a rounded polynomial here.
    units = 4 * (1 + abs(x.astype(float)) ** 3 / 6) if name == "gelu_tanh" else 4
    for isa, (y, dx) in on_every_machine(lambda: passes(name, x, np.ones_like(x))).items():
        normal = abs(wanted) > 1e-36
        assert (abs(y - wanted) <= units * eps * abs(wanted))[normal].all(), isa
        assert (abs(y[~normal]) <= 1e-36).all(), isa
        assert (abs(dx - slope) <= 4 * eps * np.maximum(1, abs(slope))).all(), isa


# x, Phi(x) to 20 digits.
NORMAL = {
    -30.0: 4.9067139271481870595e-198,
    -12.5: 3.7325642988777133772e-36,
    -6.0: 9.865876450376981407e-10,
    -2.5: 0.0062096653257761351670,
    -1.0: 0.15865525393145705142,
    -0.125: 0.45026177516988710702,
    0.5: 0.69146246127401310364,
    1.0: 0.84134474606854294859,
    3.0: 0.99865010196836990547,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_against_known_digits(dtype):
    x = np.array([v for v, p in NORMAL.items() if abs(p) > 1e-30 or dtype == "float64"], dtype)
    wanted = np.array([v * NORMAL[float(v)] for v in x])
    for isa, (y,) in on_every_machine(lambda: [functional.activation("gelu", x)]).items():
        np.testing.assert_allclose(y, wanted, rtol=8 * np.finfo(dtype).eps, err_msg=isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_has_the_same_bits_wherever_it_stands(name, dtype):
    x, dy = drawn(dtype)
    for isa in kernels.available():
        with kernels.using(isa=isa):
            whole = passes(name, x, dy)
            for start, end in [(0, 1), (7, 7 + BLOCK - 1), (1, BLOCK + 2), (500, 2990), (2999, 3000)]:
                for part, all_of_it in zip(passes(name, x[start:end], dy[start:end]), whole, strict=True):
                    assert part.tobytes() == all_of_it[start:end].tobytes(), (isa, start, end)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + BLOCK + 3])
def test_arrays_beside_the_edges_of_a_chunk(size):
    x = spread((size,), np.random.default_rng(1))
    for name in ("leaky_relu", "silu"):
        constants = CONSTANTS.get(name, ())
        expected = [reference.activation(name, x, *constants), reference.activation_backward(name, x, x, *constants)]
        assert_kernel(lambda name=name: passes(name, x, x), expected, [1, 1], f"{name} of {size}", "float32")


# y and slope at minus infinity and at infinity.
LIMITS = {
    "celu": ((-1.5, 0), (INF, 1)),
    "clip": ((-1, 0), (1.5, 0)),
    "elu": ((-3, 0), (INF, 2)),
    "erf": ((-1, 0), (1, 0)),
    "gelu": ((0, 0), (INF, 1)),
    "gelu_tanh": ((0, 0), (INF, 1)),
    "hard_sigmoid": ((0, 0), (1, 0)),
    "hard_swish": ((0, 0), (INF, 1)),
    "leaky_relu": ((-INF, 0.1), (INF, 1)),
    "mish": ((0, 0), (INF, 1)),
    "sigmoid": ((0, 0), (1, 0)),
    "silu": ((0, 0), (INF, 1)),
    "softplus": ((0, 0), (INF, 1)),
    "tanh": ((-1, 0), (1, 0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_infinities_give_limits_and_nan_stays(name, dtype):
    huge = np.finfo(dtype).max
    x = np.array([-INF, INF, -huge, huge, NAN, -0.0, 0.0], dtype)
    with np.errstate(all="raise"):
        results = on_every_machine(lambda: passes(name, x, np.ones_like(x)))
    for isa, (y, slope) in results.items():
        for i, (limit, its_slope) in enumerate(LIMITS[name]):
            np.testing.assert_allclose([y[i], slope[i]], [limit, its_slope], rtol=1e-6, err_msg=f"{isa}, {x[i]}")
            np.testing.assert_allclose(slope[2 + i], its_slope, rtol=1e-6, err_msg=f"{isa}, {x[2 + i]}")
            if np.isfinite(limit):
                np.testing.assert_allclose(y[2 + i], limit, rtol=1e-6, err_msg=f"{isa}, {x[2 + i]}")
        assert np.isnan(y[4]), isa
        assert y[5] == y[6] == reference.activation(name, np.zeros(1), *CONSTANTS.get(name, ())).astype(dtype)[0], isa


# A slope where there are two to choose from, at both signs of 0 too.
KINKS = [("clip", [-1, 1.5]), ("elu", [0, -0.0]), ("hard_sigmoid", [-3, 3]), ("hard_swish", [-3, 3])]
KINKS += [("leaky_relu", [0, -0.0]), ("softplus", [10])]


@pytest.mark.parametrize(("name", "points"), KINKS)
def test_the_slope_at_a_kink_is_pytorchs(name, points):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    peers = {
        "clip": lambda x: torch.nn.functional.hardtanh(x, -1, 1.5),
        "elu": lambda x: 2 * torch.nn.functional.elu(x, 1.5),
        "hard_sigmoid": torch.nn.functional.hardsigmoid,
        "hard_swish": torch.nn.functional.hardswish,
        "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, 0.1),
        "softplus": lambda x: torch.nn.functional.softplus(x, 2),
    }
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    peers[name](x).sum().backward()
    for isa, (_, dx) in on_every_machine(lambda: passes(name, np.array(points, float), np.ones(len(points)))).items():
        np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-12, err_msg=isa)


def test_selu_keeps_mean_and_variance():
    """Its constants solve two equations: a standard normal input has mean 0 and variance 1 behind it."""
    x = np.linspace(-12, 12, 100_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    y = functional.activation("elu", x, 1.6732632423543772, 1.0507009873554805)
    assert abs((y * density).sum()) < 1e-8
    assert abs((y**2 * density).sum() - 1) < 1e-8


def test_what_does_not_fit_is_refused():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ConfigError, match=r"an activation is one of abs, .*, clip, elu, .*, tanh, .*; got 'swish'"):
        functional.activation("swish", x)
    with pytest.raises(ConfigError, match="an activation is one of"):
        functional.activation_backward("swish", x, x)
    for backward in (
        lambda dy: functional.activation_backward("silu", dy, x),
        lambda dy: functional.softmax_backward(dy, x, 1),
        lambda dy: functional.prelu_backward(dy, x, np.ones(1)),
    ):
        with pytest.raises(ShapeError, match="dy must have the output's shape"):
            backward(np.zeros((3, 2)))
    for bad in (np.ones(2), np.ones(0)):
        with pytest.raises(ShapeError, match=r"prelu: weight must have shape \(1,\), or \(C,\) for x \(N, C, \.\.\.\)"):
            functional.prelu(x, bad)
    with pytest.raises(ShapeError, match="prelu: weight must have"):
        functional.prelu(x[0], np.ones(1))


def test_empty_arrays():
    x = np.zeros((0, 3, 2), np.float32)
    assert functional.activation("gelu", x).shape == functional.softmax(x, 1).shape == functional.prelu(x, np.ones(3)).shape
    dx, dw = functional.prelu_backward(x, x, np.ones(3))
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros(3))


# PReLU


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 67), (4, 1, 2, 3), (2, 3, 4096 + 17), (3, 2, 2, 3, 4)])
def test_prelu(shape, dtype):
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    x.flat[:2] = 0, -0.0
    for count in (1, shape[1]):
        weight = rng.uniform(-1, 1, count).astype(dtype)
        expected = [reference.prelu(x, weight), *reference.prelu_backward(dy, x, weight)]

        def compute(weight=weight):
            return functional.prelu(x, weight), *functional.prelu_backward(dy, x, weight)

        assert_kernel(compute, expected, [1, 1, x.size], f"{shape}, {count} weights", dtype)


def test_prelu_keeps_nan_in_its_channel():
    x, dy = np.full((2, 3, 5), -1.0), np.ones((2, 3, 5))
    x[1, 1, 4] = NAN
    dx, dw = functional.prelu_backward(dy, x, np.full(3, 0.5))
    np.testing.assert_array_equal(dw, [-10, NAN, -10])
    np.testing.assert_array_equal(dx, np.full((2, 3, 5), 0.5))
    assert np.isnan(functional.prelu(x, np.ones(1))[1, 1, 4])


# Softmax

SHAPES = [((1, 1), 1), ((64, 10), 1), ((3, 257), 1), ((65, 33), -1), ((2, 3, 4, 5), 1), ((2, 3, 4, 5), -1), ((3, 7, 66), 1)]
SHAPES += [((2, 5, 67, 2), 2), ((4, 17, 1, 1), 1), ((200, 2), 1)]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_softmax(shape, axis, dtype, log):
    rng = np.random.default_rng(3)
    for scale in (1, 30):
        x, dy = (scale * rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
        expected = [reference.softmax(x, axis, log=log), reference.softmax_backward(dy, x, axis, log=log)]

        def compute(x=x, dy=dy):
            y = functional.softmax(x, axis, log=log)
            return y, functional.softmax_backward(dy, y, axis, log=log)

        # The gradient of the logarithm takes e^y, and y is a difference of numbers of the size of x.
        lengths = [shape[axis], shape[axis] * (1 + scale**2 * log)]
        assert_kernel(compute, expected, lengths, f"{shape} along {axis}, log={log}", dtype)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", [(70, 9), (3, 9, 70)])
def test_softmax_has_the_same_bits_in_every_batch(shape, log):
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    for isa in kernels.available():
        with kernels.using(isa=isa):
            whole = functional.softmax(x, 1, log=log)
            back = functional.softmax_backward(x, whole, 1, log=log)
            for n in range(0, len(x), 7):
                one = functional.softmax(x[n : n + 1], 1, log=log)
                assert one.tobytes() == whole[n : n + 1].tobytes(), isa
                one = functional.softmax_backward(x[n : n + 1], one, 1, log=log)
                assert one.tobytes() == back[n : n + 1].tobytes(), isa


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_what_is_not_finite_is_pytorchs(dtype, log):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    peer = torch.nn.functional.log_softmax if log else torch.nn.functional.softmax
    rows = [[NAN, 0, 1], [0, NAN, 1], [INF, 0, 1], [INF, INF, 0], [-INF, 0, 1], [-INF, -INF, 0], [-INF] * 3, [1e4, 0, -1e4]]
    x = np.array(rows, dtype)
    for given, axis in ((x, 1), (np.repeat(x[:, :, None], 5, axis=2), 1)):
        dy = np.random.default_rng(5).standard_normal(given.shape).astype(dtype)
        tensor = torch.from_numpy(given.copy()).requires_grad_()
        expected = peer(tensor, axis)
        expected.backward(torch.from_numpy(dy))

        def compute(given=given, dy=dy):
            y = functional.softmax(given, 1, log=log)
            return y, functional.softmax_backward(dy, y, 1, log=log)

        for isa, (y, dx) in on_every_machine(compute).items():
            np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-6, atol=1e-7, err_msg=isa)
            np.testing.assert_allclose(dx, tensor.grad.numpy(), rtol=1e-5, atol=1e-6, err_msg=isa)


def test_softmax_sums_to_one():
    x = np.random.default_rng(6).standard_normal((3, 1000)).astype(np.float32) * 20
    for isa, (y, log) in on_every_machine(lambda: [functional.softmax(x, 1), functional.softmax(x, 1, log=True)]).items():
        for powers in (y, np.exp(log.astype(np.float64))):
            assert_close(powers.sum(axis=1, dtype=np.float64).astype(np.float32), np.ones(3), 1000, isa)
