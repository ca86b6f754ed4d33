"""Joins, borders, upsampling and reshaping against PyTorch over random configurations."""

from functools import reduce
from operator import add, mul, sub, truediv

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
SEEDS = pytest.mark.parametrize("seed", range(10))
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def sizes(rng, rank, low=1, high=7):
    return tuple(rng.integers(low, high, rank).tolist())


@SEEDS
@RANKS
def test_upsample(seed, rank):
    rng = np.random.default_rng(seed)
    scale, shape = sizes(rng, rank, 1, 5), (int(rng.integers(1, 4)), *sizes(rng, rank))
    scale = scale if seed % 2 else scale[0]
    functional, taps = torch().nn.functional, 2**rank * int(np.prod(np.broadcast_to(scale, rank)))
    for mode in ("nearest", _MODES[rank]):

        def peer(x, mode=mode):
            return functional.interpolate(x, scale_factor=scale, mode=mode)

        assert_agrees(cl.Upsample(scale, mode=mode), peer, [shape], length=taps, seed=seed)


@SEEDS
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize(seed, mode):
    rng = np.random.default_rng(seed)
    size, output = sizes(rng, 2, 2, 9), sizes(rng, 2, 2, 12)
    interpolate, kind = torch().nn.functional.interpolate, {"bilinear": "linear", "bicubic": "cubic"}[mode]
    rules = [("half_pixel", {"align_corners": False}), ("align_corners", {"align_corners": True})]
    for rule, options in rules:
        layer = cl.Resize(sizes=list(output), mode=kind, coordinate_transformation_mode=rule)
        assert_agrees(layer, lambda x, o=options: interpolate(x, output, mode=mode, **o), [(2, *size)], length=144, seed=seed)
    if mode == "bilinear":
        # PyTorch's own cubic is another under antialias: a = -0.5.
        layer = cl.Resize(sizes=list(output), antialias=True, exclude_outside=True)
        peer = lambda x: interpolate(x, output, mode=mode, antialias=True)  # noqa: E731
        assert_agrees(layer, peer, [(2, *size)], length=144, seed=seed)


@SEEDS
def test_lrn(seed):
    rng = np.random.default_rng(seed)
    shape, size = sizes(rng, int(rng.integers(2, 5))), 2 * int(rng.integers(0, 4)) + 1
    alpha, beta, bias = (float(v) for v in rng.uniform([0.1, 0.3, 0.5], [2, 2, 2]))
    peer = torch().nn.functional.local_response_norm
    assert_agrees(cl.LRN(size, alpha, beta, bias), lambda x: peer(x, size, alpha, beta, bias), [shape], length=64, seed=seed)


@SEEDS
@RANKS
def test_pad(seed, rank):
    rng = np.random.default_rng(seed)
    size, value = sizes(rng, rank, 4), float(rng.normal())
    pairs = rng.integers(0, 4, (rank, 2)).tolist()
    padding = pairs if seed % 2 else pairs[0][0]
    backwards = [n for pair in reversed(pairs) for n in pair] if seed % 2 else [padding] * 2 * rank
    functional = torch().nn.functional
    for mode in ("constant", "reflect", "replicate"):
        more = {"value": value} if mode == "constant" else {}

        def peer(x, mode=mode, more=more):
            return functional.pad(x, backwards, mode=mode, **more)

        assert_agrees(cl.Pad(padding, mode=mode, **more), peer, [(2, *size)], length=16, seed=seed)


@SEEDS
def test_multiply(seed):
    rng = np.random.default_rng(seed)
    shape = sizes(rng, int(rng.integers(1, 5)), 1, 6)
    shapes = [tuple(np.where(rng.random(len(shape)) < 0.4, 1, shape).tolist()) for _ in range(int(rng.integers(2, 5)))]
    torch()
    assert_agrees(cl.Multiply(), lambda *x: reduce(mul, x), shapes, length=3 * int(np.prod(shape)), seed=seed)


# Of two inputs, or of two and more: each layer with PyTorch's operator.
BINARY = {"subtract": sub, "divide": truediv, "power": pow}
MANY = {"add": add, "multiply": mul, "maximum": "maximum", "minimum": "minimum"}


@SEEDS
@pytest.mark.parametrize("name", [*BINARY, *MANY])
def test_samples_of_unequal_ranks_broadcast(name, seed):
    rng = np.random.default_rng(seed)
    shape = sizes(rng, int(rng.integers(2, 4)), 1, 5)
    count = 2 if name in BINARY else int(rng.integers(2, 5))
    shapes = [
        tuple(np.where(rng.random(len(shape)) < 0.4, 1, shape).tolist())[rng.integers(len(shape)) :] for _ in range(count)
    ]
    operator = {**BINARY, **MANY}[name]
    operator = getattr(torch(), operator) if isinstance(operator, str) else operator

    def peer(*tensors):
        rank = max(t.ndim for t in tensors)
        return reduce(operator, [t.reshape(len(t), *[1] * (rank - t.ndim), *t.shape[1:]) for t in tensors])

    def inputs(size, draws, dtype):
        """Away from 0, where quotients and powers have no gradient, and no two equal, where a maximum has two."""
        return draws.uniform(0.5, 2, size).astype(dtype)

    assert_agrees(cl.create_layer(name), peer, shapes, length=3 * int(np.prod(shape)), seed=seed, inputs=inputs)


