"""onnxruntime's side: inference of the file that `convlayers.export_onnx` writes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime

import convlayers as cl
from convlayers.kernels import get_num_threads

from .cases import Infer
from .common import agree, batch_of, built
from .worker import serve


def prepare(case: Infer, which: str) -> Callable[[], object]:
    """What is timed: a session with the same number of threads, whose output agrees with the model's."""
    model = built(case)
    x, _ = batch_of(case, model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        cl.export_onnx(model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    agree(session.run(None, {"input": x})[0], model(x), 10_000, f"{case.title}: onnxruntime's output")
    return lambda: session.run(None, {"input": x})


if __name__ == "__main__":
    serve(prepare)
