"""The reference architectures: sizes, gradients, files, and the same bits for any thread count.

Published figures are in `test_models_published.py`.
"""

import importlib
import pkgutil

import numpy as np
import pytest

import convlayers as cl
from convlayers import kernels
from convlayers.cli.architectures import architectures
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.onnx.compare import lengths
from convlayers.tolerance import tolerance

# Weights by count, and for resnet20 the published 0.27 million: 269,722 with parameter-free shortcuts, 2,752 in projections.
SIZES = {
    "digits_cnn": 13_706,
    "lenet5": 61_706,
    "mnist_cnn": 32 * 10 + 64 * (9 * 32 + 1) + 128 * (64 * 14 * 14 + 1) + 10 * 129,
    "mobilenet_small": 136_778,
    "resnet20": 269_722 + 2_752,
    "vgg_small": 1_148_874,
}


# The larger ones, as small as they go: a sample's shape, and options.
LARGE = {
    "alexnet": ((3, 67, 63), {"hidden": 16}),
    "mobilenet_v2": ((3, 17, 16), {}),
    "resnet18": ((3, 17, 16), {}),
    "resnet50": ((3, 33, 32), {}),
    "squeezenet": ((3, 24, 21), {}),
    "tcn": ((2, 20), {"filters": 6, "levels": 3, "kernel_size": 3}),
    "unet": ((2, 16, 8), {"width": 6, "depth": 2}),
    "vgg11": ((3, 32, 32), {"hidden": 16}),
    "vgg16": ((3, 32, 33), {"hidden": 16, "batch_norm": True}),
}
NAMES = [*SIZES, *LARGE]


def small(name, shape=(3, 8, 8), classes=4, **options):
    shape, own = LARGE.get(name, (shape, {}))
    return getattr(cl.models, name)(shape, classes, **own, **options)


def count(model):
    return sum(p.size for p in model.parameters().values())


def test_the_command_line_knows_them_all():
    assert list(architectures()) == [name.replace("_", "-") for name in sorted(NAMES)]


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    model = getattr(cl.models, name)()
    assert count(model) == SIZES[name]
    assert model.output_shape == (10,)
    other = getattr(cl.models, name)((2, 28, 32), 7, seed=3)
    assert (other.input_shape, other.output_shape, other.seed) == ((2, 28, 32), (7,), 3)


def _torch_normalized(nn, channels, filters, kernel=3, stride=1, groups=1):
    conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(filters), nn.ReLU()]


def test_sizes_against_torch():
    nn = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed").nn
    vgg, channels = [], 3
    for filters in (64, 128, 256):
        vgg += [*_torch_normalized(nn, channels, filters), *_torch_normalized(nn, filters, filters), nn.MaxPool2d(2)]
        channels = filters
    vgg += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    mobile = _torch_normalized(nn, 3, 32)
    for channels, filters in ((32, 64), (64, 128), (128, 128), (128, 256), (256, 256)):
        mobile += _torch_normalized(nn, channels, channels, groups=channels) + _torch_normalized(nn, channels, filters, 1)
    resnet, channels = _torch_normalized(nn, 3, 16), 16
    for filters in (16, 32, 64):
        for _ in range(3):
            resnet += _torch_normalized(nn, channels, filters) + _torch_normalized(nn, filters, filters)
            if channels != filters:
                resnet += _torch_normalized(nn, channels, filters, 1)
            channels = filters
    for name, layers in (("vgg_small", vgg), ("mobilenet_small", [*mobile, nn.Linear(256, 10)]), ("resnet20", resnet)):
        expected = sum(p.numel() for layer in layers for p in layer.parameters())
        head = 64 * 10 + 10 if name == "resnet20" else 0
        assert count(getattr(cl.models, name)()) == expected + head, name


def test_resnet_halves_twice_and_projects_twice():
    model = cl.models.resnet20()
    shapes = [model.value_shapes[step.target] for step in model.steps if isinstance(step.layer, cl.Add)]
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    convs = [step.layer for step in model.steps if isinstance(step.layer, cl.Conv2d)]
    assert sum(conv.kernel_size == 1 for conv in convs) == 2
    assert len(convs) == 1 + 2 * 9 + 2


def test_odd_sizes_and_images_too_small():
    for name in ("resnet20", "mobilenet_small"):
        assert getattr(cl.models, name)((3, 33, 17))(np.ones((2, 3, 33, 17), np.float32)).shape == (2, 10)
    with pytest.raises(ShapeError, match="MaxPool2d"):
        cl.models.vgg_small((3, 4, 4))


