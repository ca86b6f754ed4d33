"""onnxruntime, asked quietly: its processor backend, from bytes, with errors of ours."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, ExportError
from ..kernels import get_num_threads

OLDEST_OPSET = 13
_FATAL_ONLY = 4  # what goes wrong comes as an exception; nothing is written to the terminal


def one_line(error: BaseException) -> str:
    """An error's text in one line of a readable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."


def open_session(data: bytes | str, place: str, *, as_written: bool = False, folded: str | None = None) -> Any:
    """An `onnxruntime.InferenceSession` for a file, its bytes or its path, with as many threads as the kernels use.

    `as_written` turns fusing off: every node runs by itself, and an error names it. To `folded` the file is written with
    its constants folded, functions inlined and batch normalization within convolutions, in standard operators still.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = get_num_threads()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folded is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = folded
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for entry in (*session.get_inputs(), *session.get_outputs()):
            str((entry.name, entry.type, entry.shape))  # a name that is not UTF-8 fails here rather than later
        return session
    except Exception as error:  # onnxruntime's errors have no other base
        raise ExportError(f"{place}: onnxruntime {onnxruntime.__version__} refuses the file: {one_line(error)}") from error


class InputSpec(NamedTuple):
    """An input of a file; `batch` is None where the batch axis is open, and `shape` is without it."""

    name: str
    dtype: np.dtype
    batch: int | None
    shape: tuple[Any, ...]  # None for an open axis


_DTYPES = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(float16)": "f2", "tensor(bool)": "?"}
_DTYPES |= {f"tensor({sign}int{bits})": f"{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
MOST_FED = 2**26  # of one sample; what a file claims must not take the machine's memory


def inputs_of(session: Any, place: str, *, open_axes: bool = False) -> list[InputSpec]:
    """The inputs, if each is a tensor of numbers with a batch axis in front; else `ExportError`.

    Without `open_axes`, the sizes behind the batch must be known.
    """
    specs = []
    for entry in session.get_inputs():
        where = f'{place}: input "{entry.name}"'
        if entry.type not in _DTYPES:
            raise ExportError(f"{where} is a {entry.type}; only tensors of numbers can be fed")
        if not entry.shape:
            raise ExportError(f"{where} has no batch axis")
        batch, *sizes = entry.shape
        sizes = [size if isinstance(size, int) else None for size in sizes]
        if None in sizes and not open_axes:
            raise ExportError(f"{where} has shape {entry.shape}; every axis behind the batch needs a fixed size")
        if math.prod(1 if size is None else size for size in sizes) * (batch if isinstance(batch, int) else 1) > MOST_FED:
            raise ExportError(f"{where} has shape {entry.shape}, more than the {MOST_FED} values that are fed")
        specs.append(
            InputSpec(entry.name, np.dtype(_DTYPES[entry.type]), batch if isinstance(batch, int) else None, tuple(sizes))
        )
    return specs


def run(session: Any, feeds: dict[str, np.ndarray], place: str) -> list[np.ndarray]:
    """Every output of one run. Raises `ExportError` where the run fails or an output is not a tensor of numbers."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    try:
        results = session.run(None, feeds, options)
    except Exception as error:
        batch = next((len(x) for x in feeds.values() if x.ndim), 1)
        raise ExportError(f"{place}: onnxruntime fails on a batch of {batch}: {one_line(error)}") from error
    return tensors(results, [output.name for output in session.get_outputs()], place)


def tensors(results: list[Any], names: list[str], place: str) -> list[np.ndarray]:
    """`results` if they are all tensors of numbers."""
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, np.ndarray) or result.dtype.kind not in "fiub":
            raise ExportError(f'{place}: output "{name}" is not a tensor of numbers')
    return results


@lru_cache(maxsize=1)
def newest_opset() -> int:
    """The newest opset that the installed onnx knows and the installed onnxruntime runs: a tiny model tries each."""
    from onnx import TensorProto, defs, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    for opset in range(defs.onnx_opset_version(), OLDEST_OPSET, -1):
        imports = [helper.make_opsetid("", opset)]
        version = helper.find_min_ir_version_for(imports)
        data = helper.make_model(graph, opset_imports=imports, ir_version=version).SerializeToString()
        try:
            run(open_session(data, f"opset {opset}"), {"x": np.ones((2, 1), np.float32)}, f"opset {opset}")
        except ExportError:
            continue
        return opset
    return OLDEST_OPSET


def check_opset(opset: int) -> int:
    """`opset` if the installed onnxruntime runs it."""
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest_opset():
        raise ConfigError(
            f"opset must be an int from {OLDEST_OPSET} to {newest_opset()}, the newest that the installed onnxruntime runs; "
            f"got {opset!r}"
        )
    return opset
