"""A depthwise convolution and the batch normalizations around it as one pass: found where that is right, the bits of apart."""

import numpy as np
import pytest
from helpers import DTYPES, beside, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ShapeError
from convlayers.model.chains import DepthwiseChain, Fused
from convlayers.testing import assert_gradient, on_every_machine


def relu(bound):
    return cl.Clip(0, bound) if isinstance(bound, float) else cl.ReLU()


def stack(shape, *, before=True, relus=(True, True), kernel=3, **how):
    """The nodes of norm, ReLU, depthwise convolution, norm and ReLU, the input's first; what is not wanted is missing, and a
    float is a ReLU's upper bound."""
    nodes = [cl.Input(shape)]
    if before:
        nodes.append(cl.BatchNorm2d()(nodes[-1]))
        if relus[0]:
            nodes.append(relu(relus[0])(nodes[-1]))
    nodes.append(cl.Conv2d(shape[0], kernel, groups=shape[0], **{"algorithm": "direct", **how})(nodes[-1]))
    nodes.append(cl.BatchNorm2d(eps=1e-3, momentum=0.3)(nodes[-1]))
    if relus[1]:
        nodes.append(relu(relus[1])(nodes[-1]))
    return nodes


def chains(model):
    return [task.chain for task in model.passes.tasks if task.chain is not None]


def disturb(model, dtype):
    """Parameters that no layer starts with, and all arrays in the data type."""
    rng = np.random.default_rng(3)
    for array in model.parameters().values():
        array += rng.uniform(-0.5, 0.5, array.shape).astype(np.float32)
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads, layer.buffers):
            arrays.update({key: value.astype(dtype) for key, value in arrays.items()})


def ran_as_one(tape):
    return isinstance(tape.caches[0], Fused)


def results(model, x, state):
    """Output, gradients and statistics of one step, the first of several outputs alone with a gradient that is not 0."""
    model.load_state_dict(state)
    model.zero_gradients()
    y, tape = model.forward(x, step=0)
    first = y[0] if isinstance(y, list) else y
    dy = np.random.default_rng(2).standard_normal(first.shape).astype(x.dtype)
    dx = model.backward([dy, *map(np.zeros_like, y[1:])] if isinstance(y, list) else dy, tape)
    found = first, dx, *model.gradients().values(), *model.buffers().values()
    return [np.asarray(array, x.dtype) for array in found], tape


def assert_as_apart(n, nodes, dtype):
    """On every machine setting; returns whether the layers ran as one on any of them."""
    x, *_ = nodes
    together, apart = cl.Model(x, nodes[-1]), cl.Model(x, nodes[:0:-1])
    assert len(chains(together)) == 1
    assert not chains(apart)
    disturb(together, dtype)
    state = together.state_dict()
    images = np.random.default_rng(1).normal(0.3, 1, (n, *x.shape)).astype(dtype)
    ran = []

    def compute():
        found, tape = results(together, images, state)
        ran.append(ran_as_one(tape))
        # An output that nobody reads adds a gradient of zeros, which turns -0 into 0.
        for number, (one, other) in enumerate(zip(found, results(apart, images, state)[0], strict=True)):
            np.testing.assert_array_equal(one, other, err_msg=f"result {number} of {[node.layer for node in nodes[1:]]}")
        return [array + 0 for array in found]

    on_every_machine(compute)
    return any(ran)


cases = st.fixed_dictionaries(
    {
        "channels": st.integers(2, 9),
        "size": st.tuples(st.integers(7, 20), st.integers(7, 20)),
        "kernel": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "padding": st.integers(0, 2),
        "bias": st.booleans(),
        "before": st.booleans(),
        "relus": st.tuples(*[st.sampled_from((False, True, 0.5))] * 2),
    }
)


