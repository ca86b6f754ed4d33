"""The checks of a layer inside a model: what goes in, its file, its ONNX file."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError
from ..layer import has_to_onnx, joined
from ..model import Input, Model, load
from .case import Case, as_list, disturb
from .machine import assert_close, assert_same

_BATCH = 3


def _model(case: Case) -> Model:
    nodes = [Input(shape) for shape in case.shapes]
    model = Model(nodes, case.created()(*nodes, name="tested"), seed=case.seed)
    disturb(model.steps[0].layer, case.rng("weights"))
    return model


def _written_backwards(x: np.ndarray) -> np.ndarray:
    """The same values with the axes in another order in memory."""
    return np.ascontiguousarray(x.T).T


def _every_other(x: np.ndarray) -> np.ndarray:
    """The same values with gaps between them in memory."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


_FORMS = {
    "a transposed": _written_backwards,
    "a strided": _every_other,
    "a big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "an unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}


def array_forms(case: Case) -> None:
    """A model reads non-contiguous, big-endian, unaligned, read-only and integer arrays for what they hold."""
    model = _model(case)
    x = as_list(case.inputs(_BATCH))
    expected = model(x if case.cls.joins else x[0])
    for name, form in _FORMS.items():
        given = [form(a) for a in x]
        for array in given:
            array.flags.writeable = False
        assert_same([model(joined(model.steps[0].layer, given))], [expected], f"{name} array as input")
    whole = [np.round(a * 50).astype(np.int16) for a in x]
    as_floats = [a.astype(np.float32) for a in whole]
    outputs = [model(joined(model.steps[0].layer, arrays)) for arrays in (whole, as_floats)]
    assert_same(outputs[:1], outputs[1:], "integers against the same numbers in float32")


def save_and_load(case: Case) -> None:
    """A model with the layer comes back from its file to the bit, parameters and buffers, and computes the same bits."""
    model = _model(case)
    x = case.inputs(_BATCH)
    with case.step():
        model.forward(x, training=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        again = load(path)
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys(), f"saved {list(state)}, loaded {list(loaded)}"
    assert_same(list(loaded.values()), list(state.values()), "weights from the file")
    assert_same([again(x)], [model(x)], "the loaded model's output")


def _exporter(case: Case) -> Any:
    if case.export is not None:
        return case.export
    # The wings do not know each other, so this one cannot import `convlayers.onnx`; the package's front knows both, and
    # looks the function up when it is asked for.
    from importlib import import_module

    return import_module(__name__.partition(".")[0]).export_onnx


def onnx(case: Case) -> None:
    """The exported layer runs in onnxruntime and agrees; a layer without `to_onnx` is refused by name."""
    model, export = _model(case), _exporter(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if has_to_onnx(model.steps[0].layer):
            export(model, path)
            _compare_with_onnxruntime(case, model, path)
        else:
            reason = _refusal(export, model, path)
            assert reason is not None, "a layer without to_onnx was exported"
            assert "tested" in reason, f"the refusal does not name the layer: {reason}"
            assert not path.exists(), "the export was refused, and left a file"


def _refusal(export: Any, model: Model, path: Path) -> str | None:
    try:
        export(model, path)
    except ExportError as error:
        return str(error)
    return None


def _compare_with_onnxruntime(case: Case, model: Model, path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    length = case.sum_length(1, model.value_shapes[-1])
    for n in (1, _BATCH):
        x = case.inputs(n)
        (actual,) = session.run(None, dict(zip(names, as_list(x), strict=True)))
        assert_close(actual, model(x), length, f"onnxruntime on a batch of {n}")
