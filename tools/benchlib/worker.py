"""One side of a comparison: a process of its own that answers requests, a JSON object a line, and is idle in between.

{"kind": "conv", "case": [64, 1, 28, ...], "pass": "forward"}  prepare (and check) a case -> {"ready": true}
{"seconds": 0.3}                                               run it for about so long   -> {"median": 0.0012, "mean": 0.0012}
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

from .cases import KINDS


def _times(run: Callable[[], object], seconds: float) -> dict[str, object]:
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "mean": statistics.mean(times)}


def serve(prepare: Callable[..., Callable[[], object]]) -> None:
    """Answer requests until the input ends; `prepare(case, which)` returns what is timed."""
    run: Callable[[], object] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "kind" in request:
            run = prepare(KINDS[request["kind"]](*request["case"]), request["pass"])
            run()
            answer: dict[str, object] = {"ready": True}
        else:
            assert run is not None, "a case comes before its timing"
            answer = _times(run, request["seconds"])
        print(json.dumps(answer), flush=True)
