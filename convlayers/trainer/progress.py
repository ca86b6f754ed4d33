"""What a run shows while it goes: a bar, a line an epoch, or nothing; always on standard error."""

import sys
import time
from typing import Any

from ..errors import ConfigError


def _values(logs: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())


class Silence:
    """Shows nothing; the base of the others."""

    def epoch(self, number: int, last: int, batches: int, done: int) -> None:
        """Epoch `number` of `last` begins, with `done` of its batches behind it."""

    def batch(self) -> None:
        """A batch is done."""

    def result(self, logs: dict[str, float]) -> None:
        """The epoch is done."""

    def close(self) -> None:
        """The run is done, or broken off."""


class Lines(Silence):
    """One line an epoch: `epoch 3/10  loss 0.1234  accuracy 0.9700  1.2 s`."""

    def epoch(self, number: int, last: int, batches: int, done: int) -> None:
        self._head, self._begun = f"epoch {number}/{last}", time.perf_counter()

    def result(self, logs: dict[str, float]) -> None:
        print(f"{self._head}  {_values(logs)}  {time.perf_counter() - self._begun:.1f} s", file=sys.stderr, flush=True)


class Bar(Silence):
    """tqdm's bar over the batches of each epoch, with the epoch's values behind it at the end."""

    def __init__(self) -> None:
        self._bar: Any = None

    def epoch(self, number: int, last: int, batches: int, done: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=batches, initial=done, desc=f"epoch {number}/{last}", unit="batch", file=sys.stderr)

    def batch(self) -> None:
        self._bar.update()

    def result(self, logs: dict[str, float]) -> None:
        self._bar.set_postfix_str(_values(logs))
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def reporter(progress: bool | None) -> Silence:
    """None: a bar if standard error is a terminal, else lines. True: a bar. False: silence."""
    if progress is not None and not isinstance(progress, bool):
        raise ConfigError(f"progress is None, True or False; got {progress!r}")
    if progress is False:
        return Silence()
    return Bar() if progress or (sys.stderr is not None and sys.stderr.isatty()) else Lines()
