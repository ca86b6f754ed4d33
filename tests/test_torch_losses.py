"""Losses against PyTorch's: value and gradient over random options and shapes, in both data types."""

import numpy as np
import pytest
from torch_peer import torch

from convlayers import losses
from convlayers.testing import assert_close

SEEDS = pytest.mark.parametrize("seed", range(6))
SHAPES = pytest.mark.parametrize("shape", [(1, 1), (7, 3), (4, 5, 6), (2, 3, 4, 5)])


def assert_same_loss(loss, peer, outputs, targets, what):
    """Fail unless `loss` gives what `peer(outputs, targets)` gives, in float32 and float64."""
    loss.check(targets, outputs.shape[1:])
    for dtype in ("float32", "float64"):
        given = outputs.astype(dtype)
        value, gradient = loss(given, targets)
        tensor = torch().from_numpy(given.copy()).requires_grad_()
        expected = peer(tensor, torch().from_numpy(targets))
        expected.backward()
        place = f"{loss!r}, {what}, {dtype}"
        assert isinstance(value, float), place
        assert gradient.dtype == dtype, place
        count = outputs.size
        assert_close(np.array(value, dtype), expected.detach().numpy(), count, f"{place}: value")
        assert_close(gradient * count, tensor.grad.numpy() * count, outputs.shape[1], f"{place}: gradient")


@SEEDS
@SHAPES
def test_cross_entropy(shape, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    outputs = rng.normal(0, 3, shape)
    for smoothing in (0.0, float(rng.uniform(0, 1)), 1.0):
        for weights in (None, rng.uniform(0.1, 2, shape[1]).tolist()):

            def peer(z, t, smoothing=smoothing, weights=weights):
                w = None if weights is None else torch().tensor(weights, dtype=z.dtype)
                return torch().nn.functional.cross_entropy(z, t, weight=w, label_smoothing=smoothing)

            assert_same_loss(losses.CrossEntropy(smoothing, weights), peer, outputs, labels, f"{shape}, seed {seed}")


def test_a_class_of_weight_zero_is_not_counted():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(9, 3)), np.arange(9) % 3

    def peer(z, t):
        return torch().nn.functional.cross_entropy(z, t, weight=torch().tensor([1, 0, 2], dtype=z.dtype))

    assert_same_loss(losses.CrossEntropy(class_weights=[1, 0, 2]), peer, outputs, labels, "a weight of 0")


@SEEDS
@SHAPES
def test_binary_cross_entropy(shape, seed):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(0, 3, shape)
    targets = rng.uniform(size=shape) if seed % 2 else rng.integers(0, 2, shape).astype(float)
    for weight in (None, 2.5, rng.uniform(0.1, 5, shape[1]).tolist()):

        def peer(z, t, weight=weight):
            column = (-1, *(1,) * (len(shape) - 2))
            w = None if weight is None else torch().tensor(weight, dtype=z.dtype).reshape(column)
            return torch().nn.functional.binary_cross_entropy_with_logits(z, t.to(z.dtype), pos_weight=w)

        assert_same_loss(losses.BCEWithLogits(weight), peer, outputs, targets, f"{shape}, seed {seed}")


@SEEDS
@SHAPES
def test_losses_of_numbers(shape, seed):
    rng = np.random.default_rng(seed)
    functional = torch().nn.functional
    outputs, targets = rng.normal(0, 2, shape), rng.normal(0, 2, shape)
    outputs.flat[0] = targets.flat[0] = 0.5
    delta = float(rng.uniform(0.2, 3))
    for loss, peer, options in (
        (losses.MeanSquaredError(), functional.mse_loss, {}),
        (losses.L1(), functional.l1_loss, {}),
        (losses.Huber(), functional.huber_loss, {}),
        (losses.Huber(delta), functional.huber_loss, {"delta": delta}),
    ):

        def like(z, t, peer=peer, options=options):
            return peer(z, t.to(z.dtype), **options)

        assert_same_loss(loss, like, outputs, targets, f"{shape}, seed {seed}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_stay_finite(dtype):
    outputs = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 1e4]], dtype)
    labels, targets = np.array([1, 0, 2]), np.array([[0, 1, 1], [1.0, 0, 0.5], [0, 1, 1]])
    functional = torch().nn.functional
    tensor = torch().from_numpy(outputs)
    for loss, goal, expected in (
        (losses.CrossEntropy(), labels, functional.cross_entropy(tensor, torch().from_numpy(labels))),
        (
            losses.CrossEntropy(0.1, [1, 2, 3]),
            labels,
            functional.cross_entropy(
                tensor, torch().from_numpy(labels), torch().tensor([1, 2, 3], dtype=tensor.dtype), label_smoothing=0.1
            ),
        ),
        (
            losses.BCEWithLogits(),
            targets,
            functional.binary_cross_entropy_with_logits(tensor, torch().from_numpy(targets).to(tensor.dtype)),
        ),
    ):
        value, gradient = loss(outputs, goal)
        assert value == pytest.approx(expected.item(), rel=1e-6), repr(loss)
        assert np.isfinite(gradient).all(), repr(loss)
        assert np.abs(gradient).max() <= 1, repr(loss)


def test_what_is_not_finite_comes_out_as_in_pytorch():
    functional = torch().nn.functional
    for row in ([np.nan, 0, 1], [np.inf, 0, 1], [0, -np.inf, 1]):
        outputs, targets = np.array([row]), np.array([[1.0, 0.0, 0.5]])
        for loss, peer in (
            (losses.BCEWithLogits(), functional.binary_cross_entropy_with_logits),
            (losses.MeanSquaredError(), functional.mse_loss),
            (losses.L1(), functional.l1_loss),
            (losses.Huber(), functional.huber_loss),
        ):
            tensor = torch().from_numpy(outputs.copy()).requires_grad_()
            expected = peer(tensor, torch().from_numpy(targets))
            expected.backward()
            with np.errstate(invalid="ignore", over="ignore"):
                value, gradient = loss(outputs, targets)
            np.testing.assert_allclose(value, expected.item(), err_msg=f"{loss!r} of {row}")
            wanted = tensor.grad.numpy()
            if isinstance(loss, losses.L1):
                # PyTorch calls the sign of NaN 0; here what is not a number has no gradient that is one.
                wanted[np.isnan(outputs)] = np.nan
            np.testing.assert_allclose(gradient, wanted, err_msg=f"{loss!r} of {row}")
