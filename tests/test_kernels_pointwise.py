"""Sums and cross-entropy: against the reference and PyTorch, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges

from convlayers import functional, kernels
from convlayers.errors import DataError, ShapeError
from convlayers.kernels import reference
from convlayers.testing import on_every_machine
from convlayers.tolerance import largest_error, tolerance

NAN, INF = np.nan, np.inf
CHUNK = 16384  # of the elementwise kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (CHUNK - 1,), (2, CHUNK), (3, CHUNK + 1)])
def test_add(shape, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for _ in range(3)]
    before = [array.copy() for array in arrays]
    for some in (arrays[:2], arrays):
        assert_kernel(lambda some=some: [functional.add(some)], [reference.add(some)], [1], f"{len(some)} {shape}", dtype)
    np.testing.assert_array_equal(arrays, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_takes_over_its_relu(dtype):
    arrays = [np.random.default_rng(n).standard_normal((3, CHUNK + 1)).astype(dtype) for n in range(3)]
    arrays[0][0, :4] = arrays[1][0, :4] = [NAN, INF, -INF, -0.0]
    expected = functional.relu(functional.add(arrays))
    for isa, (y,) in on_every_machine(lambda: [functional.add(arrays, relu=True)]).items():
        np.testing.assert_array_equal(y, expected, err_msg=isa)


def test_add_refuses_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"inputs must have one shape; got \(2, 3\) and \(3,\)"):
        functional.add([np.zeros((2, 3)), np.zeros(3)])
    assert functional.add([np.zeros((0, 3)), np.zeros((0, 3))]).shape == (0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(2, 3, 4, 5), (2, 1, 4, 5), (2, 2, 4, 5)], 1),
        ([(2, 3, 5), (2, 3, 1)], -1),
        ([(3, CHUNK - 1), (3, CHUNK), (3, CHUNK + 1)], 1),
        ([(2, 0, 7), (2, 4, 7)], 1),
        ([(2, CHUNK + 3), (5, CHUNK + 3)], 0),
        ([(0, 2), (0, 3)], 1),
    ],
    ids=str,
)
def test_concat_and_split(shapes, axis, dtype):
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    whole = np.concatenate(parts, axis)
    sizes = [part.shape[axis] for part in parts]
    results = on_every_machine(lambda: [functional.concat(parts, axis), *functional.split(whole, sizes, axis)])
    for isa, (y, *dx) in results.items():
        for actual, expected in zip([y, *dx], [whole, *parts], strict=True):
            np.testing.assert_array_equal(actual, expected, err_msg=isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (64, 10), (3, 17), (1000, 33), (0, 4)])
def test_column_sums(shape, dtype):
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    assert_kernel(lambda: [functional.column_sums(x)], [reference.column_sums(x)], [shape[0]], f"{shape}", dtype)


def check_cross_entropy(z, labels, smoothing=0.0, weights=None):
    expected, gradient = reference.cross_entropy(z, labels, smoothing, weights)

    def compute():
        value, dz = functional.cross_entropy(z, labels, label_smoothing=smoothing, class_weights=weights)
        return dz * labels.size, np.array(value)

    for isa, (dz, value) in on_every_machine(compute).items():
        what = f"{isa}, logits {z.shape}"
        assert dz.dtype == z.dtype, what
        assert largest_error(dz, gradient * labels.size) <= tolerance(z.dtype, z.shape[1]), what
        assert largest_error(value, np.array(expected)) <= tolerance(z.dtype, z.shape[1]), what


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (64, 10), (300, 7), (5, 20_000), (2, 3, 1), (2, 3, 4, 5), (3, 5, 257), (1, 21, 40, 40)]
)
def test_cross_entropy(shape, dtype):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    for scale in (1, 30, 1000):
        check_cross_entropy((scale * rng.standard_normal(shape)).astype(dtype), labels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (64, 10), (2, 3, 1), (2, 3, 4, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_and_weighted_cross_entropy(smoothing, shape, dtype):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    for weights in (None, rng.uniform(0.5, 2, shape[1])):
        for scale in (1, 1000):
            check_cross_entropy((scale * rng.standard_normal(shape)).astype(dtype), labels, smoothing, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_batches_and_images_beside_the_edges_of_a_vector(isa, dtype):
    vector, _ = edges(isa, dtype)
    rng = np.random.default_rng(3)
    for n in beside(vector):
        check_cross_entropy(rng.standard_normal((n, 10)).astype(dtype), rng.integers(0, 10, n))
        check_cross_entropy(rng.standard_normal((2, 3, n)).astype(dtype), rng.integers(0, 3, (2, n)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_over_its_whole_range(dtype):
    # Two classes, of which the first is the largest: its gradient holds e^-gap / (1 + e^-gap).
    least = float(np.log(np.finfo(dtype).tiny))
    gaps = np.linspace(0, -least, 20_001)
    z = np.stack([np.zeros_like(gaps), -gaps], axis=1).astype(dtype)
    exact = z[:, 1].astype(np.float64)
    wanted = np.exp(exact) / (1 + np.exp(exact))
    for isa, (dz,) in on_every_machine(lambda: [functional.cross_entropy(z, np.zeros(len(z), int))[1]]).items():
        ratio = dz[:-10, 1].astype(np.float64) * len(z) / wanted[:-10]
        inside = wanted[:-10] > 1e-30
        assert abs(ratio[inside] - 1).max() < tolerance(dtype), isa
        assert (dz[:, 1] >= 0).all(), isa


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_comes_out_as_in_pytorch(dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    rows = [[NAN, 0, 1], [0, NAN, 1], [INF, 0, 1], [INF, INF, 0], [-INF, 0, 1], [-INF, -INF, 0], [-INF] * 3, [0, 1, -INF]]
    for row in rows:
        for label in range(3):
            for z, labels in (
                (np.array([row]), np.array([label])),
                (np.array(row)[None, :, None].repeat(5, axis=2), np.full((1, 5), label)),
            ):
                z = z.astype(dtype)
                tensor = torch.from_numpy(z).requires_grad_()
                loss = torch.nn.functional.cross_entropy(tensor, torch.from_numpy(labels))
                loss.backward()
                for isa, (value, dz) in on_every_machine(
                    lambda z=z, labels=labels: [np.array(v) for v in functional.cross_entropy(z, labels)]
                ).items():
                    what = f"{isa}, {row}, label {label}"
                    np.testing.assert_allclose(value, loss.item(), rtol=1e-6, err_msg=what)
                    np.testing.assert_allclose(dz, tensor.grad.numpy(), rtol=1e-6, atol=1e-7, err_msg=what)


def test_labels_and_shapes_that_do_not_fit():
    z = np.zeros((3, 4), np.float32)
    for labels in ([0, 4, 1], [0, -1, 1]):
        for smoothing in (0, 0.1):
            with pytest.raises(DataError, match=rf"labels are integers from 0 to 3; got {labels[1]}"):
                functional.cross_entropy(z, labels, label_smoothing=smoothing)
    with pytest.raises(ShapeError, match=r"class_weights must have shape \(4,\), one a class; got \(3,\)"):
        functional.cross_entropy(z, [0, 1, 2], class_weights=[1, 2, 3])
    with pytest.raises(ShapeError, match=r"got \(2,\) and \(3, 4\)"):
        functional.cross_entropy(z, [0, 1])
    value, dz = functional.cross_entropy(z[:0], np.zeros(0, int))
    assert np.isnan(value)
    assert dz.shape == (0, 4)
