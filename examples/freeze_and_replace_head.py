"""A network that knows the digits 0 to 4 learns 5 to 9: a new head on the same convolutions, which stay as they are.

    python examples/freeze_and_replace_head.py

The two models share the layers; that these are frozen is said of the second model alone. The backward pass ends where nothing
before is trained, here at the head. Some seconds; the digits need scikit-learn.
"""

import argparse
from collections.abc import Sequence

import numpy as np

import convlayers as cl

Data = tuple[np.ndarray, np.ndarray]


def half(x: np.ndarray, y: np.ndarray, first: int) -> Data:
    """The images of the digits `first` to `first + 4`, and their labels from 0 to 4."""
    chosen = (y >= first) & (y < first + 5)
    return x[chosen], y[chosen] - first


def train(model: cl.Model, data: Data, epochs: int, seed: int) -> None:
    cl.Trainer(model, optimizer=cl.Adam(3e-3), seed=seed).fit(data, epochs, progress=False)


def accuracy(model: cl.Model, data: Data) -> float:
    return cl.Trainer(model).evaluate(data)["accuracy"]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=30, help="for each of the two")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    data = cl.datasets.load("digits")
    (low, low_test), (high, high_test) = (
        (half(data.x_train, data.y_train, first), half(data.x_test, data.y_test, first)) for first in (0, 5)
    )

    model = cl.models.digits_cnn(classes=5, seed=args.seed)
    train(model, low, args.epochs, args.seed)
    known = accuracy(model, low_test)
    print(f"digits 0 to 4: {known:.4f} of the test images")

    # A dense layer behind layer 6, which is Flatten: `model.summary()` shows the names.
    features = model.node("6")
    transfer = cl.Model(model.input_nodes, cl.Dense(5)(features, name="head"), seed=args.seed)
    frozen = transfer.freeze("[0-6]")
    train(transfer, high, args.epochs, args.seed)
    weights = sum(array.size for array in transfer.trainable_parameters().values())
    found = accuracy(transfer, high_test)
    print(f"digits 5 to 9: {found:.4f}, by {weights:,} weights of a new head; frozen are {', '.join(frozen)}")

    if accuracy(model, low_test) != known:
        raise AssertionError("the first model changed, whose layers were frozen")
    return found


if __name__ == "__main__":
    main()
