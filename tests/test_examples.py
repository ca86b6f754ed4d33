"""Every file of examples/ at a small size: it runs, and learns as far as that goes."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT

import convlayers as cl
from convlayers import registry

FILES = sorted((ROOT / "examples").glob("*.py"))


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys, monkeypatch):
    """Run an example's `main`: what it returns, and what it printed. Layers that it registers are forgotten."""
    monkeypatch.setattr(registry, "_registered", {})

    def command(name, *arguments):
        value = example(name).main([str(a) for a in arguments])
        return value, capsys.readouterr().out

    return command


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_each_says_how_it_is_run_and_is_tested_here(path):
    assert f"    python examples/{path.name}" in path.read_text(encoding="utf-8").split('"""')[1]
    help_text = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True).stdout
    assert help_text.startswith(f"usage: {path.name}")
    assert f"def test_{path.stem}(" in (ROOT / "tests" / "test_examples.py").read_text(encoding="utf-8")


def test_copy_signal(run):
    share, out = run("copy_signal", "--word", 4, "--delay", 20, "--signals", 1000)
    assert 0.99 <= share <= 1
    assert out == f"{share:.4f} of the symbols come back right after 20 moments, in 100 signals\n"


def test_copy_signal_task():
    module = example("copy_signal")
    x, due = module.signals(5, 3, 4, np.random.default_rng(0))
    assert (x.shape, due.shape) == ((5, module.SYMBOLS + 2, 10), (5, 10))
    read = x.argmax(axis=1)
    np.testing.assert_array_equal(x.sum(axis=1), np.ones((5, 10)))
    np.testing.assert_array_equal(due[:, 7:], read[:, :3])
    assert not due[:, :7].any()
    assert not read[:, 3:7].any()
    np.testing.assert_array_equal(read[:, 7:], [[module.SYMBOLS + 1, 0, 0]] * 5)
    right = np.eye(module.SYMBOLS + 2)[due].transpose(0, 2, 1)
    right[0, :, 8] = 0  # one of three symbols forgotten: a blank
    right[:, :, 0] = 0
    right[:, 4, 0] = 1  # a symbol where none is due does not count
    np.testing.assert_allclose(module.recall(right, due), [2 / 3, 1, 1, 1, 1])


def test_segment_shapes(run, tmp_path):
    pytest.importorskip("PIL", reason="Pillow draws the picture: pip install convlayers[images]")
    arguments = ["--images", 300, "--size", 32, "--epochs", 14, "--width", 10, "--picture", tmp_path / "found.png"]
    iou, out = run("segment_shapes", *arguments)
    assert 0.5 < iou <= 1
    assert out == f"intersection over union {iou:.3f} on 60 images\n"
    from PIL import Image

    assert Image.open(tmp_path / "found.png").size == (8 * 128, 3 * 128)


def test_segment_shapes_task():
    images, labels = example("segment_shapes").draw(200, 32, np.random.default_rng(0))
    assert (images.shape, labels.shape, images.dtype) == ((200, 1, 32, 32), (200, 32, 32), np.float32)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert labels.reshape(200, -1).any(axis=1).all(), "an image without a shape"
    inside, outside = images[:, 0][labels > 0], images[:, 0][labels == 0]
    assert abs(outside.mean()) < 0.01
    assert abs(inside.mean() - 1.1) < 0.05


def test_mnist_resnet(run, toy_idx, tmp_path):
    accuracy, out = run(
        "mnist_resnet", "--data", f"idx:{toy_idx}", "--epochs", 6, "--batch-size", 8, "--export", tmp_path / "m.onnx"
    )
    assert accuracy >= 0.9
    assert f"idx:{toy_idx}: {accuracy:.4f} of the 10 test images are right, seed 0" in out
    assert len(onnx.load(tmp_path / "m.onnx").graph.node) > 60


def test_finetune_onnx(run, tmp_path):
    target = tmp_path / "tuned.onnx"
    found, out = run("finetune_onnx", "--epochs", 8, "--export", target)
    assert 0.6 <= found <= 1
    assert "the new head trains 650 of 13,706 weights" in out
    assert run("finetune_onnx", target, "--epochs", 1)[0] > 0.1
    assert len(onnx.load(target).graph.node) == 10


def test_finetune_onnx_of_other_images(run, tmp_path):
    cl.export_onnx(cl.models.mobilenet_small(input_shape=(3, 16, 12), classes=4), tmp_path / "m.onnx")
    _, out = run("finetune_onnx", tmp_path / "m.onnx", "--epochs", 1)
    assert "10 classes of digits" in out


def test_custom_layer(run):
    accuracy, out = run("custom_layer", "--epochs", 4)
    assert accuracy >= 0.8
    assert out.startswith("Swish keeps the contract of a layer\nthe slopes began at 1; their means are now ")
    assert out.count("onnxruntime agrees") == 2
    assert f"{accuracy:.4f} of the test images are right" in out


def test_freeze_and_replace_head(run):
    accuracy, out = run("freeze_and_replace_head", "--epochs", 10)
    assert accuracy >= 0.9
    assert f"digits 5 to 9: {accuracy:.4f}, by 645 weights of a new head; frozen are 0.weight, 0.bias, 3.weight, 3.bias" in out
