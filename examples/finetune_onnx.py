"""A network out of an ONNX file learns new classes: its body is frozen, a new head is trained, and the result exported.

    python examples/finetune_onnx.py
    python examples/finetune_onnx.py MODEL.onnx --data idx:DIR --export tuned.onnx

MODEL.onnx is any classifier of images; without one, a small network that knows the digits 0 to 4 is trained and exported first.
The head is the last layer with weights. Images of another size are resized within the network, and gray ones fill all the
channels that it takes, so the exported file takes them as they are. Some seconds; the digits need scikit-learn.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import convlayers as cl


def known_digits(folder: Path, seed: int) -> Path:
    """A file of a network that tells the digits 0 to 4 apart."""
    data = cl.datasets.load("digits")
    few = data.y_train < 5
    model = cl.models.digits_cnn(classes=5, seed=seed)
    cl.Trainer(model, optimizer=cl.Adam(3e-3), seed=seed).fit((data.x_train[few], data.y_train[few]), 20, progress=False)
    cl.export_onnx(model, folder / "digits_0_to_4.onnx")
    return folder / "digits_0_to_4.onnx"


def body_of(model: cl.Model) -> cl.Model:
    """The network up to what its last layer with weights reads."""
    head = max(number for number, step in enumerate(model.steps) if step.layer.params)
    features = model.value_names[model.steps[head].sources[0]]
    return cl.Model(model.input_nodes, model.node(features))


def fitting(images, shape):
    """Nodes that make samples of `shape` of the images: resized, and the one channel of gray images as often as it takes."""
    x = images
    if x.shape[1:] != shape[1:]:
        x = cl.Resize(sizes=list(shape[1:]), antialias=True)(x)
    return cl.Concat()(*[x] * shape[0]) if x.shape[0] == 1 < shape[0] else x


def with_new_head(model: cl.Model, input_shape: tuple[int, ...], classes: int, seed: int) -> cl.Model:
    """The model's body, frozen, between images of `input_shape` and a new dense layer."""
    body = body_of(model)
    images = cl.Input(input_shape)
    features = body(fitting(images, body.input_shape), name="body")
    if len(features.shape) > 1:
        features = cl.Flatten()(cl.GlobalAvgPool2d()(features))
    tuned = cl.Model(images, cl.Dense(classes)(features, name="head"), seed=seed)
    tuned.freeze("body/*")
    return tuned


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", metavar="MODEL.onnx", help="by default one that knows the digits 0 to 4")
    parser.add_argument("--data", default="digits", help="as for convlayers train (default digits)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", metavar="FILE.onnx", help="by default a temporary file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    data = cl.datasets.load(args.data)
    with tempfile.TemporaryDirectory() as folder:
        model = cl.import_onnx(args.model or known_digits(Path(folder), args.seed))
        tuned = with_new_head(model, data.input_shape, data.classes, args.seed)
        weights = sum(array.size for array in tuned.trainable_parameters().values())
        everything = sum(array.size for array in tuned.parameters().values())
        print(f"{len(model.steps)} layers imported; the new head trains {weights:,} of {everything:,} weights")

        trainer = cl.Trainer(tuned, optimizer=cl.Adam(3e-3), seed=args.seed)
        trainer.fit((data.x_train, data.y_train), args.epochs, progress=False)
        found = trainer.evaluate((data.x_test, data.y_test))["accuracy"]
        print(f"{data.classes} classes of {data.name}: {found:.4f} of the test images")

        target = args.export or str(Path(folder) / "tuned.onnx")
        print(cl.export_onnx(tuned, target, labels=data.labels))
    return found


if __name__ == "__main__":
    main()
