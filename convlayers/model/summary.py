"""A model as a table."""

from .model import Model


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def summary(model: Model) -> str:
    """Name, layer, output shape, parameters and multiply-adds for one sample, with their sums."""
    rows = [("name", "layer", "output", "parameters", "multiply-adds")]
    rows += [(f"input {i}" if i else "input", "", _shape(s), "", "") for i, s in enumerate(model.input_shapes)]
    owned = {id(layer): name for name, layer in model.layers()}
    parameters = work = 0
    for step in model.steps:
        shapes = [model.value_shapes[s] for s in step.sources]
        output = model.value_shapes[step.target]
        adds = step.layer.multiply_adds(shapes if step.layer.joins else shapes[0], output)
        own = owned[id(step.layer)] == step.name
        count = sum(p.size for p in step.layer.params.values()) if own else 0
        parameters, work = parameters + count, work + adds
        shown = f"{count:,}" if own else f"as {owned[id(step.layer)]}"
        rows.append((step.name, type(step.layer).__name__, _shape(output), shown, f"{adds:,}"))
    rows.append(("total", "", "", f"{parameters:,}", f"{work:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            cell.ljust(w) if column < 3 else cell.rjust(w) for column, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:-1], rule, lines[-1]])
