"""Every algorithm of a convolution against the definition in float64, and the choice between them."""

from math import prod

import numpy as np
import pytest
from helpers import DTYPES, beside, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ConfigError
from convlayers.functional import plan
from convlayers.functional.algorithms import fft
from convlayers.functional.algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from convlayers.kernels import memory
from convlayers.shapes import window
from convlayers.testing import on_every_machine
from convlayers.testing.machine import assert_same, threads_at_every_size
from convlayers.tolerance import fourier_tolerance, tolerance

ISAS = kernels.available()
RESULTS = ((FORWARD, "y"), (INPUT_GRADIENT, "dx"), (WEIGHT_GRADIENT, "dw"), (WEIGHT_GRADIENT, "db"))


class Case:
    """The operands of one convolution, its results in float64, and how far from them an algorithm may lie."""

    def __init__(self, images, channels, filters, size, kernel, *, groups=1, dtype="float32", seed=0, **options):
        rng = np.random.default_rng(seed)
        self.how = {**options, "groups": groups}
        self.x = rng.standard_normal((images, channels, *size)).astype(dtype)
        self.w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
        self.b = rng.standard_normal(filters).astype(dtype)
        self.dy = rng.standard_normal((images, filters, *window(size, kernel, **{"stride": 1, **options}).output)).astype(dtype)
        self.what = f"x {self.x.shape}, w {self.w.shape}, {self.how}, {dtype}, seed {seed}"
        self.problems = [self.plan(direction).problem for direction, _ in RESULTS]
        wide = (a.astype(np.float64) for a in (self.x, self.w, self.b, self.dy))
        self.expected = convolve("einsum", *wide, self.how)

    def plan(self, direction, algorithm="auto"):
        return plan.plan_conv(direction, self.x.shape, self.w.shape, self.x.dtype.name, **self.how, algorithm=algorithm)

    def compute(self, algorithm):
        """y, dx, dw and db."""
        return convolve(algorithm, self.x, self.w, self.b, self.dy, self.how)

    def check(self, algorithm, results, under):
        """Fail unless results are as near the expected ones as this algorithm allows."""
        for (_, name), problem, actual, wanted in zip(RESULTS, self.problems, results, self.expected, strict=True):
            what = f"{self.what}: {name} by {algorithm} under {under}"
            assert actual.shape == wanted.shape, what
            assert actual.dtype == self.x.dtype, what
            bound = fourier_bound if algorithm == "fft" and name != "db" else direct_bound
            error, allowed = np.abs(actual - wanted).max(initial=0), bound(self, problem, wanted)
            assert error <= allowed, f"{what}: off by {error:.3g}; {allowed:.3g} allowed"


def convolve(algorithm, x, w, b, dy, how):
    """y, dx, dw and db."""
    how = {**how, "algorithm": algorithm}
    dx = functional.conv2d_backward_input(dy, w, x.shape, **how)
    return [functional.conv2d(x, w, b, **how), dx, *functional.conv2d_backward_weight(dy, x, w.shape, **how)]


def direct_bound(case, problem, wanted):
    """By the length of the sum, relative to the largest value."""
    images, outputs, taps = problem.x[0], prod(problem.win.output), prod(problem.w[2:])
    length = {
        FORWARD: problem.w[1] * taps + 1,
        INPUT_GRADIENT: problem.w[0] // problem.groups * taps,
        WEIGHT_GRADIENT: images * outputs,
    }[problem.direction]
    return tolerance(case.x.dtype, length) * max(1, np.abs(wanted).max(initial=0))


def fourier_bound(case, problem, wanted):
    """By the number of transforms summed, relative to the norms of what is convolved; and the bias is rounded."""
    layout = fft.Layout(problem)
    groups, pixels = problem.groups, prod(layout.lengths)
    x, dy = (np.square(a, dtype=float).sum((2, 3)).reshape(len(a), groups, -1) for a in (case.x, case.dy))
    w = np.square(case.w, dtype=float).sum((2, 3)).reshape(groups, -1, problem.w[1])
    norms = {
        FORWARD: lambda: np.einsum("ngc,gmc->ngm", x, w),
        INPUT_GRADIENT: lambda: np.einsum("ngm,gmc->ngc", dy, w),
        WEIGHT_GRADIENT: lambda: np.einsum("ngc,ngm->gcm", x, dy),
    }[problem.direction]()
    bias = tolerance(case.x.dtype) * np.abs(case.b).max()
    return fourier_tolerance(case.x.dtype, layout.sizes.depth, pixels) * np.sqrt(norms.max(initial=0) / pixels) + bias


