"""Losses and metrics: values by hand, gradients by central differences, and what they refuse."""

import numpy as np
import pytest

from convlayers.errors import ConfigError, DataError
from convlayers.tolerance import largest_error, tolerance
from convlayers.trainer.losses import LOSSES, CrossEntropy, MeanSquaredError, get_loss
from convlayers.trainer.metrics import Accuracy, get_metrics, total

cross_entropy, mse = CrossEntropy(), MeanSquaredError()


def numeric_gradient(loss, outputs, targets, step=1e-5):
    gradient = np.empty_like(outputs)
    for index in np.ndindex(outputs.shape):
        ends = []
        for sign in (1, -1):
            moved = outputs.copy()
            moved[index] += sign * step
            ends.append(loss(moved, targets)[0])
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 1), (2, 3, 4), (2, 3, 4, 2)])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradient(name, shape):
    rng = np.random.default_rng(len(shape))
    outputs = rng.normal(size=shape)
    targets = rng.normal(size=shape) if name == "mse" else rng.integers(0, shape[1], (shape[0], *shape[2:]))
    before = outputs.copy()
    value, gradient = LOSSES[name](outputs, targets)
    assert isinstance(value, float)
    assert gradient.shape == shape
    assert gradient.dtype == outputs.dtype
    assert np.array_equal(outputs, before)
    assert largest_error(gradient, numeric_gradient(LOSSES[name], outputs, targets)) < tolerance(np.float32)


def test_cross_entropy_by_hand():
    # Equal logits: every class has probability 1/4.
    value, gradient = cross_entropy(np.zeros((2, 4), np.float32), np.array([0, 3]))
    assert value == pytest.approx(np.log(4))
    assert gradient.dtype == np.float32
    assert np.allclose(gradient, (0.25 - np.eye(4)[[0, 3]]) / 2)


def test_cross_entropy_per_pixel_is_that_of_the_pixels():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.integers(0, 3, (2, 4, 5))
    value, gradient = cross_entropy(outputs, labels)
    flat_value, flat = cross_entropy(np.moveaxis(outputs, 1, 3).reshape(-1, 3), labels.reshape(-1))
    assert value == pytest.approx(flat_value, abs=tolerance(np.float32, 3))
    assert largest_error(np.moveaxis(gradient, 1, 3).reshape(-1, 3), flat) < tolerance(np.float32, 3)


def test_cross_entropy_of_large_logits():
    outputs = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], np.float32)
    value, gradient = cross_entropy(outputs, np.array([0, 0]))
    assert value == 1e4
    assert np.array_equal(gradient, np.array([[0, 0, 0], [-0.5, 0.5, 0]], np.float32))


def test_cross_entropy_against_float64():
    rng = np.random.default_rng(1)
    outputs, labels = rng.normal(0, 5, (64, 10)).astype(np.float32), rng.integers(0, 10, 64).astype(np.uint8)
    wide = np.exp(outputs.astype(np.float64))
    wide /= wide.sum(axis=1, keepdims=True)
    value, gradient = cross_entropy(outputs, labels)
    assert value == pytest.approx(-np.log(wide[np.arange(64), labels]).mean(), abs=tolerance(np.float32, 10))
    assert largest_error(gradient * 64, wide - np.eye(10)[labels]) < tolerance(np.float32, 10)


def test_mse_is_that_of_the_literature():
    # c = (1/n) ||a - y||^2 and dc/da = (2/n) (a - y), for one sample of n = 4 outputs.
    a, y = np.array([[1.0, 2, 3, 4]]), np.array([[0, 2, 5, 4]])
    value, gradient = mse(a, y)
    assert value == 5 / 4
    assert np.array_equal(gradient, 2 / 4 * (a - y))
    twice, half = mse(np.concatenate([a, a]), np.concatenate([y, y]))
    assert twice == value
    assert np.array_equal(half[0], gradient[0] / 2)


def test_mse_value_does_not_overflow_where_float64_holds_it():
    value, gradient = mse(np.full((1, 2), 1e30, np.float32), np.zeros((1, 2)))
    assert value == pytest.approx(1e60, rel=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3], r"from 0 to 2; got 3 at index 2"),
        ([0, -1, 2], r"from 0 to 2; got -1 at index 1"),
        ([0.0, 1.5, 2.0], r"dtype float64, 1\.5 at index 1"),
        ([0.0, 1.0, 2.0], r"dtype float64, 0\.0 at index 0"),
        (["a", "b", "c"], r"dtype <U1, a at index 0"),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], r"shape \(3,\).*\(3, 3\); for one-hot rows, pass y\.argmax"),
        ([[0], [1], [2]], r"shape \(3,\), one each; got \(3, 1\)"),
    ],
)
def test_labels_that_cross_entropy_refuses(labels, message):
    with pytest.raises(DataError, match=message):
        cross_entropy.check(np.array(labels), (3,))


def test_a_pixel_label_is_named_by_its_place():
    labels = np.zeros((2, 4, 5), np.uint8)
    labels[1, 2, 3] = 7
    with pytest.raises(DataError, match=r"got 7 at index \(1, 2, 3\)"):
        cross_entropy.check(labels, (3, 4, 5))


def test_labels_that_cross_entropy_takes():
    for dtype in ("u1", "i1", ">i4", "i8", "u8"):
        cross_entropy.check(np.array([0, 1, 2], dtype), (3,))
    cross_entropy.check(np.array([True, False]), (2,))
    value, _ = cross_entropy(np.array([[0.0, 50.0]]), np.array([True]))
    assert value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros(3), r"shape \(3, 1\); got \(3,\)"),
        (np.array([[0.0], [np.nan], [0]]), r"sample 1, position \(0,\) is nan"),
        (np.array([["a"], ["b"], ["c"]]), "real numbers; got dtype <U1"),
    ],
)
def test_targets_that_mse_refuses(targets, message):
    with pytest.raises(DataError, match=message):
        mse.check(targets, (1,))


def test_accuracy():
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    accuracy = Accuracy()
    assert accuracy(outputs, np.array([1, 0, 0])).tolist() == [True, True, False]
    assert accuracy(outputs, np.array([[0, 1], [1, 0], [1, 0]])).tolist() == [True, True, False]
    assert total(accuracy(outputs, np.array([1, 0, 0])), 3) == 2
    with pytest.raises(DataError, match="accuracy needs integer labels or one-hot targets"):
        accuracy.check(np.zeros((3, 1)), (1,))


def test_totals_of_metrics():
    assert total(0.25, 8) == 2
    assert total(np.array([1.0, 3.0]), 2) == 4
    # One value a pixel: the mean over the pixels, times the samples.
    assert total(np.ones((2, 3, 4), bool), 2) == 2


def test_choice_by_name():
    assert get_loss("mse") is LOSSES["mse"]
    for wrong in ("hinge", 3, CrossEntropy):
        with pytest.raises(ConfigError, match="loss is one of cross_entropy, mse, or a function"):
            get_loss(wrong)
    assert list(get_metrics(["accuracy", mse])) == ["accuracy", "mse"]
    for wrong in (["recall"], [3]):
        with pytest.raises(ConfigError, match="a metric is one of accuracy, or a function"):
            get_metrics(wrong)
    with pytest.raises(ConfigError, match="metrics is a list"):
        get_metrics("accuracy")
    with pytest.raises(ConfigError, match='two metrics have the name "accuracy"'):
        get_metrics(["accuracy", Accuracy()])
