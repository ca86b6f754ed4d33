"""Optimizers against the plain formulas in float64, and against PyTorch where it is installed."""

import tracemalloc

import numpy as np
import pytest

from convlayers import functional
from convlayers.errors import ConfigError, FileFormatError
from convlayers.testing import on_every_machine
from convlayers.tolerance import largest_error, tolerance
from convlayers.trainer import SGD, Adam, AdamW, RMSprop

STEPS = 12

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True),
    SGD(0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
    SGD(0.1, weight_decay=0.1),
    Adam(),
    Adam(0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    AdamW(),
    AdamW(0.01, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.2),
    RMSprop(),
    RMSprop(0.01, alpha=0.9, eps=1e-3, weight_decay=0.1),
    RMSprop(0.01, momentum=0.9),
    RMSprop(0.01, alpha=0.9, momentum=0.5, centered=True, weight_decay=0.1),
]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)


def fresh(optimizer):
    return type(optimizer)(**optimizer.config())


def problem(dtype=np.float32):
    """Parameters of all kinds: small, a number, empty, not C-contiguous, larger than a chunk; and gradients for each step."""
    rng = np.random.default_rng(0)
    shapes = {"weight": (4, 3, 3, 3), "bias": (4,), "scale": (), "none": (0, 5), "turned": (7, 5), "large": (150, 150)}
    parameters = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    parameters["turned"] = np.asfortranarray(parameters["turned"])
    steps = [{name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()} for _ in range(STEPS)]
    return parameters, steps


def trained(optimizer, dtype=np.float32, stop=STEPS):
    parameters, steps = problem(dtype)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    optimizer.bind(parameters, gradients)
    for step in steps[:stop]:
        for name, array in gradients.items():
            array[...] = step[name]
        optimizer.step()
        assert all(np.array_equal(gradients[name], step[name]) for name in gradients)
    return parameters


# The rules again, one parameter at a time, as the papers and PyTorch's documentation write them


def sgd(p, g, t, s, o):
    g = g + o.weight_decay * p
    if not o.momentum:
        return p - o.lr * g
    s["v"] = g if t == 1 else o.momentum * s["v"] + g
    return p - o.lr * (g + o.momentum * s["v"] if o.nesterov else s["v"])


def adam(p, g, t, s, o):
    beta1, beta2 = o.betas
    if isinstance(o, AdamW):
        p = p - o.lr * o.weight_decay * p
    else:
        g = g + o.weight_decay * p
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    return p - o.lr * (s["m"] / (1 - beta1**t)) / (np.sqrt(s["v"] / (1 - beta2**t)) + o.eps)


def rmsprop(p, g, t, s, o):
    g = g + o.weight_decay * p
    s["v"] = o.alpha * s.get("v", 0) + (1 - o.alpha) * g**2
    s["m"] = o.alpha * s.get("m", 0) + (1 - o.alpha) * g
    step = g / (np.sqrt(s["v"] - s["m"] ** 2 if o.centered else s["v"]) + o.eps)
    s["u"] = o.momentum * s.get("u", 0) + step
    return p - o.lr * s["u"]


RULES = {SGD: sgd, Adam: adam, AdamW: adam, RMSprop: rmsprop}


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_the_formulas(optimizer, dtype):
    actual = trained(fresh(optimizer), np.dtype(dtype))
    expected, steps = problem(np.dtype(dtype))
    for name in expected:
        value, state = expected[name].astype(np.float64), {}
        for t, step in enumerate(steps, 1):
            value = RULES[type(optimizer)](value, step[name].astype(np.float64), t, state, optimizer)
        assert actual[name].dtype == dtype
        assert largest_error(actual[name], value) < tolerance(dtype, STEPS), name


@each_optimizer
def test_against_torch(optimizer):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra bench)")
    start, steps = problem()
    tensors = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in start.items()}
    other = getattr(torch.optim, type(optimizer).__name__)(tensors.values(), **optimizer.config())
    for step in steps:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(step[name])
        other.step()
    for name, array in trained(fresh(optimizer)).items():
        assert largest_error(array, tensors[name].detach().numpy()) < tolerance(np.float32, STEPS), name


@each_optimizer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_machine_takes_the_same_step(optimizer, dtype):
    results = on_every_machine(lambda: list(trained(fresh(optimizer), np.dtype(dtype)).values()))
    for isa, arrays in results.items():
        for actual, expected in zip(arrays, results["baseline"], strict=True):
            assert largest_error(actual, expected) < tolerance(dtype, STEPS), isa


def test_a_setting_that_calls_for_other_state_waits_for_the_next_fit():
    for before, after, setting in (
        (SGD(0.1), SGD(0.1), {"momentum": 0.9}),
        (RMSprop(momentum=0.9), RMSprop(momentum=0.9), {"centered": True}),
        (RMSprop(centered=True), RMSprop(centered=True), {"momentum": 0.9}),
    ):
        parameters, steps = problem()
        expected, _ = problem()
        gradients = steps[0]
        before.bind(parameters, gradients)
        after.bind(expected, gradients)
        for name, value in setting.items():
            setattr(before, name, value)
        before.step()
        after.step()
        assert all(np.array_equal(parameters[name], expected[name]) for name in expected), before


