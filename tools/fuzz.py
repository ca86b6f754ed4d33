#!/usr/bin/env python3
"""Damage ONNX files at random and read them: each must give a model or a `ConvlayersError`, whatever is in it.

    python tools/fuzz.py                          2,000 mutants
    python tools/fuzz.py --minutes 30 --more      as many as fit into half an hour, of more kinds of files
    python tools/fuzz.py --only 1234              one mutant, again; its file is kept

A mutant depends on the seed, its number and the installed onnx alone. Each is read in a process of its own kind, with a limit
on memory and on time: crashes, hangs, memory and other exceptions are findings. Exit code 1 where there is one.
"""

import argparse
import collections
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz_corpus

TOOLS = Path(__file__).resolve().parent
MEMORY = 4 * 2**30
SHOWN = 10


class Worker:
    """A process that reads mutants, started again when it dies."""

    def __init__(self, box: Path, files: list[Path], seed: int, seconds: float) -> None:
        self.box, self.seconds, self.log = box, seconds, box.with_suffix(".log")
        self.command = [sys.executable, str(TOOLS / "fuzz_worker.py")]
        self.rest = [str(seed), str(MEMORY), str(seconds * 0.9), *map(str, files)]
        self.runs = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.runs += 1
        self.answers: queue.Queue[str] = queue.Queue()
        env = {**os.environ, "CONVLAYERS_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "ignore"}
        command = [*self.command, f"{self.box}-{self.runs}", *self.rest]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=TOOLS
            )
        threading.Thread(target=listen, args=(self.process.stdout, self.answers), daemon=True).start()

    def tried(self, number: int) -> dict[str, Any]:
        """What became of one mutant."""
        if self.process is None:
            self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=self.seconds)
        except (queue.Empty, OSError):
            answer = ""
        if answer:
            return json.loads(answer)
        return {"number": number, "source": "", "results": {}, "finding": self.ended(), "details": self.log.read_text()[-4000:]}

    def ended(self) -> str:
        """Why there was no answer; the process is gone afterwards."""
        assert self.process is not None
        try:
            code = self.process.wait(0.5)
            reason = f"the process ended with code {code}"
        except subprocess.TimeoutExpired:
            reason = f"no answer in {self.seconds:.0f} seconds"
        self.close()
        return reason

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def listen(lines: Any, answers: "queue.Queue[str]") -> None:
    for line in lines:
        answers.put(line)
    answers.put("")


def run(workers: list[Worker], numbers: Iterator[int], until: float) -> list[dict[str, Any]]:
    """Every mutant's result, by number. No further one begins after `until`."""
    found: list[dict[str, Any]] = []
    lock = threading.Lock()

    def work(worker: Worker) -> None:
        while time.monotonic() < until:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            found.append(worker.tried(number))
        worker.close()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda result: result["number"])


def report(found: list[dict[str, Any]], again: str) -> int:
    """Print what was read and what was found."""
    counts = collections.Counter(f"{way} {result}" for entry in found for way, result in entry["results"].items())
    print(f"{len(found)} mutants: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")
    findings = [entry for entry in found if "finding" in entry]
    for entry in findings[:SHOWN]:
        print(f"\nmutant {entry['number']} {entry['source']}: {entry['finding']}\n{entry['details']}", end="")
        print(f"again: {again} --only {entry['number']}")
    print(f"{len(findings)} findings: {' '.join(str(entry['number']) for entry in findings)}")
    return int(bool(findings))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="how many mutants (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="as many as fit, instead of --mutations")
    parser.add_argument("--more", action="store_true", help="also ONNX's node cases and larger models")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this mutant alone")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--seconds", type=float, default=60, help="what one mutant may take (default 60)")
    args = parser.parse_args()
    numbers: Iterator[int] = itertools.count() if args.minutes else iter(range(args.mutations))
    if args.only is not None:
        numbers, args.workers = iter([args.only]), 1
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary) / "corpus"
        corpus.mkdir()
        files = fuzz_corpus.write(corpus, args.more)
        workers = [Worker(Path(temporary) / str(i), files, args.seed, args.seconds) for i in range(args.workers)]
        found = run(workers, numbers, time.monotonic() + 60 * (args.minutes or 1e6))
        if args.only is not None:
            kept = Path(f"mutant-{args.seed}-{args.only}.onnx")
            kept.write_bytes((Path(temporary) / "0-1" / "box" / "mutant.onnx").read_bytes())
            print(f"kept as {kept}")
    return report(found, f"python tools/fuzz.py --seed {args.seed}{' --more' if args.more else ''}")


if __name__ == "__main__":
    sys.exit(main())
