"""What each command does; `train` has a file of its own."""

import argparse

from .train import train

__all__ = ["evaluate", "export", "graph", "import_", "layers", "operators", "quantize", "summary", "train", "verify"]


def evaluate(args: argparse.Namespace) -> None:
    """Loss and accuracy of a saved model or an ONNX file on the test images."""
    from .. import datasets
    from .scoring import open_predictor, score

    data = datasets.load(args.data)
    result = score(open_predictor(args.model, data), data)
    print(f"{args.model} on {data.name}: loss {result.loss:.4f}, {result}")


def export(args: argparse.Namespace) -> None:
    """Write a saved model as ONNX, with its labels and preprocessing."""
    from ..onnx import export_onnx
    from .scoring import load_model, raw_pixels

    model = load_model(args.model)
    options = {name: getattr(args, name) for name in ("certificate", "fold_batchnorm", "dynamic_image")}
    print(export_onnx(model, args.target, args.opset, preprocessing=raw_pixels(model, args.raw_pixels), **options))


def quantize(args: argparse.Namespace) -> None:
    """Write an ONNX file in int8: calibrated on training images, judged by the test images."""
    from .. import datasets
    from ..onnx import quantize_onnx
    from .scoring import as_taken, evenly_spaced, open_predictor

    data = datasets.load(args.data)
    predictor = open_predictor(args.model, data)  # refuses other samples and other classes
    samples = as_taken(predictor, evenly_spaced(data.x_train, args.samples))
    judge = as_taken(predictor, data.x_test), data.y_test
    print(quantize_onnx(args.model, samples, args.output, evaluation_data=judge, max_drop=args.max_drop))


def verify(args: argparse.Namespace) -> None:
    """Repeat an export's check on a file."""
    from ..onnx import verify_onnx

    print(verify_onnx(args.model))


def import_(args: argparse.Namespace) -> None:
    """Write the network in an ONNX file as a saved model, and show it."""
    from ..files import check_target
    from ..onnx import import_onnx

    check_target(args.target)
    model = import_onnx(args.source, input_shape=args.input_shape, external_data=args.external_data)
    model.save(args.target)
    weights = sum(array.size for array in model.parameters().values())
    print(f"{args.source}: {len(model.steps)} layers, {weights:,} parameters, saved as {args.target}")


def summary(args: argparse.Namespace) -> None:
    """A model as a table."""
    from .scoring import find_model

    print(find_model(args.model).summary())


def graph(args: argparse.Namespace) -> None:
    """A model's graph as a picture, or in Graphviz's language."""
    from .scoring import find_model

    model = find_model(args.model)
    if args.target is None:
        print(model.to_dot(), end="")
    else:
        model.save_graph(args.target)


def operators(args: argparse.Namespace) -> None:
    """A table of every ONNX operator that can be imported, the opsets since which it is read, and by whom."""
    from ..onnx import available_handlers

    for (domain, operator), entries in available_handlers().items():
        owners = " and ".join(dict.fromkeys(entry.owner for entry in entries))
        since = ", ".join(str(entry.since) for entry in entries)
        name = f"{domain}.{operator}" if domain else operator
        print(f"{name:<22}  {since:<8}  {owners}")


def layers(args: argparse.Namespace) -> None:
    """A table of every registered layer; no plug-in is imported for it."""
    from ..registry import available_layers

    rows = list(available_layers().items())
    width = max((len(layer_id) for layer_id, _ in rows), default=0)
    for layer_id, distribution in rows:
        # An id that two distributions claim comes as "a 1.0 and b 2.0"; names and versions hold no spaces.
        clash = "  (two owners; uninstall one of them to use it)" if " and " in distribution else ""
        print(f"{layer_id:<{width}}  {distribution}{clash}")
