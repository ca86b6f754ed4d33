"""Losses and metrics: values by hand, gradients by central differences, and what they refuse."""

import numpy as np
import pytest

from convlayers.errors import ConfigError, DataError
from convlayers.tolerance import largest_error, tolerance
from convlayers.trainer.losses import L1, LOSSES, BCEWithLogits, CrossEntropy, Huber, MeanSquaredError, get_loss
from convlayers.trainer.metrics import Accuracy, BinaryAccuracy, IntersectionOverUnion, get_metrics, total

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
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:])) if name == "cross_entropy" else rng.uniform(size=shape)
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


def test_binary_cross_entropy_by_hand():
    value, gradient = BCEWithLogits(3.0)(np.zeros((1, 2)), np.array([[1, 0]]))
    assert value == pytest.approx((3 * np.log(2) + np.log(2)) / 2)
    np.testing.assert_allclose(gradient, [[-3 / 4, 1 / 4]])


def test_binary_cross_entropy_is_the_cross_entropy_of_two_classes():
    z = np.random.default_rng(0).normal(0, 3, (50, 1))
    labels = (z[:, 0] + np.random.default_rng(1).normal(size=50) > 0).astype(int)
    value, gradient = BCEWithLogits()(z, labels[:, None])
    expected, of_two = cross_entropy(np.concatenate([np.zeros_like(z), z], axis=1), labels)
    assert value == pytest.approx(expected, abs=tolerance(np.float64))
    np.testing.assert_allclose(gradient[:, 0], of_two[:, 1], atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_keeps_what_is_far_from_zero(dtype):
    # log(1 + e^-x) is e^-x to the last bit here, where 1 + e^-x is 1 and its logarithm 0.
    far, rounding = (20.0, 1e-6) if dtype == "float32" else (40.0, 1e-15)
    for logit, target in ((far, 1), (-far, 0)):
        value, gradient = BCEWithLogits()(np.array([[logit]], dtype), np.array([[target]]))
        assert value == pytest.approx(np.exp(-far), rel=rounding)
        assert gradient[0, 0] == pytest.approx((1 - 2 * target) * np.exp(-far), rel=rounding)


def test_l1_and_huber_by_hand():
    a, y = np.array([[1.0, 2.0, 8.0, -3.0]]), np.array([[1.0, 3.0, 4.0, 1.0]])
    value, gradient = L1()(a, y)
    assert value == (0 + 1 + 4 + 4) / 4
    np.testing.assert_array_equal(gradient, np.array([[0, -1, 1, -1]]) / 4)
    value, gradient = Huber(2.0)(a, y)
    assert value == (0 + 1 / 2 + 2 * 3 + 2 * 3) / 4
    np.testing.assert_array_equal(gradient, np.array([[0, -1, 2, -2]]) / 4)


def test_smoothed_and_weighted_cross_entropy_by_hand():
    # Of three equal logits every logarithm is -log 3, so the value is that of the weights alone.
    z, labels = np.zeros((2, 3)), np.array([0, 2])
    value, gradient = CrossEntropy(label_smoothing=0.3)(z, labels)
    assert value == pytest.approx(np.log(3))
    np.testing.assert_allclose(gradient, (1 / 3 - np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])) / 2)
    value, gradient = CrossEntropy(class_weights=[1, 5, 3])(z, labels)
    assert value == pytest.approx(np.log(3))
    np.testing.assert_allclose(gradient, np.array([[1 / 3 - 1, 1 / 3, 1 / 3], [1, 1, -2]]) / 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.5), r"label_smoothing must be from 0 to 1; got 1\.5"),
        (lambda: CrossEntropy(label_smoothing="a"), "label_smoothing must be from 0 to 1; got 'a'"),
        (lambda: CrossEntropy(class_weights=2), "class_weights is a list of numbers; got 2"),
        (lambda: CrossEntropy(class_weights="12"), "class_weights is a list of numbers; got '12'"),
        (lambda: CrossEntropy(class_weights=[1, -1]), "a value of class_weights must be at least 0 and finite; got -1"),
        (lambda: CrossEntropy(class_weights=[0, 0]), r"class_weights must have a value greater than 0; got \[0, 0\]"),
        (lambda: BCEWithLogits(np.inf), "pos_weight must be at least 0 and finite, or a list of such numbers; got inf"),
        (lambda: BCEWithLogits([1, np.nan]), "a value of pos_weight must be at least 0 and finite; got nan"),
        (lambda: Huber(0), "delta must be greater than 0 and finite; got 0"),
        (lambda: Huber("1"), "delta must be greater than 0 and finite; got '1'"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_weights_must_be_one_for_each_channel():
    with pytest.raises(ConfigError, match="class_weights has 2 values and the outputs have 3 classes"):
        CrossEntropy(class_weights=[1, 2]).check(np.zeros(4, int), (3,))
    with pytest.raises(ConfigError, match="pos_weight has 2 values and the outputs have 3 channels"):
        BCEWithLogits([1, 2]).check(np.zeros((4, 3)), (3,))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.array([[0.0], [1.5], [2]]), r"targets are numbers from 0 to 1; got 1\.5 at index \(1, 0\)"),
        (np.array([[0], [1], [-1]]), r"from 0 to 1; got -1 at index \(2, 0\)"),
        (np.array([[0], [np.nan], [1]]), r"from 0 to 1; got nan at index \(1, 0\)"),
        (np.zeros(3), r"the outputs' shape \(3, 1\); got \(3,\); pass y\[:, None\]"),
        (np.zeros((3, 2)), r"the outputs' shape \(3, 1\); got \(3, 2\)$"),
        (np.array([["a"], ["b"], ["c"]]), "targets are real numbers; got dtype <U1"),
    ],
)
def test_targets_that_binary_cross_entropy_refuses(targets, message):
    with pytest.raises(DataError, match=message):
        BCEWithLogits().check(targets, (1,))


