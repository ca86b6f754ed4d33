"""The compiled kernels: which instruction set, how many threads; both chosen once, at import.

The same Cython sources are compiled once for each instruction set and data type; a module is named after both, as in
`_avx2_float32`. `CONVLAYERS_ISA` forces an instruction set, `CONVLAYERS_NUM_THREADS` a thread count.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from operator import index
from types import ModuleType

import numpy as np

from ..errors import ConfigError
from ._threads import share_out
from .cpus import usable_cpus
from .recording import constant, kernels_of, recorded, run, unrecordable

__all__ = [
    "available",
    "compiled",
    "constant",
    "get_num_threads",
    "isa",
    "recorded",
    "replays",
    "run",
    "set_num_threads",
    "settings",
    "threads_for",
    "threads_over",
    "unrecordable",
    "unrecorded",
    "using",
]

# Fastest first. `wide` (vectors of 64 bytes on AVX2) and `scalar` (no vector type) are built for tests alone: they run
# the logic of AVX-512, and of a compiler without vector types, on a machine that has neither.
_CHOICES = ("avx512", "avx2", "baseline")
_TEST_ONLY = ("wide", "scalar")
_MOST_THREADS = 1024  # each has scratch memory of its own
# Multiply-adds below which waking another thread costs more than it saves: about 5 us at 100 GFLOP/s.
_SERIAL_WORK = 250_000
# A value that is read, and written or compared, takes as long as about so many multiply-adds of the register tile.
_VALUE_WORK = 8
_NEEDS = {"avx512": 2, "avx2": 1, "baseline": 0, "wide": 1, "scalar": 0}


def _cpu_level() -> int:
    return import_module("._baseline_float32", __name__).cpu_level()


def available() -> list[str]:
    """Instruction sets that are compiled in and that this processor has, fastest first."""
    level = _cpu_level()
    names = _CHOICES + _TEST_ONLY
    return [n for n in names if _NEEDS[n] <= level and find_spec(f"{__name__}._{n}_float32") is not None]


def _chosen_isa() -> str:
    names = available()
    forced = os.environ.get("CONVLAYERS_ISA", "").strip().lower()
    if forced and forced not in names:
        raise ConfigError(f"CONVLAYERS_ISA={forced}: not available on this machine; it has {', '.join(names)}")
    return forced or names[0]


def _chosen_threads() -> int:
    forced = os.environ.get("CONVLAYERS_NUM_THREADS", "").strip()
    cpus = usable_cpus()
    share_out(cpus)
    if not forced:
        return cpus
    if not forced.isdecimal() or not 1 <= int(forced) <= _MOST_THREADS:
        raise ConfigError(f"CONVLAYERS_NUM_THREADS={forced}: it must be a whole number of at least 1, at most {_MOST_THREADS}")
    return int(forced)


class _Choice:
    """What is in use now; one per process."""

    def __init__(self) -> None:
        # A wrong environment is an error of the first use, which a program can catch, and not of the import.
        self.problem: ConfigError | None = None
        self.replay = True
        self.threads, isa = 1, "baseline"
        try:
            self.threads, isa = _chosen_threads(), _chosen_isa()
        except ConfigError as error:
            self.problem = error
        self.use(isa)

    def use(self, isa: str) -> None:
        types = ("float32", "float64") if self.problem is None else ()
        self.modules = {np.dtype(t): import_module(f"._{isa}_{t}", __name__) for t in types}
        self.isa = isa


_choice = _Choice()


def _after_fork() -> None:
    # A forked process is one of several as a rule, and an OpenMP runtime may wait forever for threads that its parent has.
    _choice.threads = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def compiled(dtype: np.dtype) -> ModuleType:
    """The compiled kernels for `dtype`, float32 or float64; recorded where the calling thread records (recording.py)."""
    return kernels_of(unrecorded(dtype))


def unrecorded(dtype: np.dtype) -> ModuleType:
    """The same as they are."""
    try:
        return _choice.modules[dtype]
    except KeyError:
        raise (_choice.problem or ConfigError(f"kernels are compiled for float32 and float64; got {dtype}")) from None


def isa() -> str:
    """The instruction set in use."""
    if _choice.problem:
        raise _choice.problem
    return _choice.isa


def settings() -> tuple[str, int, int]:
    """All that decides which kernel runs on how many threads: what was chosen under these holds while they stay."""
    return _choice.isa, _choice.threads, _SERIAL_WORK


def replays() -> bool:
    """Whether models may run recorded passes again (model/replay.py)."""
    return _choice.replay


def get_num_threads() -> int:
    """How many threads a kernel may use."""
    if _choice.problem:
        raise _choice.problem
    return _choice.threads


def threads_for(work: float) -> int:
    """The thread count for a kernel of `work` multiply-adds."""
    return _choice.threads if work > _SERIAL_WORK else 1


def threads_over(values: float) -> int:
    """The thread count for a pass over so many values."""
    return threads_for(_VALUE_WORK * values)


def set_num_threads(n: int) -> None:
    """Let kernels use up to `n` threads; results are the same to the bit for every `n`."""
    try:
        threads = 0 if isinstance(n, bool) else index(n)
    except TypeError:
        threads = 0
    if not 1 <= threads <= _MOST_THREADS:
        raise ConfigError(f"the number of threads must be an int of at least 1, at most {_MOST_THREADS}; got {n!r}")
    _choice.threads = threads


@contextmanager
def using(*, isa: str | None = None, threads: int | None = None, replay: bool | None = None) -> Iterator[None]:
    """Within this block, use another instruction set or thread count, or no recorded passes: for tests and measurements, one
    thread at a time."""
    before = _choice.isa, _choice.threads, _choice.replay
    try:
        _choice.replay = _choice.replay if replay is None else replay
        if isa is not None:
            _choice.use(isa)
        if threads is not None:
            set_num_threads(threads)
        yield
    finally:
        _choice.use(before[0])
        _choice.threads, _choice.replay = before[1:]
