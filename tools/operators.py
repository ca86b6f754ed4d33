#!/usr/bin/env python3
"""Write the table of docs/onnx.md: the ONNX operators that can be imported, and ONNX's own test cases of each.

    python tools/operators.py           runs ONNX's cases, some 30 seconds
    python tools/operators.py --check   says whether the table is that of the registry, without running them

The operators are those that `convlayers.onnx.available_handlers` knows, the cases those of `onnx.backend.test`.
"""

import argparse
import sys
import unittest
from collections import Counter
from pathlib import Path
from textwrap import fill

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import onnx  # noqa: E402
import onnx_cases  # noqa: E402

from convlayers.onnx import available_handlers, backend  # noqa: E402

DOCUMENT = ROOT / "docs" / "onnx.md"
MARKERS = "<!-- operators: begin -->", "<!-- operators: end -->"


def outcomes() -> Counter[str]:
    """How many cases pass with layers, how many as constants alone, and how many fail."""
    found: Counter[str] = Counter()
    ready: list[backend.Representation] = []
    prepare = backend.prepare
    backend.prepare = lambda *args, **options: ready.append(prepare(*args, **options)) or ready[-1]
    for cls in onnx_cases.suite(__name__).values():
        for name in sorted(name for name in vars(cls) if name.startswith("test_")):
            result = unittest.TestResult()
            cls(name).run(result)
            passed = result.wasSuccessful()
            found["failed" if not passed else "in layers" if ready[-1].layers else "as constants"] += 1
    backend.prepare = prepare
    return found


def table() -> str:
    """An operator a row."""
    lines = ["| operator | read since opset | ONNX's cases | of them left out |", "|---|---|---:|---:|"]
    for (domain, operator), entries in available_handlers().items():
        holding = [case for case in onnx_cases.cases() if not domain and operator in case.operators]
        left_out = sum(case.reason is not None for case in holding)
        since = ", ".join(str(entry.since) for entry in entries)
        lines.append(f"| {domain + '.' if domain else ''}{operator} | {since} | {len(holding)} | {left_out or ''} |")
    return "\n".join(lines)


def exclusions() -> str:
    """A reason a row, with how many cases it leaves out."""
    counts = Counter(case.reason for case in onnx_cases.cases() if case.reason)
    return "\n".join(["| left out, since they | cases |", "|---|---:|", *(f"| {r} | {n} |" for r, n in counts.most_common())])


def written(found: Counter[str]) -> str:
    """The part of the document between the markers."""
    run, every = sum(found.values()), len(onnx_cases.cases())
    kinds = Counter(case.kind for case in onnx_cases.cases() if case.reason is None)
    of_each = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    said = (
        f"{len(available_handlers())} operators, beside Constant, ConstantOfShape and the arithmetic on shapes and weights"
        f" that is done while a file is read. Of the {every:,} cases of ONNX {onnx.__version__} that need no other operator,"
        f" {run:,} are run ({of_each}) and {every - run:,} left out; {found['in layers']:,} pass in layers,"
        f" {found['as constants']:,} as constants, {found['failed']:,} fail."
    )
    return f"\n{fill(said, 128)}\n\n{table()}\n\n{exclusions()}\n"


def operators(text: str) -> list[str]:
    """The operators of a table and the opsets since which they are read: what does not depend on the installed onnx."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ") and line.count("|") == 5]
    return [f"{row[1].strip()} since {row[2].strip()}" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where operators or opsets are others")
    args = parser.parse_args()
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(MARKERS[0])
    old, after = rest.split(MARKERS[1])
    if args.check:
        if operators(table()) != operators(old):
            raise SystemExit(f"the table in {DOCUMENT.name} is out of date: python tools/operators.py")
        return
    DOCUMENT.write_text(f"{before}{MARKERS[0]}{written(outcomes())}{MARKERS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
