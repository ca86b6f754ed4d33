"""One process of a fuzz run: reads numbers of mutants from standard input, answers each with a line of JSON.

A mutant goes through `import_onnx`, a training step of the imported model where that is small, `verify_onnx` and `OnnxModel`.
Any of them may raise a `ConvlayersError`; whatever else happens is a finding.
"""

import contextlib
import faulthandler
import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import mutated

import convlayers as cl
from convlayers.errors import ConvlayersError
from convlayers.onnx import OnnxModel
from convlayers.onnx.imports.importer import FAILED

# No good file holds this number; it lies where no model may look.
SECRET = np.float32(-74565.4375)
# A training step is tried on models of so many values and multiply-adds.
MOST_VALUES, MOST_WORK = 2**21, 2**27
# Files whose network is too slow for onnx's reference evaluator.
LARGE = 10_000


def main() -> None:
    box, seed, memory, seconds, *files = sys.argv[1:]
    limit_memory(int(memory))
    # What native code writes to standard output goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder = furnished(Path(box), Path(files[0]).parent)
    for line in sys.stdin:
        number = int(line)
        faulthandler.dump_traceback_later(float(seconds), file=sys.stderr)
        print(json.dumps(tried(folder, files, seed, number)), file=answers, flush=True)
        faulthandler.cancel_dump_traceback_later()


def limit_memory(size: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def furnished(box: Path, corpus: Path) -> Path:
    """The folder for mutants, with weights beside them, and a file outside that a link points to."""
    folder = box / "box"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(corpus / "weights.bin", folder)
    (box / "secret.bin").write_bytes(np.full(100_000, SECRET).tobytes())
    with contextlib.suppress(OSError):  # Windows grants links to some
        (folder / "link.bin").symlink_to(box / "secret.bin")
    return folder


def tried(folder: Path, files: list[str], seed: str, number: int) -> dict[str, Any]:
    """What became of one mutant: `results` of each way to read it, and the first `finding`."""
    rng = random.Random(f"{seed}:{number}")
    source = Path(rng.choice(files))
    data = mutated(source.read_bytes(), rng)
    path = folder / "mutant.onnx"
    path.write_bytes(data)
    ways: dict[str, Callable[[], Any]] = {"import": lambda: imported(path if rng.random() < 0.7 else data)}
    if source.stat().st_size < LARGE or not source.name.startswith("light"):
        ways |= {"verify": lambda: str(cl.verify_onnx(path)), "predict": lambda: predicted(path)}
    found: dict[str, Any] = {"number": number, "source": source.name, "results": {}}
    for name, way in ways.items():
        try:
            found["results"][name] = outcome(way)
        except Exception:
            found |= {"finding": f"{name} raised another error", "details": traceback.format_exc()}
            break
    return found


def outcome(way: Callable[[], Any]) -> str:
    try:
        way()
    except ConvlayersError as error:
        if not str(error) or FAILED in str(error):
            raise AssertionError(str(error)) from error.__cause__
        return type(error).__name__
    return "fine"


def imported(source: Any) -> None:
    model = cl.import_onnx(source, external_data=True)
    for name, array in model.state_dict().items():
        assert not (array == SECRET).any(), f"{name} was read from outside the model's folder"
    try:
        trained(model)
    except ConvlayersError as error:
        raise AssertionError("it was imported, and does not run") from error


def trained(model: cl.Model) -> None:
    """One training step, where that is small."""
    values = sum(int(np.prod(shape)) for shape in model.value_shapes)
    work = sum(
        step.layer.multiply_adds(
            [model.value_shapes[s] for s in step.sources] if step.layer.joins else model.value_shapes[step.sources[0]],
            model.value_shapes[step.target],
        )
        for step in model.steps
    )
    if values > MOST_VALUES or work > MOST_WORK:
        return
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, *shape)).astype(np.float32) for shape in model.input_shapes]
    with np.errstate(all="ignore"):
        outputs, tape = model.forward(inputs if len(inputs) > 1 else inputs[0])
        model.backward([np.ones_like(y) for y in outputs] if isinstance(outputs, list) else np.ones_like(outputs), tape)


def predicted(path: Path) -> None:
    model = OnnxModel(path)
    given = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    shapes = [[8 if size is None else size for size in shape] for shape in given]
    if sum(int(np.prod(shape)) for shape in shapes) < MOST_VALUES:
        arrays = [np.zeros((2, *shape), np.float32) for shape in shapes]
        model.predict(arrays if len(arrays) > 1 else arrays[0])


if __name__ == "__main__":
    main()
