"""Pooling layers against PyTorch over random configurations, in one, two and three axes."""

from functools import partial

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl
from convlayers import functional
from convlayers.shapes import window

_SEEDS = range(8)
_RANKS = (1, 2, 3)
NAN, INF = np.nan, np.inf


def few_values(shape, rng, dtype):
    """Many equal values: of equal maxima one gets the gradient, and both sides must choose the same."""
    return rng.integers(-2, 3, shape).astype(dtype)


def geometry(rng, rank, *, dilation=False, smallest=4):
    """A sample's shape, and the arguments of a pooling that fits it and that PyTorch takes."""
    kernel = [int(k) for k in rng.integers(1, 4, rank)]
    options = {
        "kernel_size": kernel,
        "stride": [int(s) for s in rng.integers(1, 4, rank)],
        "padding": [int(rng.integers(0, k // 2 + 1)) for k in kernel],
        "ceil_mode": bool(rng.integers(2)),
    }
    if dilation:
        options["dilation"] = [int(d) for d in rng.integers(1, 3, rank)]
    size = [int(n) for n in rng.integers(smallest, smallest + 6, rank)]
    return (2, *size), options


def layer_of(name, rank):
    return getattr(cl, f"{name}{rank}d")


def peer_of(name, rank):
    return getattr(torch().nn.functional, f"{name}{rank}d")


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_max(rank, seed):
    shape, options = geometry(np.random.default_rng(seed), rank, dilation=True, smallest=6)
    peer = partial(peer_of("max_pool", rank), **options)
    for training in (True, False):
        layer = layer_of("MaxPool", rank)(**options)
        assert_agrees(layer, peer, [shape], length=27, seed=seed, inputs=few_values, training=training)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_average(rank, seed):
    shape, options = geometry(np.random.default_rng(seed), rank)
    options["count_include_pad"] = bool(seed % 2)
    assert_agrees(
        layer_of("AvgPool", rank)(**options), partial(peer_of("avg_pool", rank), **options), [shape], length=54, seed=seed
    )


@pytest.mark.parametrize("seed", _SEEDS)
def test_min(seed):
    shape, options = geometry(np.random.default_rng(seed), 2, dilation=True, smallest=6)
    pool = peer_of("max_pool", 2)
    assert_agrees(cl.MinPool2d(**options), lambda x: -pool(-x, **options), [shape], length=9, seed=seed, inputs=few_values)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("p", [1, 2, 3, 4.5])
@pytest.mark.parametrize("seed", _SEEDS)
def test_lp(p, seed, rank):
    # PyTorch's own has no padding, no magnitude, and another sum where ceil_mode hangs over the edge.
    shape, options = geometry(np.random.default_rng(seed), rank)
    del options["ceil_mode"]
    ends, pool = [pad for pad in reversed(options["padding"]) for _ in range(2)], peer_of("lp_pool", rank)

    def peer(x):
        sizes = [options[key] if rank > 1 else options[key][0] for key in ("kernel_size", "stride")]
        return pool(torch().nn.functional.pad(x.abs(), ends), p, *sizes)

    assert_agrees(layer_of("LpPool", rank)(p, **options), peer, [shape], length=300, seed=seed)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_global_lp(p, rank):
    def peer(x):
        return torch().linalg.vector_norm(x, p, dim=tuple(range(2, rank + 2)), keepdim=True)

    torch()
    assert_agrees(layer_of("GlobalLpPool", rank)(p), peer, [(3, 4, 5, 2)[: rank + 1]], length=300)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_dilated_average_is_a_convolution(rank, seed):
    shape, options = geometry(np.random.default_rng(seed), rank, dilation=True, smallest=6)
    del options["ceil_mode"]
    kernel, convolve = options["kernel_size"], peer_of("conv", rank)

    def peer(x):
        weight = torch().full((shape[0], 1, *kernel), 1 / np.prod(kernel), dtype=x.dtype)
        return convolve(x, weight, None, options["stride"], options["padding"], options["dilation"], shape[0])

    torch()
    assert_agrees(layer_of("AvgPool", rank)(**options), peer, [shape], length=54, seed=seed)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_gradient_of_a_norm_at_zero(p):
    def zeros(shape, rng, dtype):
        return np.zeros(shape, dtype)

    peer = partial(peer_of("lp_pool", 2), norm_type=p, kernel_size=2)
    assert_agrees(cl.LpPool2d(p, 2), peer, [(2, 4, 4)], length=1, inputs=zeros)


@pytest.mark.parametrize("mix", [0, 0.3, 1, "learned"])
@pytest.mark.parametrize("seed", _SEEDS)
def test_mixed(mix, seed):
    shape, options = geometry(np.random.default_rng(seed), 2)
    highest, average = peer_of("max_pool", 2), peer_of("avg_pool", 2)

    def peer(x, mix_logit=None):
        m = mix if mix_logit is None else mix_logit.sigmoid()
        return m * highest(x, **options) + (1 - m) * average(x, **options, count_include_pad=False)

    layer = cl.MixedPool2d(**options, mix=mix, count_include_pad=False)
    assert_agrees(layer, peer, [shape], length=600, seed=seed, inputs=few_values)


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_mean_of_stochastic_pooling(seed):
    shape, options = geometry(np.random.default_rng(seed), 2)
    del options["ceil_mode"]
    win = window(shape[1:], **{("kernel" if key == "kernel_size" else key): value for key, value in options.items()})

    def with_zeros(shape, rng, dtype):
        return rng.integers(0, 4, shape).astype(dtype)

    def peer(x):
        columns = torch().nn.functional.unfold(x, **options).reshape(len(x), shape[0], -1, *win.output)
        total = columns.sum(2)
        return (columns**2).sum(2) / total.where(total > 0, torch().ones_like(total))

    # PyTorch's derivative in a window of zeros is 2 x - 0 = 0 there, as ours.
    assert_agrees(cl.StochasticPool2d(**options), peer, [shape], length=60, seed=seed, training=False, inputs=with_zeros)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_global(rank, seed):
    shape, _ = geometry(np.random.default_rng(seed), rank, smallest=1)
    highest, average = (partial(peer_of(f"adaptive_{kind}_pool", rank), output_size=1) for kind in ("max", "avg"))
    assert_agrees(layer_of("GlobalMaxPool", rank)(), highest, [shape], length=1, seed=seed, inputs=few_values)
    assert_agrees(layer_of("GlobalAvgPool", rank)(), average, [shape], length=400, seed=seed)


@pytest.mark.parametrize("rank", _RANKS)
@pytest.mark.parametrize("seed", range(16))
def test_adaptive(rank, seed):
    rng = np.random.default_rng(seed)
    shape, _ = geometry(rng, rank, smallest=3)
    output = [int(rng.integers(1, n + 1)) for n in shape[1:]]
    highest, average = (partial(peer_of(f"adaptive_{kind}_pool", rank), output_size=output) for kind in ("max", "avg"))
    assert_agrees(layer_of("AdaptiveMaxPool", rank)(output), highest, [shape], length=8, seed=seed, inputs=few_values)
    assert_agrees(layer_of("AdaptiveAvgPool", rank)(output), average, [shape], length=400, seed=seed)


def _with_odd_values(shape, rng):
    x = rng.standard_normal(shape)
    for odd in (NAN, INF, -INF):
        x[rng.random(shape) < 0.05] = odd
    return x


@pytest.mark.parametrize("rank", _RANKS)
def test_nan_and_infinities(rank):
    x = _with_odd_values((2, 3, *(7, 6, 5)[:rank]), np.random.default_rng(rank))
    tensor = torch().from_numpy(x)
    output, options = (3, 4, 2)[:rank], {"stride": 2, "padding": 1, "ceil_mode": True}
    win = window(x.shape[2:], 3, **options)
    pairs = [
        (functional.max_pool(x, win)[0], peer_of("max_pool", rank)(tensor, 3, **options)),
        (functional.avg_pool(x, win), peer_of("avg_pool", rank)(tensor, 3, **options)),
        (functional.adaptive_max_pool(x, output)[0], peer_of("adaptive_max_pool", rank)(tensor, output)),
        (functional.adaptive_avg_pool(x, output), peer_of("adaptive_avg_pool", rank)(tensor, output)),
        (functional.global_max_pool(x)[0], peer_of("adaptive_max_pool", rank)(tensor, 1)),
        (functional.global_avg_pool(x), peer_of("adaptive_avg_pool", rank)(tensor, 1)),
    ]
    for number, (actual, expected) in enumerate(pairs):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-12, atol=1e-12, err_msg=f"pair {number}")
