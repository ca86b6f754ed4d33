"""Exports that are refused: with the layer's name, and with no file."""

import numpy as np
import onnx
import pytest
from exports import Doubled, Lone, chain, misuse

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ExportError, ExportMismatchError, FileAccessError
from convlayers.onnx import compare, proof
from convlayers.onnx.compare import bound, draw, lengths, order, relative_error
from convlayers.onnx.session import newest_opset
from convlayers.tolerance import tolerance


class WrongConv(cl.Conv2d):
    """A convolution that writes its filters in another order."""

    def to_onnx(self, graph, *inputs):
        weight = self.params["weight"][::-1].copy()
        return graph.op("Conv", *inputs, weight, self.params["bias"], pads=[1, 1, 1, 1])


class WrongPadding(cl.Conv2d):
    """The same size, the padding on the other sides."""

    def to_onnx(self, graph, *inputs):
        return graph.op("Conv", *inputs, self.params["weight"], self.params["bias"], pads=[2, 0, 0, 2])


class WrongSize(cl.Conv2d):
    def to_onnx(self, graph, *inputs):
        return graph.op("Conv", *inputs, self.params["weight"], self.params["bias"])


class FixedBatch(Lone):
    def to_onnx(self, graph, *inputs):
        return graph.op("Reshape", Doubled.to_onnx(self, graph, *inputs), np.array([2, *graph.shape(inputs[0])]))


class SlightlyOff(Lone):
    def to_onnx(self, graph, *inputs):
        return graph.op("Mul", *inputs, np.array(2.001))


@pytest.mark.parametrize(
    "layer",
    [WrongConv(4, 3, padding=1), WrongPadding(4, 3, padding=1), WrongSize(4, 3, padding=1), FixedBatch(), SlightlyOff()],
)
def test_a_mismatch_names_the_first_layer_and_leaves_the_old_file(layer, tmp_path):
    target = tmp_path / "m.onnx"
    with pytest.raises(ExportMismatchError, match=f'{type(layer).__name__} "middle"'):
        cl.export_onnx(chain(layer), target)
    assert not list(tmp_path.iterdir())
    target.write_bytes(b"what was there")
    with pytest.raises(ExportMismatchError):
        cl.export_onnx(chain(layer), target)
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