def test_binary_accuracy():
    outputs, metric = np.array([[2.0, -1.0], [-3.0, 4.0]]), BinaryAccuracy()
    assert metric(outputs, np.array([[1, 1], [0.0, 0.9]])).tolist() == [[True, False], [True, True]]
    metric.check(np.zeros((5, 2), bool), (2,))
    with pytest.raises(DataError, match=r"binary_accuracy needs targets of the outputs' shape \(2,\); got \(\)"):
        metric.check(np.zeros(5), (2,))


def test_iou_of_one_class():
    logits = np.array([[[[1.0, 1.0, -1.0, -1.0]]], [[[-1.0] * 4]], [[[-1.0] * 4]]])
    targets = np.array([[[[0, 1, 1, 0]]], [[[0, 0, 0, 0]]], [[[0, 0, 0, 1]]]])
    iou = IntersectionOverUnion()
    iou.check(targets, (1, 1, 4))
    np.testing.assert_array_equal(iou(logits, targets), [1 / 3, 1, 0])


def test_iou_of_several_classes():
    # Predicted 0 0 1 1, labels 0 1 1 1: 1/2 for class 0, 2/3 for class 1, and class 2 is in neither.
    predicted, labels = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
    logits = np.moveaxis(np.eye(3)[predicted], 2, 1)
    iou = IntersectionOverUnion()
    iou.check(labels, (3, 4))
    np.testing.assert_allclose(iou(logits, labels), [(1 / 2 + 2 / 3) / 2])


@pytest.mark.parametrize(
    ("targets", "output_shape"),
    [(np.zeros((2, 4, 4)), (1, 4, 4)), (np.zeros((2, 4, 4)), (3, 4, 4)), (np.zeros((2, 1)), (1,)), (np.zeros(2, int), (3,))],
)
def test_targets_that_iou_refuses(targets, output_shape):
    with pytest.raises(DataError, match=r"iou needs outputs \(1, ...\) with targets of the same shape, or"):
        IntersectionOverUnion().check(targets, output_shape)


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
    own = CrossEntropy(0.1)
    assert get_loss(own) is own
    with pytest.raises(ConfigError, match=r"got <class .*CrossEntropy'>; call it: CrossEntropy\(\)"):
        get_loss(CrossEntropy)
    for wrong in ("hinge", 3, CrossEntropy):
        with pytest.raises(
            ConfigError, match="loss is one of cross_entropy, binary_cross_entropy, mse, l1, huber, or a function"
        ):
            get_loss(wrong)
    assert list(get_metrics(["accuracy", mse])) == ["accuracy", "mse"]
    for wrong in (["recall"], [3]):
        with pytest.raises(ConfigError, match="a metric is one of accuracy, binary_accuracy, iou, or a function"):
            get_metrics(wrong)
    with pytest.raises(ConfigError, match="metrics is a list"):
        get_metrics("accuracy")
    with pytest.raises(ConfigError, match='two metrics have the name "accuracy"'):
        get_metrics(["accuracy", Accuracy()])
