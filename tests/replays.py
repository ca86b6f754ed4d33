"""What the tests of recorded passes share: steps of a model that is recorded beside those of one that is not."""

import numpy as np
from convlayers.kernels._memory import Block

import convlayers as cl
from convlayers import kernels
from convlayers.testing.machine import assert_same


def drawn(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small(*layers, shape=(3, 9, 8)):
    return cl.Sequential([*layers, cl.Flatten(), cl.Dense(4)], input_shape=shape)


def poison(model):
    """NaN into every array of the recordings' own, as it is before a forward pass."""
    step, inference = model.passes._training.recorded, model.passes._inference.recorded
    replays = [inference] if step is None else [inference, step.forward, *step.backward.values()]
    for replay in filter(None, replays):
        for _, args in replay.recording._calls:
            spoil(args)


def spoil(value):
    if isinstance(value, tuple):
        for part in value:
            spoil(part)
    elif isinstance(value, np.ndarray) and isinstance(value.base, Block):
        value.fill(np.nan if value.dtype.kind == "f" else 1)


def train(model, inputs, *, replay, input_gradient=True, change=lambda model: None):
    """What steps of training and inference on these inputs give, parameters moving in between."""
    results = []
    with kernels.using(replay=replay):
        for number, x in enumerate(inputs):
            poison(model)
            model.zero_gradients()
            y, tape = model.forward(x, step=number)
            dx = model.backward(drawn(y.shape, number, y.dtype), tape, input_gradient=input_gradient)
            for name, gradient in model.gradients().items():
                model.parameters()[name][...] -= np.float32(0.01) * gradient
            results += [y, model(x), *(a.copy() for a in (*model.gradients().values(), *model.buffers().values()))]
            results += [] if dx is None else [dx]
            change(model)
    return results


def replayed(model):
    """Whether inference, and training both ways, are recorded."""
    step = model.passes._training.recorded
    back = step is not None and all(replay is not None for replay in step.backward.values())
    return model.passes._inference.recorded is not None and back


def assert_replayed(make, shape, what, *, recorded=True, **how):
    """The bits of layers one by one, by a model that was recorded, or not as the test has it."""
    inputs = [drawn(shape, seed) for seed in range(5)]
    apart, together = make(), make()
    expected = train(apart, inputs, replay=False, **how)
    assert_same(train(together, inputs, replay=True, **how), expected, what)
    assert not replayed(apart)
    assert recorded is None or replayed(together) == recorded, f"{what}: recorded is {not recorded}"
