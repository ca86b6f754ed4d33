"""ONNX's own backend interface, so that ONNX's own tests judge the importer: `prepare`, `run_model`, `run_node`.

    import convlayers.onnx.backend as backend
    outputs = backend.prepare(onnx.load("model.onnx")).run([x])

A `Model` has its weights and sizes within, and ONNX's tests give many of them as inputs. So the network is imported when the
inputs are known: those that an operator must know become constants, all others stay inputs and run through the layers. Where
the inputs have no batch in common, each as a whole is one sample.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep

from ..errors import ArrayTypeError, OnnxImportError
from ..model import Model
from .imports import handlers
from .imports.api import Prepared
from .imports.api import prepare as prepared
from .imports.importer import Importer, reached
from .imports.values import Constant, Tensor, constant

# They give constants whatever is asked of them.
_CONSTANTS = ("Constant", "ConstantOfShape")


class _Plan(NamedTuple):
    """How one call is computed: `model` from the inputs called `names`, and outputs that are constants."""

    model: Model | None
    names: list[str]
    outputs: list[np.ndarray | None]
    batch: bool


class Representation(BackendRep):
    """A graph that is ready to run. `layers` counts the layers of the last run, 0 where everything was a constant."""

    def __init__(self, graph: Prepared) -> None:
        super().__init__()
        self._graph = graph
        self.layers = 0

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """The outputs for the inputs: arrays in the graph's order, or a dict by name.

        Raises `OnnxImportError` with every operator in the way, and what the layers raise.
        """
        arrays = self._named(inputs)
        plan = self._plan(arrays)
        self.layers = len(plan.model.steps) if plan.model else 0
        found = iter(_run(plan, arrays))
        results = [next(found) if value is None else value for value in plan.outputs]
        return tuple(_as_declared(r, entry) for r, entry in zip(results, self._graph.proto.graph.output, strict=True))

    def _named(self, inputs: Any) -> dict[str, np.ndarray]:
        weights = {tensor.name for tensor in self._graph.proto.graph.initializer}
        names = [entry.name for entry in self._graph.proto.graph.input if entry.name not in weights]
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        elif len(names) == 1 and isinstance(inputs, np.ndarray):
            given = {names[0]: inputs}
        else:
            given = dict(zip(names, inputs, strict=False))
            if len(names) != len(inputs):
                raise ArrayTypeError(f"the graph has {len(names)} inputs, {', '.join(names)}; got {len(inputs)}")
        if missing := [name for name in names if name not in given]:
            raise ArrayTypeError(f"the inputs {', '.join(missing)} are missing")
        return {name: np.asarray(value) for name, value in given.items() if name in self._graph.needed}

    def _plan(self, arrays: dict[str, np.ndarray]) -> _Plan:
        """Import with as many inputs left open as can be: all that may be data, then those with as many
        samples as the first, then the first alone."""
        data = [name for name, array in arrays.items() if _is_float(array) and array.ndim and array.size]
        beside = [name for name in data if len(arrays[name]) == len(arrays[data[0]])]
        failed: list[Importer] = []
        for free in (data, beside, data[:1]):
            for batch in (True, False):
                plan = self._narrowed(arrays, set(free), batch, failed)
                if plan is not None:
                    return plan
        failed[0].model(self._graph.outputs)  # says what is in the way
        raise OnnxImportError(f"{self._graph.place}: its outputs depend on the batch size in a way that is not followed")

    def _narrowed(self, arrays: dict[str, np.ndarray], free: set[str], batch: bool, failed: list[Importer]) -> _Plan | None:
        """A plan with the inputs `free` left open, but for those that some operator must know."""
        while not batch or _one_batch([arrays[name] for name in free]):
            importer = self._graph.importer({n: arrays[n].shape[batch:] for n in arrays if n in free}, None, batch=batch)
            for name in arrays.keys() - free:
                importer.values[name] = constant(name, [arrays[name]], trained=_is_float(arrays[name]))
            importer.run(self._graph.nodes)
            plan = self._planned(importer)
            if plan is not None:
                return plan
            failed.append(importer)
            if not importer.wanted & free:
                return None
            free = free - importer.wanted
        return None

    def _planned(self, importer: Importer) -> _Plan | None:
        if importer.problems:
            return None
        values = [importer.values.get(name) for name in self._graph.outputs]
        if any(isinstance(v, Constant) and not v.fixed for v in values) or None in values:
            return None
        tensors = [v for v in values if isinstance(v, Tensor)]
        outputs = [v.arrays[0] if isinstance(v, Constant) else None for v in values]
        if not tensors:
            return _Plan(None, [], outputs, importer.batch)
        used = reached(importer.inputs, [t.node for t in tensors])
        return _Plan(importer.built(tensors), used, outputs, importer.batch)


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"  # not one of NumPy's own


def _one_batch(arrays: list[np.ndarray]) -> bool:
    """Whether axis 0 of all arrays can be the batch."""
    return bool(arrays) and len({len(a) for a in arrays}) == 1 and min(a.ndim for a in arrays) > 1


def _run(plan: _Plan, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    if plan.model is None:
        return []
    given = [arrays[name].astype(np.float32 if arrays[name].dtype.itemsize < 8 else np.float64) for name in plan.names]
    given = [x if plan.batch else x[None] for x in given]
    found = plan.model(given[0] if len(given) == 1 else given)
    results = found if isinstance(found, list) else [found]
    return [y if plan.batch else y[0] for y in results]


def _as_declared(array: np.ndarray, entry: Any) -> np.ndarray:
    """The array in the type that the graph declares for this output."""
    kind = entry.type.tensor_type.elem_type
    return array.astype(helper.tensor_dtype_to_np_dtype(kind), copy=False) if kind else array


class ConvlayersBackend(Backend):
    """The layers of convlayers as an ONNX backend, on the processor."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether there is a way to read every operator; what it is asked to do may still be refused."""
        opsets = {("" if e.domain == "ai.onnx" else e.domain): e.version for e in model.opset_import}

        def known(node: Any) -> bool:
            domain = "" if node.domain == "ai.onnx" else node.domain
            return node.op_type in _CONSTANTS or handlers.find(domain, node.op_type, opsets.get(domain, 1)) is not None

        tensors = all(e.type.WhichOneof("value") == "tensor_type" for e in (*model.graph.input, *model.graph.output))
        return cls.supports_device(device) and tensors and all(known(node) for node in model.graph.node)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Representation:
        """The checked model, ready to run."""
        return Representation(prepared(model, model.graph.name or "the ONNX model"))

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[Any] | None = None, **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """The outputs of one operator of the newest opset, or of `opset_version`."""
        arrays = [np.asarray(x) for x in inputs]
        names = [name for name in node.input if name]
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, arrays, strict=True)
        ]
        results = [helper.make_tensor_value_info(name, 0, None) for name in node.output if name]
        graph = helper.make_graph([node], node.op_type, values, results)
        version = kwargs.get("opset_version")
        opsets = {"opset_imports": [helper.make_opsetid("", version)]} if version else {}
        return cls.prepare(helper.make_model(graph, **opsets), device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU alone."""
        return device == "CPU"


is_compatible = ConvlayersBackend.is_compatible
prepare = ConvlayersBackend.prepare
run_model = ConvlayersBackend.run_model
run_node = ConvlayersBackend.run_node
supports_device = ConvlayersBackend.supports_device
