"""First values of parameters: their distribution, their fans, and where the name stands."""

import math
import tracemalloc

import numpy as np
import pytest

import convlayers as cl
from convlayers.errors import ConfigError, FileFormatError
from convlayers.layers.initializers import initial_parameters
from convlayers.randomness import NoDraws, generator

# A layer, a sample's shape, the products in an output's sum, and the sums that an input takes part in.
FANS = [
    (cl.Dense, {"out_features": 300}, (200,), 200, 300),
    (cl.Conv1d, {"out_channels": 96, "kernel_size": 9}, (64, 9), 64 * 9, 96 * 9),
    (cl.Conv2d, {"out_channels": 96, "kernel_size": 5, "groups": 4}, (64, 5, 5), 16 * 25, 24 * 25),
    (cl.Conv3d, {"out_channels": 48, "kernel_size": (3, 5, 3), "groups": 2}, (32, 3, 5, 3), 16 * 45, 24 * 45),
    (cl.ConvTranspose2d, {"out_channels": 96, "kernel_size": 5, "groups": 4}, (64, 5, 5), 16 * 25, 24 * 25),
]
EVERY_LAYER = pytest.mark.parametrize(("cls", "config", "shape", "fan_in", "fan_out"), FANS, ids=[c.__name__ for c, *_ in FANS])
VARIANCES = {
    "kaiming": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
}


def parameters(cls, config, shape, seed=0):
    layer = cls(**config)
    layer.build(shape, generator(seed, "test"))
    return layer.params


@EVERY_LAYER
@pytest.mark.parametrize("name", VARIANCES)
def test_uniform(name, cls, config, shape, fan_in, fan_out):
    params = parameters(cls, {**config, "init": f"{name}_uniform"}, shape)
    weight, variance = params["weight"], VARIANCES[name](fan_in, fan_out)
    bound = math.sqrt(3 * variance)
    # Of n uniform values, none is over the bound, and all stay under (1 - 20 / n) of it once in e^20 draws.
    assert (1 - 20 / weight.size) * bound < np.abs(weight).max() <= np.float32(bound)
    assert_moments(weight, variance, kurtosis=9 / 5)
    assert not params["bias"].any()


@EVERY_LAYER
@pytest.mark.parametrize("name", VARIANCES)
def test_normal(name, cls, config, shape, fan_in, fan_out):
    params = parameters(cls, {**config, "init": f"{name}_normal"}, shape)
    weight, variance = params["weight"], VARIANCES[name](fan_in, fan_out)
    assert_moments(weight, variance, kurtosis=3)
    # A normal distribution has 4.55 % beyond two standard deviations; a uniform one has none there.
    share = (np.abs(weight) > 2 * math.sqrt(variance)).mean()
    assert abs(share - 0.0455) < 5 * math.sqrt(0.0455 / weight.size)
    assert not params["bias"].any()


def assert_moments(weight, variance, kurtosis):
    """Mean and variance within five standard deviations of the estimates."""
    assert abs(weight.mean()) < 5 * math.sqrt(variance / weight.size)
    assert abs((weight**2).mean() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / weight.size)


@EVERY_LAYER
def test_default_is_the_uniform_distribution_of_pytorch(cls, config, shape, fan_in, fan_out):
    params, rng = parameters(cls, config, shape), generator(0, "test")
    bound = 1 / math.sqrt(fan_out if cls is cl.ConvTranspose2d else fan_in)
    weight = rng.uniform(-bound, bound, params["weight"].shape).astype(np.float32)
    np.testing.assert_array_equal(params["weight"], weight)
    np.testing.assert_array_equal(params["bias"], rng.uniform(-bound, bound, len(params["bias"])).astype(np.float32))


@pytest.mark.parametrize("cls", [cl.Dense, cl.Conv1d, cl.Conv2d, cl.Conv3d, cl.ConvTranspose2d])
def test_default_has_the_bounds_of_pytorch(cls):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge where it is installed")
    torch.manual_seed(0)
    ours, theirs = {}, {}
    if cls is cl.Dense:
        ours, theirs = parameters(cls, {"out_features": 256}, (500,)), torch.nn.Linear(500, 256)
    else:
        rank, peer = int(cls.__name__[-2]), getattr(torch.nn, cls.__name__)
        ours = parameters(cls, {"out_channels": 128, "kernel_size": 3, "groups": 4}, (64, *(3,) * rank))
        theirs = peer(64, 128, 3, groups=4)
    for name, value in ours.items():
        expected = getattr(theirs, name).detach().numpy()
        assert value.shape == expected.shape
        # Each is the maximum of n uniform values; the bias has 128 at least.
        assert np.abs(value).max() == pytest.approx(np.abs(expected).max(), rel=20 / value.size)


