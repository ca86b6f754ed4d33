"""A small U-Net learns to find circles, rectangles and triangles in noise.

    python examples/segment_shapes.py

Every pixel of an image gets one of four labels: background, circle, rectangle, triangle. The loss is cross-entropy over all
pixels; the metric is the intersection over union, averaged over the classes that an image shows. Half a minute on two cores
brings it to 0.95 on images that the network has not seen. `--picture FILE.png` needs Pillow and shows some of them.
"""

import argparse
from collections.abc import Sequence

import numpy as np

import convlayers as cl
from convlayers.trainer import LearningRateSchedule

CLASSES = ("background", "circle", "rectangle", "triangle")
COLOURS = np.array([(30, 30, 40), (230, 90, 70), (80, 170, 240), (250, 210, 80)], np.uint8)


def circle(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    radius = rng.uniform(4, 9)
    return y**2 + x**2 <= radius**2


def rectangle(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    half_height, half_width = rng.uniform(3, 8, 2)
    return (abs(y) <= half_height) & (abs(x) <= half_width)


def triangle(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An isosceles triangle that stands on its base."""
    half_height, half_width = rng.uniform(5, 9, 2)
    return (abs(y) <= half_height) & (2 * half_height * abs(x) <= half_width * (y + half_height))


def draw(count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images `(count, 1, size, size)` and labels `(count, size, size)`: one to three shapes, the later in front."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    images = np.zeros((count, 1, size, size), np.float32)
    labels = np.zeros((count, size, size), np.int64)
    for image, label in zip(images[:, 0], labels, strict=True):
        for _ in range(rng.integers(1, 4)):
            kind = rng.integers(3)
            top, left = rng.uniform(6, size - 6, 2)
            inside = (circle, rectangle, triangle)[kind](rng, rows - top, columns - left)
            image[inside] = rng.uniform(0.7, 1.5)
            label[inside] = kind + 1
    return images + rng.normal(0, 0.3, images.shape).astype(np.float32), labels


def save_picture(path: str, images: np.ndarray, labels: np.ndarray, found: np.ndarray) -> None:
    """A row each for the images, their labels and what the network makes of them."""
    from PIL import Image

    grey = np.clip(images[:, 0] * 100 + 60, 0, 255).astype(np.uint8)
    rows = [np.repeat(grey[..., None], 3, axis=-1), COLOURS[labels], COLOURS[found]]
    Image.fromarray(np.vstack([np.hstack(list(row)) for row in rows])).resize((len(images) * 128, 3 * 128), 0).save(path)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=1000, help="for training; a fifth as many are held out")
    parser.add_argument("--size", type=int, default=48, help="height and width, a multiple of 8")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=16, help="filters of the network's first convolutions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", metavar="FILE.png")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    rng = np.random.default_rng(args.seed)
    train, held_out = draw(args.images, args.size, rng), draw(args.images // 5, args.size, rng)

    options = {"width": args.width, "depth": 3, "batch_norm": True, "dropout": 0.0}
    model = cl.models.unet((1, args.size, args.size), len(CLASSES), **options, seed=args.seed)
    # The rate falls to nearly nothing: at a constant one the last epochs differ by a tenth, with what the last batches were.
    schedule = LearningRateSchedule(lambda epoch: 3e-3 * (1 - epoch / (args.epochs + 1)))
    trainer = cl.Trainer(model, "cross_entropy", cl.Adam(), ["accuracy", "iou"], [schedule], seed=args.seed)
    trainer.fit(train, args.epochs, 16, validation=held_out)

    iou = trainer.evaluate(held_out)["iou"]
    print(f"intersection over union {iou:.3f} on {len(held_out[0])} images")
    if args.picture:
        images, labels = held_out[0][:8], held_out[1][:8]
        save_picture(args.picture, images, labels, model(images).argmax(axis=1))
    return iou


if __name__ == "__main__":
    main()
