"""Borders, upsampling and joins against the reference, for every instruction set and thread count, and by hand."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel

from convlayers import functional, kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.kernels import reference
from convlayers.testing.machine import same_bits

RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def random(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("linear", [False, True], ids=["nearest", "linear"])
@pytest.mark.parametrize("dtype", DTYPES)
@RANKS
def test_upsample(rank, dtype, linear):
    rng = np.random.default_rng(rank)
    for batch in (0, 1, 2):
        for _ in range(4):
            shape, scale = (batch, 2, *rng.integers(1, 7, rank).tolist()), rng.integers(1, 6, rank).tolist()
            x, dy = random(rng, shape, dtype), random(rng, (*shape[:2], *np.multiply(shape[2:], scale)), dtype)
            expected = [
                reference.upsample(x, scale, linear).reshape(dy.shape),
                reference.upsample_backward(dy, shape, scale, linear).reshape(shape),
            ]

            def compute(x=x, dy=dy, scale=scale):
                forward = functional.upsample(x, scale, linear=linear)
                return forward, functional.upsample_backward(dy, x.shape, scale, linear=linear)

            taps = int(np.prod(scale)) * 2**rank
            assert_kernel(compute, expected, [2**rank, taps], f"{shape} by {scale}", dtype)


def test_upsample_by_hand():
    x = np.array([[[1.0, 5.0]]])
    np.testing.assert_array_equal(functional.upsample(x, [3]), [[[1, 1, 1, 5, 5, 5]]])
    np.testing.assert_array_equal(functional.upsample(x, [2], linear=True), [[[1, 2, 4, 5]]])
    dy = np.array([[[1.0, 2.0, 4.0, 8.0]]])
    np.testing.assert_array_equal(functional.upsample_backward(dy, (1, 1, 2), [2]), [[[3, 12]]])
    # 1 + 3/4 2 + 1/4 4 and 1/4 2 + 3/4 4 + 8
    np.testing.assert_array_equal(functional.upsample_backward(dy, (1, 1, 2), [2], linear=True), [[[3.5, 11.5]]])


@pytest.mark.parametrize("isa", kernels.available())
def test_repeated_pixels_keep_their_bits(isa):
    x = np.array([np.pi, 1e-40, -np.inf, np.nan, 3.4e38, 1 / 3], np.float32).reshape(1, 1, 2, 3)
    with kernels.using(isa=isa):
        assert same_bits(functional.upsample(x, [2, 3]), x.repeat(2, axis=2).repeat(3, axis=3))


@pytest.mark.parametrize("mode", functional.PAD_MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@RANKS
def test_pad(rank, dtype, mode):
    rng = np.random.default_rng(rank)
    for batch in (0, 1, 2):
        for _ in range(6):
            shape = (batch, 2, *rng.integers(1, 6, rank).tolist())
            most = [size if mode == "reflect" else 5 for size in shape[2:]]
            pairs = tuple(tuple(rng.integers(0, high, 2).tolist()) for high in most)
            x = random(rng, shape, dtype)
            dy = random(rng, reference.pad(x, pairs, mode, 0).shape, dtype)
            expected = [reference.pad(x, pairs, mode, -2.5), reference.pad_backward(dy, shape, pairs, mode)]

            def compute(x=x, dy=dy, pairs=pairs):
                forward = functional.pad(x, pairs, mode=mode, value=-2.5)
                return forward, functional.pad_backward(dy, x.shape, pairs, mode=mode)

            before = dy.copy()
            assert_kernel(compute, expected, [1, dy[0].size if batch else 1], f"{shape} with {pairs}", dtype)
            np.testing.assert_array_equal(dy, before)


def test_pad_by_hand():
    x, pairs = np.array([[[1.0, 2.0, 3.0]]]), ((2, 1),)
    for mode, expected, gradient in (
        ("constant", [7, 7, 1, 2, 3, 7], [4, 8, 16]),
        ("reflect", [3, 2, 1, 2, 3, 2], [4, 2 + 8 + 32, 1 + 16]),
        ("replicate", [1, 1, 1, 2, 3, 3], [1 + 2 + 4, 8, 16 + 32]),
    ):
        np.testing.assert_array_equal(functional.pad(x, pairs, mode=mode, value=7), [[expected]])
        dy = np.array([[[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]]])
        np.testing.assert_array_equal(functional.pad_backward(dy, x.shape, pairs, mode=mode), [[gradient]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply(dtype):
    rng = np.random.default_rng(0)
    gates = [(2, 3, 1, 1), (2, 3, 4, 5), (2, 1, 4, 1)]
    for shapes in (gates, [(2, 3, 4), (2, 3, 4)], [(0, 3), (0, 1)], [(1, 3, 1), (2, 1, 4)]):
        arrays = [random(rng, shape, dtype) for shape in shapes]
        dy = random(rng, np.broadcast_shapes(*shapes), dtype)

        def compute(arrays=arrays, dy=dy):
            return [functional.multiply(arrays), *functional.multiply_backward(dy, arrays)]

        expected = [reference.multiply(arrays), *reference.multiply_backward(dy, arrays)]
        assert_kernel(compute, expected, [1] + [dy.size] * len(arrays), f"{shapes}", dtype)


def test_concat_and_split_undo_each_other():
    rng = np.random.default_rng(0)
    arrays = [random(rng, (2, n, 3), "float32") for n in (1, 4, 2)]
    for axis in (1, -2):
        whole = functional.concat(arrays, axis)
        assert same_bits(whole, np.concatenate(arrays, axis=1))
        for part, array in zip(functional.split(whole, [1, 4, 2], axis), arrays, strict=True):
            assert same_bits(part, array)


def test_permute_is_a_transpose():
    x = random(np.random.default_rng(0), (2, 3, 4, 5), "float64")
    assert same_bits(functional.permute(x, (0, 3, 1, 2)), np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x: f.multiply([x, x[:, :2]]), ShapeError, r"multiply: .* or size 1; got \(2, 3, 4\), \(2, 2, 4\)"),
        (lambda f, x: f.multiply([x, x[0]]), ShapeError, r"multiply: .* or size 1; got \(2, 3, 4\), \(3, 1, 4\)"),
        (lambda f, x: f.multiply_backward(x[:1], [x, x]), ShapeError, "multiply: dy must have the output's shape"),
        (lambda f, x: f.concat([x, x[:, :, :2]], 1), ShapeError, r"apart from axis 1; got \(2, 3, 4\), \(2, 3, 2\)"),
        (
            lambda f, x: f.split(x, [1, 1], -1),
            ShapeError,
            r"sizes \(1, 1\) must add up to 4, the size of axis 2 of \(2, 3, 4\)",
        ),
        (lambda f, x: f.pad(x, ((1, 1),), mode="wrap"), ConfigError, "mode is one of constant, reflect, replicate; got 'wrap'"),
        (
            lambda f, x: f.pad(x, ((0, 4),), mode="reflect"),
            ShapeError,
            r"of 4 pixels has at most 3; got padding \(0, 4\) along axis 0",
        ),
        (lambda f, x: f.pad_backward(x, x.shape, ((1, 1),)), ShapeError, r"pad: dy must have .* \(2, 3, 6\); got \(2, 3, 4\)"),
        (lambda f, x: f.upsample_backward(x, (2, 3, 3), [2]), ShapeError, r"upsample: dy must have .* \(2, 3, 6\)"),
    ],
)
def test_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call(functional, np.zeros((2, 3, 4), np.float32))