@st.composite
def convolutions(draw):
    vector, rows = edges(draw(st.sampled_from(ISAS)), dtype := draw(st.sampled_from(DTYPES)))
    axes = []
    for _ in range(2):
        size, kernel = draw(st.integers(1, 20) | st.sampled_from(beside(vector))), draw(st.integers(1, 7))
        dilation, before, after = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
        span = dilation * (kernel - 1) + 1
        axes.append((size, kernel, draw(st.integers(1, 3)), dilation, (before, max(after, span - size - before))))
    size, kernel, stride, dilation, padding = zip(*axes, strict=True)
    groups = draw(st.integers(1, 4))
    return {
        "images": draw(st.integers(1, 3)),
        "channels": groups * draw(st.integers(1, 5)),
        "filters": groups * draw(st.integers(1, 5) | st.sampled_from(beside(rows)[:4])),
        "size": size,
        "kernel": kernel,
        "groups": groups,
        "stride": draw(st.sampled_from((1, stride))),
        "dilation": draw(st.sampled_from((1, dilation))),
        "padding": draw(st.sampled_from(("same", padding, tuple((max(p),) * 2 for p in padding)))),
        "dtype": dtype,
        "seed": draw(st.integers(0, 99)),
    }


def algorithms(case):
    """Those that compute forward and input gradient of a case."""
    refused = {name for problem in case.problems[:2] for name, module in plan._MODULES.items() if module.refuses(problem)}
    return [name for name in plan._MODULES if name not in refused]


@settings(random_cases, max_examples=2000)
@given(convolutions(), st.sampled_from(ISAS), st.integers(2, 3))
def test_algorithms_agree(sizes, isa, threads):
    case = Case(**sizes)
    for algorithm in algorithms(case):
        with kernels.using(isa=isa, threads=1), threads_at_every_size(), memory.poisoned():
            results = case.compute(algorithm)
            case.check(algorithm, results, isa)
            kernels.set_num_threads(threads)
            assert_same(case.compute(algorithm), results, f"{case.what}: {algorithm} under {isa} with {threads} threads")


