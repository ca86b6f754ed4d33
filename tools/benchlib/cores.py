"""How far apart two cores are. Where they share no cache, a value that one has written reaches the other six times as late, and
small networks take up to 1.5 times as long; a virtual machine's cores are moved from one such place to another now and then."""

import os
import time
from multiprocessing import Process, RawValue
from typing import Any

_TURNS = 20_000


def _answer(turn: Any) -> None:
    for number in range(1, 2 * _TURNS, 2):
        while turn.value != number:
            pass
        turn.value = number + 1


def round_trip() -> float | None:
    """Seconds in which a value goes from one process to another and back, Python's part included; None where this process may
    use a single core, on which each turn would wait for the other's time to run out."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable < 2:
        return None
    turn = RawValue("q", 0)
    other = Process(target=_answer, args=(turn,), daemon=True)
    other.start()
    times = []
    for number in range(0, 2 * _TURNS, 2):
        start = time.perf_counter()
        turn.value = number + 1
        while turn.value != number + 2:
            pass
        times.append(time.perf_counter() - start)
    other.join()
    return sorted(times)[_TURNS // 10]  # undisturbed
