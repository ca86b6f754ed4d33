"""Time training steps, inference, convolution and pooling beside PyTorch and onnxruntime; measure memory, import and export.

    python tools/bench.py                           everything, as tables in Markdown
    python tools/bench.py --only train              train, infer, conv, pool, shared (two processes on the same cores),
                                                    memory, import, export or onnx-import
    python tools/bench.py --only infer --case vgg   the cases whose title holds this text
    python tools/bench.py --conv 8,64,56,128,3,2,1  a layer of your own: batch, channels, side, filters, kernel and, if
                                                    not 1, 0 and 1, stride, padding and groups
    python tools/bench.py --infer mobilenet_v2,1    inference of a classifier of images in `convlayers.models`, at this batch,
    python tools/bench.py --train mobilenet_v2,8    or a training step of it
    python tools/bench.py --isa avx2                convlayers and PyTorch held to an instruction set

Each side is a process of its own; they are timed turn by turn, and a ratio is the median of the turns' ratios. Every result is
compared before it is timed, those of convlayers with the float64 reference and those of the others with convlayers'; a wrong
one ends the run. PyTorch's figures are those of the better of its two memory formats; without PyTorch there are none.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from typing import Any, NamedTuple

from benchlib.cases import CONVS, INFERS, KINDS, PASSES, POOLS, TRAINS, Conv, Pool, Train
from benchlib.cores import round_trip

from convlayers.cli.architectures import classifiers

TORCH_ISA = {"avx2": "AVX2", "baseline": "SSE41", "avx512": "AVX512_CORE"}
OURS, TORCH, ORT = "convlayers", "PyTorch", "onnxruntime"
MODULES = {OURS: "ours", TORCH: "torch_peer", ORT: "ort_peer"}


class Table(NamedTuple):
    """A kind of case, its passes, and the sides that it is timed on; the first is compared with each of the others."""

    unit: str
    cases: tuple
    passes: tuple[str, ...]
    sides: tuple[str, ...]


TABLES = {
    "train": Table("ms", TRAINS, ("step",), (OURS, TORCH)),
    "infer": Table("ms", INFERS, ("inference",), (OURS, TORCH, ORT)),
    "conv": Table("GFLOP/s", CONVS, PASSES, (OURS, TORCH)),
    "pool": Table("microseconds", POOLS, ("forward", "backward"), (OURS, TORCH)),
}


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
        self.send(**request)
        return self.answer()

    def send(self, **request: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        assert self.process.stdout is not None
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


def measure(
    sides: list[Side], kind: str, case: tuple, which: str, turns: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Each side's median time, and for each but the first the median over turns of its time over the first's."""
    for side in sides:
        side.ask(kind=kind, case=list(case), **{"pass": which})
    times = [[side.ask(seconds=seconds)["median"] for side in sides] for _ in range(turns)]
    ratios = [statistics.median(turn[i] / turn[0] for turn in times) for i in range(1, len(sides))]
    return [statistics.median(column) for column in zip(*times, strict=True)], ratios


def figure(case: tuple, seconds: float) -> str:
    """A time in the unit of its table."""
    if isinstance(case, Conv):
        return f"{case.gflop / seconds:.0f}"
    return f"{seconds * 1e6:.0f}" if isinstance(case, Pool) else f"{seconds * 1e3:.3g}"


def convolution(text: str) -> Conv:
    """The case that `--conv` names."""
    try:
        case = Conv(*map(int, text.split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text}: it must be 5 to 8 whole numbers, BATCH,CHANNELS,SIDE,FILTERS,KERNEL,..."
        ) from None
    if min(*case[:6], case.groups) < 1 or case.padding < 0 or case.output < 1:
        raise argparse.ArgumentTypeError(f"{text}: no such convolution")
    if case.channels % case.groups or case.filters % case.groups:
        raise argparse.ArgumentTypeError(f"{text}: {case.groups} groups do not divide the channels and the filters")
    return case


def network(text: str) -> tuple[str, int]:
    """The model and the batch that `--infer` and `--train` name."""
    name, _, batch = text.partition(",")
    if not batch.isdecimal() or int(batch) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be MODEL,BATCH, as in resnet18,1")
    known = [name.replace("-", "_") for name in classifiers()]
    if name not in known:
        raise argparse.ArgumentTypeError(f"{text}: {name!r} is no classifier of images; there are {', '.join(known)}")
    return name, int(batch)


