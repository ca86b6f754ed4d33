"""ONNX's own test cases that concern the importer: which there are, and which are left out and why."""

import re
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import onnx
import onnx.backend.test
from onnx.backend.test.loader import load_model_tests

from convlayers.onnx import available_handlers, backend

# (names of cases, why they cannot pass here)
EXCLUDED = (
    (r"test_cast.*_to_(FLOAT8|FLOAT4|U?INT).*", "cast to a type that no model computes with"),
    (r"test_training_dropout(_default)?(_mask)?", "draw at random, with another generator"),
    (r"test_(maxpool_with_argmax_.*|maxpool_2d_uint8)", "give integers"),
    (r"test_(matmul_1d_1d|einsum_scalar|einsum_inner_prod)", "give a number without an axis"),
    (r"test_identity_(sequence|opt)", "take a sequence, or nothing"),
    (r"test_batchnorm_.*_training_mode", "give the statistics of a batch, which training keeps to itself"),
    (r"test_resize_downsample_scales_(linear|cubic)_align_corners", "stretch to a part of a pixel, as no runtime does"),
    (r"test_(slice_start_out_of_bounds|causal_conv_with_state_kernel_size_one_expanded)", "give an empty array"),
)
KINDS = ("node", "real", "pytorch-converted", "pytorch-operator")


class Case(NamedTuple):
    """One case, and the operators in it."""

    name: str
    kind: str
    operators: frozenset[str]

    @property
    def reason(self) -> str | None:
        """Why it is left out, None where it is run."""
        return next((reason for pattern, reason in EXCLUDED if re.fullmatch(pattern, self.name)), None)


def _model(case: Any) -> onnx.ModelProto:
    if case.kind == "real":
        folder = onnx.backend.test.__path__[0].removesuffix("onnx/backend/test")
        return onnx.load(folder + case.url)
    return case.model or onnx.load(f"{case.model_dir}/model.onnx")


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """Every case whose operators can all be imported, in ONNX's order."""
    known = {operator for domain, operator in available_handlers() if not domain} | {"Constant", "ConstantOfShape"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX computes the expected results as it is asked, divisions by zero among them
        loaded = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    found = []
    for case in loaded:
        nodes = _model(case).graph.node
        operators = frozenset(node.op_type for node in nodes)
        if operators <= known and not any(node.domain for node in nodes):
            found.append(Case(case.name, case.kind, operators))
    return tuple(found)


def suite(module: str) -> dict[str, type]:
    """ONNX's test classes with the cases that are run, and no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = onnx.backend.test.BackendTest(backend, module)
    for case in cases():
        if case.reason is None:
            runner.include(f"^{case.name}_cpu$")
    classes = runner.test_cases  # made anew each time it is asked for
    for cls in classes.values():
        for name in [name for name, test in vars(cls).items() if getattr(test, "__unittest_skip__", False)]:
            delattr(cls, name)
    return classes
