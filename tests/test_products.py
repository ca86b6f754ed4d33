"""Reductions, slices, gathered values, products of matrices: by hand, against NumPy and onnxruntime, and what is refused."""

import numpy as np
import onnx
import pytest
from exports import around, run
from helpers import DTYPES, assert_kernel

import convlayers as cl
from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.onnx.session import OLDEST_OPSET, newest_opset
from convlayers.randomness import generator
from convlayers.shapes import sliced
from convlayers.testing import assert_close, spread
from convlayers.testing.machine import same_bits

_FAR = 2**63 - 1


def built(layer, shape):
    return layer.build(shape, generator(0, "test"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.ReduceSum([]), ConfigError, r"axes must be a list of axes, each once, counted from 1; .* got \[\]"),
        (lambda: cl.ReduceMean([0, 1]), ConfigError, r"0 is the batch; got \[0, 1\]"),
        (lambda: cl.ReduceMean([-1]), ConfigError, r"counted from 1; 0 is the batch; got \[-1\]"),
        (lambda: cl.ReduceSum([1, 1]), ConfigError, r"each once, .* got \[1, 1\]"),
        (lambda: cl.ReduceSum([1], keepdims=1), ArrayTypeError, "keepdims is True or False; got 1"),
        (lambda: cl.Slice([0], [1], [0]), ConfigError, r"0 is the batch; got \[0\]"),
        (lambda: cl.Slice([0], [1, 2], [1]), ConfigError, r"ends must be a list of ints, one for each of axes; got \[1, 2\]"),
        (lambda: cl.Slice([0.5], [1], [1]), ConfigError, r"starts must be a list of ints, .* got \[0.5\]"),
        (lambda: cl.Slice([0], [1], [1], [0]), ConfigError, r"steps must be .* none of them 0; got \[0\]"),
        (lambda: cl.Gather([]), ConfigError, r"indices must be an int or a list of ints, .* got \[\]"),
        (lambda: cl.Gather([[1], [2, 3]]), ConfigError, r"got \[\[1\], \[2, 3\]\]"),
        (lambda: cl.Gather([1.0]), ConfigError, r"got \[1.0\]"),
        (lambda: cl.Gather([True]), ConfigError, r"got \[True\]"),
        (lambda: cl.Gather([10**30]), ConfigError, "indices must be an int"),
        (lambda: cl.Gather(0, axis=0), ConfigError, "axis is an int other than 0"),
        (lambda: cl.Einsum(None), ArrayTypeError, "equation is a text such as 'nij,njk->nik'; got None"),
        (lambda: cl.Einsum("nij,njk"), ConfigError, "equation is terms of letters, ->, and the result's letters"),
        (lambda: cl.Einsum("n...,n...->n"), ConfigError, "equation is terms of letters"),
        (lambda: cl.Einsum("nij,njk->ink"), ConfigError, "the batch is one letter, the first of every term and of the result"),
        (lambda: cl.Einsum("nij,jk->nik"), ConfigError, "the batch is one letter"),
        (lambda: cl.Einsum("nin->ni"), ConfigError, "the batch is one letter"),
        (lambda: cl.Einsum("nij->nii"), ConfigError, "the result has letters of the terms, each once"),
        (lambda: cl.Einsum("nij->nk"), ConfigError, "the result has letters of the terms, each once"),
        (lambda: cl.Einsum("nij->n"), ConfigError, "every term and the result have a letter beside the batch"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.ReduceSum([3]), (3, 4), r"axis 3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.ReduceSum([1, 2], keepdims=False), (3, 4), r"leaves no axis of a sample of shape \(3, 4\); use keepdims=True"),
        (cl.Slice([2], [2], [1]), (3, 4), r"takes nothing of axis 1 of a batch of samples of shape \(3, 4\)"),
        (cl.Slice([0], [1], [3]), (3, 4), r"axis 3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.Gather([0, 3]), (3, 4), r"indices of an axis of 3 go from -3 to 2; got \[0, 3\]"),
        (cl.Gather(-5, axis=2), (3, 4), "indices of an axis of 4 go from -4 to 3; got -5"),
        (cl.Gather(0), (3,), r"leaves no axis of a sample of shape \(3,\); write the index as a list"),
        (cl.MatMul(), [(3, 4)], "takes 2 inputs; got 1"),
        (
            cl.MatMul(),
            [(3, 4), (4,)],
            r"takes matrices \(..., I, K\) and \(..., K, J\); got .* \(3, 4\) and \(4,\)",
        ),
        (cl.MatMul(), [(3, 4), (3, 4)], r"got samples of shape \(3, 4\) and \(3, 4\)"),
        (cl.MatMul(), [(2, 3, 4), (3, 4, 3)], r"of one size or of size 1; got \(2,\), \(3,\)"),
        (cl.Einsum("nij,njk->nik"), [(3, 4)], "takes 2 inputs; got 1"),
        (cl.Einsum("nij,njk->nik"), [(3, 4), (4,)], r"njk takes samples of 2 axes; got one of shape \(4,\)"),
        (cl.Einsum("nij,njk->nik"), [(3, 4), (5, 4)], "the letter j has one size; got 4 and 5"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        built(layer, shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: f.matmul(x, x), r"matmul: a must be \(N, ..., I, K\) .* got \(2, 3, 4\) and \(2, 3, 4\)"),
        (lambda f, x: f.matmul(x[0], x), r"got \(3, 4\) and \(2, 3, 4\)"),
        (lambda f, x: f.matmul_backward(x, x, x.transpose(0, 2, 1)), r"matmul: dy must .* \(2, 3, 3\); got \(2, 3, 4\)"),
        (lambda f, x: f.einsum(["nij", "njk"], "nik", [x, x]), "einsum: the letter j has the sizes 4 and 3"),
        (lambda f, x: f.einsum(["nijk"], "n", [x]), r"nijk has 4 letters, and its input the shape \(2, 3, 4\)"),
        (lambda f, x: f.gather(x, np.array([3, 1]), 1), r"gather: indices of an axis of 3 go from -3 to 2; got \[3, 1\]"),
        (lambda f, x: f.gather_backward(x, x.shape, np.array([0]), 1), r"gather: dy must .* \(2, 1, 4\); got \(2, 3, 4\)"),
        (lambda f, x: f.select_backward(x, x.shape, {1: range(2)}), r"select: dy must .* \(2, 2, 4\); got \(2, 3, 4\)"),
        (lambda f, x: f.reduce_sum_backward(x, x.shape, [1]), r"reduce_sum: dy must .* \(2, 1, 4\); got \(2, 3, 4\)"),
    ],
)
def test_what_does_not_fit_the_functions(call, message):
    with pytest.raises(ShapeError, match=message):
        call(functional, np.zeros((2, 3, 4), np.float32))


# Sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 4, 5, 6), (2, 3)),
        ((3, 4, 5, 67), (3, 2)),
        ((3, 4, 5), (1, 2)),
        ((3, 4, 5), (1,)),
        ((0, 4, 5), (2,)),
        ((2, 3, 1, 4), (2,)),
    ],
    ids=str,
)
def test_means_of_the_last_axes_and_of_others(shape, axes, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y = functional.reduce_sum(x, axes, mean=True)
    expected = x.astype(np.float64).mean(axis=axes, keepdims=True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * np.finfo(dtype).eps)
    dx = functional.reduce_sum_backward(y, shape, axes, mean=True)
    share = np.broadcast_to(y / np.prod([shape[axis] for axis in axes]), shape)
    np.testing.assert_allclose(dx, share, rtol=4 * np.finfo(dtype).eps)


# Slices and indices


@pytest.mark.parametrize("start", [-_FAR - 1, -6, -5, -3, -1, 0, 1, 4, 5, 6, _FAR])
def test_slices_are_onnxs(start):
    """As Python's, but for a start before an axis that is walked backwards: it is moved to the axis's first value."""
    for end in (-_FAR - 1, -6, -5, -2, 0, 3, 5, 6, _FAR):
        for step in (-3, -1, 1, 2, _FAR, -_FAR):
            begin = 0 if step < 0 and start < -5 else start
            assert list(sliced(5, start, end, step)) == list(range(5))[begin:end:step], (start, end, step)


def test_a_slice_turns_around_and_skips():
    x = np.arange(24.0).reshape(2, 3, 4)
    layer = cl.Slice([-1, 0], [-_FAR, _FAR], [2, 1], [-2, 2])
    y, cache = layer.forward(x, training=True)
    np.testing.assert_array_equal(y, x[:, ::2, ::-2])
    expected = np.zeros_like(x)
    expected[:, ::2, ::-2] = y
    np.testing.assert_array_equal(layer.backward(y, cache), expected)


def test_gathered_twice_gets_both_gradients():
    x, layer = np.arange(6.0).reshape(2, 3), cl.Gather([[2, 0], [2, 2]])
    y, cache = layer.forward(x, training=True)
    np.testing.assert_array_equal(y[0], [[2, 0], [2, 2]])
    dy = np.array([[[1.0, 2], [4, 8]], [[16, 32], [64, 128]]])
    np.testing.assert_array_equal(layer.backward(dy, cache), [[2, 0, 13], [32, 0, 208]])


# Products, on every instruction set and thread count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3, 4), (2, 4, 5)), ((3, 40, 33), (3, 33, 29)), ((2, 2, 1, 17, 30), (2, 1, 3, 30, 18)), ((2, 17, 30), (2, 3, 30, 18))],
)
def test_matmul(left, right, dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in (left, right))
    wide = a.astype(float).reshape(left[:1] + (1,) * (len(right) - len(left)) + left[1:])
    y = wide @ b.astype(float)
    dy = rng.standard_normal(y.shape).astype(dtype)
    da, db = dy @ b.astype(float).swapaxes(-1, -2), wide.swapaxes(-1, -2) @ dy
    gradients = []
    for gradient, given in ((da, wide), (db, b)):
        repeated = tuple(axis for axis in range(y.ndim - 2) if given.shape[axis] == 1 < y.shape[axis])
        gradients.append(gradient.sum(axis=repeated, keepdims=True).reshape(a.shape if given is wide else b.shape))
    length = y.size
    assert_kernel(
        lambda: [functional.matmul(a, b), *functional.matmul_backward(dy, a, b)], [y, *gradients], [length] * 3, "matmul", dtype
    )


