"""Where a trainer stands: all that a resumed run needs to know beside the weights."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ConfigError, DataError


@dataclass
class Position:
    """Counters from 0. `run_start` is the epoch at which an unfinished `fit` began, None where none is unfinished."""

    epoch: int = 0  # epochs completed, over all fits
    batch: int = 0  # the next batch of the running epoch
    step: int = 0  # the next optimizer step, over all fits
    run_start: int | None = None
    batch_size: int = 0  # of the last fit
    samples: int = 0  # of the last fit
    sums: dict[str, float] = field(default_factory=dict)  # of the running epoch: the loss and metrics, times samples

    def open_run(self, epochs: int, batch_size: int, samples: int) -> int:
        """Begin a run of `epochs`, or go on with the unfinished one; returns the epoch at which it ends."""
        if self.batch and batch_size != self.batch_size:
            raise ConfigError(
                f"fit: batch_size is {batch_size} and the interrupted run stands at batch {self.batch} of "
                f"{self.batch_size} samples each; finish it with batch_size={self.batch_size}"
            )
        if self.batch and samples != self.samples:
            raise DataError(
                f"fit: the data has {samples} samples and the interrupted run stands in the middle of an epoch of "
                f"{self.samples}; finish it with the same data"
            )
        start = self.epoch if self.run_start is None else self.run_start
        begun = self.epoch - start + (self.batch > 0)
        if epochs < begun:
            raise ConfigError(
                f"fit: epochs is the total of the interrupted run that this call completes, and {begun} have begun; "
                f"it must be at least {begun}; got {epochs}"
            )
        self.run_start, self.batch_size, self.samples = start, batch_size, samples
        return start + epochs

    @property
    def begins_run(self) -> bool:
        """Whether the run that `open_run` opened has not begun yet."""
        return self.batch == 0 and self.run_start == self.epoch

    def close_epoch(self, end: int) -> None:
        """Count an epoch as completed; with epoch `end`, the run."""
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        if self.epoch == end:
            self.run_start = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """The position that `to_json` described. Raises `ValueError` or `TypeError` for values that describe none."""
        position = cls(**values)
        counters = [position.epoch, position.batch, position.step, position.batch_size, position.samples]
        start = position.run_start
        if not all(type(n) is int and n >= 0 for n in [*counters, 0 if start is None else start]):
            raise ValueError(f"a counter is not a number of 0 or more: {values}")
        position.sums = {str(name): float(value) for name, value in position.sums.items()}
        return position

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)
