"""The checks of a layer's contract; each takes a `Case` and fails with AssertionError.

What a layer may rely on is in `convlayers.layer`; what a user may rely on is here.
"""

import inspect
import json
import math
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from .. import functional, kernels
from ..layer import Bound, Layer, Shape, can_replay, has_bind, has_scale_shift, joined
from ..layers.activations import Clip, ReLU
from ..model import Input, Model
from ..shapes import window
from .case import STEP, Case, as_list, contents, zero
from .gradients import assert_gradient
from .machine import assert_close, assert_same, on_every_machine, same_bits

_BATCH = 3


def configuration(case: Case) -> None:
    """Constructor arguments are JSON values, kept as given in attributes of the same names; they make the same layer again."""
    inherited = case.cls.__init__ in (object.__init__, Layer.__init__)
    for parameter in () if inherited else inspect.signature(case.cls).parameters.values():
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), (
            f"the constructor takes {parameter}, which no configuration can hold"
        )
        assert hasattr(case.layer, parameter.name), f"the constructor's {parameter.name} is not an attribute"
    given = json.loads(json.dumps(case.config))
    kept = case.created().config()
    assert json.loads(json.dumps(kept)) == given, f"the configuration {given} came back as {kept}"
    assert kept == given, f"arguments are not kept as given: {given} became {kept}"
    assert not case.created().params, "parameters belong into build; the constructor made some"


def shapes_and_dtypes(case: Case) -> None:
    """`build` tells the output's shape; parameters are float32, `float64` goes in and comes out as `float64`."""
    layer, output = case.built()
    for name, value in layer.params.items():
        assert value.dtype == np.float32, f"parameter {name} is {value.dtype}, not float32"
        assert layer.grads[name].shape == value.shape, f"the gradient of {name} has another shape"
    for training in (False, True):
        for dtype in (np.float32, np.float64):
            x = case.inputs(_BATCH, dtype)
            y, cache = case.forward(layer, x, training=training)
            assert y.shape == (_BATCH, *output), f"build says {output} for a sample, forward gave {y.shape} for {_BATCH}"
            assert y.dtype == dtype, f"{np.dtype(dtype)} went in and {y.dtype} came out"
            back = as_list(layer.backward(case.gradient(y), cache))
            assert len(back) == len(case.shapes), f"{len(case.shapes)} inputs, {len(back)} input gradients"
            for dx, value in zip(back, as_list(x), strict=True):
                assert dx.shape == value.shape, f"an input is {value.shape}, its gradient {dx.shape}"
                assert dx.dtype == dtype, f"{np.dtype(dtype)} went in and a gradient in {dx.dtype} came out"


def same_weights(case: Case) -> None:
    """`build` draws from its generator alone: the same seed gives the same weights."""
    (first, _), (second, _) = case.built(), case.built()
    assert first.params.keys() == second.params.keys(), "two builds made different parameters"
    assert_same(list(first.params.values()), list(second.params.values()), "weights of two builds from one seed")


def precision(case: Case) -> None:
    """float32 gives what float64 gives, within the rounding of the sums."""
    for training in (False, True):
        (narrow, output), (wide, _) = case.built(), case.built(np.float64)
        x = case.inputs(_BATCH)
        wide_x = joined(wide, [a.astype(np.float64) for a in as_list(x)])
        length = case.sum_length(_BATCH, output)
        y, _ = case.forward(narrow, x, training=training)
        assert_close(y, case.forward(wide, wide_x, training=training)[0], length, f"forward, training={training}")


def _gradients(case: Case, training: bool) -> None:
    layer, _ = case.built(np.float64)
    x = as_list(case.inputs(_BATCH, np.float64))
    y, cache = case.forward(layer, joined(layer, x), training=training)
    weights, rng = case.gradient(y), case.rng("directions")
    zero(layer)
    back = as_list(layer.backward(weights, cache))

    def loss() -> float:
        return float((case.forward(layer, joined(layer, x), training=training)[0] * weights).sum())

    for number, (value, dx) in enumerate(zip(list(x), back, strict=True)):

        def of_input(moved: np.ndarray, number: int = number) -> float:
            before, x[number] = x[number], moved
            try:
                return loss()
            finally:
                x[number] = before

        assert_gradient(of_input, value, dx, rng, f"input {number}")
    for name, value in list(layer.params.items()):

        def of_parameter(moved: np.ndarray, name: str = name) -> float:
            before, layer.params[name] = layer.params[name], moved
            try:
                return loss()
            finally:
                layer.params[name] = before

        assert_gradient(of_parameter, value, layer.grads[name], rng, f"parameter {name}")


def gradients_in_inference(case: Case) -> None:
    """Gradients by central differences in float64, `training=False`."""
    _gradients(case, False)