def test_a_product_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((7, 20, 19)).astype(np.float32), rng.standard_normal((7, 19, 21)).astype(np.float32)
    whole = functional.matmul(a, b)
    for n in range(7):
        assert same_bits(functional.matmul(a[n : n + 1], b[n : n + 1]), whole[n : n + 1])


# ONNX


_EXPORTS = [
    (cl.ReduceMean([2, 3]), (3, 4, 5)),
    (cl.ReduceSum([1, 3], keepdims=False), (3, 4, 5)),
    (cl.Slice([-2, 4], [_FAR, -_FAR - 1], [1, 2], [1, -3]), (3, 5)),
    (cl.Gather([[0, -1], [2, 2]], axis=2), (3, 4, 5)),
    (cl.Gather(1, axis=-2), (3, 4, 5)),
    (cl.MatMul(), [(2, 1, 3, 4), (3, 4, 2)]),
    (cl.Einsum("bhid, bhjd -> bhij"), [(2, 3, 4), (2, 5, 4)]),
    (cl.Einsum("nij->nji"), [(3, 4)]),
    (cl.Einsum("niij,nk->nik"), [(3, 3, 2), (4,)]),
    (cl.Dense(6), (3, 2, 5)),
    (cl.Dense(6, bias=False), (2, 5)),
]


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 17, newest_opset()])
@pytest.mark.parametrize(("layer", "shape"), _EXPORTS, ids=[repr(layer) for layer, _ in _EXPORTS])
def test_onnxruntime_agrees_at_every_opset(layer, shape, opset, tmp_path):
    model = around(layer, shape)
    cl.export_onnx(model, tmp_path / "m.onnx", opset=opset)
    rng = np.random.default_rng(0)
    for batch in (1, 4):
        x = [spread((batch, *s), rng) for s in model.input_shapes]
        (y,) = run(tmp_path / "m.onnx", *x)
        assert_close(y, model(x if len(x) > 1 else x[0]), 60, f"{layer!r}, opset {opset}, batch {batch}")


