"""The suite: every check of a layer, one after the other or one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..layer import Layer
from ..model import Model
from ..registry import available_layers, layer_class
from . import checks, model_checks
from .case import Case

Export = Callable[[Model, Path], object]

Check = Callable[[Case], None]

_CHECKS: tuple[Check, ...] = (
    checks.unbuilt_contract,
    checks.configuration,
    checks.shapes_and_dtypes,
    checks.same_weights,
    checks.precision,
    checks.gradients_in_inference,
    checks.gradients_in_training,
    checks.gradients_add,
    checks.machines,
    checks.repeatable,
    checks.writes_nothing,
    checks.keeps_nothing,
    checks.takes_over_relu,
    checks.takes_over_maximum,
    checks.bound_to_a_shape,
    checks.replayed,
    checks.commutes_with_relu,
    checks.scale_and_shift,
    checks.batch_sizes,
    model_checks.array_forms,
    model_checks.save_and_load,
    model_checks.onnx,
)


def _described(layer: Any) -> str:
    try:
        return repr(layer)
    except Exception:  # a configuration that cannot be read is what a check is about to report
        return type(layer).__name__


def _named(check: Check, layer: Layer, input_shape: Any, seed: int, export: Export | None) -> Callable[[], None]:
    def run() -> None:
        try:
            check(Case(layer, input_shape, seed, export))
        except Exception as error:
            reason = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(
                f"{check.__name__} of {_described(layer)} on samples of shape {input_shape}, seed {seed}: {reason}"
            ) from error

    return run


def layer_checks(
    layer: Layer, input_shape: Any, *, seed: int = 0, export: Export | None = None
) -> list[tuple[str, Callable[[], None]]]:
    """The checks of one layer as `(name, callable)` pairs, for `pytest.mark.parametrize`.

    `layer` is an instance that is not built, of a registered class; `input_shape` is a sample's, without the batch axis,
    and a list of shapes for a join. Everything drawn depends on `seed`. `export(model, path)` writes ONNX, by default
    `convlayers.export_onnx`. A callable raises AssertionError that names the check, the layer's configuration and the seed.
    """
    if not __debug__:
        raise ConfigError("the suite is made of assert statements, which python -O leaves out; run it without -O")
    return [(check.__name__, _named(check, layer, input_shape, seed, export)) for check in _CHECKS]


def check_layer(layer: Layer, input_shape: Any, *, seed: int = 0, export: Export | None = None) -> None:
    """Run all checks of one layer; arguments and errors as for `layer_checks`."""
    for _, check in layer_checks(layer, input_shape, seed=seed, export=export):
        check()


def registered_examples() -> list[tuple[str, dict[str, Any], Any]]:
    """`(id, configuration, input_shape)` for every example of every registered layer, whoever registered it.

    Raises AssertionError for a layer class without examples: nothing would test it.
    """
    found = []
    for layer_id in available_layers():
        cls = layer_class(layer_id)
        assert cls.examples, f'layer "{layer_id}": {cls.__name__} has no examples for the conformance suite'
        found += [(layer_id, config, input_shape) for config, input_shape in cls.examples]
    return found
