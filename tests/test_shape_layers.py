"""Joins, dropout, borders, upsampling and reshaping: values, memory, errors, and ONNX from the oldest opset to the newest."""

import tracemalloc

import numpy as np
import pytest
from exports import around, run

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.kernels import memory
from convlayers.onnx.session import OLDEST_OPSET, newest_opset
from convlayers.randomness import generator, layer_generator, training_step
from convlayers.testing import assert_close, spread
from convlayers.testing.machine import same_bits


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.Dropout2d(1), ConfigError, "p must be at least 0 and less than 1; got 1"),
        (lambda: cl.Concat(0), ConfigError, "axis is an int other than 0, the batch; got 0"),
        (lambda: cl.Concat(True), ConfigError, "axis is an int other than 0, the batch; got True"),
        (lambda: cl.Upsample(0), ConfigError, "scale must be at least 1; got 0"),
        (lambda: cl.Upsample([2, 0, 1]), ConfigError, r"scale must be at least 1; got \[2, 0, 1\]"),
        (lambda: cl.Upsample(1.5), ArrayTypeError, r"scale is an int or 2 ints, one per axis; got 1\.5"),
        (lambda: cl.Upsample([]), ConfigError, r"scale is an int or 1 ints, one per axis; got \[\]"),
        (lambda: cl.Upsample([2, 2, 2], mode="bilinear"), ConfigError, "scale is an int or 2 ints"),
        (lambda: cl.Upsample(2, mode="cubic"), ConfigError, "mode is one of nearest, linear, bilinear, trilinear; got 'cubic'"),
        (lambda: cl.Pad("same"), ConfigError, "padding is an int, one per axis or a pair per axis; got 'same'"),
        (lambda: cl.Pad(-1), ConfigError, "padding must be at least 0; got -1"),
        (lambda: cl.Pad([[1, 2], [3]]), ConfigError, r"a padding pair is an int or 2 ints, one per axis; got \[3\]"),
        (lambda: cl.Pad(1.0), ArrayTypeError, r"padding is an int or 2 ints, one per axis; got 1\.0"),
        (lambda: cl.Pad(1, mode="edge"), ConfigError, "mode is one of constant, reflect, replicate; got 'edge'"),
        (lambda: cl.Pad(1, value=np.inf), ConfigError, "value must be a finite number; got inf"),
        (
            lambda: cl.Pad(1, mode="reflect", value=2),
            ConfigError,
            "value is that of mode \"constant\"; got 2 with mode 'reflect'",
        ),
        (lambda: cl.Reshape([2, -1, -1]), ConfigError, r"one of which may be -1; got \[2, -1, -1\]"),
        (lambda: cl.Reshape([0]), ConfigError, r"sizes of at least 1, one of which may be -1; got \[0\]"),
        (lambda: cl.Reshape([]), ConfigError, "shape must be a list of sizes"),
        (lambda: cl.Reshape(12), ConfigError, "shape must be a list of sizes of at least 1, one of which may be -1; got 12"),
        (lambda: cl.Reshape([True, 2]), ConfigError, r"shape must be a list of sizes .* got \[True, 2\]"),
        (lambda: cl.Permute([0, 1]), ConfigError, r"the numbers from 1 to that of a sample's axes, in any order; got \[0, 1\]"),
        (lambda: cl.Permute([1, 1]), ConfigError, r"got \[1, 1\]"),
        (lambda: cl.Permute(["a"]), ConfigError, r"got \['a'\]"),
        (lambda: cl.Permute([]), ConfigError, "axes must be a list of the numbers from 1"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.Dropout2d(), (7,), r"takes samples \(C, ...\) with a spatial axis or more; got a sample of shape \(7,\)"),
        (cl.Multiply(), [(3, 4, 5)], "takes two inputs or more; got 1"),
        (cl.Multiply(), [(3, 4, 5), (2, 1, 1)], r"of one size or of size 1; got \(3, 4, 5\), \(2, 1, 1\)"),
        (cl.Multiply(), [(3, 4, 5), (3,)], r"counted from the last, of one size or .* got \(3, 4, 5\), \(3,\)"),
        (cl.Concat(), [(3, 4, 5)], "takes two inputs or more; got 1"),
        (cl.Concat(), [(3, 4, 5), (2, 4, 4)], r"apart from axis 1 of the batch; got \(3, 4, 5\), \(2, 4, 4\)"),
        (cl.Concat(-1), [(3, 4), (3, 4, 4)], r"apart from axis -1 of the batch; got \(3, 4\), \(3, 4, 4\)"),
        (cl.Concat(3), [(3, 4), (3, 4)], r"axis 3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.Concat(-3), [(3, 4), (3, 4)], r"axis -3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.Upsample(2), (7,), r"takes samples \(C, ...\) with a spatial axis or more"),
        (cl.Upsample([2, 2]), (3, 7), r"scale is an int or 1 ints, one per axis; got \[2, 2\]"),
        (cl.Upsample(2, mode="bilinear"), (3, 7), r"takes samples \(C, H, W\); got a sample of shape \(3, 7\)"),
        (cl.Upsample(2, mode="linear"), (3, 7, 7), r"takes samples \(C, L\); got a sample of shape \(3, 7, 7\)"),
        (cl.Upsample(2, mode="trilinear"), (3, 7, 7), r"takes samples \(C, D, H, W\); got"),
        (cl.Pad([1, 1]), (3, 7), "padding is an int or 1 ints, one per axis"),
        (cl.Pad([[1, 1]]), (3, 7, 7), "padding needs 2 pairs, one per axis"),
        (
            cl.Pad([0, 4], mode="reflect"),
            (1, 3, 4),
            r"a reflection of 4 pixels has at most 3; got padding \(4, 4\) along axis 1",
        ),
        (cl.Pad(1), (7,), "takes samples"),
        (cl.Reshape([5, -1]), (3, 4), r"a sample of shape \(3, 4\) holds 12 values; they do not fit \(5, -1\)"),
        (cl.Reshape([3, 2]), (3, 4), r"they do not fit \(3, 2\)"),
        (cl.Permute([1, 3, 2]), (3, 4), r"orders 3 axes; got a sample of shape \(3, 4\)"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    built = [tuple(s) for s in shape] if layer.joins else shape
    with pytest.raises((ShapeError, ConfigError, ArrayTypeError), match=message):
        layer.build(built, generator(0, "test"))


# Dropout


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_draws_one_float32_for_each_value(dtype):
    x = spread((3, 50, 40), np.random.default_rng(0), dtype)
    for layer, shape in ((cl.Dropout(0.3), x.shape), (cl.Dropout2d(0.3), (3, 50, 1))):
        with training_step(5, 1):
            y, cache = layer.forward(x, training=True)
            factors = (layer_generator("dropout").random(shape, dtype=np.float32) >= 0.3) * dtype(1 / 0.7)
        assert same_bits(y, x * factors)
        assert same_bits(layer.backward(x, cache), x * factors)


def test_dropout2d_drops_whole_channels():
    x = np.ones((200, 50, 3, 2), np.float32)
    with training_step(0, 0):
        y, _ = cl.Dropout2d(0.2).forward(x, training=True)
    channels = y.reshape(10_000, 6)
    assert (channels == channels[:, :1]).all()
    dropped = channels[:, 0] == 0
    assert set(channels[~dropped, 0]) == {np.float32(1 / 0.8)}
    # 10,000 draws: three standard deviations of the share of zeros.
    assert abs(dropped.mean() - 0.2) < 3 * np.sqrt(0.2 * 0.8 / 10_000)


_IMAGES = (8, 64, 64)  # 1 MB of float32 in a batch of 8


@pytest.mark.parametrize(
    "layer",
    [
        cl.Dropout(),
        cl.Dropout2d(),
        cl.Multiply(),
        cl.Concat(),
        cl.Upsample(2),
        cl.Upsample(2, mode="bilinear"),
        cl.Pad(3),
        cl.Pad(3, mode="reflect"),
        cl.Permute([2, 3, 1]),
        cl.Reshape([-1]),
    ],
    ids=repr,
)
def test_a_steady_training_step_allocates_no_large_array(layer):
    """All arrays come from the kernels' memory, which keeps what is freed; NumPy would report its own to tracemalloc."""
    memory.release()  # what other tests left might serve the first step alone
    images = [memory.empty((8, *_IMAGES), np.dtype(np.float32)) for _ in range(2 if layer.joins else 1)]
    for image in images:
        image.fill(1)
    x = images if layer.joins else images[0]

    def step():
        y, cache = layer.forward(x, training=True)
        layer.backward(y, cache)

    step()
    kept = sum(memory.usage())
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(memory.usage()) == kept
    assert peak < images[0].nbytes // 2


# ONNX


_EXPORTS = [
    (cl.Multiply(), [(3, 4, 5), (3, 1, 1), (1, 4, 5)]),
    (cl.Concat(-3), [(3, 4, 5), (2, 4, 5)]),
    (cl.Upsample([2, 3]), (3, 4, 5)),
    (cl.Upsample(5), (3, 7)),
    (cl.Upsample(2), (2, 2, 3, 2)),
    (cl.Upsample(2, mode="bilinear"), (3, 40, 50)),
    (cl.Upsample([3, 1], mode="bilinear"), (3, 40, 50)),
    (cl.Upsample(4, mode="linear"), (3, 70)),
    (cl.Upsample(7, mode="linear"), (3, 200)),
    (cl.Upsample([2, 1, 4], mode="trilinear"), (2, 2, 3, 4)),
    (cl.Upsample(3, mode="trilinear"), (2, 2, 3, 30)),
    (cl.Pad([[1, 2], [0, 3]], value=-7.25), (3, 4, 5)),
    (cl.Pad([3, 2], mode="reflect"), (3, 4, 5)),
    (cl.Pad(4, mode="replicate"), (3, 2, 5)),
    (cl.Pad([[4, 1]], mode="reflect"), (3, 5)),
    (cl.Pad(1, mode="replicate"), (2, 2, 3, 4)),
    (cl.Reshape([5, -1]), (3, 4, 5)),
    (cl.Permute([3, 1, 2]), (3, 4, 5)),
    (cl.Permute((np.int64(2), np.int64(1))), (3, 4)),
    (cl.Identity(), (3, 4, 5)),
    (cl.Dropout2d(), (3, 4, 5)),
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
        assert_close(y, model(x if len(x) > 1 else x[0]), 8, f"{layer!r}, opset {opset}, batch {batch}")


# In networks


def test_squeeze_and_excitation_trains(tmp_path):
    x = cl.Input((3, 8, 8))
    y = cl.ReLU()(cl.Conv2d(8, 3, padding="same")(x))
    gate = cl.ReLU()(cl.Conv2d(2, 1)(cl.GlobalAvgPool2d()(y)))
    y = cl.Multiply()(y, cl.Sigmoid()(cl.Conv2d(8, 1)(gate)))
    model = cl.Model(x, cl.Dense(2)(cl.Flatten()(cl.Dropout2d(0.1)(y))), seed=0)
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).normal(0, 0.3, (40, 3, 8, 8)) + np.where(labels, 1, -1)[:, None, None, None]
    trainer = cl.Trainer(model, optimizer=cl.Adam(0.01), seed=0)
    trainer.fit((images, labels), epochs=5, batch_size=8, progress=False)
    assert trainer.evaluate((images, labels))["accuracy"] == 1
    cl.export_onnx(model, tmp_path / "m.onnx")


def test_u_net_finds_the_pixels(tmp_path):
    def block(x, channels):
        return cl.ReLU()(cl.Conv2d(channels, 3)(cl.Pad(1, mode="reflect")(x)))

    x = cl.Input((1, 8, 12))
    high = block(x, 4)
    low = block(cl.MaxPool2d(2)(high), 8)
    joined = cl.Concat()(high, cl.Upsample(2, mode="bilinear")(low))
    model = cl.Model(x, cl.Conv2d(1, 1)(block(joined, 4)), seed=1)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (60, 1, 8, 12)).astype(np.float32)
    masks = (images + np.roll(images, 1, axis=3) > 0).astype(np.float32)
    trainer = cl.Trainer(model, loss="binary_cross_entropy", optimizer=cl.Adam(0.02), metrics=["iou"], seed=0)
    history = trainer.fit((images, masks), epochs=15, batch_size=10, progress=False)
    assert history["iou"][-1] > 0.85 > 0.6 > history["iou"][0]
    cl.export_onnx(model, tmp_path / "m.onnx")


def test_a_head_can_be_taken_off():
    model = cl.Sequential([cl.Dense(3), ("head", cl.Identity())], input_shape=(4,))
    x = spread((2, 4), np.random.default_rng(0))
    y, tape = model.forward(x)
    assert same_bits(y, cl.functional.linear(x, *model.parameters().values()))
    assert model.backward(y, tape).shape == x.shape