@SEEDS
def test_concat(seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    axis = int(rng.integers(1, rank + 1))
    shapes = [list(sizes(rng, rank))] * int(rng.integers(2, 5))
    shapes = [(*s[: axis - 1], int(rng.integers(1, 5)), *s[axis:]) for s in shapes]
    for way in (axis, axis - rank - 1):
        assert_agrees(cl.Concat(way), lambda *x: torch().cat(x, axis), shapes, length=1, seed=seed)


@SEEDS
@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_reductions(kind, seed):
    rng = np.random.default_rng(seed)
    shape = sizes(rng, int(rng.integers(2, 5)))
    axes = (rng.permutation(len(shape))[: int(rng.integers(1, len(shape)))] + 1).tolist()
    layer, keep = {"sum": cl.ReduceSum, "mean": cl.ReduceMean}[kind], bool(seed % 2)
    peer = getattr(torch(), kind)
    assert_agrees(layer(axes, keep), lambda x: peer(x, axes, keepdim=keep), [shape], length=int(np.prod(shape)), seed=seed)


@SEEDS
def test_gather(seed):
    rng = np.random.default_rng(seed)
    shape = sizes(rng, int(rng.integers(1, 4)))
    axis = int(rng.integers(1, len(shape) + 1))
    size = shape[axis - 1]
    indices = rng.integers(-size, size, sizes(rng, int(rng.integers(1, 3)), 1, 5))
    flat = torch().from_numpy(indices.ravel() % size)

    def peer(x):
        return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    assert_agrees(cl.Gather(indices.tolist(), axis), peer, [shape], length=indices.size, seed=seed)


@SEEDS
def test_matmul(seed):
    rng = np.random.default_rng(seed)
    i, j, k = (int(n) for n in rng.integers(1, 24, 3))
    stack = sizes(rng, int(rng.integers(0, 3)), 1, 4)
    left, right = (np.where(rng.random(len(stack)) < 0.3, 1, stack).tolist() for _ in range(2))
    shapes = [(*left, i, k), (*right[int(rng.integers(len(stack) + 1)) :], k, j)]

    def peer(a, b):
        return a @ b.reshape(len(b), *[1] * (a.ndim - b.ndim), *b.shape[1:])

    torch()
    assert_agrees(cl.MatMul(), peer, shapes, length=int(np.prod(stack)) * max(i, j, k), seed=seed)


EQUATIONS = {
    "nij,njk->nik": [(3, 4), (4, 5)],
    "nij,nkj->nki": [(23, 14), (21, 14)],
    "nhid,nhjd->nhij": [(2, 3, 4), (2, 5, 4)],
    "ni,nj,nk->nkij": [(2,), (3,), (4,)],
    "nij,nij->nij": [(3, 4), (3, 4)],
    "nij,nij->ni": [(3, 4), (3, 4)],
    "nij,nk->nj": [(3, 4), (5,)],
    "niij->nji": [(3, 3, 4)],
    "niji,nik->nk": [(3, 2, 3), (3, 4)],
    "nijk->nkij": [(2, 3, 4)],
    "nab,nbc,ncd->nda": [(2, 3), (3, 4), (4, 2)],
}


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS.items())
def test_einsum(equation, shapes):
    assert_agrees(cl.Einsum(equation), lambda *x: torch().einsum(equation, *x), shapes, length=200, seed=len(equation))


@SEEDS
def test_dense_takes_rows(seed):
    rng = np.random.default_rng(seed)
    shape, linear = sizes(rng, int(rng.integers(1, 5)), 1, 20), torch().nn.functional.linear
    assert_agrees(cl.Dense(int(rng.integers(1, 20))), linear, [shape], length=3 * int(np.prod(shape)), seed=seed)


@SEEDS
def test_permute_and_reshape(seed):
    rng = np.random.default_rng(seed)
    shape = sizes(rng, int(rng.integers(1, 5)))
    axes = (rng.permutation(len(shape)) + 1).tolist()
    torch()
    assert_agrees(cl.Permute(axes), lambda x: x.permute(0, *axes), [shape], length=1, seed=seed)
    assert_agrees(cl.Reshape([shape[-1], -1]), lambda x: x.reshape(len(x), shape[-1], -1), [shape], length=1, seed=seed)


def test_what_is_not_finite_spreads_as_in_pytorch():
    """Nearest pixels, borders and products; interpolation does not multiply it by zero, as PyTorch does at the edges."""
    x = np.ones((1, 1, 3, 4), np.float32)
    x[0, 0, 1, 1:3] = np.inf, np.nan
    tensor, functional = torch().from_numpy(x), torch().nn.functional
    for layer, peer in [
        (cl.Upsample(2), lambda t: functional.interpolate(t, scale_factor=2)),
        (cl.Pad(1, mode="reflect"), lambda t: functional.pad(t, (1,) * 4, mode="reflect")),
        (cl.Pad(2, mode="replicate"), lambda t: functional.pad(t, (2,) * 4, mode="replicate")),
    ]:
        np.testing.assert_array_equal(layer.forward(x, training=False)[0], peer(tensor).numpy())
    zeros = np.zeros((1, 1, 1, 1), np.float32)
    with np.errstate(invalid="ignore"):
        y, _ = cl.Multiply().forward([x, zeros], training=False)
    np.testing.assert_array_equal(y, (tensor * 0).numpy())
    y, _ = cl.Upsample(2, mode="bilinear").forward(x, training=False)
    finite = np.isfinite(y[0, 0])
    np.testing.assert_array_equal(finite[[0, -1]], True)
    np.testing.assert_array_equal(finite[1:-1], np.array([[True] + [False] * 6 + [True]] * 4))
