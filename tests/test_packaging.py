"""What the distribution carries, and the chores that build it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, metadata, version

import pytest
from conftest import ROOT

import convlayers
from convlayers import cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """tools/dev.py as a module, over a small tree of its own."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "tools" / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "setup.py", "ext/a.pyx", "convlayers/kernels/_baseline_float32.so", ".venv/pyvenv.cfg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    return module


def test_version_is_the_changelogs():
    top = re.search(r"^## (\S+) - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top[1] == PROJECT["version"] == version("convlayers") == convlayers.__version__


def test_console_script():
    (script,) = entry_points(group="console_scripts", name="convlayers")
    assert script.value == PROJECT["scripts"]["convlayers"] == "convlayers.cli:main"
    assert script.load() is cli.main


def test_types_and_licence_are_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["convlayers"]
    assert (ROOT / "convlayers" / "py.typed").read_text() == ""
    assert metadata("convlayers")["License-Expression"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_sources_and_examples_are_in_the_source_distribution():
    patterns = (ROOT / "MANIFEST.in").read_text()
    for suffix in {path.suffix for path in (ROOT / "ext").iterdir() if path.is_file()}:
        assert f"ext/*{suffix}" in patterns
    assert "recursive-include examples *.py" in patterns


def test_run_time_dependencies():
    names = {re.match(r"[\w-]+", d)[0] for d in PROJECT["dependencies"]}
    assert names == {"numpy", "onnx", "onnxruntime", "safetensors", "tqdm"}


# tools/dev.py


def test_stamp_tells_what_changed(dev):
    assert dev.read_stamp()["sources"] is None
    dev.write_stamp({"digits"}, False)
    assert dev.read_stamp()["sources"]
    assert dev.read_stamp()["extras"] == ["digits"]
    for name in ("pyproject.toml", "setup.py", "ext/a.pyx"):
        dev.write_stamp({"digits"}, False)
        (dev.ROOT / name).write_text("changed")
        assert dev.read_stamp()["sources"] is None, name
        assert dev.read_stamp()["extras"] == ["digits"]
    dev.write_stamp({"digits"}, False)
    (dev.ROOT / "convlayers/kernels/_baseline_float32.so").unlink()
    assert dev.read_stamp()["sources"] is None
    dev.STAMP.write_text("{not json")
    assert dev.read_stamp() == {"sources": None, "extras": [], "test_kernels": False}


def test_setting_up_again_does_nothing_until_more_is_asked_for(dev, monkeypatch):
    installed = []
    monkeypatch.setattr(dev, "make_venv", lambda folder: None)
    monkeypatch.setattr(dev, "check_compiler", lambda: None)
    monkeypatch.setattr(
        dev, "quiet", lambda what, *command, env: installed.append((command[-1], env.get("CONVLAYERS_TEST_KERNELS")))
    )
    dev.prepare("digits")
    dev.prepare("digits")
    assert installed == [(".[digits]", None)]
    dev.prepare("dev", test_kernels=True)
    dev.prepare("digits")
    assert installed[1:] == [(".[dev,digits]", "1")]
    (dev.ROOT / "ext" / "a.pyx").write_text("changed")
    dev.prepare("digits")
    assert installed[2:] == [(".[dev,digits]", "1")]


def test_nothing_is_compiled_twice(dev, monkeypatch):
    """`dev` holds `digits`, and `build` asks for what is there already."""
    ran = []
    monkeypatch.setattr(dev, "make_venv", lambda folder: None)
    monkeypatch.setattr(dev, "check_compiler", lambda: None)
    monkeypatch.setattr(dev, "quiet", lambda what, *command, env: ran.append(what))
    assert dev.build([]) == 0
    dev.prepare("digits")
    dev.prepare("images", "digits")
    assert ran == ["pip install"]
    assert dev.build([]) == 0
    assert ran == ["pip install", "compiling the kernels"]
    dev.prepare("bench")
    assert ran[2:] == ["pip install"]


def test_a_failed_installation_leaves_no_stamp(dev, monkeypatch):
    monkeypatch.setattr(dev, "make_venv", lambda folder: None)
    monkeypatch.setattr(dev, "executable", lambda *_: "false")
    monkeypatch.setattr(dev, "check_compiler", lambda: None)
    dev.write_stamp({"digits"}, False)
    with pytest.raises(dev.ChoreError, match="pip install failed with exit code 1"):
        dev.prepare("dev")
    assert not dev.STAMP.exists()


def test_no_compiler_and_no_network_in_one_line(dev, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(dev.ChoreError, match="no C compiler: none of no-such-compiler is installed"):
        dev.check_compiler()
    with pytest.raises(dev.ChoreError, match="the package index cannot be reached"):
        dev.quiet("pip install", sys.executable, "-c", "print('NewConnectionError'); raise SystemExit(1)")


def wheel(path, *names, size=10):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, os.urandom(size))
    return path


GOOD = (
    "convlayers/__init__.py",
    "convlayers/py.typed",
    "convlayers/layers/conv.py",
    "convlayers/kernels/_baseline_float32.cpython-311-x86_64-linux-gnu.so",
    "convlayers-0.1.0.dist-info/licenses/LICENSE",
    "convlayers-0.1.0.dist-info/entry_points.txt",
)


def test_what_a_wheel_may_hold(dev, tmp_path):
    path = tmp_path / "a.whl"
    dev.check_wheel(wheel(path, *GOOD))
    for odd in (
        "ext/conv.pxi",
        "convlayers/kernels/_wide_float32.so",
        "convlayers/kernels/kernels.c",
        "tests/a.py",
        "examples/a.py",
    ):
        with pytest.raises(dev.ChoreError, match=f"should not hold {re.escape(odd)}"):
            dev.check_wheel(wheel(path, *GOOD, odd))
    for missing in GOOD[1:2] + GOOD[3:]:
        with pytest.raises(dev.ChoreError, match="lacks"):
            dev.check_wheel(wheel(path, *(name for name in GOOD if name != missing)))
    with pytest.raises(dev.ChoreError, match="the limit is 2,000,000"):
        dev.check_wheel(wheel(path, *GOOD, size=400_000))


def test_dev_py_explains_itself():
    def run(*arguments):
        return subprocess.run([sys.executable, ROOT / "tools" / "dev.py", *arguments], capture_output=True, text=True)

    assert run("--help").returncode == 0
    assert run("polish").returncode == 2


def test_ci_runs_the_chores():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    chores = re.findall(r"^python3 tools/dev.py (\w+)$", script.read_text(), re.MULTILINE)
    assert chores == ["test", "lint", "wheel"]
