"""A model as a table."""

from collections.abc import Sequence
from math import prod

from .graph import Step
from .model import Model

_BYTES = 4  # of a float32


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def summary(model: Model) -> str:
    """Name, layer, what it reads where that is not the row above, output shape, parameters, multiply-adds and the output's
    bytes in float32, all for one sample, with their sums; `peak` is the most bytes that inference holds at once."""
    heads = ["name", "layer", "reads", "output", "parameters", "multiply-adds", "bytes"]
    sizes = [_BYTES * prod(shape) for shape in model.value_shapes]
    rows = [
        [name, "Input", "", _shape(shape), "", "", f"{size:,}"]
        for name, shape, size in zip(model.input_names, model.input_shapes, sizes, strict=False)
    ]
    owned = {id(layer): name for name, layer in model.layers()}
    work = 0
    for step in model.steps:
        shapes = [model.value_shapes[s] for s in step.sources]
        output = model.value_shapes[step.target]
        adds = step.layer.multiply_adds(shapes if step.layer.joins else shapes[0], output)
        work += adds
        reads = "" if step.follows else ", ".join(model.value_names[s] for s in step.sources)
        count = _parameters(model, step, owned[id(step.layer)])
        rows.append(
            [step.name, type(step.layer).__name__, reads, _shape(output), count, f"{adds:,}", f"{sizes[step.target]:,}"]
        )
    total = sum(array.size for array in model.parameters().values())
    ends = [["total", "", "", "", f"{total:,}", f"{work:,}", f"{sum(sizes):,}"]]
    if model.frozen:
        trained = sum(array.size for array in model.trainable_parameters().values())
        ends.append(["trained", "", "", "", f"{trained:,}", "", ""])
    ends.append(["peak", "", "", "", "", "", f"{_peak(model, sizes):,}"])
    if all(row[2] == "" for row in rows):
        for row in (heads, *rows, *ends):
            del row[2]
    return _table(heads, rows, ends)


def _parameters(model: Model, step: Step, owner: str) -> str:
    if owner != step.name:
        return f"as {owner}"
    count = sum(p.size for p in step.layer.params.values())
    frozen = sum(p.size for key, p in step.layer.params.items() if f"{owner}.{key}" in model.frozen)
    note = " frozen" if frozen == count else f" ({frozen:,} frozen)"
    return f"{count:,}{note if frozen else ''}"


def _peak(model: Model, sizes: Sequence[int]) -> int:
    """The most bytes of values that are there at once, as inference runs: fused, each value until its last reader is done."""
    held = peak = sum(sizes[: len(model.input_names)])
    for call in model.passes.calls_of_inference:
        held += sizes[call.task.target]
        peak = max(peak, held)
        held -= sum(sizes[s] for s in set(call.done))
    return peak


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], ends: Sequence[Sequence[str]]) -> str:
    """Texts to the left, the numbers in the last three columns to the right; rules below the heads and above the ends."""
    lines = [heads, *rows, *ends]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    adjust = [*[str.ljust] * (len(heads) - 3), *[str.rjust] * 3]
    aligned = ["  ".join(fit(cell, w) for fit, cell, w in zip(adjust, line, widths, strict=True)) for line in lines]
    rule = "-" * len(aligned[0])
    split = 1 + len(rows)
    return "\n".join(line.rstrip() for line in [aligned[0], rule, *aligned[1:split], rule, *aligned[split:]])
