"""Time convolution, pooling and training steps, beside PyTorch where it is installed.

    python tools/bench.py                     everything, as a table in Markdown
    python tools/bench.py --only train        conv, pool or train
    python tools/bench.py --isa avx2          both sides held to an instruction set

Each side is a process of its own; they are timed turn by turn, and the ratio quoted is the median of the turns' ratios. Every
result of convlayers is compared with the float64 reference before it is timed; a wrong one ends the run.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from benchlib.cases import CONVS, PASSES, POOLS, TRAINS, Conv, Train

TORCH_ISA = {"avx2": "AVX2", "baseline": "SSE41", "avx512": "AVX512_CORE"}


class Side:
    """A worker process."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchlib.{module}"],
            cwd=Path(__file__).parent,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: object) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[-1]} stopped with exit code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment(threads: int, isa: str | None) -> dict[str, str]:
    """The same threads and, if asked, the same instruction set for both sides."""
    chosen = {"CONVLAYERS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    if isa:
        chosen |= {
            "CONVLAYERS_ISA": isa,
            "ATEN_CPU_CAPABILITY": {"baseline": "default"}.get(isa, isa),
            "ONEDNN_MAX_CPU_ISA": TORCH_ISA[isa],
            "MKL_ENABLE_INSTRUCTIONS": {"baseline": "SSE4_2"}.get(isa, isa.upper()),
        }
    return chosen


def measure(sides: list[Side], kind: str, case: tuple, which: str, turns: int, seconds: float) -> tuple[list[float], float]:
    """Each side's median time, and the median over turns of the last side's time over the first's."""
    for side in sides:
        side.ask(kind=kind, case=list(case), **{"pass": which})
    times = [[side.ask(seconds=seconds)["median"] for side in sides] for _ in range(turns)]
    ratio = statistics.median(turn[-1] / turn[0] for turn in times)
    return [statistics.median(column) for column in zip(*times, strict=True)], ratio


def _figure(case: tuple, seconds: float) -> str:
    if isinstance(case, Conv):
        return f"{case.gflop / seconds:.0f}"
    return f"{seconds * 1e3:.3g}" if isinstance(case, Train) else f"{seconds * 1e6:.0f}"


def rows(kind: str, cases: tuple, passes: tuple[str, ...], sides: list[Side], turns: int, seconds: float) -> list[float]:
    """Print a table of one kind and return its ratios."""
    unit = {"conv": "GFLOP/s", "pool": "microseconds", "train": "ms a step"}[kind]
    heads = [
        f"{p}{f' {who}' if len(sides) > 1 else ''}"
        for p in passes
        for who in ("convlayers", "PyTorch", "ratio")[: 2 * len(sides) - 1]
    ]
    print(f"\n| {kind}, {unit} | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(heads))
    ratios = []
    for case in cases:
        cells = []
        for which in passes:
            times, ratio = measure(sides, kind, case, which, turns, seconds)
            cells += [_figure(case, t) for t in times]
            if len(sides) > 1:
                ratios.append(ratio)
                cells.append(f"**{ratio:.2f}**")
        print(f"| {case.title} | " + " | ".join(cells) + " |", flush=True)
    return ratios


def machine() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("conv", "pool", "train"))
    parser.add_argument("--isa", choices=tuple(TORCH_ISA))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="for one side's turn")
    args = parser.parse_args()
    given = environment(args.threads, args.isa)
    sides = [Side("ours", given)]
    if importlib.util.find_spec("torch"):
        sides.append(Side("torch_peer", given))
    isa = args.isa or "the fastest instruction set of each side"
    print(f"{machine()}, {args.threads} threads, {isa}; {args.turns} turns of {args.seconds} s")
    print("A ratio over 1 means that convlayers is faster." if len(sides) > 1 else "PyTorch is not installed: no ratios.")
    tables = (("train", TRAINS, ("step",)), ("conv", CONVS, PASSES), ("pool", POOLS, ("forward", "backward")))
    for kind, cases, passes in tables:
        if args.only in (None, kind):
            ratios = rows(kind, cases, passes, sides, args.turns, args.seconds)
            if ratios:
                print(f"\n{kind}: geometric mean {statistics.geometric_mean(ratios):.2f}, lowest {min(ratios):.2f}")
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