def gradients_in_training(case: Case) -> None:
    """Gradients by central differences in float64, `training=True`, every pass at one training step."""
    _gradients(case, True)


def gradients_add(case: Case) -> None:
    """`backward` adds to `grads`, `accumulate` adds the same, and `backward_input` gives the same and adds nothing."""
    layer, _ = case.built(np.float64)
    x = case.inputs(_BATCH, np.float64)
    y, cache = case.forward(layer, x, training=True)
    zero(layer)
    dx = as_list(layer.backward(case.gradient(y), cache))
    once = {name: gradient.copy() for name, gradient in layer.grads.items()}
    layer.backward(case.gradient(y), cache)
    for name, gradient in layer.grads.items():
        assert_close(gradient, 2 * once[name], 1, f"a second backward, gradient of {name}")
    zero(layer)
    layer.accumulate(case.gradient(y), cache)
    for name, gradient in layer.grads.items():
        assert same_bits(gradient, once[name]), f"accumulate and backward disagree on the gradient of {name}"
    alone = as_list(layer.backward_input(case.gradient(y), cache))
    assert_same(alone, dx, "backward_input against backward")
    assert_same(list(layer.grads.values()), list(once.values()), "parameters' gradients after backward_input")


def machines(case: Case) -> None:
    """The same bits for 1, 2 and 3 threads, and close results under every instruction set, memory poisoned before."""
    for training in (False, True):
        length = case.sum_length(_BATCH, case.built()[1])

        def compute(training: bool = training) -> list[np.ndarray]:
            return case.passes(case.built()[0], case.inputs(_BATCH), training=training)

        results = on_every_machine(compute)
        (first, expected), *others = results.items()
        for isa, arrays in others:
            for number, (actual, wanted) in enumerate(zip(arrays, expected, strict=True)):
                assert_close(actual, wanted, length, f"result {number} under {isa} against {first}, training={training}")


def repeatable(case: Case) -> None:
    """The same pass gives the same bits; what is drawn depends on the training step, and inference draws nothing."""
    for training in (False, True):
        runs = [case.passes(case.built()[0], case.inputs(_BATCH), training=training) for _ in range(2)]
        assert_same(runs[1], runs[0], f"a second run, training={training}")
    layer, _ = case.built()
    outputs = [case.forward(layer, case.inputs(_BATCH), training=False, step=step)[0] for step in (STEP, STEP + 1)]
    assert_same(outputs[1:], outputs[:1], "inference at another training step")


def writes_nothing(case: Case) -> None:
    """Inputs, the output's gradient and parameters may be read-only, and nobody writes to them."""
    layer, _ = case.built()
    for training in (False, True):
        x = case.inputs(_BATCH)
        guarded = [*as_list(x), *layer.params.values()]
        for array in guarded:
            array.flags.writeable = False
        before = contents(guarded)
        y, cache = case.forward(layer, x, training=training)
        dy = case.gradient(y)
        dy.flags.writeable = False
        given = contents(dy)
        layer.backward(dy, cache)
        assert contents(guarded) == before, "forward or backward wrote to an input or a parameter"
        assert contents(dy) == given, "backward wrote to the output's gradient"


def keeps_nothing(case: Case) -> None:
    """Two passes under way at once give what each gives alone: everything travels in the cache."""
    for training in (False, True):
        layer, _ = case.built()
        batches = [case.inputs(_BATCH, purpose="first"), case.inputs(_BATCH - 1, purpose="second")]
        alone = [case.passes(case.built()[0], x, training=training) for x in batches]
        forward = [case.forward(layer, x, training=training) for x in batches]
        for (y, cache), expected in zip(forward, alone, strict=True):
            zero(layer)
            dx = as_list(layer.backward(case.gradient(y), cache))
            actual = [y, *dx, *layer.grads.values()]
            assert_same(actual, expected, f"two interleaved passes, training={training}: something is kept on self")