def test_arrays_of_two_sizes_are_refused():
    p, g = np.zeros(5, np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="one size; got 5 and 4"):
        functional.sgd([(p, g, None)], lr=0.1, momentum=0, nesterov=False, weight_decay=0)


@each_optimizer
def test_state_goes_on_where_it_was(optimizer):
    expected = trained(fresh(optimizer))
    first, second = fresh(optimizer), fresh(optimizer)
    parameters = trained(first, stop=5)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    second.bind(parameters, gradients)
    second.load_state_dict(first.state_dict())
    for step in problem()[1][5:]:
        for name, array in gradients.items():
            array[...] = step[name]
        second.step()
    assert second.steps == STEPS
    assert all(np.array_equal(parameters[name], expected[name]) for name in expected)


def test_state_is_named_and_shaped_as_the_parameters():
    optimizer = Adam()
    parameters = trained(optimizer, stop=1)
    state = optimizer.state_dict()
    assert state.pop("steps").tolist() == [1]
    assert state.keys() == {f"{slot}:{name}" for slot in ("exp_avg", "exp_avg_sq") for name in parameters}
    gradient = problem()[1][0]["turned"]
    assert largest_error(state["exp_avg:turned"], 0.1 * gradient) < tolerance(np.float32)


def test_binding_again_keeps_the_state_and_another_model_starts_anew():
    optimizer = Adam()
    parameters = trained(optimizer, stop=2)
    optimizer.bind(parameters, {name: np.zeros_like(array) for name, array in parameters.items()})
    assert optimizer.steps == 2
    assert optimizer.state_dict()["exp_avg:large"].any()
    optimizer.bind({"w": np.zeros(3, np.float32)}, {"w": np.zeros(3, np.float32)})
    assert optimizer.steps == 0
    assert not optimizer.state_dict()["exp_avg:w"].any()


@each_optimizer
def test_a_step_takes_no_memory(optimizer):
    optimizer = fresh(optimizer)
    large = {"w": np.ones((1000, 300), np.float32)}
    optimizer.bind(large, {"w": np.ones((1000, 300), np.float32)})
    optimizer.step()
    tracemalloc.start()
    optimizer.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_384


def test_centered_variance_below_zero_is_zero():
    # A constant gradient: mean(g^2) - mean(g)^2 is 0 but for rounding, and NaN would be the root of a negative number.
    parameters, gradients = {"w": np.zeros(4096, np.float32)}, {"w": np.linspace(0.1, 3, 4096, dtype=np.float32)}
    optimizer = RMSprop(1e-3, alpha=0.9, centered=True)
    optimizer.bind(parameters, gradients)
    for _ in range(300):
        optimizer.step()
    assert not np.isnan(parameters["w"]).any()


def test_state_that_does_not_fit_changes_nothing():
    optimizer = SGD(0.1, momentum=0.9)
    trained(optimizer, stop=3)
    before = optimizer.state_dict()
    other = {**before, "momentum_buffer:bias": np.ones(5, np.float32), "steps": np.array([9])}
    with pytest.raises(FileFormatError, match=r"momentum_buffer:bias is float32 \(4,\); the state has float32 \(5,\)"):
        optimizer.load_state_dict(other)
    with pytest.raises(FileFormatError, match="does not fit this SGD; missing or not of it: exp_avg:bias"):
        optimizer.load_state_dict({**before, "exp_avg:bias": np.ones(4, np.float32)})
    assert all(np.array_equal(value, before[key]) for key, value in optimizer.state_dict().items())


def test_parameters_of_two_dtypes():
    arrays = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float64)}
    with pytest.raises(ConfigError, match="one dtype; got float32, float64"):
        Adam().bind(arrays, arrays)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0), "lr must be greater than 0 and finite; got 0"),
        (lambda: SGD(-0.1), "lr must be greater than 0"),
        (lambda: SGD("0.1"), "lr must be greater than 0"),
        (lambda: SGD(True), "lr must be greater than 0"),
        (lambda: SGD(float("nan")), "lr must be greater than 0"),
        (lambda: SGD(float("inf")), "lr must be greater than 0"),
        (lambda: SGD(0.1, momentum=1), "momentum must be at least 0 and less than 1; got 1"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: SGD(0.1, weight_decay=-1), "weight_decay must be at least 0 and finite; got -1"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas\[1\] must be at least 0 and less than 1"),
        (lambda: Adam(betas=(-0.1, 0.9)), r"betas\[0\] must be at least 0"),
        (lambda: Adam(betas=0.9), "betas is a pair"),
        (lambda: Adam(eps=-1e-8), "eps must be at least 0"),
        (lambda: AdamW(weight_decay=float("nan")), "weight_decay must be at least 0"),
        (lambda: RMSprop(alpha=1.5), "alpha must be at least 0 and less than 1"),
        (lambda: RMSprop(momentum=-0.5), "momentum must be at least 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_defaults_are_pytorchs():
    assert repr(Adam()) == "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"
    assert AdamW().weight_decay == 0.01
    assert (RMSprop().lr, RMSprop().alpha) == (0.01, 0.99)
    assert SGD(0.1).config() == {"lr": 0.1, "momentum": 0, "nesterov": False, "weight_decay": 0}