def gradient(model, dtype):
    rng = np.random.default_rng(0)
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads):
            arrays.update({key: value.astype(dtype) for key, value in arrays.items()})
    y, tape = model.forward(rng.standard_normal((8, *model.input_shape)).astype(dtype), step=0)
    dx = model.backward(rng.standard_normal(y.shape).astype(dtype), tape)
    return np.concatenate([dx.ravel(), *(g.ravel() for g in model.gradients().values())])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_float64(name, monkeypatch):
    """With tanh for ReLU and averages for maxima: one that bends, or is taken, the other way after a rounding changes a deep
    network's gradient by a jump."""
    for info in pkgutil.iter_modules(cl.models.__path__, cl.models.__name__ + "."):
        module = importlib.import_module(info.name)
        for bent in {"ReLU", "Clip"} & vars(module).keys():
            monkeypatch.setattr(module, bent, lambda *limits: cl.Tanh())
        if "MaxPool2d" in vars(module):
            monkeypatch.setattr(module, "MaxPool2d", cl.AvgPool2d)
    shape = (1, 28, 28) if name == "lenet5" else (3, 16, 16)
    narrow, wide = (gradient(small(name, shape, 10), dtype) for dtype in ("float32", "float64"))
    assert np.linalg.norm(narrow - wide) <= tolerance(np.float32, max(lengths(small(name, shape)))) * np.linalg.norm(wide)


@pytest.mark.parametrize("name", ["vgg_small", "mobilenet_small", "resnet20"])
def test_training_is_the_same_to_the_bit_for_any_thread_count(name):
    history = trained_on_threads(name, epochs=3)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("name", LARGE)
def test_training_large_ones_is_the_same_to_the_bit_for_any_thread_count(name):
    """In batches of six: with two images and planes of two pixels, the gradients of some thirty normalizations in a row reach
    1e5 to 1e27, and whether a step ends in NaN is a matter of rounding."""
    trained_on_threads(name, epochs=1, images=18)