def takes_over_relu(case: Case) -> None:
    """A layer that fuses a ReLU, with an upper bound or without, gives the bits of one behind it, forward and back."""
    bounds = [math.inf] * case.cls.fuses_relu + [0.25] * case.cls.fuses_clip_in_training
    for bound, training in product(bounds, (False, True)):
        results = []
        for fused in (False, True):
            layer, _ = case.built()
            x = case.inputs(_BATCH)
            relu = {"relu": bound if bound < math.inf else True} if fused else {}
            with case.step():
                y, cache = layer.forward(x, training=training, **relu)
            behind = Clip(0, bound) if bound < math.inf else ReLU()
            y, kept = (y, None) if fused else behind.forward(y, training=training)
            dy = case.gradient(y)
            dy = dy if fused else behind.backward(dy, kept)
            zero(layer)
            dx = as_list(layer.backward(dy, cache))
            gradients = [g.copy() for g in layer.grads.values()]
            zero(layer)
            layer.accumulate(dy, cache)
            dx += as_list(layer.backward_input(dy, cache))
            results.append([y, *dx, *gradients, *layer.grads.values(), *layer.buffers.values()])
        assert_same(results[1], results[0], f"with the ReLU inside, bound {bound}, training={training}")
    if case.cls.fuses_clip:
        built, _ = case.built()
        outer: Any = built  # its forward may take more than that of `Layer`
        x = case.inputs(_BATCH)
        y, _ = outer.forward(x, training=False, relu=True)
        bounded, _ = outer.forward(x, training=False, relu=0.25)
        assert_same([bounded], [np.minimum(y, np.float32(0.25))], "with a ReLU of an upper bound inside")


def bound_to_a_shape(case: Case) -> None:
    """A layer bound to a shape gives the same bits, with what it takes over and of parameters exchanged meanwhile; its caches
    serve `backward` as well."""
    for training in (False, True):
        layer, output = case.built()
        if not has_bind(layer):
            return
        outer: Any = layer  # its methods may take more than those of `Layer`
        x = case.inputs(_BATCH)
        for options in _taken_over(case, output, training):
            what = f"training={training}, {', '.join(options) or 'nothing taken over'}"
            fused = {name: value for name, value in options.items() if name in ("affine", "residual")}
            bound = outer.bind(x.shape, x.dtype, training=training, **{**options, **dict.fromkeys(fused, True)})
            if bound is None:
                continue
            layer.params = {name: 1.5 * array for name, array in layer.params.items()}
            layer.grads = {name: np.zeros_like(array) for name, array in layer.params.items()}
            with case.step():
                y, cache = bound.forward(x, **fused)
                expected, apart = outer.forward(x, training=training, **options)
            assert_same([y], [expected], f"forward bound to a shape, {what}")
            if not training and (fused or "pooled" in options or isinstance(options.get("relu"), float)):
                continue  # of which no gradient is asked
            wanted = _back(layer, layer, case.gradient(y), apart)
            dy = case.gradient(y)
            if np.shares_memory(as_list(bound.backward(dy, cache))[0], dy):
                raise AssertionError(f"backward bound to a shape, {what}: the gradient is no array of its own")
            layer.grads = {name: np.zeros_like(array) for name, array in layer.params.items()}
            for passes in (layer, bound):
                assert_same(_back(layer, passes, case.gradient(y), cache), wanted, f"backward bound to a shape, {what}")


def replayed(case: Case) -> None:
    """A layer that says so gives, recorded and run again on other values, the bits that it gives else: alone in a model, and
    with a ReLU behind it."""
    if not can_replay(case.layer):
        return
    for behind in ((), (ReLU(),)):
        results = [_steps_of_model(case, behind, replay) for replay in (False, True)]
        assert_same(results[1], results[0], f"passes run again{' with a ReLU behind the layer' if behind else ''}")


def _steps_of_model(case: Case, behind: tuple[Layer, ...], replay: bool) -> list[np.ndarray]:
    """What some steps of training and inference give."""
    layer, _ = case.built()
    layer.built_for = case.shapes
    inputs = [Input(shape) for shape in case.shapes]
    model, results = Model(inputs, reduce(lambda node, other: other(node), behind, layer(*inputs))), []
    with kernels.using(replay=replay):
        for step in range(4):
            x = case.inputs(_BATCH, purpose=f"step {step}")
            y, tape = model.forward(x, step=step)
            dx = model.backward(case.gradient(y, f"step {step}"), tape)
            arrays = (*layer.grads.values(), *layer.buffers.values())
            results += [y, model(x), *as_list(dx), *(array.copy() for array in arrays)]
    return results


def _can_pool(case: Case, output: Shape) -> bool:
    return case.cls.absorbs_max_pool and len(output) == 3 and min(output[1:]) >= 2


def takes_over_maximum(case: Case) -> None:
    """A layer that takes over a pooling gives the maximum of each 2 x 2 of what it gives else."""
    built, output = case.built()
    layer: Any = built  # its forward may take more than that of `Layer`
    if _can_pool(case, output):
        x = case.inputs(_BATCH)
        y, _ = layer.forward(x, training=False)
        pooled, _ = layer.forward(x, training=False, pooled=True)
        expected, _ = functional.max_pool2d(y, window(output[1:], 2, stride=2), with_index=False)
        assert_close(pooled, expected, case.sum_length(1, output), "a maximum taken over")


