"""Files that take images of any size: the same layers at other sizes say what must come out."""

import numpy as np
import onnx
import pytest
from exports import Lone, chain, misuse, random, run

import convlayers as cl
from convlayers.errors import ExportError, ExportMismatchError, ShapeError
from convlayers.onnx import OnnxModel
from convlayers.onnx.compare import relative_error
from convlayers.onnx.session import newest_opset
from convlayers.onnx.sizes import resized_models

OPSETS = (13, newest_opset())


def at_size(model, *sizes):
    """The same layers for images of other sizes."""
    inputs = [cl.Input((shape[0], *size)) for shape, size in zip(model.input_shapes, sizes, strict=True)]
    return cl.Model(inputs, model(inputs if len(inputs) > 1 else inputs[0]))


def agree(model, tmp_path, *sizes, opset=17, **more):
    """Export; onnxruntime gives at each size what the layers give there."""
    report = cl.export_onnx(model, tmp_path / "m.onnx", opset, dynamic_image=True, **more)
    for size in sizes:
        other = at_size(model, *[size] * len(model.input_shapes))
        x = [random(3, *shape) for shape in other.input_shapes]
        y = other(x if len(x) > 1 else x[0])
        for found, expected in zip(run(tmp_path / "m.onnx", *x), y if isinstance(y, list) else [y], strict=True):
            assert relative_error(found, expected) <= max(report.tolerance, 1e-5), size
    return onnx.load(tmp_path / "m.onnx").graph


def axes(value):
    return [d.dim_param or d.dim_value or None for d in value.type.tensor_type.shape.dim]


def classifier(*layers, shape=(3, 9, 8)):
    head = [cl.GlobalAvgPool2d(), cl.Flatten(), cl.Dense(4)]
    return cl.Sequential([*layers, *head], input_shape=shape, seed=1)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_classifier_with_global_pooling(opset, tmp_path):
    graph = agree(classifier(cl.Conv2d(5, 3), cl.ReLU()), tmp_path, (9, 8), (5, 3), (31, 40), opset=opset)
    assert axes(graph.input[0]) == ["N", 3, "height", "width"]
    assert axes(graph.output[0]) == ["N", 4]
    assert axes(graph.value_info[0]) == ["N", 5, None, None]


LAYERS = [
    cl.Conv2d(5, 3, padding="same"),
    cl.Conv2d(5, 3, padding="same", stride=2),
    cl.Conv2d(5, [3, 2], padding="same", stride=[3, 2], dilation=2),
    cl.Conv2d(5, 3, padding=1, stride=2),
    cl.ConvTranspose2d(5, 3, stride=2, padding="same"),
    cl.ConvTranspose2d(5, 2, stride=3, padding=[[0, 1], [1, 0]], output_padding=1),
    cl.MaxPool2d(3, stride=2, padding=1),
    cl.MaxPool2d(3, stride=2, ceil_mode=True),
    cl.MaxPool2d([2, 3], stride=[3, 2], padding=[[1, 0], [1, 1]], ceil_mode=True),
    cl.MaxPool2d(3, stride=2, padding="same"),
    cl.MaxPool2d(3, stride=2, padding="same", dilation=2),
    cl.MinPool2d(3, stride=2, padding=1, ceil_mode=True),
    cl.AvgPool2d(3, stride=2, padding=1),
    cl.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    cl.AvgPool2d(3, stride=2, padding="same"),
    cl.LpPool2d(2, 3, stride=2, padding=1, ceil_mode=True),
    cl.StochasticPool2d(2, stride=2, ceil_mode=True),
    cl.MixedPool2d(3, stride=2, padding="same"),
    cl.GroupNorm(3),
    cl.InstanceNorm(affine=True),
    cl.BatchNorm2d(),
    cl.PReLU(per_channel=True),
    cl.Upsample(2),
    cl.Upsample(3, mode="bilinear"),
    cl.Pad([[1, 2], [0, 1]], mode="reflect"),
    cl.Permute([1, 3, 2]),
    cl.Reshape([3, -1, 1]),
    cl.Softmax(),
    cl.AdaptiveAvgPool2d(1),
    cl.AdaptiveMaxPool2d([1, 1]),
    cl.GlobalMaxPool2d(),
]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layer", LAYERS, ids=[repr(layer) for layer in LAYERS])
def test_layers_bake_no_size_in(layer, opset, tmp_path):
    model = cl.Sequential([cl.Conv2d(3, 1), type(layer)(**layer.config())], input_shape=(3, 9, 8), seed=1)
    agree(model, tmp_path, (9, 8), (10, 9), (11, 17), (7, 6), opset=opset)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: cl.models.resnet20((3, 16, 16)), (24, 40)),
        (lambda: cl.models.mobilenet_v2((3, 32, 32), 10), (40, 64)),
        (lambda: cl.models.squeezenet((3, 40, 40), 10), (51, 46)),
        (lambda: cl.models.unet((1, 16, 16), 2, width=4), (48, 32)),
    ],
    ids=["resnet20", "mobilenet_v2", "squeezenet", "unet"],
)
def test_architectures(make, size, tmp_path):
    graph = agree(make(), tmp_path, size)
    assert axes(graph.input[0])[2:] == ["height", "width"]


