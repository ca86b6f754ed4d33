"""A temporal convolutional network remembers a word and repeats it after a delay.

    python examples/copy_signal.py

The copying memory task (Hochreiter and Schmidhuber 1997; Bai, Kolter and Koltun 2018): a signal begins with a word of random
symbols, then holds blanks, then a mark; from the mark on the network has to give the word back, symbol by symbol. To do so it
must look back over the whole delay, which dilated convolutions do in a few layers. Blanks are most of a signal and easy, so
what counts is the share of the word's symbols that come back right. Some seconds bring it over 0.99.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np

import convlayers as cl

SYMBOLS = 8  # numbered from 1; 0 is the blank, SYMBOLS + 1 the mark
KERNEL = 5


def signals(count: int, word: int, delay: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One-hot signals `(count, SYMBOLS + 2, length)`, and the symbol `(count, length)` that is due at each moment."""
    length = word + delay + word
    words = rng.integers(1, SYMBOLS + 1, (count, word))
    read = np.zeros((count, length), np.int64)
    read[:, :word] = words
    read[:, -word] = SYMBOLS + 1
    due = np.zeros_like(read)
    due[:, -word:] = words
    return np.eye(SYMBOLS + 2, dtype=np.float32)[read].transpose(0, 2, 1), due


def recall(outputs: np.ndarray, due: np.ndarray) -> np.ndarray:
    """A metric of one's own: for each signal the share of the word's symbols that come back right."""
    word = due > 0
    return ((outputs.argmax(axis=1) == due) & word).sum(axis=1) / word.sum(axis=1)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--word", type=int, default=6, help="symbols to remember")
    parser.add_argument("--delay", type=int, default=50, help="moments between the word and its repetition")
    parser.add_argument("--signals", type=int, default=2000, help="for training; a tenth as many are held out")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--filters", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> float:
    args = arguments(argv)
    rng = np.random.default_rng(args.seed)
    train, held_out = (signals(count, args.word, args.delay, rng) for count in (args.signals, args.signals // 10))

    # An output sees 2 (KERNEL - 1) (2^levels - 1) moments back. Twice the distance of a symbol from its repetition: the end of
    # what it sees hangs on one weight of each convolution, which is slow to learn.
    levels = math.ceil(math.log2(1 + 2 * (args.word + args.delay) / (2 * (KERNEL - 1))))
    options = {"filters": args.filters, "levels": levels, "kernel_size": KERNEL, "dropout": 0.0}
    model = cl.models.tcn(train[0].shape[1:], SYMBOLS + 2, **options, seed=args.seed)
    trainer = cl.Trainer(model, "cross_entropy", cl.Adam(5e-3), [recall], seed=args.seed)
    trainer.fit(train, args.epochs, 32, validation=held_out)

    share = trainer.evaluate(held_out)["recall"]
    print(f"{share:.4f} of the symbols come back right after {args.delay} moments, in {len(held_out[0])} signals")
    return share


if __name__ == "__main__":
    main()