def _taken_over(case: Case, output: Shape, training: bool) -> list[dict[str, Any]]:
    """What a model may tell the layer beside its input."""
    options: list[dict[str, Any]] = [{}]
    if case.cls.fuses_clip_in_training if training else case.cls.fuses_clip:
        options.append({"relu": 0.25})
    if case.cls.fuses_relu:
        options.append({"relu": True})
    if case.cls.absorbs_affine and not training:
        options.append({"affine": case.rng("affine").uniform(-2, 2, (2, output[0])).astype(np.float32)})
    if case.cls.absorbs_residual_in_training if training else case.cls.absorbs_residual:
        residual = {"residual": case.rng("residual").standard_normal((_BATCH, *output)).astype(np.float32)}
        options += [residual, {**options[-1], **residual}]
    if _can_pool(case, output) and not training:
        options.append({"pooled": True})
    return options


def _back(layer: Layer, passes: Layer | Bound, dy: np.ndarray, cache: Any) -> list[np.ndarray]:
    """What backward and accumulate give, one after the other."""
    zero(layer)
    dx = as_list(passes.backward(dy, cache))
    gradients = [g.copy() for g in layer.grads.values()]
    passes.accumulate(dy, cache)
    return [*dx, *gradients, *(g.copy() for g in layer.grads.values())]


def commutes_with_relu(case: Case) -> None:
    """A layer that says so gives with a ReLU inside what it gives behind one, forward and back."""
    if not case.cls.commutes_with_relu:
        return
    for training in (False, True):
        x = case.inputs(_BATCH)
        bent = functional.relu(x)
        layer, _ = case.built()
        outer: Any = layer  # its forward may take more than that of `Layer`
        with case.step():
            behind, behind_cache = layer.forward(bent, training=training)
            inside, inside_cache = outer.forward(x, training=training, relu=True)
        dy = case.gradient(inside)
        expected = functional.relu_backward(layer.backward(dy, behind_cache), bent)
        # Values, not bits: a zero may have either sign.
        pairs = ((inside, behind, "output"), (layer.backward(dy, inside_cache), expected, "input gradient"))
        for actual, wanted, what in pairs:
            assert np.array_equal(actual, wanted, equal_nan=True), f"{what} with the ReLU inside, training={training}"


def scale_and_shift(case: Case) -> None:
    """A layer whose inference is a scale and a shift says which; one that absorbs those of another computes them."""
    built, output = case.built()
    layer: Any = built  # its forward may take more than that of `Layer`
    length = case.sum_length(1, output)
    for n in (1, 40):
        x = case.inputs(n)
        y, _ = case.forward(layer, x, training=False)
        if has_scale_shift(layer):
            assert_close(functional.scale_shift(x, *layer.scale_shift()), y, length, "scale_shift against inference")
        if case.cls.absorbs_affine:
            scale, shift = case.rng("affine").uniform(-2, 2, (2, output[0])).astype(np.float32)
            actual, _ = layer.forward(x, training=False, affine=(scale, shift))
            assert_close(actual, functional.scale_shift(y, scale, shift), length, f"a scale and a shift taken over, batch {n}")


def batch_sizes(case: Case) -> None:
    """Batches of 0, 1 and 5; in inference a sample's output does not depend on its neighbours."""
    layer, output = case.built()
    x = as_list(case.inputs(5))
    whole, _ = case.forward(layer, joined(layer, x), training=False)
    for n in range(5):
        one, _ = case.forward(layer, joined(layer, [a[n : n + 1] for a in x]), training=False)
        assert_close(one, whole[n : n + 1], case.sum_length(1, output), f"sample {n} alone")
    empty, cache = case.forward(layer, joined(layer, [a[:0] for a in x]), training=False)
    assert empty.shape == (0, *output), f"an empty batch gave {empty.shape}"
    zero(layer)
    for dx, shape in zip(as_list(layer.backward(empty.copy(), cache)), case.shapes, strict=True):
        assert dx.shape == (0, *shape), f"an empty batch has an input gradient of shape {dx.shape}"
    for name, gradient in layer.grads.items():
        assert not gradient.any(), f"an empty batch has a gradient of {name}"


def unbuilt_contract(case: Case) -> None:
    """A layer is a subclass of `convlayers.Layer` that was not built; its `build` makes all its arrays."""
    assert isinstance(case.layer, Layer), f"{case.cls!r} is not a subclass of convlayers.Layer"
    assert not case.layer.params, "give the suite a layer that is not built"
    layer, output = case.built()
    assert all(isinstance(n, int) and n > 0 for n in output), f"build returned {output!r}, not a shape"
    arrays: dict[str, Any] = {**layer.params, **layer.buffers}
    assert len(arrays) == len(layer.params) + len(layer.buffers), "a parameter and a buffer share a name"
    assert all(isinstance(a, np.ndarray) for a in arrays.values()), "params and buffers hold arrays alone"
