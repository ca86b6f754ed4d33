"""What can be typed."""

import argparse
import math
from typing import NoReturn

from ..errors import ConfigError

DATA = (
    "digits, idx:DIR (MNIST's four files), FILE.npz (x_train, y_train, x_test, y_test), or a folder with one subfolder a class"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """An error like any other of ours, where argparse would print its usage and leave."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def _whole(text: str, minimum: int) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {minimum}; got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def seed(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def rate(text: str) -> float:
    """A finite number over 0."""
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number over 0; got {text!r}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1; got {text!r}")
    return value


def shape(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1 with commas between them."""
    return tuple(count(part.strip()) for part in text.split(","))


def parser() -> argparse.ArgumentParser:
    """The parser of every command; `command` in its result is the command's name."""
    from .. import __version__

    top = _Parser(
        prog="convlayers", description="Train convolutional networks on a CPU and hand them over as verified ONNX files."
    )
    top.add_argument("--version", action="version", version=f"convlayers {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _train(commands)
    _evaluate(commands)
    _export(commands)
    _quantize(commands)
    _verify(commands)
    _import(commands)
    _summary(commands)
    _graph(commands)
    commands.add_parser("layers", help="list every registered layer and the distribution it came from")
    commands.add_parser("operators", help="list every ONNX operator that can be imported, and who reads it")
    return top


_RAW_PIXELS = "the exported file takes an image file's array, uint8 (N, H, W, C), and scales it itself"


def _train(commands: argparse._SubParsersAction) -> None:
    from .architectures import classifiers

    train = commands.add_parser(
        "train", help="train a network", description="Train a network and say how it does on the test images."
    )
    train.add_argument("data", metavar="DATA", help=DATA)
    train.add_argument(
        "--model",
        metavar="NAME|FILE.toml|FILE.onnx",
        help=f"{', '.join(classifiers())}, layers or a network in a file; by default digits-cnn or lenet5, by size",
    )
    train.add_argument("--epochs", type=count, default=40, metavar="N", help="passes over the training images (default 40)")
    train.add_argument("--batch-size", type=count, default=64, metavar="N", help="images a step (default 64)")
    train.add_argument(
        "--optimizer", choices=("adam", "adamw", "rmsprop", "sgd"), default="adam", help="update rule (default adam)"
    )
    train.add_argument(
        "--lr", type=rate, metavar="X", help="learning rate (default 0.002, rmsprop 0.001, sgd 0.05 with momentum 0.9)"
    )
    train.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of weights and shuffling: one seed, one result (default 0)"
    )
    train.add_argument("--threads", type=count, metavar="N", help="for the kernels; any number gives the same result")
    train.add_argument("--checkpoint", metavar="FILE", help="written after each epoch and on Ctrl-C; training resumes from it")
    train.add_argument("--save", metavar="FILE", help="write the trained model, for evaluate and export")
    train.add_argument("--export", metavar="FILE.onnx", help="write the trained model as ONNX, verified with onnxruntime")
    train.add_argument("--raw-pixels", action="store_true", help=_RAW_PIXELS)
    train.add_argument("--quiet", action="store_true", help="print the results alone")


def _evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="loss and accuracy of a model on test images")
    evaluate.add_argument("model", metavar="MODEL", help="a saved model or an .onnx file")
    evaluate.add_argument("data", metavar="DATA", help=DATA)


def _export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write a saved model as ONNX, verified with onnxruntime")
    export.add_argument("model", metavar="SAVED", help="a model that train --save or Model.save wrote, or an .onnx file")
    export.add_argument("target", metavar="MODEL.onnx", help="the file to write")
    export.add_argument("--opset", type=count, default=17, metavar="N", help="version of ONNX's operators (default 17)")
    export.add_argument("--raw-pixels", action="store_true", help=_RAW_PIXELS)
    export.add_argument("--fold-batchnorm", action="store_true", help="take batch normalization into the weights before it")
    export.add_argument("--dynamic-image", action="store_true", help="leave the images' height and width open")
    export.add_argument(
        "--certificate", action="store_true", help="write MODEL.verify.json too: what was checked, with what result"
    )


def _quantize(commands: argparse._SubParsersAction) -> None:
    quantize = commands.add_parser(
        "quantize",
        help="write an .onnx file in int8",
        description="Write an .onnx file in int8, calibrated on training images, if test images lose little accuracy.",
    )
    quantize.add_argument("model", metavar="MODEL.onnx", help="the float file")
    quantize.add_argument("data", metavar="DATA", help=DATA)
    quantize.add_argument("--output", metavar="FILE", help="the file to write; by default MODEL.int8.onnx")
    quantize.add_argument(
        "--samples", type=count, default=256, metavar="N", help="training images to calibrate on, evenly spaced (default 256)"
    )
    quantize.add_argument(
        "--max-drop", type=share, default=0.01, metavar="X", help="accuracy that may be lost, from 0 to 1 (default 0.01)"
    )


def _verify(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser("verify", help="repeat an export's check on an .onnx file, with its certificate")
    verify.add_argument("model", metavar="MODEL.onnx", help="the file to check")


def _import(commands: argparse._SubParsersAction) -> None:
    take = commands.add_parser("import", help="make a model that can be trained of an .onnx file")
    take.add_argument("source", metavar="MODEL.onnx", help="any convolutional network in ONNX")
    take.add_argument("target", metavar="SAVED", help="the saved model to write, for export, summary and Python")
    take.add_argument(
        "--input-shape", metavar="C,H,W", type=shape, help="of one sample, where the file leaves it open, such as 3,224,224"
    )
    take.add_argument("--external-data", action="store_true", help="read weights in other files, below the file's own folder")


_MODEL = "a saved model, an .onnx file, or the name of one that train --model takes"


def _summary(commands: argparse._SubParsersAction) -> None:
    summary = commands.add_parser("summary", help="a model as a table: shapes, parameters, multiply-adds, memory")
    summary.add_argument("model", metavar="MODEL", help=_MODEL)


def _graph(commands: argparse._SubParsersAction) -> None:
    graph = commands.add_parser("graph", help="a picture of a model's graph")
    graph.add_argument("model", metavar="MODEL", help=_MODEL)
    graph.add_argument(
        "target", metavar="OUT.svg|OUT.dot", nargs="?", help="the file to write; without it, Graphviz's language is printed"
    )
