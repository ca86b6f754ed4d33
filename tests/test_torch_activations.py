"""Activations against PyTorch's of the same name over random configurations: output and every gradient, in both data types."""

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl

_SEEDS = range(6)


def peers(rng):
    """Each layer with options drawn from `rng`, and PyTorch's function."""
    f = torch().nn.functional
    alpha, beta, low, threshold = (float(v) for v in rng.uniform([0.1, 0.2, -1.5, 1], [2, 3, -0.1, 30]))
    return {
        "relu": (cl.ReLU(), f.relu),
        "leaky_relu": (cl.LeakyReLU(alpha), lambda x: f.leaky_relu(x, alpha)),
        "clip": (cl.Clip(low, beta), lambda x: x.clamp(low, beta)),
        "clip_above": (cl.Clip(max=low), lambda x: x.clamp(max=low)),
        "relu6": (cl.Clip(0, 6), f.relu6),
        # PyTorch's own hardsigmoid divides a float64 gradient by a 6 of float32 precision.
        "hard_sigmoid": (cl.HardSigmoid(), lambda x: (x + 3).clamp(0, 6) / 6),
        "hard_swish": (cl.HardSwish(), f.hardswish),
        "sigmoid": (cl.Sigmoid(), torch().sigmoid),
        "tanh": (cl.Tanh(), torch().tanh),
        "elu": (cl.ELU(alpha), lambda x: f.elu(x, alpha)),
        "selu": (cl.SELU(), f.selu),
        "softplus": (cl.Softplus(beta, threshold), lambda x: f.softplus(x, beta, threshold)),
        "silu": (cl.SiLU(), f.silu),
        "mish": (cl.Mish(), f.mish),
        "gelu": (cl.GELU(), f.gelu),
        "abs": (cl.Abs(), torch().abs),
        # PyTorch's own celu rounds alpha to float32 in its gradient.
        "celu": (cl.CELU(alpha), lambda x: alpha * f.elu(x / alpha)),
        "erf": (cl.Erf(), torch().erf),
        "exp": (cl.Exp(), torch().exp),
        "negative": (cl.Negative(), torch().neg),
        "softsign": (cl.Softsign(), f.softsign),
        "thresholded_relu": (cl.ThresholdedReLU(low), lambda x: f.threshold(x, low, 0)),
        "add_constant": (cl.AddConstant(alpha), lambda x: x + alpha),
        "multiply_constant": (cl.MultiplyConstant(low), lambda x: low * x),
        "square": (cl.PowConstant(2), lambda x: x**2),
        "cube": (cl.PowConstant(3), lambda x: x**3),
        "gelu_tanh": (cl.GELU("tanh"), lambda x: f.gelu(x, approximate="tanh")),
    }


NAMES = (
    "relu leaky_relu clip clip_above relu6 hard_sigmoid hard_swish sigmoid tanh elu selu softplus silu mish gelu gelu_tanh "
    "abs celu erf exp negative softsign thresholded_relu add_constant multiply_constant square cube"
)


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("name", NAMES.split())
def test_activation(name, seed):
    rng = np.random.default_rng(seed)
    layer, peer = peers(rng)[name]
    shape = tuple(rng.integers(1, 12, int(rng.integers(1, 5))).tolist())

    def inputs(size, draws, dtype):
        """Into both tails and past every kink."""
        return (6 * draws.standard_normal(size)).astype(dtype)

    assert_agrees(layer, peer, [shape], length=1, seed=seed, inputs=inputs)


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("name", ["log", "sqrt", "reciprocal", "power"])
def test_functions_of_positive_values(name, seed):
    rng = np.random.default_rng(seed)
    exponent = float(rng.uniform(-3, 3))
    layers = {"log": cl.Log(), "sqrt": cl.Sqrt(), "reciprocal": cl.Reciprocal(), "power": cl.PowConstant(exponent)}
    peer = (lambda x: x**exponent) if name == "power" else getattr(torch(), name)
    shape = tuple(rng.integers(1, 12, int(rng.integers(1, 5))).tolist())

    def inputs(size, draws, dtype):
        return draws.uniform(0.1, 6, size).astype(dtype)

    assert_agrees(layers[name], peer, [shape], length=1, seed=seed, inputs=inputs)


@pytest.mark.parametrize("seed", _SEEDS)
def test_prelu(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, int(rng.integers(1, 5))).tolist())
    layer = cl.PReLU(per_channel=bool(seed % 2), init=float(rng.uniform(-1, 1)))
    torch()
    assert_agrees(layer, lambda x, weight: torch().nn.functional.prelu(x, weight), [shape], length=3 * int(np.prod(shape)))


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("kind", [cl.Softmax, cl.LogSoftmax])
def test_softmax(kind, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, int(rng.integers(1, 5))).tolist())
    axis = int(rng.integers(1, len(shape) + 1)) * (1 if seed % 2 else -1)
    function = torch().nn.functional.softmax if kind is cl.Softmax else torch().nn.functional.log_softmax
    assert_agrees(kind(axis), lambda x: function(x, axis), [shape], length=12, seed=seed)
