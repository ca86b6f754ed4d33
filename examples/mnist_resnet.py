"""ResNet-20 on MNIST, or on any data set in its format.

    python examples/mnist_resnet.py --data idx:FOLDER

FOLDER holds MNIST's four files, plain or gzip. SGD with Nesterov momentum and a learning rate that falls along a cosine. With
7,000 training images ten epochs take a minute or two on two cores and get 0.985 of the test images right.
"""

import argparse
import math
from collections.abc import Sequence

import convlayers as cl
from convlayers.trainer import LearningRateSchedule


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", default="digits", help="idx:FOLDER, or another data set that convlayers reads")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", metavar="FILE.onnx", help="write the trained model, verified with onnxruntime")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    data = cl.datasets.load(args.data)
    model = cl.models.resnet20(data.input_shape, data.classes, seed=args.seed)

    # Half a cosine over the run, taken at the middle of each epoch.
    schedule = LearningRateSchedule(lambda epoch: args.lr * (1 + math.cos(math.pi * (epoch + 0.5) / args.epochs)) / 2)
    trainer = cl.Trainer(
        model,
        optimizer=cl.SGD(args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        callbacks=[schedule],
        seed=args.seed,
    )
    trainer.fit((data.x_train, data.y_train), args.epochs, args.batch_size, validation=(data.x_test, data.y_test))

    accuracy = trainer.evaluate((data.x_test, data.y_test))["accuracy"]
    print(f"{data.name}: {accuracy:.4f} of the {len(data.x_test):,} test images are right, seed {args.seed}")
    if args.export:
        print(cl.export_onnx(model, args.export, labels=data.labels))
    return accuracy


if __name__ == "__main__":
    main()
