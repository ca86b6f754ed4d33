"""The rules of the tree: imports go down, every layer is registered, the front door is light, nothing generated is kept."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

import convlayers
from convlayers import layers
from convlayers.layer import Layer
from convlayers.model.graph import snake_case

PACKAGE = ROOT / "convlayers"

# Lowest first. A room imports from lines above its own: so the wings do not know each other, the registry no layer, and
# no layer the registry.
FLOORS = [
    {"errors"},
    {"shapes", "files", "tolerance", "randomness"},
    {"kernels"},
    {"functional"},
    {"layer"},
    {"layers", "registry"},
    {"model"},
    {"models"},
    {"trainer", "onnx", "datasets", "testing"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(source, path):
    """The rooms of this package that a file imports, wherever in the file the import stands."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from (target[1] for target in targets if target[0] == "convlayers" and len(target) > 1)


def violations(source, path):
    room = room_of(path)
    for other in imported_rooms(source, path):
        # The version is the only thing that the front door may hand back inside.
        if other not in (room, "__version__") and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]:
            yield f"{path.relative_to(ROOT)} imports {other}"


def modules():
    return [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]


def test_every_room_has_its_floor():
    assert {room_of(path) for path in modules()} <= FLOOR_OF.keys()


def test_imports_go_down():
    assert [v for path in modules() for v in violations(path.read_text(), path)] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("shapes.py", "from .files import write_whole"),
        ("shapes.py", "def f():\n    from .layers.dense import Dense"),
        ("registry.py", "from .layers import dense"),
        ("layers/dense.py", "from ..registry import register_layer"),
        ("layers/dense.py", "from .. import registry"),
        ("layers/dense.py", "from .. import Sequential"),
        ("layers/dense.py", "import convlayers.model"),
        ("trainer/loop.py", "from ..onnx import export_onnx"),
        ("datasets/idx.py", "from convlayers.testing import check"),
        ("onnx/export.py", "import convlayers.cli as c"),
        ("model/model.py", "from ..models import lenet5"),
    ],
)
def test_the_rule_sees_what_breaks_it(file, line):
    assert len(list(violations(line, PACKAGE / file))) == 1


def test_the_rule_lets_pass_what_is_right():
    source = "import numpy\nfrom ..errors import ShapeError\nfrom . import max_pooling\nfrom .. import functional, __version__"
    assert list(violations(source, PACKAGE / "layers" / "dense.py")) == []


def test_no_pickle_and_no_code_from_data():
    for path in modules():
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not names & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "eval", "exec"}, path


# Layers


def layer_classes():
    for info in pkgutil.iter_modules(layers.__path__, layers.__name__ + "."):
        for _, cls in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(cls, Layer) and cls.__module__ == info.name and not cls.__name__.startswith("_"):
                yield cls


def test_every_layer_class_is_an_entry_point():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["convlayers.layers"]
    expected = {snake_case(cls.__name__): f"{cls.__module__}:{cls.__qualname__}" for cls in layer_classes()}
    assert points == expected
    assert list(points) == sorted(points)


def test_every_layer_is_public():
    assert {cls.__name__ for cls in layer_classes()} <= set(convlayers.__all__)


# The front door


def test_import_is_light():
    code = "import sys, convlayers; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"onnx", "onnxruntime", "sklearn", "PIL", "tqdm", "torch", "safetensors"}
    assert not {name for name in loaded if re.match(r"convlayers\.(trainer|onnx|datasets|testing|cli)", name)}


def test_public_names_resolve_and_say_what_they_are():
    assert len(set(convlayers.__all__)) == len(convlayers.__all__)
    for name in convlayers.__all__:
        value = getattr(convlayers, name)
        assert (value.__doc__ or "").strip(), name
        assert name in dir(convlayers)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Conv9d'"):
        convlayers.Conv9d  # noqa: B018


# The tree


@pytest.fixture(scope="module")
def tracked():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is not a git checkout")
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_generated_is_tracked(tracked):
    generated = {".c", ".cpp", ".so", ".pyd", ".o", ".pyc", ".html", ".onnx", ".whl"}
    assert [str(p) for p in tracked if p.suffix in generated] == []


def test_no_file_names_a_machine(tracked):
    folders = "|".join(["home", "root", "Users", "work", "farm"])
    hosts = "|".join(["py" + r"pi\.", "python" + "hosted"])
    named = re.compile(rf"(?<![\w.])/({folders})/|{hosts}")
    lines = ((p, line) for p in tracked for line in p.read_text(errors="replace").splitlines())
    found = [f"{p.relative_to(ROOT)}: {line}" for p, line in lines if named.search(line)]
    assert found == []
