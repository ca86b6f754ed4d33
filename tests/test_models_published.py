"""The reference architectures at their full size, against published figures; weights are zeros that take no memory."""

import pytest

import convlayers as cl
from convlayers.randomness import NoDraws


@pytest.fixture(autouse=True)
def no_draws(monkeypatch):
    monkeypatch.setattr("convlayers.model.model.generator", lambda *purpose: NoDraws())


# Parameters, and billions of multiply-adds for an image of 3x224x224, as torchvision's documentation lists them for its models
# of these names ("Table of all available classification weights").
TORCHVISION = {
    "alexnet": (cl.models.alexnet, {}, 61_100_840, 0.71),
    "mobilenet_v2": (cl.models.mobilenet_v2, {}, 3_504_872, 0.30),
    "resnet18": (cl.models.resnet18, {}, 11_689_512, 1.81),
    "resnet50": (cl.models.resnet50, {}, 25_557_032, 4.09),
    "squeezenet1_0": (cl.models.squeezenet, {}, 1_248_424, 0.82),
    "squeezenet1_1": (cl.models.squeezenet, {"version": "1.1"}, 1_235_496, 0.35),
    "vgg11": (cl.models.vgg11, {}, 132_863_336, 7.61),
    "vgg11_bn": (cl.models.vgg11, {"batch_norm": True}, 132_868_840, 7.61),
    "vgg16": (cl.models.vgg16, {}, 138_357_544, 15.47),
    "vgg16_bn": (cl.models.vgg16, {"batch_norm": True}, 138_365_992, 15.47),
}


def count(model):
    return sum(p.size for p in model.parameters().values())


@pytest.mark.parametrize("name", TORCHVISION)
def test_imagenet(name):
    make, options, parameters, billions = TORCHVISION[name]
    model = make(**options)
    assert (model.input_shape, model.output_shape) == ((3, 224, 224), (1000,))
    assert count(model) == parameters
    products = sum(
        step.layer.multiply_adds(model.value_shapes[step.sources[0]], model.value_shapes[step.target])
        for step in model.steps
        if isinstance(step.layer, cl.Conv2d | cl.Dense)
    )
    assert round(products / 1e9, 2) == billions


# What the classifier reads, and the sizes of an image of 224x224 on the way there.
ENDS = {
    "alexnet": ((256, 6, 6), [55, 27, 13, 6]),
    "mobilenet_v2": ((320, 7, 7), [112, 56, 28, 14, 7]),
    "resnet18": ((512, 7, 7), [112, 56, 28, 14, 7]),
    "resnet50": ((2048, 7, 7), [112, 56, 28, 14, 7]),
    "squeezenet": ((512, 13, 13), [109, 54, 27, 13]),
    "vgg11": ((512, 7, 7), [112, 56, 28, 14, 7]),
    "vgg16": ((512, 7, 7), [112, 56, 28, 14, 7]),
}


@pytest.mark.parametrize("name", ENDS)
def test_sizes_on_the_way(name):
    model = getattr(cl.models, name)()
    first = model.value_names.index("classifier/0")
    (end,) = (model.value_shapes[s] for s in model.steps[first - 1].sources)
    sizes = [shape[1] for shape in model.value_shapes[1:first]]
    assert (end, [n for n in dict.fromkeys(sizes) if n != 224]) == ENDS[name]


def test_the_stride_of_resnet50_is_in_the_3x3_convolution():
    strided = [s.name for s in cl.models.resnet50().steps if isinstance(s.layer, cl.Conv2d) and s.layer.stride == 2]
    blocks = [f"stage{stage}/0/{place}" for stage in (2, 3, 4) for place in ("3", "shortcut/0")]
    assert strided == ["stem/0", *blocks]


def test_unet_by_count():
    """Ronneberger et al. 2015, figure 1: pairs of convolutions to 64, 128, 256, 512 and 1024 channels, and back."""
    total = 0
    for level in range(5):
        channels, filters = 64 << level >> 1 if level else 1, 64 << level
        total += filters * (9 * channels + 1) + filters * (9 * filters + 1)
        if level < 4:
            total += filters * (4 * 2 * filters + 1) + filters * (9 * 2 * filters + 1) + filters * (9 * filters + 1)
    model = cl.models.unet((1, 64, 64), 2)
    assert count(model) == total + 2 * (64 + 1)
    assert min(shape[1:] for shape in model.value_shapes) == (4, 4)


def test_tcn_has_the_papers_size():
    """Bai et al. 2018, table 1: about 70 thousand for sequential MNIST."""
    model = cl.models.tcn()
    assert count(model) == 25 * (7 + 1) + 15 * 25 * (7 * 25 + 1) + 25 * 2 + 10 * 26
    assert round(count(model), -4) == 70_000
    assert 2 * (7 - 1) * (2**8 - 1) >= 784, "the last output sees the whole image"