def trained_on_threads(name, epochs, images=24):
    states = []
    for threads in (1, 2, 3):
        model, rng = small(name), np.random.default_rng(0)
        x = rng.standard_normal((images, *model.input_shape)).astype(np.float32)
        with kernels.using(threads=threads):
            trainer = cl.Trainer(model, optimizer=cl.SGD(0.01), seed=1)
            t = rng.integers(0, 4, (images, *model.output_shape[1:]))
            history = trainer.fit((x, t), epochs=epochs, batch_size=images // 3, progress=False)
        states.append(model.state_dict())
    for state in states[1:]:
        for key, value in states[0].items():
            assert state[key].tobytes() == value.tobytes(), key
    return history


@pytest.mark.parametrize("name", LARGE)
def test_saved_and_exported(name, tmp_path):
    model = small(name, seed=2)
    x = np.random.default_rng(0).standard_normal((3, *model.input_shape)).astype(np.float32)
    model.forward(x)  # running statistics that are not those of a fresh model
    model.save(tmp_path / "model")
    again = cl.load(tmp_path / "model")
    assert again.to_config() == model.to_config()
    assert again(x).tobytes() == model(x).tobytes()
    report = cl.export_onnx(again, tmp_path / "model.onnx")
    # Layers of large networks are compared only where outputs cannot tell.
    assert set(report.layers) == (set() if name in ("vgg11", "vgg16") else {name for name, _ in model.layers()})
    assert report.errors["output"] <= report.tolerance
    assert cl.verify_onnx(tmp_path / "model.onnx").errors.keys() == report.errors.keys()


# What the arguments may be


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": 0}, ConfigError, "classes must be at least 1; got 0"),
        ({"classes": 2.0}, ArrayTypeError, "classes is an int; got 2.0"),
        ({"input_shape": 28}, ArrayTypeError, r"without the batch axis, such as \(3, 32, 32\); got 28"),
        ({"input_shape": (3, 0, 3)}, ConfigError, r"must be at least 1; got \(3, 0, 3\)"),
        (
            {"input_shape": (3, 64, 64, 64)},
            ShapeError,
            r"Conv[12]d .*takes (images|signals) .*got a sample of shape \(3, 64, 64, 64\)",
        ),
        ({"input_shape": (64,)}, ShapeError, r"takes (images|signals) .*got a sample of shape \(64,\)"),
        ({"seed": -1}, ConfigError, "seed must be at least 0; got -1"),
    ],
)
def test_bad_arguments(name, arguments, error, message):
    shape, options = LARGE.get(name, ((3, 16, 16), {}))
    with pytest.raises(error, match=message):
        getattr(cl.models, name)(**{"input_shape": shape, **options, **arguments})


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "alexnet",
            {"input_shape": (3, 62, 80)},
            ShapeError,
            r'MaxPool2d "features/12": kernel 3x3 does not fit the 2x4 input',
        ),
        ("vgg11", {"input_shape": (3, 32, 31)}, ShapeError, r'MaxPool2d "features/20": kernel 2x2 does not fit the 2x1 input'),
        ("vgg16", {"input_shape": (1, 8, 8)}, ShapeError, r'MaxPool2d "features/23": kernel 2x2 does not fit the 1x1 input'),
        ("squeezenet", {"input_shape": (3, 20, 20)}, ShapeError, 'MaxPool2d "pool8": kernel 3x3 does not fit the 1x1 input'),
        ("squeezenet", {"version": "1.2"}, ConfigError, r"version is one of 1\.0, 1\.1; got '1\.2'"),
        ("unet", {"input_shape": (1, 40, 32)}, ShapeError, r"halves images 4 times, so .* multiples of 16; got \(1, 40, 32\)"),
        ("unet", {"depth": 0}, ConfigError, "depth must be at least 1; got 0"),
        ("unet", {"width": 0}, ConfigError, "width must be at least 1; got 0"),
        ("tcn", {"levels": 0}, ConfigError, "levels must be at least 1; got 0"),
        ("tcn", {"kernel_size": 1.5}, ArrayTypeError, r"kernel_size is an int; got 1\.5"),
        ("resnet18", {"input_shape": (3, 224)}, ShapeError, r'Conv2d "stem/0": takes images \(C, H, W\); got .* \(3, 224\)'),
        ("tcn", {"input_shape": (1, 28, 28)}, ShapeError, r'Conv1d "level0/0": takes signals \(C, L\)'),
        ("mobilenet_v2", {"dropout": 1}, ConfigError, "p must be at least 0 and less than 1; got 1"),
    ],
)
def test_bad_arguments_of_one(name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(cl.models, name)(**options)


# What the architectures promise


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet20", "resnet50"])
def test_images_of_one_pixel(name):
    assert getattr(cl.models, name)((2, 1, 1), 3)(np.ones((2, 2, 1, 1), np.float32)).shape == (2, 3)


def test_few_pixels_make_a_smaller_dense_layer():
    for shape, values in (((3, 64, 63), 1), ((3, 222, 224), 5 * 6), ((3, 223, 400), 36)):
        assert cl.models.alexnet(shape, 2, hidden=3).parameters()["classifier/3.weight"].shape == (3, 256 * values)
    for shape, values in (((3, 33, 64), 2), ((3, 64, 320), 2 * 7)):
        assert cl.models.vgg11(shape, 2, hidden=3).parameters()["classifier/2.weight"].shape == (3, 512 * values)


def test_unet_takes_single_channels_and_keeps_the_size():
    model = cl.models.unet((1, 6, 10), 1, width=3, depth=1, batch_norm=True, dropout=0.0)
    assert model.output_shape == (1, 6, 10)
    assert [name for name, layer in model.layers() if isinstance(layer, cl.Concat)] == ["up0/concat"]
    assert model.value_shapes[model.value_names.index("up0/concat")] == (6, 6, 10)


def test_tcn_sees_what_came_before_and_as_far_as_it_says():
    model = cl.models.tcn((2, 60), 3, filters=4, levels=3, kernel_size=3, dropout=0.0)
    x = np.random.default_rng(0).standard_normal((1, 2, 60)).astype(np.float32)
    y, tape = model.forward(x, training=False)
    dy = np.zeros_like(y)
    dy[:, :, 40] = 1
    seen = np.flatnonzero(model.backward(dy, tape).any(axis=(0, 1)))
    field = 2 * (3 - 1) * (2**3 - 1)
    assert (seen[0], seen[-1]) == (40 - field, 40)
    x[:, :, 41:] += 1
    np.testing.assert_array_equal(model(x)[:, :, :41], y[:, :, :41])
