"""The registry: ids, owners, entry points that fail."""

import sys

import pytest

import convlayers as cl
from convlayers import registry
from convlayers.errors import LayerNotFoundError, PluginError, RegistryError


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes distributions that are as good as installed: metadata and a module in a folder of the search path."""

    def make(distribution, entries, code, module):
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{layer_id} = {value}" for layer_id, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[convlayers.layers]", *lines]) + "\n")
        (tmp_path / f"{module}.py").write_text(code)
        registry.refresh()

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield make
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]
    registry.refresh()


GOOD = "import convlayers as cl\nclass Twice(cl.Layer):\n    def forward(self, x, *, training):\n        return 2 * x, None\n"


def test_builtin_layers_come_from_this_distribution():
    layers = cl.available_layers()
    assert list(layers) == sorted(layers)
    for layer_id in ("conv2d", "max_pool2d", "avg_pool2d", "dense", "flatten", "relu", "sigmoid", "tanh", "softmax", "dropout"):
        assert layers[layer_id] == f"convlayers {cl.__version__}"
    layer = cl.create_layer("conv2d", out_channels=4, kernel_size=3)
    assert type(layer) is cl.Conv2d
    assert registry.source_of(cl.MaxPool2d) == ("max_pool2d", f"convlayers {cl.__version__}")


def test_unknown_ids_come_with_a_hint():
    with pytest.raises(LayerNotFoundError, match=r'^no layer has the id "conv2"; did you mean conv2d\?$'):
        cl.create_layer("conv2")
    with pytest.raises(LayerNotFoundError, match='"zzz"; see convlayers layers'):
        cl.create_layer("zzz")
    with pytest.raises(KeyError):
        cl.create_layer("zzz")


def test_wrong_configuration_is_the_constructors_error():
    with pytest.raises(TypeError, match="unexpected keyword"):
        cl.create_layer("relu", slope=1)


@pytest.mark.parametrize("layer_id", ["", "Swish", "my-layer", "2d", "a b", "_x", "swish\n", None, 5, cl.ReLU])
def test_ids_are_snake_case(layer_id):
    with pytest.raises(RegistryError, match="a layer id is snake_case"):
        cl.register_layer(layer_id)


def test_a_layer_of_the_running_program():
    @cl.register_layer("tested_mine")
    class Mine(cl.Layer):
        pass

    assert cl.available_layers()["tested_mine"] == "the running program"
    assert type(cl.create_layer("tested_mine")) is Mine
    assert registry.source_of(Mine) == ("tested_mine", "the running program")
    assert cl.register_layer("tested_mine")(Mine) is Mine


@pytest.mark.parametrize("thing", [object, 5, lambda: None, cl.ReLU()])
def test_only_layer_classes_register(thing):
    with pytest.raises(RegistryError, match=r'layer id "tested_mine": .* is not a subclass of convlayers\.Layer'):
        cl.register_layer("tested_mine")(thing)
    assert "tested_mine" not in cl.available_layers()


def test_an_id_of_ours_cannot_be_taken():
    with pytest.raises(RegistryError, match=r'"relu" has two owners: convlayers \S+ and the running program \(.*Mine\)'):
        cl.register_layer("relu")(type("Mine", (cl.Layer,), {}))
    assert type(cl.create_layer("relu")) is cl.ReLU


def test_two_classes_of_the_program_cannot_share_an_id():
    cl.register_layer("tested_mine")(type("One", (cl.Layer,), {}))
    with pytest.raises(RegistryError, match=r'"tested_mine" has two owners in the running program: .*\.One and .*\.Two'):
        cl.register_layer("tested_mine")(type("Two", (cl.Layer,), {}))


def test_a_class_that_nobody_registered_is_named():
    class Mine(cl.Layer):
        pass

    with pytest.raises(RegistryError, match=r"Mine is not registered; decorate it"):
        registry.source_of(Mine)


def test_plugins_are_listed_without_being_imported(installed):
    installed("plugin-good", {"tested_twice": "plugin_good:Twice"}, GOOD, "plugin_good")
    assert cl.available_layers()["tested_twice"] == "plugin-good 1.0"
    assert "plugin_good" not in sys.modules
    assert type(cl.create_layer("tested_twice")).__name__ == "Twice"
    assert "plugin_good" in sys.modules


def test_a_plugin_under_another_module_than_its_class(installed):
    installed("plugin-good", {"tested_twice": "plugin_good:Other"}, GOOD + "Other = Twice\n", "plugin_good")
    cls = registry.layer_class("tested_twice")
    assert cls.__name__ == "Twice"
    assert registry.source_of(cls) == ("tested_twice", "plugin-good 1.0")


@pytest.mark.parametrize(
    ("code", "value", "reason"),
    [
        (
            "import nobody_has_this",
            "plugin_bad:Twice",
            "ModuleNotFoundError: No module named 'nobody_has_this'",
        ),
        ("1 / 0", "plugin_bad:Twice", "ZeroDivisionError: division by zero"),
        ("def", "plugin_bad:Twice", "SyntaxError"),
        (GOOD, "plugin_bad:Thrice", "AttributeError: module 'plugin_bad' has no attribute 'Thrice'"),
        (GOOD, "plugin_missing:Twice", "ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_fails_hurts_nobody_else(installed, code, value, reason):
    installed("plugin-bad", {"tested_bad": value}, code, "plugin_bad")
    installed("plugin-good", {"tested_twice": "plugin_good:Twice"}, GOOD, "plugin_good")
    message = rf'layer "tested_bad" of plugin-bad 1\.0 could not be imported from {value} \({reason}'
    with pytest.raises(PluginError, match=message):
        cl.create_layer("tested_bad")
    assert cl.available_layers()["tested_bad"] == "plugin-bad 1.0"
    assert type(cl.create_layer("tested_twice")).__name__ == "Twice"
    assert type(cl.create_layer("relu")) is cl.ReLU


def test_a_plugin_that_is_no_layer_is_named(installed):
    installed("plugin-odd", {"tested_odd": "plugin_odd:thing"}, "thing = 5", "plugin_odd")
    with pytest.raises(RegistryError, match=r'"tested_odd" of plugin-odd 1\.0: plugin_odd:thing is not a subclass'):
        cl.create_layer("tested_odd")


def test_two_plugins_with_one_id_are_both_named(installed):
    for name in ("first", "second"):
        installed(f"plugin-{name}", {"tested_twice": f"plugin_{name}:Twice"}, GOOD, f"plugin_{name}")
    both = r"plugin-(first|second) 1\.0 and plugin-(?!\1)(first|second) 1\.0"
    with pytest.raises(RegistryError, match=rf'"tested_twice" has two owners: {both}; uninstall one of them'):
        cl.create_layer("tested_twice")
    assert set(cl.available_layers()["tested_twice"].split(" and ")) == {"plugin-first 1.0", "plugin-second 1.0"}
    assert type(cl.create_layer("relu")) is cl.ReLU


def test_a_plugin_cannot_take_an_id_of_ours(installed):
    installed("plugin-greedy", {"relu": "plugin_greedy:Twice"}, GOOD, "plugin_greedy")
    with pytest.raises(RegistryError, match=r'"relu" has two owners: .*plugin-greedy 1\.0'):
        cl.create_layer("relu")


def test_a_program_cannot_take_a_plugins_id(installed):
    installed("plugin-good", {"tested_twice": "plugin_good:Twice"}, GOOD, "plugin_good")
    with pytest.raises(RegistryError, match=r"two owners: plugin-good 1\.0 and the running program"):
        cl.register_layer("tested_twice")(type("Mine", (cl.Layer,), {}))


def test_the_plugin_itself_may_use_the_decorator_too(installed):
    code = GOOD.replace("class", "@cl.register_layer('tested_twice')\nclass")
    installed("plugin-good", {"tested_twice": "plugin_good:Twice"}, code, "plugin_good")
    cls = registry.layer_class("tested_twice")
    assert registry.source_of(cls) == ("tested_twice", "plugin-good 1.0")
