"""What an export costs beside serialising the weights: `python -m benchlib.export resnet50 5` prints medians over 5 turns.

As JSON: seconds of serialising the weights with onnx, written and flushed to disk; seconds of `export_onnx`; the median of the
turns' ratios; the megabytes that the process holds before the exports and at their peak.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import onnx

import convlayers as cl


def serialise(model: cl.Model, path: Path) -> None:
    """The weights alone, as the tensors of an ONNX file, on the disk."""
    proto = onnx.ModelProto()
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in model.state_dict().items())
    with open(path, "wb") as file:
        file.write(proto.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def seconds(work, *arguments) -> float:
    """The time of one call."""
    begun = perf_counter()
    work(*arguments)
    return perf_counter() - begun


def megabytes() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(name: str, turns: str) -> None:
    model = getattr(cl.models, name)()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        cl.export_onnx(cl.models.lenet5(), path)  # what is imported once
        before = megabytes()
        cl.export_onnx(model, path)
        peak = megabytes()
        times = [(seconds(serialise, model, path), seconds(cl.export_onnx, model, path)) for _ in range(int(turns))]
    ratio = statistics.median(export / write for write, export in times)
    print(json.dumps([*map(statistics.median, zip(*times, strict=True)), ratio, before, peak]))


if __name__ == "__main__":
    main(*sys.argv[1:])