def test_a_layer_that_is_wrong_for_one_batch_size_is_named(tmp_path):
    def write(self, graph, x):
        size = graph.op("Shape", x, start=0, end=1)
        return graph.op("Where", graph.op("Greater", size, np.array([2])), x, graph.op("Mul", x, np.array(2.0)))

    with pytest.raises(ExportMismatchError, match=r'Plugin "middle".*a batch of 7'):
        cl.export_onnx(chain(misuse(write)), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_output_that_differs_only_in_the_whole_file_is_found(tmp_path, monkeypatch):
    model = chain()
    monkeypatch.setattr(model, "trace", lambda x: cl.Model.trace(chain(), x))
    right = type(model).__call__
    monkeypatch.setattr(type(model), "__call__", lambda self, x: right(self, x) * np.float32(1.01))
    with pytest.raises(ExportMismatchError, match='Dense "5"'):
        cl.export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrong_weight_shows_in_the_middle_of_a_deep_network(tmp_path):
    def deep(middle):
        layers = []
        for number in range(50):
            layers += [middle if number == 25 else cl.Conv2d(8, 3, padding=1), cl.ReLU()]
        return cl.Sequential(layers, input_shape=(3, 8, 8), seed=6)

    assert len(cl.export_onnx(deep(cl.Conv2d(8, 3, padding=1)), tmp_path / "m.onnx").layers) == 100
    with pytest.raises(ExportMismatchError, match='WrongConv "50"'):
        cl.export_onnx(deep(WrongConv(8, 3, padding=1)), tmp_path / "m.onnx")


def test_the_bound_follows_the_model_s_own_rounding():
    wide = np.ones(3)
    assert bound(100, wide, wide) == tolerance(np.float32, 100)
    assert bound(100, wide + 1e-3, wide) == pytest.approx(4e-3)
    assert bound(100, wide * np.inf, wide) == 0.01
    assert relative_error(np.array([1e-9]), np.array([2e-9])) == pytest.approx(0.5)
    assert lengths(cl.models.lenet5())[:4] == [25, 26, 27, 177]


@pytest.fixture
def as_if_large(monkeypatch):
    """Every model counts as one of many multiply-adds, whose layers are compared on need alone."""
    monkeypatch.setattr(compare, "_FEW_MULTIPLY_ADDS", 0)


def test_a_large_model_is_compared_by_its_outputs_and_a_mismatch_still_names_the_layer(as_if_large, tmp_path):
    report = cl.export_onnx(chain(), tmp_path / "m.onnx")
    assert report.layers == {}
    assert report.errors["output"] <= report.tolerance
    with pytest.raises(ExportMismatchError, match='WrongConv "middle"'):
        cl.export_onnx(chain(WrongConv(4, 3, padding=1)), tmp_path / "m.onnx")


def test_layers_are_compared_where_the_outputs_hardly_depend_on_the_inputs(as_if_large, tmp_path):
    def faded(middle):
        layers = [middle, cl.ReLU(), cl.Conv2d(4, 3, padding=1), cl.GlobalAvgPool2d(), cl.Flatten(), cl.Dense(3)]
        model = cl.Sequential([("middle", layers[0]), *layers[1:]], input_shape=(2, 6, 6), seed=1)
        model.parameters()["5.weight"][...] *= 1e-6
        return model

    assert len(cl.export_onnx(faded(cl.Conv2d(4, 3, padding=1)), tmp_path / "m.onnx").layers) == 6
    with pytest.raises(ExportMismatchError, match='WrongConv "middle"'):
        cl.export_onnx(faded(WrongConv(4, 3, padding=1)), tmp_path / "m.onnx")


def test_a_file_that_mixes_up_its_samples_is_refused(tmp_path):
    def write(self, graph, x):
        """All samples but the first, and then the first."""
        later = graph.op("Slice", x, np.array([1]), np.array([2**31]), np.array([0]))
        first = graph.op("Slice", x, np.array([0]), np.array([1]), np.array([0]))
        return graph.op("Mul", graph.op("Concat", later, first, axis=0), np.array(2.0))

    with pytest.raises(ExportMismatchError, match='Plugin "middle"'):
        cl.export_onnx(chain(misuse(write)), tmp_path / "m.onnx")
    assert order(2).tolist() == [0, 1]
    shifted = [np.roll(order(7), by).tolist() for by in range(1, 7)]
    assert order(7).tolist() not in shifted


def test_float64_is_computed_only_near_the_bound(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(proof, "outputs_of", lambda model, x: [asked.append(x[0].dtype.name), model(x[0])][1:])
    cl.export_onnx(chain(), tmp_path / "m.onnx")
    assert asked == ["float32"]
    monkeypatch.setattr(compare, "_NEAR", 0.0)
    cl.export_onnx(chain(), tmp_path / "m.onnx")
    assert asked == ["float32", "float32", "float64"]


def test_inputs_depend_on_seed_batch_and_place_alone():
    one, two = draw(5, 2, [(3,), (3,)])
    np.testing.assert_array_equal(one, draw(5, 2, [(3,)])[0])
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, draw(6, 2, [(3,)])[0])
    assert one.dtype == np.float32
    assert np.abs(draw(0, 7, [(99,)])[0]).max() <= 1


def test_a_layer_without_to_onnx_is_refused_before_any_work(tmp_path):
    with pytest.raises(ExportError, match='Lone "middle" cannot be exported'):
        cl.export_onnx(chain(Lone()), tmp_path / "no folder" / "m.onnx")


@pytest.mark.parametrize("opset", [12, newest_opset() + 1, 0, -1, 17.0, "17", True, None])
def test_opset_out_of_range(opset, tmp_path):
    with pytest.raises(ConfigError, match=f"from 13 to {newest_opset()}.*{opset}"):
        cl.export_onnx(chain(), tmp_path / "m.onnx", opset)


def test_newest_opset_is_the_newest():
    assert 21 <= newest_opset() <= onnx.defs.onnx_opset_version()


def test_unwritable_targets(tmp_path):
    for target in (tmp_path, tmp_path / "none" / "m.onnx"):
        with pytest.raises(FileAccessError, match="cannot write"):
            cl.export_onnx(chain(), target)


def test_only_models_are_exported(tmp_path):
    with pytest.raises(ArrayTypeError, match="got str"):
        cl.export_onnx("model.safetensors", tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda self, graph, x: graph.op("Relu", "y"), "Relu reads 'y'"),
        (lambda self, graph, x: graph.op("Add", x, 2.0), "an input of Add is a name, an ndarray or None; got 2.0"),
        (lambda self, graph, x: graph.op("Add", x, np.array("a")), "real numbers"),
        (lambda self, graph, x: None, "must return the name of its output; got None"),
        (lambda self, graph, x: "elsewhere", "must return the name"),
        (lambda self, graph, x: graph.shape("elsewhere"), "'elsewhere' is not known"),
        (lambda self, graph, x: {}["key"], "KeyError"),
        (lambda self, graph, x: graph.op("Relu", x, alpha={}), "alpha={}"),
        (lambda self, graph, x: graph.op("NoSuchOperator", x), "NoSuchOperator"),
        (lambda self, graph, x: graph.op("Relu", x, domain="nobody"), "nobody"),
        (lambda self, graph, x: graph.op("Split", x, axis=1, outputs=2), "must return the name"),
        (lambda self, graph, x: graph.op("Add", x, np.broadcast_to(np.float32(0), (2**15, 2**15))), "2 GB"),
        (lambda self, graph, x: graph.op("Add", x, np.zeros(5)), "middle"),
    ],
)
def test_a_plugin_s_mistakes(write, reason, tmp_path):
    with pytest.raises(ExportError, match=reason) as caught:
        cl.export_onnx(chain(misuse(write)), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert "2 GB" in reason or "middle" in str(caught.value)
    assert not list(tmp_path.iterdir())
