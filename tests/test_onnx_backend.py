"""ONNX's own test suite, run against the importer through ONNX's own runner.

Every case whose operators all have a handler is run. What is left out is in `EXCLUDED`, a reason a line.
"""

import re

import onnx
import onnx.backend.test
from onnx.backend.test.loader import load_model_tests

import convlayers.onnx.backend as backend

# (names of cases, why they cannot pass here)
EXCLUDED = (
    (r"test_cast.*_to_(FLOAT8|FLOAT4|U?INT).*", "casts to types that no model computes with"),
    (r"test_training_dropout(_default)?(_mask)?", "draws at random, with another generator"),
    (r"test_batchnorm_.*_training_mode", "gives the statistics of a batch, which training keeps to itself"),
    (r"test_maxpool_with_argmax_.*", "gives the places of the maxima as integers"),
    (r"test_maxpool_2d_uint8", "pools integers"),
    (r"test_(slice_start_out_of_bounds|causal_conv_with_state_kernel_size_one_expanded)", "gives an empty array"),
    (r"test_(matmul_1d_1d|einsum_scalar|einsum_inner_prod)", "gives a number without an axis"),
)
KINDS = ("node", "real", "pytorch-converted", "pytorch-operator")


def model_of(case):
    if case.kind == "real":
        folder = onnx.backend.test.__path__[0].removesuffix("onnx/backend/test")
        return onnx.load(folder + case.url)
    return case.model or onnx.load(f"{case.model_dir}/model.onnx")


def names():
    """The cases of operators that have handlers."""
    cases = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return [case.name for case in cases if backend.is_compatible(model_of(case))]


def suite():
    """The runner's test classes, without the cases that it would skip."""
    runner = onnx.backend.test.BackendTest(backend, __name__)
    for name in names():
        if not any(re.fullmatch(pattern, name) for pattern, _ in EXCLUDED):
            runner.include(f"^{name}_cpu$")
    cases = runner.test_cases  # made anew each time it is asked for
    for case in cases.values():
        for name in [name for name, test in vars(case).items() if getattr(test, "__unittest_skip__", False)]:
            delattr(case, name)
    return cases


globals().update(suite())