def test_a_dense_layer_over_rows_keeps_its_weights_name_and_shape(tmp_path):
    model = cl.Sequential([("rows", cl.Dense(6))], input_shape=(2, 5))
    cl.export_onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert {t.name: list(t.dims) for t in graph.initializer} == {"rows.weight": [6, 5], "rows.bias": [6]}
    assert [node.op_type for node in graph.node] == ["Transpose", "MatMul", "Add"]


def test_attention_trains(tmp_path):
    """Softmax of scores from two products: the position that a mark stands at is found by its neighbour's value."""
    x = cl.Input((6, 4))
    query, key, value = (cl.Dense(8)(x, name=name) for name in ("query", "key", "value"))
    weights = cl.Softmax(-1)(cl.MultiplyConstant(8**-0.5)(cl.Einsum("nid,njd->nij")(query, key)))
    y = cl.Dense(3)(cl.ReduceMean([1], keepdims=False)(cl.MatMul()(weights, value)))
    model = cl.Model(x, y, seed=0)
    rng = np.random.default_rng(0)
    labels, places = rng.integers(0, 3, 240), rng.integers(0, 6, 240)
    samples = rng.normal(0, 0.1, (240, 6, 4)).astype(np.float32)
    samples[np.arange(240), places, labels] += 2
    trainer = cl.Trainer(model, optimizer=cl.Adam(0.02), seed=0)
    trainer.fit((samples, labels), epochs=8, batch_size=24, progress=False)
    assert trainer.evaluate((samples, labels))["accuracy"] > 0.95
    cl.export_onnx(model, tmp_path / "m.onnx")
