"""What an import costs, and what it gives: `python -m benchlib.onnx_import resnet50 5` prints medians over 5 turns.

As JSON: seconds of `import_onnx`; milliseconds of inference, one image a call, of the network built by hand and of the imported
one, which must give the same bits; the median of the turns' ratios.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

import convlayers as cl

from .common import draw
from .export import seconds


def main(name: str, turns: str) -> None:
    built = getattr(cl.models, name)()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        cl.export_onnx(cl.models.lenet5(), path)
        cl.import_onnx(path)  # what Python loads once
        cl.export_onnx(built, path)
        imports = [seconds(cl.import_onnx, path) for _ in range(int(turns))]
        imported = cl.import_onnx(path)
    x = draw(0, 1, *built.input_shape)
    if not np.array_equal(imported(x), built(x)):
        raise SystemExit(f"{name}: the imported network computes other bits")
    times = [(seconds(built, x), seconds(imported, x)) for _ in range(4 * int(turns))]
    ratio = statistics.median(hand / file for hand, file in times)
    by_hand, from_file = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(json.dumps([statistics.median(imports), by_hand, from_file, ratio]))


if __name__ == "__main__":
    main(*sys.argv[1:])