def test_signals_and_volumes(tmp_path):
    signal = cl.Sequential([cl.Conv1d(3, 3, stride=2, padding="same"), cl.MaxPool1d(2, ceil_mode=True)], input_shape=(2, 9))
    assert axes(agree(signal, tmp_path, (10,), (30,)).input[0]) == ["N", 2, "width"]
    volume = cl.Sequential([cl.Conv3d(3, 3, padding=1), cl.AdaptiveAvgPool3d(1)], input_shape=(2, 3, 4, 5))
    assert axes(agree(volume, tmp_path, (4, 4, 4)).input[0]) == ["N", 2, "depth", "height", "width"]


def test_several_inputs(tmp_path):
    a, b, c = cl.Input((3, 6, 6)), cl.Input((3, 6, 6)), cl.Input((5,))
    joined = cl.Flatten()(cl.GlobalAvgPool2d()(cl.Add()(cl.Conv2d(3, 3, padding=1)(a), b)))
    model = cl.Model([a, b, c], cl.Concat()(joined, c))
    cl.export_onnx(model, tmp_path / "m.onnx", dynamic_image=True)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [axes(value)[1:] for value in graph.input] == [[3, "height", "width"], [3, "height", "width"], [5]]
    x = [random(2, 3, 8, 7), random(2, 3, 8, 7), random(2, 5)]
    assert run(tmp_path / "m.onnx", *x)[0].shape == (2, 8)
    d = cl.Input((3, 12, 12))
    half = cl.AvgPool2d(2)(d)
    pooled = cl.Concat()(*(cl.Flatten()(cl.GlobalAvgPool2d()(node)) for node in (a, half)))
    cl.export_onnx(cl.Model([a, d], pooled), tmp_path / "m.onnx", dynamic_image=True)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [axes(value)[2:] for value in graph.input] == [["height", "width"], ["height_2", "width_2"]]


def test_with_folding_and_a_certificate(tmp_path):
    model = classifier(cl.Conv2d(5, 3, stride=2, padding="same"), cl.BatchNorm2d(), cl.ReLU())
    graph = agree(model, tmp_path, (12, 7), fold_batchnorm=True, certificate=True)
    assert "BatchNormalization" not in [node.op_type for node in graph.node]
    assert cl.verify_onnx(tmp_path / "m.onnx").certificate


def test_a_predictor_takes_any_size(tmp_path):
    model = classifier(cl.Conv2d(5, 3))
    cl.export_onnx(model, tmp_path / "m.onnx", dynamic_image=True)
    file = OnnxModel(tmp_path / "m.onnx")
    assert file.input_shape == (3, None, None)
    assert file.predict(random(5, 3, 7, 12), 2).shape == (5, 4)
    for shape in ((5, 4, 7, 12), (5, 3, 7), (5, 3, 7, 12, 1)):
        with pytest.raises(ShapeError, match=r"of shape \(3, None, None\); got"):
            file.predict(random(*shape))


def test_the_sizes_tried_are_larger_and_of_another_proportion():
    assert [m.input_shape for m in resized_models(classifier(cl.Conv2d(5, 3)))] == [(3, 10, 10), (3, 11, 12)]
    unet = cl.models.unet((1, 16, 16), 2, width=4)
    assert all(n % 16 == 0 for other in resized_models(unet) for n in other.input_shape[1:])


def fixed_reshape():
    return misuse(lambda self, graph, x: graph.op("Reshape", graph.op("Mul", x, np.array(2.0)), np.array([0, 3, 9, 8])))


def whole_image():
    return misuse(lambda self, graph, x: graph.op("Mul", x, np.full((1, 3, 9, 8), 2.0)))


class ByItsSize(Lone):
    """y = 2 x, but exported with a factor that is right at one size alone."""

    def to_onnx(self, graph, *inputs):
        size = graph.op("Cast", graph.op("Size", *inputs), to=1)
        batch = graph.op("Cast", graph.op("Shape", *inputs, start=0, end=1), to=1)
        return graph.op("Mul", *inputs, graph.op("Div", size, graph.op("Mul", batch, np.array(3 * 9 * 8 / 2))))


@pytest.mark.parametrize(
    ("model", "error", "reason"),
    [
        (chain(), ExportError, r'the network takes images of one size, since Dense "5": its weight'),
        (classifier(cl.LayerNorm()), ExportError, r'LayerNorm "0": its weight'),
        (classifier(cl.Reshape([3, 8, 9])), ExportError, r'Reshape "0"'),
        (
            classifier(cl.AdaptiveAvgPool2d(2)),
            ExportError,
            r'AdaptiveAvgPool2d "0": output_size 2 needs an image of known size',
        ),
        (classifier(cl.AvgPool2d(2, ceil_mode=True)), ExportError, r'AvgPool2d "0".*ceil_mode=False'),
        (cl.Sequential([cl.Dense(3)], input_shape=(5,)), ExportError, "one to three axes behind the channels"),
        (classifier(fixed_reshape()), ExportError, 'Plugin "0"'),
        (classifier(whole_image()), ExportError, 'Plugin "0"'),
        (classifier(ByItsSize()), ExportMismatchError, 'ByItsSize "0"'),
    ],
)
def test_what_fixes_the_size_is_named(model, error, reason, tmp_path):
    with pytest.raises(error, match=reason) as caught:
        cl.export_onnx(model, tmp_path / "m.onnx", dynamic_image=True)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
