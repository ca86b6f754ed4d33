"""`convlayers train`: which model, what it writes, how it goes on from a checkpoint."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import convlayers as cl
from convlayers import registry
from convlayers.cli.architectures import architectures, create, default_name
from convlayers.datasets import load

TOML = """
[[layers]]
layer = "conv2d"
name = "edges"
out_channels = 4
kernel_size = 3
padding = [[1, 1], [0, 1]]

[[layers]]
layer = "relu"

[[layers]]
layer = "flatten"

[[layers]]
layer = "dense"
out_features = 2
"""


# Models


def test_architectures_by_name(toy_npz):
    data = load(toy_npz)
    assert {"digits-cnn", "lenet5"} <= architectures().keys()
    assert create("digits-cnn", data, 0).to_config() == create("digits_cnn", data, 0).to_config()
    assert create("digits-cnn", data, 3).seed == 3
    assert default_name(data) == "digits-cnn"


def test_default_for_larger_images(tmp_path):
    path = tmp_path / "large.npz"
    np.savez(path, x_train=np.zeros((2, 1, 8, 17)), y_train=[0, 1], x_test=np.zeros((1, 1, 8, 17)), y_test=[0])
    assert default_name(load(path)) == "lenet5"


def test_unknown_model_lists_the_known(refused, toy_npz):
    error = refused(2, "train", toy_npz, "--model", "resnet1202")
    assert "no model is called 'resnet1202'; there are alexnet, digits-cnn, lenet5" in error


@pytest.mark.parametrize(("name", "what"), [("unet", "each pixel of an image"), ("tcn", "each moment of a signal")])
def test_what_does_not_classify_images_is_shown_and_not_trained(run, refused, toy_npz, name, what):
    assert run("summary", name) == (0, getattr(cl.models, name)().summary() + "\n", "")
    error = refused(2, "train", toy_npz, "--model", name)
    assert f"{name} labels {what}, where one label an image is wanted; there are alexnet, " in error
    assert f" {name}," not in error


def test_model_that_does_not_fit(refused, toy_npz):
    assert "lenet5 on samples of shape (1, 8, 8): Conv2d" in refused(1, "train", toy_npz, "--model", "lenet5")


def test_rows_need_a_model_of_ones_own(refused, run, tmp_path):
    x = np.repeat(np.eye(3, dtype=np.float32), 8, 0)
    y = np.repeat(np.arange(3), 8)
    np.savez(tmp_path / "rows.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert "say --model FILE.toml" in refused(2, "train", "rows.npz")
    (tmp_path / "m.toml").write_text('[[layers]]\nlayer = "dense"\nout_features = 3\n')
    code, out, _ = run("train", "rows.npz", "--model", "m.toml", "--lr", "0.1", "--quiet")
    assert (code, "accuracy 1.0000 (24 of 24" in out) == (0, True)


def test_toml_model(train, tmp_path):
    (tmp_path / "m.toml").write_text(TOML)
    train("--model", "m.toml", "--epochs", "1", "--save", "m.st")
    model = cl.load(tmp_path / "m.st")
    assert [name for name, _ in model.layers()] == ["edges", "1", "2", "3"]
    assert model.output_shape == (2,)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda t: "layers = 3", 2, "there are no layers"),
        (lambda t: "", 2, "there are no layers"),
        (lambda t: "layers = [1]", 2, "there are no layers"),
        (lambda t: t + "\n[optimizer]\nlr = 1", 2, "the key 'optimizer' is unknown"),
        (lambda t: "[[layers", 1, "bad.toml is not a TOML file"),
        (lambda t: t.replace('layer = "relu"', "size = 1"), 2, "layer 1 names no layer"),
        (lambda t: t.replace('"relu"', '"rely"'), 1, 'layer 1: no layer has the id "rely"; did you mean relu'),
        (lambda t: t.replace("out_features", "features"), 2, "layer 3: dense does not take this configuration"),
        (lambda t: t.replace("kernel_size = 3", "kernel_size = 0"), 2, "layer 0: kernel_size must be at least 1; got 0"),
        (lambda t: t.replace("kernel_size = 3", "kernel_size = 30"), 1, 'Conv2d "edges": kernel 30x30 does not fit'),
        (lambda t: t.replace('"edges"', '"3"'), 2, 'bad.toml: two layers have the name "3"'),
        (lambda t: t.replace("out_features = 2", "out_features = 7"), 1, "puts out (7,) a sample; toy.npz has 2 classes"),
        (lambda t: t[: t.index('[[layers]]\nlayer = "flatten"')], 1, "puts out (4, 8, 7) a sample"),
        (lambda t: "input_shape = [1, 9, 9]\n" + t, 1, "takes samples of shape (1, 9, 9); toy.npz has (1, 8, 8)"),
        (lambda t: "input_shape = 9\n" + t, 1, "input_shape is the shape of one sample"),
    ],
)
def test_bad_toml(refused, tmp_path, toy_npz, change, code, words):
    (tmp_path / "bad.toml").write_text(change(TOML))
    assert words in refused(code, "train", toy_npz.name, "--model", "bad.toml")


def test_toml_that_is_missing_or_not_text(refused, tmp_path, toy_npz):
    assert "cannot read none.toml: No such file" in refused(1, "train", toy_npz, "--model", "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    assert "not a TOML file" in refused(1, "train", toy_npz, "--model", "bad.toml")


# Training, and what can be done with its files


def test_from_images_to_onnx(run, toy_npz, tmp_path):
    files = ("--checkpoint", "c.st", "--save", "m.st", "--export", "m.onnx")
    code, out, err = run("train", toy_npz, "--epochs", "8", *files)
    assert code == 0
    assert "toy.npz: 40 training and 10 test images of 1x8x8, 2 classes" in out
    assert "digits-cnn, chosen by the images' size" in out
    assert err.count("\n") == 8
    score = "accuracy 1.0000 (10 of 10 test images)"
    assert f"test {score}" in out
    assert f"{tmp_path / 'm.onnx'}: {score} in onnxruntime" in out
    for model in ("c.st", "m.st", "m.onnx"):
        code, out, err = run("evaluate", model, toy_npz)
        assert (code, score in out, err) == (0, True, "")
    assert run("verify", "m.onnx")[0] == 0
    for model in ("c.st", "m.st"):
        assert run("export", model, "again.onnx", "--opset", "13")[0] == 0
        assert "opset 13" in run("verify", "again.onnx")[1]
    assert {p.name for p in tmp_path.iterdir()} == {"toy.npz", "c.st", "m.st", "m.onnx", "again.onnx"}


def test_labels_and_preprocessing_travel(train, run):
    from convlayers.onnx import OnnxModel

    train("--epochs", "1", "--save", "m.st", "--export", "m.onnx")
    expected = {"labels": ["0", "1"], "preprocessing": {"layout": "NCHW", "scale": 1 / 255}}
    assert cl.load("m.st").metadata == expected
    assert run("export", "m.st", "b.onnx")[0] == 0
    for name in ("m.onnx", "b.onnx"):
        assert {key: OnnxModel(name).metadata[key] for key in expected} == expected
        assert OnnxModel(name).input_shape == (1, 8, 8)
    assert run("export", "m.st", "r.onnx", "--raw-pixels")[0] == 0
    built_in = {"input": "uint8", "layout": "NHWC", "mean": 0.0, "scale": 1 / 255, "softmax": False}
    assert {key: OnnxModel("r.onnx").metadata[key] for key in expected} == {**expected, "preprocessing": built_in}


def test_an_exported_file_takes_an_image_file_s_array(train, toy_arrays):
    from convlayers.onnx import OnnxModel

    train("--epochs", "8", "--export", "m.onnx", "--raw-pixels")
    file = OnnxModel("m.onnx")
    assert file.input_shape == (8, 8, 1)
    pixels = toy_arrays["x_test"]
    assert pixels.dtype == np.uint8
    assert (file.predict(pixels[..., None]).argmax(axis=1) == toy_arrays["y_test"]).all()


def test_floats_are_no_raw_pixels(run, refused, train, toy_arrays, tmp_path):
    floats = {key: value / np.float32(255) if value.ndim > 1 else value for key, value in toy_arrays.items()}
    np.savez(tmp_path / "floats.npz", **floats)
    message = refused(2, "train", "floats.npz", "--epochs", "8", "--quiet", "--export", "f.onnx", "--raw-pixels")
    assert "--raw-pixels is for images that their data set scaled" in message
    train("--epochs", "1", "--export", "m.onnx", "--raw-pixels")
    assert "m.onnx takes raw pixels, whole numbers from 0 to 255; floats.npz holds others" in refused(
        1, "evaluate", "m.onnx", "floats.npz"
    )


def test_export_s_options(run, refused, tmp_path):
    cl.models.resnet20((3, 8, 8)).save("r.st")
    code, out, _ = run("export", "r.st", "r.onnx", "--fold-batchnorm", "--dynamic-image", "--certificate")
    assert (code, "r.verify.json" in out) == (0, True)
    written = onnx.load("r.onnx").graph
    assert "BatchNormalization" not in [node.op_type for node in written.node]
    assert [d.dim_param for d in written.input[0].type.tensor_type.shape.dim][2:] == ["height", "width"]
    assert "Certificate: r.verify.json." in run("verify", "r.onnx")[1]
    (tmp_path / "r.verify.json").write_text("{")
    assert "r.verify.json is not a whole certificate" in refused(1, "verify", "r.onnx")


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_learns(train, optimizer):
    assert "accuracy 1.0000" in train("--epochs", "30", "--optimizer", optimizer)


def test_same_seed_same_file_for_any_threads(train, run, toy_npz):
    settings = ("--epochs", "2", "--batch-size", "16")
    before = cl.get_num_threads()
    for threads in (1, 2, 3):
        code, out, _ = run("train", toy_npz, *settings, "--seed", "5", "--threads", threads, "--save", f"{threads}.st")
        assert code == 0
    assert cl.get_num_threads() == before
    assert "seed 5, 3 thread(s)" in out
    first = Path("1.st").read_bytes()
    assert first == Path("2.st").read_bytes() == Path("3.st").read_bytes()
    train(*settings, "--seed", "6", "--save", "other.st")
    assert Path("other.st").read_bytes() != first


@pytest.mark.parametrize("option", ["--export", "--save", "--checkpoint"])
def test_targets_are_checked_before_training(refused, toy_npz, option, tmp_path):
    assert "no/where does not exist" in refused(1, "train", toy_npz, option, "no/where/m.onnx")
    assert "it is a folder" in refused(1, "train", toy_npz, option, tmp_path)


def test_one_file_for_two_purposes(refused, toy_npz):
    assert "must be different files" in refused(2, "train", toy_npz, "--save", "a", "--export", "./a")


def test_layer_that_cannot_be_exported_is_found_before_training(refused, toy_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    @cl.register_layer("unsayable")
    class Unsayable(cl.Layer):
        def forward(self, x, *, training):
            raise AssertionError("training began")

    (tmp_path / "m.toml").write_text(TOML.replace('"relu"', '"unsayable"'))
    error = refused(1, "train", toy_npz, "--model", "m.toml", "--export", "m.onnx")
    assert 'Unsayable "1" cannot be exported' in error


def test_real_digits(run):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    code, out, _ = run("train", "digits", "--quiet", "--export", "digits.onnx")
    assert code == 0
    assert float(out.rpartition("accuracy ")[2].split()[0]) >= 0.975


def test_real_mnist(run, mnist_dir):
    call = [
        "train",
        f"idx:{mnist_dir}",
        "--model",
        "lenet5",
        "--epochs",
        "10",
        "--lr",
        "0.001",  # the default leaves the last epochs noisy: 0.962 to 0.980, by seed and instruction set
        "--seed",
        "0",
        "--export",
        "mnist.onnx",
        "--quiet",
    ]
    code, out, _ = run(*call)
    assert code == 0
    assert float(out.rpartition("accuracy ")[2].split()[0]) >= 0.965


# Checkpoints


def test_a_run_in_two_parts_gives_the_same_file(train, run, toy_npz):
    settings = ("--batch-size", "16", "--seed", "2")
    train(*settings, "--epochs", "4", "--save", "whole.st")
    train(*settings, "--epochs", "1", "--checkpoint", "c.st")
    code, out, err = run("train", toy_npz, *settings, "--epochs", "4", "--checkpoint", "c.st", "--save", "parts.st")
    assert code == 0
    assert "resuming from c.st, 1 of 4 epochs done" in out
    assert err.count("\n") == 3
    assert Path("parts.st").read_bytes() == Path("whole.st").read_bytes()
    # Nothing is left to do: the same command again only evaluates.
    assert run("train", toy_npz, *settings, "--epochs", "4", "--checkpoint", "c.st")[2] == ""


@pytest.fixture
def interruptible():
    """A shell lets its background jobs ignore Ctrl-C, and so would what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_a_whole_checkpoint(tmp_path, toy_npz, run):
    settings = ["train", str(toy_npz), "--batch-size", "4"]
    endless = [*settings, "--epochs", "100000", "--checkpoint", str(tmp_path / "c.st")]
    with subprocess.Popen(
        [sys.executable, "-m", "convlayers", *endless], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stderr.readline().startswith(b"epoch 1/100000")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    last = err.decode().splitlines()[-1]
    assert process.returncode == 130
    assert last.startswith("convlayers: interrupted after ")
    assert last.endswith(f"the same command goes on from {tmp_path / 'c.st'}")
    trainer = cl.Trainer.resume(tmp_path / "c.st")
    total = trainer.epoch + 2
    assert run(*settings, "--epochs", total, "--checkpoint", "c.st", "--save", "parts.st", "--quiet")[0] == 0
    assert run(*settings, "--epochs", total, "--save", "whole.st", "--quiet")[0] == 0
    assert (tmp_path / "parts.st").read_bytes() == (tmp_path / "whole.st").read_bytes()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--model", "m.toml"], 1, "it holds another model"),
        (["--seed", "1"], 2, "seed 0, now 1"),
        (["--batch-size", "8"], 2, "batch size 64, now 8"),
        (["--lr", "0.1"], 2, "lr 0.002, now 0.1"),
        (["--optimizer", "adamw"], 2, "optimizer Adam, now AdamW"),
    ],
)
def test_checkpoint_of_another_run(refused, train, toy_npz, tmp_path, change, code, words):
    (tmp_path / "m.toml").write_text(TOML)
    train("--epochs", "1", "--checkpoint", "c.st")
    before = Path("c.st").read_bytes()
    assert words in refused(code, "train", toy_npz, "--checkpoint", "c.st", *change)
    assert Path("c.st").read_bytes() == before


def test_checkpoint_of_other_data(refused, train, toy_arrays, tmp_path):
    train("--epochs", "1", "--checkpoint", "c.st")
    fewer = {key: value[:-2] for key, value in toy_arrays.items()}
    np.savez(tmp_path / "fewer.npz", **fewer)
    assert "training images 40, now 38" in refused(2, "train", "fewer.npz", "--checkpoint", "c.st")


def test_checkpoint_that_is_something_else(refused, train, toy_npz):
    train("--epochs", "1", "--save", "m.st")
    Path("notes.txt").write_text("do not overwrite me")
    assert "m.st is not a trainer's checkpoint" in refused(1, "train", toy_npz, "--checkpoint", "m.st")
    assert "notes.txt is not a whole safetensors file" in refused(1, "train", toy_npz, "--checkpoint", "notes.txt")
    assert Path("notes.txt").read_text() == "do not overwrite me"