def table(kind: str, sides: dict[str, Side], args: argparse.Namespace) -> dict[str, list[float]]:
    """Print the table of one kind, and return by title each case's times on all sides in its last pass."""
    plan = TABLES[kind]
    names = [name for name in plan.sides if name in sides]
    columns = [*names, *(f"ratio to {peer}" for peer in names[1:])]
    heads = [f"{p}, {column}" if len(plan.passes) > 1 else column for p in plan.passes for column in columns]
    print(f"\n| {kind}, {plan.unit} | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(heads))
    found: dict[str, list[float]] = {}
    ratios: list[list[float]] = []
    for case in (case for case in args.asked or plan.cases if args.case in case.title):
        cells = []
        for which in plan.passes:
            measured = measure([sides[n] for n in names], kind, case, which, args.turns, args.seconds)
            found[case.title] = measured[0]
            ratios.append(measured[1])
            cells += [figure(case, t) for t in measured[0]] + [f"**{ratio:.2f}**" for ratio in measured[1]]
        print(f"| {case.title} | " + " | ".join(cells) + " |", flush=True)
    for peer, column in zip(names[1:], zip(*ratios, strict=True), strict=False):
        print(f"\n{kind} to {peer}: geometric mean {statistics.geometric_mean(column):.2f}, lowest {min(column):.2f}")
    return found


def steps_over_inference(trained: dict[str, list[float]], inferred: dict[str, list[float]]) -> None:
    """A training step does about three times the arithmetic of inference."""
    print(f"\n| step over inference | {OURS}' step, ms | over {ORT}'s inference |\n|---|---:|---:|")
    for title, times in trained.items():
        if title in inferred:
            print(f"| {title} | {times[0] * 1e3:.3g} | {times[0] / inferred[title][-1]:.2f} |")


def fresh(given: dict[str, str], *arguments: str) -> Any:
    """The number, or the list of them, that a process of its own prints as JSON."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, env={**os.environ, **given}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def compared(title: str, unit: str, ours: float, torch: float | None) -> None:
    """Print a table of one row."""
    print(f"\n| {title} | {OURS} | {TORCH} | ratio |\n|---|---:|---:|---:|")
    beside = f"{torch:.0f} | **{torch / ours:.2f}**" if torch else "- | -"
    print(f"| {unit} | {ours:.0f} | {beside} |", flush=True)


def memory(given: dict[str, str], with_torch: bool) -> None:
    """Peak memory of a process that trains vgg_small."""
    work = ("vgg_small", "64", "5")
    ours = fresh(given, "-m", "benchlib.peak", "ours", *work)
    formats = [fresh(given, "-m", "benchlib.peak", "torch_peer", *work, f) for f in "01"] if with_torch else []
    compared("peak memory of 5 training steps of vgg_small, batch 64", "MB", ours, min(formats, default=None))


def import_time(given: dict[str, str], with_torch: bool, times: int = 9) -> None:
    """What an import costs beside that of NumPy, in fresh processes."""
    # Installed packages have bytecode; without it, ours is compiled at each import, which took 160 ms for 61.
    given = {**given, "PYTHONDONTWRITEBYTECODE": ""}
    code = "import numpy, time; t = time.perf_counter(); import {}; print(1e3 * (time.perf_counter() - t))"
    names = ["convlayers", "torch"][: 1 + with_torch]
    medians = [statistics.median(fresh(given, "-c", code.format(name)) for _ in range(times)) for name in names]
    compared("import, after NumPy's", "ms", medians[0], medians[1] if with_torch else None)


def export(given: dict[str, str], models: tuple[str, ...] = ("resnet50", "vgg16"), turns: int = 5) -> None:
    """What a verified export costs beside serialising the weights, and its memory beside the model's."""
    print("\n| export | weights serialised, s | export, s | ratio | MB before | MB at most |\n|---|---:|---:|---:|---:|---:|")
    for name in models:
        write, whole, ratio, before, peak = fresh(given, "-m", "benchlib.export", name, str(turns))
        print(f"| {name} | {write:.2f} | {whole:.2f} | **{ratio:.1f}** | {before:.0f} | {peak:.0f} |", flush=True)


def onnx_import(given: dict[str, str], models: tuple[str, ...] = ("resnet50", "mobilenet_v2"), turns: int = 5) -> None:
    """What an import costs, and inference of the imported network beside the one that was built by hand."""
    print("\n| ONNX import | seconds | inference by hand, ms | imported, ms | ratio |\n|---|---:|---:|---:|---:|")
    for name in models:
        cost, by_hand, imported, ratio = fresh(given, "-m", "benchlib.onnx_import", name, str(turns))
        print(f"| {name} | {cost:.2f} | {by_hand:.1f} | {imported:.1f} | **{ratio:.2f}** |", flush=True)


@contextlib.contextmanager
def few_cores(count: int) -> Iterator[None]:
    """Processes that are started within have so many processors together, where the system can be told so."""
    if not hasattr(os, "sched_setaffinity"):
        print("\nThis system does not bind processes to processors: the two may have more than they share.")
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_at_once(name: str, case: Train, given: dict[str, str]) -> tuple[float, float]:
    """Seconds that a step takes in the mean, of one process alone and of each of two."""
    pair = [Side(MODULES[name], given) for _ in range(2)]
    for side in pair:
        side.ask(kind="train", case=list(case), **{"pass": "step"})
    alone = pair[0].ask(seconds=2)["mean"]
    for side in pair:
        side.send(seconds=6)
    both = statistics.mean([side.answer()["mean"] for side in pair])
    for side in pair:
        side.close()
    return alone, both


def shared(given: dict[str, str], with_torch: bool, args: argparse.Namespace) -> None:
    """What a training step takes while another process trains the same network on the same cores."""
    print("\n| two processes on the same cores | one alone, ms a step | each of two, ms | ratio |\n|---|---:|---:|---:|")
    for case in (case for case in TRAINS if case.model in ("digits_cnn", "lenet5", "resnet20") and args.case in case.title):
        for name in (OURS, TORCH)[: 1 + with_torch]:
            with few_cores(args.threads):
                alone, both = two_at_once(name, case, given)
            print(f"| {case.title}, {name} | {1e3 * alone:.3g} | {1e3 * both:.3g} | **{both / alone:.1f}** |", flush=True)


def machine() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores_apart() -> None:
    """Before all tables and behind them, since a virtual machine's cores may have moved."""
    seconds = round_trip()
    if seconds is not None:
        print(f"\nFrom one core to another and back: {seconds * 1e9:.0f} ns, with what Python takes for it.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*TABLES, "shared", "memory", "import", "export", "onnx-import"))
    parser.add_argument("--case", default="", metavar="TEXT", help="only the cases whose title holds this text")
    parser.add_argument("--conv", type=convolution, action="append", metavar="SIZES", help="this layer; may be given again")
    for kind in ("infer", "train"):
        parser.add_argument(f"--{kind}", type=network, action="append", metavar="MODEL,BATCH", help="this model; likewise")
    parser.add_argument("--isa", choices=tuple(TORCH_ISA))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="for one side's turn")
    args = parser.parse_args()
    asked = {"conv": args.conv, "infer": args.infer, "train": args.train}
    kinds = [kind for kind, cases in asked.items() if cases]
    if len(kinds) > 1:
        parser.error("give --conv, --infer or --train, one kind at a time")
    args.asked = [KINDS[kind](*case) for kind in kinds for case in asked[kind]]
    if kinds:
        args.only = kinds[0]
    given = environment(args.threads, args.isa)
    with_torch = importlib.util.find_spec("torch") is not None
    isa = args.isa or "the fastest instruction set of each side"
    print(f"{machine()}, {args.threads} threads, {isa}; {args.turns} turns of {args.seconds} s")
    print("A ratio over 1 means that convlayers is faster, or smaller.")
    cores_apart()
    kinds = [kind for kind in TABLES if args.only in (None, kind)]
    needed = {name for kind in kinds for name in TABLES[kind].sides if with_torch or name != TORCH}
    sides = {name: Side(module, given) for name, module in MODULES.items() if name in needed}
    results = {kind: table(kind, sides, args) for kind in kinds}
    for side in sides.values():
        side.close()
    if "train" in results and "infer" in results:
        steps_over_inference(results["train"], results["infer"])
    if args.only in (None, "shared"):
        shared(given, with_torch, args)
    if args.only in (None, "memory"):
        memory(given, with_torch)
    if args.only in (None, "import"):
        import_time(given, with_torch)
    if args.only in (None, "export"):
        export(given)
    if args.only in (None, "onnx-import"):
        onnx_import(given)
    cores_apart()


if __name__ == "__main__":
    main()
