"""A real plug-in: built and installed by pip into a folder of its own, then found, trained, saved, exported and checked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convlayers as cl
from convlayers.errors import LayerNotFoundError

SOURCE = Path(__file__).parent / "plugin_package"

TRAIN_AND_SAVE = """
import sys
from pathlib import Path
import numpy as np
import convlayers as cl

assert cl.available_layers()["swish"] == "convlayers-swish 0.3.1", cl.available_layers()
assert "convlayers_swish" not in sys.modules, "listing imported the plug-in"
layers = [cl.Conv2d(4, 3, padding="same"), cl.create_layer("swish", slope=0.5), cl.Flatten(), cl.Dense(2)]
assert "convlayers_swish" in sys.modules
model = cl.Sequential(layers, input_shape=(1, 6, 6), seed=3)

rng = np.random.default_rng(0)
x = rng.standard_normal((64, 1, 6, 6)).astype(np.float32)
target = np.stack([x[:, 0, :3].sum(axis=(1, 2)), x[:, 0, 3:].max(axis=(1, 2))], axis=1)
losses = []
for step in range(60):
    y, tape = model.forward(x)
    losses.append(float(((y - target) ** 2).mean()))
    model.zero_gradients()
    model.backward(2 * (y - target) / y.size, tape, input_gradient=False)
    for name, parameter in model.parameters().items():
        parameter -= 0.05 * model.gradients()[name]
assert losses[-1] < 0.3 * losses[0], losses
assert (model.parameters()["1.slope"] != np.float32(0.5)).all(), "the plug-in's parameter was not trained"

folder = Path(sys.argv[1])
model.save(folder / "model.safetensors")
again = cl.load(folder / "model.safetensors")
assert type(again.steps[1].layer).__name__ == "Swish"
np.testing.assert_array_equal(again(x), model(x))
"""

EXPORT = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
import convlayers as cl

folder = Path(sys.argv[1])
model = cl.load(folder / "model.safetensors")
cl.export_onnx(model, folder / "model.onnx")
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
x = np.random.default_rng(1).standard_normal((5, 1, 6, 6)).astype(np.float32)
(y,) = session.run(None, {session.get_inputs()[0].name: x})
np.testing.assert_allclose(y, model(x), rtol=1e-4, atol=1e-5)

import onnx
from convlayers.onnx.functions import described

(function,) = onnx.load(folder / "model.onnx").functions
assert (function.domain, function.name) == ("convlayers.functions", "swish")
assert described(function.doc_string) == ("swish", "convlayers-swish 0.3.1", {"slope": 0.5}, ("slope",))
cl.verify_onnx(folder / "model.onnx")
"""

CONFORMANCE = """
import convlayers as cl
from convlayers.testing import check_layer, registered_examples

examples = [(config, shape) for layer_id, config, shape in registered_examples() if layer_id == "swish"]
assert len(examples) == 2
for config, shape in examples:
    check_layer(cl.create_layer("swish", **config), shape, seed=5)
    print("passed", shape)
"""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    """The folder that the plug-in is installed in; its sources stay as they are."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(SOURCE, source)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def run(plugin):
    """Runs a program with the plug-in installed."""

    def run_code(code, *arguments):
        path = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-W", "error::DeprecationWarning:convlayers", "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_code


@pytest.fixture(scope="session")
def saved(run, tmp_path_factory):
    """A folder with a model that holds the plug-in's layer, trained and saved where the plug-in is installed."""
    folder = tmp_path_factory.mktemp("saved")
    run(TRAIN_AND_SAVE, folder)
    return folder


def test_found_trained_saved_and_loaded(saved):
    assert (saved / "model.safetensors").stat().st_size > 0


def test_exported_and_run_in_onnxruntime(run, saved):
    run(EXPORT, saved)
    assert (saved / "model.onnx").stat().st_size > 0


def test_passes_the_conformance_suite(run):
    assert run(CONFORMANCE).split("\n")[:-1] == ["passed (3, 4, 5)", "passed (7,)"]


def test_a_model_whose_plugin_is_missing_names_id_and_distribution(saved):
    assert "swish" not in cl.available_layers()
    with pytest.raises(LayerNotFoundError, match=r'"swish"; it came from convlayers-swish 0\.3\.1; install that') as caught:
        cl.load(saved / "model.safetensors")
    assert str(saved / "model.safetensors") in str(caught.value)
    assert 'layer 1 "1"' in str(caught.value)


def test_another_layer_under_the_same_id_gets_a_clear_error(saved, monkeypatch):
    from convlayers import registry
    from convlayers.errors import FileFormatError

    monkeypatch.setattr(registry, "_registered", {})

    @cl.register_layer("swish")
    class Other(cl.Layer):
        def __init__(self, beta=1.0):
            self.beta = beta

        def forward(self, x, *, training):
            return x * np.float32(self.beta), None

    with pytest.raises(FileFormatError, match=r'layer 1 "1": swish does not take this configuration \(.*slope'):
        cl.load(saved / "model.safetensors")
