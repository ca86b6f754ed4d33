"""The compiled kernels: one set of sources, once for each instruction set and data type. All else is in pyproject.toml."""

import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32"
X86 = platform.machine().lower() in ("x86_64", "amd64")
# For tools/dev.py asan: every access to memory is checked. At -O1 GCC 12 fails on a choice between vectors of doubles for SSE2.
SANITIZE = ["-fsanitize=address", "-fno-omit-frame-pointer", "-O2", "-g1"] if os.environ.get("CONVLAYERS_SANITIZE") else []
# There, checks between a product and a sum keep some from becoming one operation: so none may, and bits stay the same.
CONTRACTION = "-ffp-contract=off" if SANITIZE else "-ffp-contract=fast"
GNU = [*(SANITIZE or ["-O3", "-g0"]), CONTRACTION, "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
# Rows are short: a call of memset or memcpy in place of a loop over vectors takes longer than the loop.
GNU += ["-fno-tree-loop-distribute-patterns"]
# What is to be inlined says so. Guesses of the compiler's own, and inlining Cython's references to arrays, made the modules a
# quarter larger and nothing faster.
GNU += ["-fno-inline-functions", "-fno-inline-small-functions", "-fno-ipa-cp-clone", "-fno-asynchronous-unwind-tables"]
GNU += ["--param=max-inline-insns-single=20"] if sys.platform == "linux" else []
# Padding in front of loops and functions is a fiftieth of a module: without it kernels took 0.93 to 1.04 times as long, 1.00 in
# the mean (AVX2 and AVX-512).
GNU += ["-fno-align-functions", "-fno-align-loops", "-fno-align-jumps"]
# So are the ends of loops in shorter vectors, without which kernels were 0.97 to 1.2 times as fast, 1.01 in the mean, and
# values that are computed early on some paths: 0.96 to 1.03, 1.00 in the mean.
GNU += ["-fno-tree-pre"] if not SANITIZE else []
GNU += ["--param=vect-epilogues-nomask=0"] if sys.platform == "linux" else []
# And copies of loops for strides of one value and for what does not change within them, a fortieth of a module: kernels took
# 0.95 to 1.02 times as long without, 0.99 in the mean, steps and inference of models 1.00. GCC knows both since version 10, and
# x86-64-v3 since 11.
GNU += ["-fno-unswitch-loops", "-fno-version-loops-for-strides"] if sys.platform == "linux" and X86 else []
COMMON = ["/O2", "/openmp"] if MSVC else GNU
# float64 is for checking gradients, and on x86 the baseline is for processors of before 2013: a tenth less code is worth more
# there than the last tenth of speed, which depthwise kernels lose, and others do not. So are tiles of 16 registers for float64:
# with AVX-512 a sixth less code, at 0.92 to 1.03 of the speed of tiles of 32, half of it in gemm_rows.
SMALL_TYPES, SMALL_SETS = ("float64",), ("baseline",) if X86 else ()
# Expressions that are found again across blocks are another hundredth, and worth 2% of Winograd's speed to the others. Without
# the last ordering of instructions, and addresses counted on in place of computed, those modules are a 25th smaller: float64
# took 0.96 to 1.05 of the time, 1.00 in the mean, SSE2 0.97 to 1.07, 1.02 (Zen 4).
SMALLER = [] if MSVC or SANITIZE else ["-O2", "-fpeel-loops"]
SMALLER += ["-fno-gcse", "-fno-schedule-insns2", "-fno-ivopts"] if SMALLER and sys.platform == "linux" else []
PTHREADS = ["-pthread"] if sys.platform == "linux" else []
# The compiler's OpenMP runtime where it is called: GCC's never is (ext/openmp.h).
LINK = [] if MSVC else [*(["-Wl,--as-needed"] if sys.platform == "linux" else []), "-fopenmp", *(SANITIZE or ["-Wl,-s"])]

# Expressions found again across blocks, paths of their own and joined loops are a hundredth of the modules for AVX2 and
# AVX-512, a last ordering of instructions a fiftieth: convolutions were 0.93 to 1.05 times as fast without, 1.00 in the mean
# (Zen 4).
FEWER = ["-fno-gcse", "-fno-split-paths", "-fno-loop-unroll-and-jam", "-fno-schedule-insns2"]
FEWER = FEWER if sys.platform == "linux" and not SANITIZE else []

# Instruction set: bytes of a vector, number of vector registers, compiler flags.
INSTRUCTION_SETS = {"baseline": (16, 16 if X86 else 32, [])}
if X86 and not MSVC:
    INSTRUCTION_SETS["avx2"] = (32, 16, ["-march=x86-64-v3", *FEWER])
    INSTRUCTION_SETS["avx512"] = (64, 32, ["-march=x86-64-v4", "-mprefer-vector-width=512", *FEWER])
if os.environ.get("CONVLAYERS_TEST_KERNELS"):
    # For tests: the logic of AVX-512 without AVX-512, and of a compiler without vector types. Vectors of 64 bytes in halves,
    # lane by lane where AVX-512 has masks, took most of a build's time at -O3: seven of twelve minutes on a Zen 3.
    INSTRUCTION_SETS["scalar"] = (0, 16, [])
    if "avx2" in INSTRUCTION_SETS:
        INSTRUCTION_SETS["wide"] = (64, 32, ["-march=x86-64-v3", "-Wno-psabi", "-O1"])


# What the compiled functions do is written in ext/; a copy in each module is a hundredth of the wheel.
Options.docstrings = False
# Arrays have at most four axes here, and each argument has room for the most there may be, copied with every call: eight were a
# hundredth of the wheel. Cython does not see that a file was made for another number, so each has files of its own.
Options.buffer_max_dims = 5
C_FILES = f"build/cython/{Options.buffer_max_dims}"

# What Python calls, in front of each kernel, is a fifth of a module: compiled for size, which takes 0.2 us more a call, but for
# the kernels of which a small network's step is full, and those that compute where they are called.
QUICK = {"conv2d", "conv2d_backward_weight", "winograd", "winograd_backward_weight", "depthwise"}
QUICK |= {"gemm", "gemm_rows", "column_sums", "max_pool2d_forward", "max_pool2d_backward", "relu_backward", "batch_norm_affine"}
QUICK |= {"cross_entropy", "sgd"}
SMALL = "__attribute__((cold)) "

# Cython's own memoryview code, once for all modules: a quarter of each.
UTILITY = "convlayers.kernels._utility"


def translated(name, source, folder):
    """The extension of one source, turned into C in a build folder of its own."""
    [extension] = cythonize(
        [Extension(name, [source])],
        build_dir=f"{C_FILES}/{folder}",
        include_path=["ext"],
        shared_utility_qualified_name=UTILITY,
        quiet=True,
    )
    return extension


def shrink_entrances(source):
    """Mark the functions that Python calls, all but QUICK's."""
    text = source.read_text()
    if SMALL not in text:
        entrance = r"^static PyObject \*__pyx_pw_\w+?_float\d\d_\d+(\w+)\("
        text, count = re.subn(entrance, lambda m: m[0] if m[1] in QUICK else SMALL + m[0], text, flags=re.MULTILINE)
        if count == 0:
            raise RuntimeError(f"{source}: no function that Python calls; has Cython given them other names?")
        source.write_text(text)


def extensions():
    """Cython names each module's init function, so each gets C code of its own, in a build folder of its own."""
    for isa, (vector, registers, flags) in INSTRUCTION_SETS.items():
        for dtype in ("float32", "float64"):
            name = f"convlayers.kernels._{isa}_{dtype}"
            sources = translated(name, "ext/kernels.pyx", f"{isa}_{dtype}").sources
            if not MSVC:
                shrink_entrances(Path(sources[0]))
            used = min(registers, 16) if dtype in SMALL_TYPES else registers
            macros = [("CONVLAYERS_VEC_BYTES", str(vector)), ("CONVLAYERS_REGISTERS", str(used))]
            # A new extension: cythonize remembers the settings of the first one that it sees for a source.
            yield Extension(
                name,
                sources,
                include_dirs=["ext"],
                define_macros=macros + ([("CONVLAYERS_DOUBLE", None)] if dtype == "float64" else []),
                extra_compile_args=COMMON + (SMALLER if dtype in SMALL_TYPES or isa in SMALL_SETS else []) + flags,
                extra_link_args=LINK,
                depends=sorted(glob("ext/*.h")),
            )


class BuildKernels(build_ext):
    """Compile the modules side by side; each is one large C file."""

    def build_extensions(self):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.build_extension, self.extensions))


def helpers():
    """The allocator, the threads, and the code that Cython shares among all modules."""
    sources = {"_memory": "ext/memory.pyx", "_threads": "ext/threads.pyx", "_utility": f"{C_FILES}/utility/_utility.c"}
    for name, source in sources.items():
        extension = translated(f"convlayers.kernels.{name}", source, "memory")
        extension.include_dirs, extension.depends = ["ext"], sorted(glob("ext/*.h"))
        extension.extra_compile_args = [*(SANITIZE or ["-Os", "-g0"]), *PTHREADS]
        extension.extra_link_args = [*(SANITIZE or ["-Wl,-s"]), *PTHREADS]
        yield extension


setup(ext_modules=[*helpers(), *extensions()], cmdclass={"build_ext": BuildKernels})
