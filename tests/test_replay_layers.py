"""Every built-in layer in a recorded pass: the same bits as without, whatever lies in the recording's own memory."""

import numpy as np
import pytest
from replays import drawn, poison, replayed

import convlayers as cl
from convlayers import kernels
from convlayers.layer import can_replay
from convlayers.registry import layer_class
from convlayers.testing import registered_examples
from convlayers.testing.machine import assert_same

# What it does follows from values: it refuses those below 0.
NOT_RECORDED = {"stochastic_pool2d"}
STEPS = 5


def model_of(name, config, shapes):
    nodes = [cl.Input(shape) for shape in shapes]
    return cl.Model(nodes[0] if len(nodes) == 1 else nodes, cl.create_layer(name, **config)(*nodes), seed=0)


def steps(model, shapes, dtype, sign):
    """What steps of training and inference give."""
    results = []
    for number in range(STEPS):
        given = [drawn((3, *shape), number + place, dtype) for place, shape in enumerate(shapes)]
        given = [np.abs(x) + dtype(0.1) if sign else x for x in given]
        x = given[0] if len(given) == 1 else given
        poison(model)
        model.zero_gradients()
        y, tape = model.forward(x, training=True, step=number)
        dx = model.backward(drawn(y.shape, number, dtype), tape)
        results += [y, model(x), *(g.copy() for g in model.gradients().values())]
        results += dx if len(shapes) > 1 else [dx]
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "config", "shape"), registered_examples(), ids=str)
def test_examples_of_every_layer(name, config, shape, dtype):
    cls = layer_class(name)
    shapes = shape if cls.joins else [shape]
    results = []
    for replay in (False, True):
        model = model_of(name, config, shapes)
        with kernels.using(replay=replay):
            results.append(steps(model, shapes, dtype, cls.nonnegative))
    assert_same(results[1], results[0], f"{name} {config}")
    if dtype == np.float32:
        numpy_alone = config.get("algorithm") in ("fft", "einsum")
        assert replayed(model) == (name not in NOT_RECORDED and not numpy_alone), f"{name} {config}"


def test_which_layers_are_not_recorded():
    made = {name: cl.create_layer(name, **config) for name, config, _ in registered_examples()}
    assert {name for name, layer in made.items() if not can_replay(layer)} == NOT_RECORDED


@pytest.mark.parametrize("init", ["orthogonal", "kaiming_normal", "default"])
def test_parameters_are_read_where_they_lie(init):
    """A parameter of another order was copied at every step."""
    for layer in (cl.Conv2d(8, 3, init=init), cl.Dense(3, init=init), cl.ConvTranspose2d(5, 3, init=init)):
        model = cl.Sequential([layer], input_shape=(7,) if isinstance(layer, cl.Dense) else (4, 5, 6))
        assert all(array.flags.c_contiguous for array in model.parameters().values()), f"{layer}"
