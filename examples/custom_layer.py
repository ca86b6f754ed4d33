"""A layer of one's own: written, checked, trained, saved, exported.

    python examples/custom_layer.py

Swish with a learned slope is an activation that ONNX has no operator for: the layer says what it computes, its derivative, and
the same in ONNX's operators. `check_layer` then tries all of it: gradients by central differences, both data types,
repeatability, saving and loading, onnxruntime. Training takes some seconds; the digits need scikit-learn.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import convlayers as cl
from convlayers.testing import check_layer


@cl.register_layer("swish")
class Swish(cl.Layer):
    """`y = x s(b x)` with `s(t) = 1 / (1 + e^-t)` and one learned slope b a channel (Ramachandran, Zoph and Le 2017).

    x and y `(N, C, ...)`, `slope` `(C,)`. With `s = s(b x)`: `dx = dy (s + b x s (1 - s))` and `db = sum dy x^2 s (1 - s)`.
    """

    examples = (({}, (3, 4, 5)), ({"slope": 0.5}, (7,)))

    def __init__(self, slope: float = 1.0) -> None:
        self.slope = slope

    def build(self, input_shape, rng):
        self.params["slope"] = np.full(input_shape[0], self.slope, np.float32)
        return input_shape

    def _slope_beside(self, shape):
        """The slope in a shape that NumPy repeats along a sample's other axes."""
        return self.params["slope"].reshape(-1, *(1,) * (len(shape) - 1))

    def forward(self, x, *, training):
        s = cl.functional.activation("sigmoid", self._slope_beside(x.shape[1:]) * x)
        return x * s, (x, s)

    def backward(self, dy, cache):
        x, s = cache
        bent = dy * x * s * (1 - s)
        self.grads["slope"] += (bent * x).sum(axis=(0, *range(2, x.ndim)))
        return dy * s + self._slope_beside(x.shape[1:]) * bent

    def to_onnx(self, graph, *inputs):
        # One node in the file that is called "swish" and holds the operators; without this line they would stand there bare.
        return graph.function(self, inputs, self._operators)

    def _operators(self, graph, x):
        # A parameter keeps its name in the file; Unsqueeze gives it the axes behind the channels.
        slope, behind = self.params["slope"], len(graph.shape(x)) - 1
        if behind:
            slope = graph.op("Unsqueeze", slope, np.arange(1, behind + 1))
        return graph.op("Mul", x, graph.op("Sigmoid", graph.op("Mul", slope, x)))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    for config, shape in Swish.examples:
        check_layer(Swish(**config), shape)
    print("Swish keeps the contract of a layer")

    data = cl.datasets.load("digits")
    layers = [cl.Conv2d(16, 3, padding=1), Swish(), cl.MaxPool2d(2), cl.Conv2d(32, 3, padding=1), Swish(), cl.MaxPool2d(2)]
    head = [cl.Flatten(), cl.Dense(64), Swish(), cl.Dense(data.classes)]
    model = cl.Sequential([*layers, *head], input_shape=data.input_shape, seed=args.seed)
    trainer = cl.Trainer(model, optimizer=cl.Adam(2e-3), seed=args.seed)
    trainer.fit((data.x_train, data.y_train), args.epochs, validation=(data.x_test, data.y_test))
    slopes = ", ".join(f"{model.parameters()[f'{place}.slope'].mean():.2f}" for place in (1, 4, 8))
    print(f"the slopes began at 1; their means are now {slopes}")

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "digits.safetensors")
        again = cl.load(Path(folder) / "digits.safetensors")  # finds the layer by its id, "swish"
        print(cl.export_onnx(again, Path(folder) / "digits.onnx", labels=data.labels))
        print(cl.verify_onnx(Path(folder) / "digits.onnx"))
    accuracy = cl.Trainer(again).evaluate((data.x_test, data.y_test))["accuracy"]
    print(f"{accuracy:.4f} of the test images are right")
    return accuracy


if __name__ == "__main__":
    main()
