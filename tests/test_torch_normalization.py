"""Normalization against PyTorch over random configurations: output and every gradient, in both data types."""

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl

_SEEDS = range(8)


def drawn(seed, *, axes=(1, 4), least=1):
    rng = np.random.default_rng(seed)
    size = rng.integers(least, 9, int(rng.integers(*axes))).tolist()
    return rng, tuple(size), float(rng.uniform(1e-4, 1e-2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("layer", [cl.BatchNorm1d, cl.BatchNorm2d, cl.BatchNorm3d])
def test_batch_norm(layer, seed, training):
    rng, _, eps = drawn(seed)
    rank = layer.ranks[seed % len(layer.ranks)]
    shape = (int(rng.integers(1, 70)), *rng.integers(1, 9, rank).tolist())
    torch()

    def peer(x, weight, bias):
        mean, var = torch().zeros(shape[0], dtype=x.dtype), torch().ones(shape[0], dtype=x.dtype)
        return torch().nn.functional.batch_norm(x, mean, var, weight, bias, training, 0.1, eps)

    assert_agrees(layer(eps=eps), peer, [shape], length=5 * int(np.prod(shape[1:])), training=training, batch=5, seed=seed)


@pytest.mark.parametrize("seed", _SEEDS)
def test_running_statistics_of_vectors_signals_and_volumes(seed):
    """After two steps, and the output that inference computes from them."""
    rng, _, eps = drawn(seed)
    kind, rank = [(cl.BatchNorm1d, 0), (cl.BatchNorm1d, 1), (cl.BatchNorm3d, 3)][seed % 3]
    shape = (int(rng.integers(1, 40)), *rng.integers(1, 7, rank).tolist())
    layer, peer = kind(eps=eps, momentum=0.3), getattr(torch().nn, kind.__name__)(shape[0], eps=eps, momentum=0.3)
    layer.build(shape, rng)
    for batch in (4, 7):
        x = rng.normal(2, 3, (batch, *shape)).astype(np.float32)
        layer.forward(x, training=True)
        peer(torch().from_numpy(x))
    for key, value in layer.buffers.items():
        np.testing.assert_allclose(value, getattr(peer, key).numpy(), rtol=1e-5, atol=1e-6, err_msg=key)
    y, expected = layer.forward(x, training=False)[0], peer.eval()(torch().from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", _SEEDS)
def test_layer_norm(seed):
    rng, shape, eps = drawn(seed, least=2)
    axis = int(rng.integers(1, len(shape) + 1))
    layer = cl.LayerNorm(axis if seed % 2 else axis - len(shape) - 1, eps=eps)

    def peer(x, weight, bias):
        return torch().nn.functional.layer_norm(x, shape[axis - 1 :], weight, bias, eps)

    torch()
    assert_agrees(layer, peer, [shape], length=3 * int(np.prod(shape)), seed=seed)


@pytest.mark.parametrize("seed", _SEEDS)
def test_group_norm(seed):
    rng, size, eps = drawn(seed, axes=(0, 4))
    groups, channels = int(rng.integers(1, 5)), int(rng.integers(2, 6))
    shape = (groups * channels, *size)

    def peer(x, weight, bias):
        return torch().nn.functional.group_norm(x, groups, weight, bias, eps)

    torch()
    assert_agrees(cl.GroupNorm(groups, eps=eps), peer, [shape], length=3 * int(np.prod(shape)), seed=seed)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("seed", _SEEDS)
def test_instance_norm(seed, affine):
    rng, size, eps = drawn(seed, least=2)
    shape = (int(rng.integers(1, 7)), *size)

    def peer(x, weight=None, bias=None):
        return torch().nn.functional.instance_norm(x, weight=weight, bias=bias, eps=eps)

    torch()
    assert_agrees(cl.InstanceNorm(eps=eps, affine=affine), peer, [shape], length=3 * int(np.prod(shape)), seed=seed)
