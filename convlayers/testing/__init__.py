"""One conformance suite for every layer, ours or a plug-in's.

    from convlayers.testing import check_layer, layer_checks

    check_layer(Swish(), (3, 8, 8))                             # raises AssertionError, naming check, layer and seed

    @pytest.mark.parametrize("name, check", layer_checks(Swish(), (3, 8, 8)))
    def test_swish(name, check):                                # or one test for each check
        check()

A layer class may list `examples`, `(configuration, input_shape)` pairs; `registered_examples` gives those of all layers.
"""

from .conformance import check_layer, layer_checks, registered_examples
from .gradients import assert_gradient
from .inputs import spread
from .machine import assert_close, on_every_machine

__all__ = [
    "assert_close",
    "assert_gradient",
    "check_layer",
    "layer_checks",
    "on_every_machine",
    "registered_examples",
    "spread",
]