@settings(random_cases, max_examples=120)
@given(st.integers(1, 20), cases, st.sampled_from(DTYPES))
def test_random_chains(n, case, dtype):
    channels, size = case.pop("channels"), case.pop("size")
    assert_as_apart(n, stack((channels, *size), **case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_planes_beside_the_edges_of_a_vector(isa, dtype):
    vector, _ = edges(isa, dtype)
    for width in beside(vector):
        assert assert_as_apart(3, stack((6, 3, width), padding=1, bias=False), dtype)


# Images across the lanes, planes larger than what is moved in one piece, more channels than are taken together, and arrays
# that are larger than the caches, with planes of an odd number of values.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "shape", "how"),
    [
        (33, (7, 4, 4), {"padding": 1}),
        (17, (40, 8, 8), {"padding": 1}),
        (2, (6, 33, 40), {"padding": 1, "stride": 2}),
        (5, (70, 16, 16), {"kernel": 5, "padding": 2, "bias": False}),
        (1, (8, 9, 9), {"kernel": 7, "padding": 3}),
        (8, (130, 33, 33), {"padding": 1}),
    ],
)
def test_layouts_and_groups_of_channels(n, shape, how, dtype):
    assert assert_as_apart(n, stack(shape, **how), dtype)


@pytest.mark.parametrize("before", [True, False])
def test_gradients(before):
    *_, end = nodes = stack((6, 5, 6), before=before, padding=1, relus=(True, False))
    model, rng = cl.Model(nodes[0], end), np.random.default_rng(4)
    disturb(model, np.float64)
    x = rng.standard_normal((3, 6, 5, 6))
    y, tape = model.forward(x, step=0)
    assert ran_as_one(tape)
    dy = rng.standard_normal(y.shape)
    assert_gradient(lambda v: float((model.forward(v, step=0)[0] * dy).sum()), x, model.backward(dy, tape), rng)


def test_found_with_and_without_a_norm_before():
    mobile = cl.models.mobilenet_small()
    assert [chain.before is not None for chain in chains(mobile)] == [True] * 5
    assert sum(task.chain is None for task in mobile.passes.tasks) == len(mobile.passes.tasks) - 5
    bounded = chains(cl.models.mobilenet_v2((3, 32, 32), 10))
    assert [(chain.relu_before, chain.relu_after) for chain in bounded] == [(6.0, 6.0)] * 17
    x, *_, end = stack((4, 6, 6), before=False)
    (chain,) = chains(cl.Model(x, end))
    assert chain.before is None
    assert repr(chain).startswith("DepthwiseChain(Conv2d(")


def test_two_convolutions_share_no_norm():
    """The norm between them goes to the first."""
    x, *_, middle = stack((4, 8, 8))
    conv = cl.Conv2d(4, 3, groups=4, padding=1)(middle)
    model = cl.Model(x, cl.BatchNorm2d()(conv))
    assert [chain.before is not None for chain in chains(model)] == [True, False]


def test_not_found_where_others_read_what_lies_between():
    x, *inner, end = stack((4, 6, 6))
    for node in inner[:3]:
        assert all(chain.before is None for chain in chains(cl.Model(x, [end, node])))
    conv = inner[2]
    assert not chains(cl.Model(x, [end, conv]))
    assert not chains(cl.Model(x, conv))
    assert not chains(cl.Model(x, cl.BatchNorm2d()(cl.Tanh()(conv))))
    assert not chains(cl.Model(x, cl.BatchNorm2d()(cl.ReLU()(conv))))
    for several in (cl.Conv2d(4, 3, groups=2), cl.Conv2d(8, 3, groups=4), cl.Conv2d(4, 3)):
        assert not chains(cl.Model(x, cl.BatchNorm2d()(several(x))))


@pytest.mark.parametrize("frozen", ["conv2d", "batch_norm2d_1.bias", "batch_norm2d_1.running_var"])
def test_not_with_anything_frozen(frozen):
    x, *_, end = stack((4, 6, 6))
    model = cl.Model(x, end)
    model.freeze(frozen)
    assert not chains(model)
    model.unfreeze()
    assert len(chains(model)) == 1
    model.freeze("batch_norm2d.weight")
    assert [chain.before for chain in chains(model)] == [None]


@pytest.mark.parametrize("algorithm", ["einsum", "fft"])
def test_other_algorithms_run_apart(algorithm):
    nodes = stack((6, 8, 8), padding=1, algorithm=algorithm)
    assert not assert_as_apart(3, nodes, "float32")


def test_vectors_and_few_channels_run_apart():
    assert not assert_as_apart(4, stack((4, 3, 3)), "float32")
    x, *_, end = stack((4, 40, 40), padding=1)
    with kernels.using(threads=3):
        _, tape = cl.Model(x, end).forward(np.zeros((8, 4, 40, 40), np.float32))
    assert not ran_as_one(tape)


def test_inference_with_a_tape_runs_apart():
    x, *_, end = stack((6, 8, 8), padding=1)
    model = cl.Model(x, end)
    images = np.random.default_rng(0).standard_normal((4, 6, 8, 8)).astype(np.float32)
    y, tape = model.forward(images, training=False)
    assert not ran_as_one(tape)
    np.testing.assert_array_equal(y, list(model.trace(images))[-1][1])
    assert model.backward(np.ones_like(y), tape).shape == images.shape


def test_nothing_is_kept_between_the_layers():
    """The tape holds x and what the convolution gave: not what lies between norm and convolution."""
    x, *_, end = stack((6, 8, 8), padding=1)
    model = cl.Model(x, end)
    images = np.zeros((4, 6, 8, 8), np.float32)
    y, tape = model.forward(images)
    arrays = [value for value in tape.caches[0].done if isinstance(value, np.ndarray)]
    assert [array.shape for array in arrays] == [images.shape, y.shape]
    assert arrays[0] is images


def test_a_gradient_of_another_shape_is_refused():
    x, *_, end = stack((6, 8, 8), padding=1)
    model = cl.Model(x, end)
    _, tape = model.forward(np.zeros((4, 6, 8, 8), np.float32))
    (chain,) = chains(model)
    assert isinstance(chain, DepthwiseChain)
    with pytest.raises(ShapeError, match=r"batch_norm: dy must have the output's shape \(4, 6, 8, 8\); got \(4, 6, 8, 7\)"):
        chain.backward(np.zeros((4, 6, 8, 7), np.float32), tape.caches[0])
