"""Local functions: those that say which layer they are stay whole, all others are written out before the graph is read."""

from typing import Any

from ...errors import ConvlayersError, OnnxImportError
from ...registry import create_layer, layer_class
from ..functions import described
from ..session import one_line
from .op import Op
from .values import Tensor

LAYERS = "convlayers.functions"


def is_layer(function: Any) -> bool:
    """Whether a function says which layer it is, and that layer is installed here."""
    said = described(function.doc_string) if function.domain == LAYERS else None
    if said is None:
        return False
    try:
        layer_class(said.layer)
    except ConvlayersError:
        return False
    return True


def layer_of(function: Any, op: Op) -> Tensor:
    """The layer that a function says it is, with the weights that follow its inputs."""
    said = described(function.doc_string)
    if said is None:
        op.refuse("its function does not say which layer it is")
    try:
        layer = create_layer(said.layer, **said.config)
    except TypeError as error:
        op.refuse(f"layer {said.layer} does not take this configuration ({error})")
    data = len(op.inputs) - len(said.params)
    if data < 1:
        op.refuse(f"layer {said.layer} has {len(said.params)} weights and only {len(op.inputs)} inputs")
    weights: dict[str, Any] = {name: op.weight(data + i, name) for i, name in enumerate(said.params)}
    return op.placed(layer, [op.tensor(i) for i in range(data)], weights)


def written_out(proto: Any, place: str) -> Any:
    """The model with its functions in place of their calls, but for those that are layers."""
    from onnx import inliner

    if not proto.functions:
        return proto
    kept = [(function.domain, function.name) for function in proto.functions if is_layer(function)]
    try:
        return inliner.inline_selected_functions(proto, kept, exclude=True)
    except Exception as error:
        raise OnnxImportError(f"{place}: its functions cannot be written out: {one_line(error)}") from error
