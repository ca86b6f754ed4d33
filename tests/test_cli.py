"""The command line: calls, exit codes, and what it says about models that it cannot use."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convlayers as cl
from convlayers.cli import commands
from convlayers.errors import ConfigError, FileAccessError

# Calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["polish"], "invalid choice: 'polish'"),
        (["train"], "the following arguments are required: DATA; see convlayers train --help"),
        (["train", "digits", "--epochs", "0"], "argument --epochs: must be a whole number of at least 1; got '0'"),
        (["train", "digits", "--epochs", "1e2"], "at least 1; got '1e2'"),
        (["train", "digits", "--batch-size", "-3"], "argument --batch-size"),
        (["train", "digits", "--lr", "nan"], "argument --lr: must be a number over 0; got 'nan'"),
        (["train", "digits", "--lr", "inf"], "over 0; got 'inf'"),
        (["train", "digits", "--lr", "fast"], "over 0; got 'fast'"),
        (["train", "digits", "--seed", "x"], "argument --seed: must be a whole number of at least 0; got 'x'"),
        (["train", "digits", "--seed", "-1"], "argument --seed"),
        (["train", "digits", "--threads", "0"], "argument --threads"),
        (["train", "digits", "--optimizer", "adamax"], "choose from"),
        (["train", "digits", "--new\nline"], "unrecognized arguments: --new line"),
        (["train", "digets"], "no data set is called 'digets'"),
        (["evaluate", "model.onnx"], "required: DATA"),
        (["quantize", "model.onnx"], "required: DATA; see convlayers quantize --help"),
        (["quantize", "m.onnx", "digits", "--max-drop", "2"], "argument --max-drop: must be a number from 0 to 1; got '2'"),
        (["quantize", "m.onnx", "digits", "--max-drop", "nan"], "must be a number from 0 to 1; got 'nan'"),
        (["quantize", "m.onnx", "digits", "--samples", "0"], "argument --samples"),
    ],
)
def test_wrong_calls(refused, arguments, words):
    assert words in refused(2, *arguments)


def test_version_and_help(run):
    assert run("--version") == (0, f"convlayers {cl.__version__}\n", "")
    code, out, _ = run("train", "--help")
    assert code == 0
    for option in ("--model", "--epochs", "--batch-size", "--lr", "--seed", "--threads", "--checkpoint", "--export"):
        assert option in out


def test_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "convlayers", "train"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("convlayers: the following arguments are required: DATA")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("two\nlines"), 1, "this is a bug, please report it: RuntimeError: two lines (test_cli.py:"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ConfigError("no"), 2, "no"),
        (FileAccessError("cannot read x"), 1, "cannot read x"),
    ],
)
def test_every_error_has_its_exit_code(refused, monkeypatch, error, code, words):
    def broken(args):
        raise error

    monkeypatch.setattr(commands, "layers", broken)
    assert words in refused(code, "layers")


# Output is buffered, as a shell has it: what could not be written would come up again when the program ends.
BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
LAYERS = [sys.executable, "-m", "convlayers", "layers"]


def test_a_reader_that_leaves_is_no_error_worth_a_word():
    process = subprocess.Popen(LAYERS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=BUFFERED)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_full_disk_behind_standard_output():
    with open("/dev/full", "w") as full:
        done = subprocess.run(LAYERS, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    assert (done.returncode, done.stderr) == (1, "convlayers: cannot write the output: No space left on device\n")


# Layers


def test_layers_lists_every_layer_and_imports_little(run):
    code, out, _ = run("layers")
    assert code == 0
    assert dict(line.split(maxsplit=1) for line in out.splitlines()) == cl.available_layers()
    script = "import sys; from convlayers.cli import main; main(['layers'])\nprint(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    assert not {"onnx", "onnxruntime", "sklearn", "PIL", "tqdm"} & set(loaded)


def test_layers_shows_two_owners(run, monkeypatch, tmp_path):
    for name in ("alpha", "beta"):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[convlayers.layers]\nswish = {name}:Swish\n")
    monkeypatch.syspath_prepend(tmp_path)
    _, out, _ = run("layers")
    line = next(line for line in out.splitlines() if line.startswith("swish"))
    assert {"alpha 1.0", "beta 1.0"} == set(line.split(maxsplit=1)[1].split("  (two owners")[0].split(" and "))


# Bad models


def test_evaluate_on_other_data(refused, train, toy_arrays, tmp_path):
    train("--epochs", "1", "--save", "m.st", "--export", "m.onnx")
    np.savez(
        tmp_path / "large.npz", **{k: v if v.ndim == 1 else np.pad(v, ((0, 0), (1, 1), (1, 1))) for k, v in toy_arrays.items()}
    )
    np.savez(tmp_path / "three.npz", **{k: v + 1 if v.ndim == 1 else v for k, v in toy_arrays.items()})
    for model in ("m.st", "m.onnx"):
        assert f"{model} takes samples of shape (1, 8, 8); large.npz has (1, 10, 10)" in refused(
            1, "evaluate", model, "large.npz"
        )
        assert f"{model} tells 2 classes (0, 1) apart; three.npz has 3 classes" in refused(1, "evaluate", model, "three.npz")


def test_label_beyond_an_unlabelled_model(refused, toy_arrays, tmp_path):
    cl.models.digits_cnn(classes=2).save(tmp_path / "m.st")
    np.savez(tmp_path / "three.npz", **{k: v + 1 if v.ndim == 1 else v for k, v in toy_arrays.items()})
    assert "labels are integers from 0 to 1; got 2 at index 1" in refused(1, "evaluate", "m.st", "three.npz")


def test_model_that_does_not_classify(refused, toy_npz, tmp_path):
    cl.Sequential([cl.ReLU()], input_shape=(1, 8, 8)).save(tmp_path / "m.st")
    assert "does not classify" in refused(1, "evaluate", "m.st", toy_npz)


@pytest.mark.parametrize("command", ["evaluate", "export", "quantize", "verify"])
@pytest.mark.parametrize("content", [None, b"", b"text", b"\x10\0\0\0\0\0\0\0{", bytes(100)])
def test_files_that_are_no_models(refused, toy_npz, tmp_path, command, content):
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    more = {"evaluate": [toy_npz], "export": ["out.onnx"], "quantize": [toy_npz, "--output", "out.onnx"], "verify": []}[command]
    error = refused(1, command, "m", *more)
    assert ("cannot read m: No such file" if content is None else "m ") in error
    assert not (tmp_path / "out.onnx").exists()


def test_truncated_model(refused, train, toy_npz):
    train("--epochs", "1", "--save", "m.st", "--export", "m.onnx")
    for name in ("m.st", "m.onnx"):
        Path(name).write_bytes(Path(name).read_bytes()[:-9])
        assert name in refused(1, "evaluate", name, toy_npz)
    refused(1, "verify", "m.onnx")


def test_export_to_a_place_that_is_not(refused, train):
    train("--epochs", "1", "--save", "m.st")
    assert "does not exist" in refused(1, "export", "m.st", "no/where.onnx")
    assert "opset" in refused(2, "export", "m.st", "m.onnx", "--opset", "3")
    assert not Path("m.onnx").exists()


# Eight bits


def test_quantize(run, train, toy_npz):
    train("--epochs", "1", "--export", "m.onnx")
    code, out, err = run("quantize", "m.onnx", toy_npz, "--samples", "20", "--max-drop", "1")
    assert (code, err) == (0, "")
    assert out.startswith("m.int8.onnx: m.onnx in int8, 4 of 4 convolutions and matrix products, calibrated on 20 samples;")
    assert "On 10 samples: accuracy" in out
    assert "run one by one in float" in run("verify", "m.int8.onnx")[1]
    assert run("evaluate", "m.int8.onnx", toy_npz)[0] == 0
    assert run("quantize", "m.onnx", toy_npz, "--output", "other.onnx", "--max-drop", "1")[0] == 0
    assert Path("other.onnx").exists()


def test_what_quantize_refuses(refused, train, toy_npz, toy_arrays, tmp_path):
    train("--epochs", "1", "--save", "m.st", "--export", "m.onnx")
    np.savez(tmp_path / "three.npz", **{k: v + 1 if v.ndim == 1 else v for k, v in toy_arrays.items()})
    assert "m.onnx tells 2 classes (0, 1) apart" in refused(1, "quantize", "m.onnx", "three.npz")
    assert "need 16 samples at least; got 5" in refused(1, "quantize", "m.onnx", toy_npz, "--samples", "5")
    assert "m.st is not a whole ONNX file" in refused(1, "quantize", "m.st", toy_npz)
    assert "m.onnx is the float one" in refused(2, "quantize", "m.onnx", toy_npz, "--output", "m.onnx")
    assert not Path("m.int8.onnx").exists()