@settings(random_cases, max_examples=200)
@given(convolutions())
def test_algorithms_agree_on_every_machine(sizes):
    case = Case(**sizes)
    for algorithm in algorithms(case):
        for isa, results in on_every_machine(lambda algorithm=algorithm: case.compute(algorithm)).items():
            case.check(algorithm, results, isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_spectra_beside_the_edges_of_a_vector_and_a_tile(isa, dtype):
    vector, _ = edges(isa, dtype)
    for frequencies in beside(vector):
        for rows, depth, columns in ((1, 1, 1), (2, 3, 4), (3, 1, 5), (1, 20, 2), (5, 2, 3)):
            rng = np.random.default_rng(frequencies)
            left = rng.standard_normal((2, rows, depth, 2 * frequencies)).astype(dtype)
            right = rng.standard_normal((2, depth, columns, 2 * frequencies)).astype(dtype)
            a, b = (s.astype(np.float64).view(complex) for s in (left, right))
            for conjugate, split in ((False, frequencies), (True, frequencies // 2)):
                with kernels.using(isa=isa), memory.poisoned():
                    out = memory.empty((2, rows, columns, 2 * frequencies), np.dtype(dtype))
                    multiply = kernels.compiled(np.dtype(dtype)).multiply_spectra
                    for accumulate in (False, True):
                        multiply(left, right, out, conjugate, accumulate, 0, split)
                        multiply(left, right, out, conjugate, accumulate, split, frequencies)
                expected = 2 * np.einsum("gikf,gkjf->gijf", a, b.conj() if conjugate else b)
                error = np.abs(out.astype(np.float64).view(complex) - expected).max()
                assert error <= tolerance(dtype, 2 * depth) * max(1, np.abs(expected).max())


def test_fourier_blocks(monkeypatch):
    """Spectra that do not fit the memory allowed are computed in blocks of every axis."""
    case = Case(5, 6, 10, (9, 8), (3, 3), groups=2, padding=1)
    for spectra in (0, 2_000, 10_000, 50_000):
        monkeypatch.setattr(fft, "_SPECTRA", spectra)
        case.check("fft", case.compute("fft"), f"{spectra} bytes of spectra")


def test_fast_lengths():
    assert [fft.fast_length(n) for n in (1, 2, 13, 17, 34, 97, 158)] == [1, 2, 14, 18, 36, 98, 160]


@pytest.mark.parametrize("algorithm", plan._MODULES)
def test_no_images(algorithm):
    with memory.poisoned():
        y, dx, dw, db = Case(0, 2, 3, (5, 4), (3, 3)).compute(algorithm)
    assert (y.shape, dx.shape) == ((0, 3, 3, 2), (0, 2, 5, 4))
    np.testing.assert_array_equal(dw, np.zeros((3, 2, 3, 3)))
    np.testing.assert_array_equal(db, np.zeros(3))


@pytest.mark.parametrize("algorithm", [name for name in plan._MODULES if name != "einsum"])
def test_a_plane_larger_than_every_block(algorithm):
    """A spectrum of over 1 MB, lines of tiles longer than a block, rows of the copy beyond its size."""
    case = Case(1, 2, 4, (20, 7000), (3, 3), padding=1, groups=2, dtype="float64")
    for threads in (1, 2):
        with kernels.using(threads=threads), memory.poisoned():
            case.check(algorithm, case.compute(algorithm), f"{threads} threads")


# The choice


class Refusing:
    """An algorithm that computes nothing."""

    @staticmethod
    def refuses(problem):
        return "does not compute this"


def test_a_refused_algorithm_says_which_can(monkeypatch):
    monkeypatch.setitem(plan._MODULES, "winograd", Refusing)
    plan._cached.cache_clear()
    with pytest.raises(ConfigError, match=r"conv2d: algorithm 'winograd' does not compute this; direct.*fft.*can"):
        functional.conv2d(np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 1, 3, 3), np.float32), algorithm="winograd")
    plan._cached.cache_clear()


def test_every_refusal_is_an_error_that_names_the_others():
    case = Case(1, 4, 4, (9, 9), (2, 3), groups=2, dilation=2, stride=2)
    for problem in case.problems:
        for name, module in plan._MODULES.items():
            if module.refuses(problem):
                with pytest.raises(ConfigError, match=f"algorithm '{name}' .* can"):
                    case.plan(problem.direction, name)
            else:
                assert case.plan(problem.direction, name).algorithm == name


def test_auto_takes_the_cheapest_and_depends_on_sizes_alone():
    for kernel in (3, 31):
        plans = []
        for threads in (1, 2):
            plan._cached.cache_clear()
            with kernels.using(threads=threads):
                plans.append(plan.plan_conv(FORWARD, (8, 16, 64, 64), (16, 16, kernel, kernel), "float32", padding="same"))
        assert plans[0] == plans[1]
        assert plans[0].algorithm == min(plans[0].costs, key=plans[0].costs.get)


def test_large_kernels_go_to_fourier_transforms_and_small_ones_do_not():
    with kernels.using(isa=ISAS[0]):
        shapes = (8, 16, 64, 64), (16, 16, 31, 31), (16, 16, 3, 3)
        large, small = (plan.plan_conv(FORWARD, shapes[0], w, "float32", padding="same") for w in shapes[1:])
    assert large.algorithm == "fft"
    assert small.algorithm != "fft"


def test_an_input_gradient_is_planned_by_its_own_rows_and_sums():
    """That of a first layer has 3 rows of sums over 64 filters, that of a last one 64 rows of sums over 3."""
    shapes = ((64, 3, 32, 32), (64, 3, 3, 3)), ((64, 64, 32, 32), (3, 64, 3, 3))
    for isa in ISAS:
        with kernels.using(isa=isa):
            first, last = (plan.plan_conv(INPUT_GRADIENT, *shape, "float32", padding=1) for shape in shapes)
        assert first.algorithm == "winograd"
        assert first.costs["winograd"] < last.costs["winograd"]


def test_with_avx2_the_plan_takes_what_was_measured_to_be_far_ahead():
    """Layers forward and back to the input where one took 0.77 of the other's time or less in the mean, on a Zen 3."""
    ahead = {
        "direct": (((1, 512, 7, 7), (512, 512, 3, 3), 1), ((8, 128, 16, 16), (256, 128, 4, 4), 2)),
        "winograd": (((64, 16, 4, 4), (32, 16, 3, 3), 1), ((32, 64, 32, 32), (64, 64, 3, 3), 1)),
    }
    for algorithm, layers in ahead.items():
        for x, w, stride in layers:
            options = plan.Options(stride=stride, padding=1)
            for direction in (FORWARD, INPUT_GRADIENT):
                problem = plan._problem(direction, x, w, options, "float32", "avx2")
                assert plan._choose(problem, "auto").algorithm == algorithm, (direction, x, w)


def test_an_explanation_names_every_direction_and_algorithm():
    text = functional.explain_conv2d((2, 4, 9, 8), (6, 4, 3, 3), padding=1)
    assert [line.split(":")[0] for line in text.splitlines() if ": " in line] == [FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT]
    assert all(name in text for name in plan._MODULES)
