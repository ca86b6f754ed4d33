"""Filters that stay transformed between calls of inference: the bits of those that are transformed anew, whatever happens."""

import copy
import pickle
import threading

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional, kernels
from convlayers.functional.algorithms import winograd_tiles
from convlayers.kernels import memory


def built(channels=5, filters=17, **how):
    model = cl.Sequential([cl.Conv2d(filters, 3, padding=1, algorithm="winograd", **how)], input_shape=(channels, 9, 10))
    return model, model.steps[0].layer


def batch(n=2, channels=5):
    return np.random.default_rng(n).standard_normal((n, channels, 9, 10), np.float32)


def anew(layer, x):
    how = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups, "algorithm": "winograd"}
    return functional.conv2d(x, layer.params["weight"], layer.params.get("bias"), **how)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    "how", [{}, {"stride": 2}, {"bias": False}, {"filters": 66, "channels": 40}, {"groups": 5, "filters": 10}]
)
def test_the_bits_of_filters_that_are_transformed_anew(how, isa):
    model, layer = built(**how)
    x = batch(channels=how.get("channels", 5))
    with kernels.using(isa=isa), memory.poisoned():
        for threads in (1, 2, 5):
            layer.kept.clear()
            with kernels.using(threads=threads):
                for _ in range(3):
                    np.testing.assert_array_equal(model(x), anew(layer, x), err_msg=f"{threads} threads")
        assert len(layer.kept) == 1


@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_weight_that_changes_is_seen(place):
    model, layer = built(channels=64, filters=64)  # more than is compared at a time
    x = batch(channels=64)
    before, [kept] = model(x), layer.kept.values()
    model(x)
    [same] = layer.kept.values()
    assert same is kept
    layer.params["weight"].reshape(-1)[place] += 1
    after = model(x)
    assert (after != before).any()
    np.testing.assert_array_equal(after, anew(layer, x))
    [other] = layer.kept.values()
    assert other is not kept, "others may still read it"


def test_another_array_with_the_same_values_finds_them():
    model, layer = built()
    model(batch())
    [kept] = layer.kept.values()
    layer.params["weight"] = layer.params["weight"].copy()
    layer.params["weight"][0, 0, 0, 0] = np.nan
    model(batch())
    [changed] = layer.kept.values()
    assert changed is not kept
    assert np.isnan(model(batch())).any()
    [same] = layer.kept.values()
    assert same is changed, "NaN is itself, bit for bit"


def test_batches_of_any_size_share_them():
    model, layer = built()
    for n in (1, 2, 3):
        model(batch(n))
    assert len(layer.kept) == 1
    for n in (4, 33, 64, 1):
        np.testing.assert_array_equal(model(batch(n)), anew(layer, batch(n)))
    assert len(layer.kept) <= 2, "tiles of two sizes"


def test_a_type_and_an_instruction_set_have_their_own():
    model, layer = built()
    for isa in kernels.available():
        with kernels.using(isa=isa):
            for x in (batch(), batch().astype(np.float64)):
                np.testing.assert_array_equal(model(x), anew(layer, x))
    assert len(layer.kept) == len(kernels.available())
    layer.params = {name: array.astype(np.float64) for name, array in layer.params.items()}
    model(batch().astype(np.float64))


def test_training_keeps_none():
    model, layer = built()
    y, tape = model.forward(batch())
    model.backward(y, tape)
    assert not layer.kept


def test_large_filters_are_not_kept(monkeypatch):
    monkeypatch.setattr(winograd_tiles, "_MOST_KEPT", 5 * 17 * 9 * 4 - 1)
    model, layer = built()
    np.testing.assert_array_equal(model(batch()), anew(layer, batch()))
    assert not layer.kept


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_deep_copy_begins_anew(duplicate):
    model, layer = built()
    model(batch())
    assert not duplicate(layer).kept
    assert layer.kept


@pytest.mark.parametrize("filters", [5, 16, 17, 18, 130])
def test_filters_of_another_number(filters):
    """Fewer of the same, as in pruning, and more: at a batch size that is bound already and at another."""
    model = cl.Sequential([cl.Conv2d(17, 3, padding=1, algorithm="winograd"), cl.ReLU()], input_shape=(5, 9, 10))
    layer = model.steps[0].layer
    model(batch())
    rng = np.random.default_rng(0)
    for name, array in layer.params.items():
        more = rng.standard_normal((max(0, filters - 17), *array.shape[1:]), np.float32)
        layer.params[name] = np.concatenate([array[:filters], more])
    for n in (2, 5, 2):
        np.testing.assert_array_equal(model(batch(n)), np.maximum(anew(layer, batch(n)), 0))


def test_a_shallow_copy_with_other_filters():
    model, layer = built()
    x = batch()
    model(x)
    twin = copy.copy(layer)
    twin.params = {name: array[:9].copy() for name, array in layer.params.items()}
    bound = twin.bind(x.shape, x.dtype, training=False)
    for _ in range(2):
        np.testing.assert_array_equal(bound.forward(x)[0], anew(twin, x))
        np.testing.assert_array_equal(model(x), anew(layer, x))


def test_threads_of_python_that_run_one_model():
    """All of them find none at first, and later those of a weight that has changed."""
    model, layer = built(channels=40, filters=66)
    x = batch(channels=40)
    for _ in range(5):
        layer.params["weight"] *= -2
        expected, wrong, ready = anew(layer, x), [], threading.Barrier(4)

        def infer(expected=expected, wrong=wrong, ready=ready):
            ready.wait()
            wrong.extend(n for n in range(10) if not np.array_equal(model(x), expected))

        threads = [threading.Thread(target=infer) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