@pytest.mark.parametrize(
    ("cls", "config", "shape", "groups"),
    [
        (cl.Dense, {"out_features": 20}, (30,), 1),
        (cl.Dense, {"out_features": 30}, (20,), 1),
        (cl.Dense, {"out_features": 7}, (7,), 1),
        (cl.Conv1d, {"out_channels": 8, "kernel_size": 3}, (4, 5), 1),
        (cl.Conv2d, {"out_channels": 60, "kernel_size": 3, "groups": 5}, (5, 4, 4), 5),
        (cl.Conv2d, {"out_channels": 6, "kernel_size": 2, "groups": 3}, (6, 4, 4), 3),
        (cl.Conv3d, {"out_channels": 5, "kernel_size": 2}, (2, 3, 3, 3), 1),
        (cl.ConvTranspose2d, {"out_channels": 4, "kernel_size": 2, "groups": 2}, (6, 3, 3), 2),
    ],
)
def test_orthogonal(cls, config, shape, groups):
    params = parameters(cls, {**config, "init": "orthogonal"}, shape)
    weight = params["weight"].astype(np.float64)
    for part in weight.reshape(groups, len(weight) // groups, -1):
        small = part @ part.T if part.shape[0] <= part.shape[1] else part.T @ part
        # Rounding each value to float32 is all that is lost.
        np.testing.assert_allclose(small, np.eye(len(small)), rtol=0, atol=4 * np.finfo(np.float32).eps)
    assert not params["bias"].any()


def test_orthogonal_is_uniform_over_rotations_and_reflections():
    """Every entry of such a matrix of n x n has mean 0 and variance 1/n; the bare Q of a QR factorisation has not."""
    draws = np.stack(
        [parameters(cl.Dense, {"out_features": 3, "init": "orthogonal"}, (3,), seed)["weight"] for seed in range(2000)]
    )
    assert np.abs(draws.mean(axis=0)).max() < 5 * math.sqrt(1 / 3 / 2000)
    assert np.abs((draws**2).mean(axis=0) - 1 / 3).max() < 5 * math.sqrt(1 / 5 / 2000)


def test_zeros():
    params = parameters(cl.Conv2d, {"out_channels": 4, "kernel_size": 3, "init": "zeros"}, (3, 5, 5))
    assert [value.any() for value in params.values()] == [False, False]


@EVERY_LAYER
@pytest.mark.parametrize("init", ["he", "Default", "", None, 1, ["zeros"]])
def test_an_unknown_name_is_refused_and_the_known_ones_told(cls, config, shape, fan_in, fan_out, init):
    names = "default, kaiming_uniform, kaiming_normal, glorot_uniform, glorot_normal, xavier_uniform, xavier_normal, orthogonal"
    with pytest.raises(ConfigError, match=f"^init must be one of {names}, zeros; got "):
        cls(**config, init=init)


def test_the_name_is_part_of_the_configuration(tmp_path):
    layers = [
        cl.Conv2d(4, 3, init="orthogonal"),
        cl.ConvTranspose2d(2, 2, init="zeros"),
        cl.Flatten(),
        cl.Dense(2, init="xavier_normal"),
    ]
    model = cl.Sequential(layers, input_shape=(3, 5, 5), seed=1)
    again = cl.Model.from_config(model.to_config())
    assert [layer.config().get("init") for _, layer in again.layers()] == ["orthogonal", "zeros", None, "xavier_normal"]
    model.save(tmp_path / "model.safetensors")
    for name, value in cl.load(tmp_path / "model.safetensors").parameters().items():
        np.testing.assert_array_equal(value, model.parameters()[name])


def test_configurations_without_the_name_mean_the_default():
    config = cl.Conv2d(4, 3).config()
    assert config.pop("init") == "default"
    old, new = (parameters(cl.Conv2d, c, (2, 5, 5))["weight"] for c in (config, {**config, "init": "default"}))
    np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("init", ["default", "kaiming_normal", "glorot_uniform", "orthogonal", "zeros"])
def test_a_file_cannot_ask_for_more_weights_than_it_holds(init):
    with pytest.raises(FileFormatError, match="more than the file holds"):
        cl.Dense(10**9, init=init).build((10**6,), NoDraws(limit=1000))


@pytest.mark.parametrize("init", ["default", "kaiming_uniform", "kaiming_normal"])
def test_many_values_are_those_of_one_draw_and_take_no_more_memory(init):
    shape, fans, bound = (1500, 1000), {"fan_in": 1000, "fan_out": 1500}, math.sqrt((1 if init == "default" else 6) / 1000)
    tracemalloc.start()
    weight = initial_parameters(init, generator(0, "test"), shape, None, **fans)["weight"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rng = generator(0, "test")
    drawn = rng.normal(0.0, math.sqrt(2 / 1000), shape) if "normal" in init else rng.uniform(-bound, bound, shape)
    np.testing.assert_array_equal(weight, drawn.astype(np.float32))
    assert weight.nbytes <= peak < 1.5 * weight.nbytes


@pytest.mark.parametrize("init", ["default", "kaiming_normal", "orthogonal"])
def test_shapes_alone_take_zeros(init):
    params = initial_parameters(init, NoDraws(), (3, 4), 3, fan_in=4, fan_out=3)
    assert {name: (p.shape, p.dtype, p.any()) for name, p in params.items()} == {
        "weight": ((3, 4), np.float32, False),
        "bias": ((3,), np.float32, False),
    }
