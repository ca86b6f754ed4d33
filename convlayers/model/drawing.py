"""A model's graph as a picture: Graphviz's language, and SVG."""

import inspect
import shutil
import subprocess
from itertools import pairwise
from os import PathLike, fspath
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from ..errors import ConfigError, ExportError
from ..files import write_whole
from ..layer import Layer
from .layout import Point, layout

if TYPE_CHECKING:
    from .model import Model

_LONGEST = 52  # letters of a configuration; what is cut off is in the title that a browser shows
# Fill and border, by what a layer does: this tells the families apart, those of plug-ins too.
_COLOURS = {
    "input": ("#ffffff", "#7a7a7a"),
    "weights": ("#dceaf7", "#4179ab"),
    "statistics": ("#e9e0f7", "#7d5fb0"),
    "join": ("#fdebcb", "#c08a2b"),
    "reshape": ("#dff1df", "#4f9150"),
    "elementwise": ("#fae3e3", "#b96464"),
}


class Box(NamedTuple):
    """One value of a model: the layer (or input) that computes it."""

    name: str
    call: str
    shape: str
    kind: str
    is_output: bool


def short_call(layer: Layer) -> str:
    """The layer as it would be written: `Conv2d(16, 3, padding=1)`, without what is at its default."""
    _, *parameters = inspect.signature(type(layer).__init__).parameters.values()
    config = layer.config()
    parts = []
    for parameter in parameters:
        value = config[parameter.name]
        if parameter.default is parameter.empty:
            parts.append(repr(value))
        elif value != parameter.default:
            parts.append(f"{parameter.name}={value!r}")
    return f"{type(layer).__name__}({', '.join(parts)})"


def _boxes(model: "Model") -> list[Box]:
    shapes = ["x".join(map(str, shape)) for shape in model.value_shapes]
    found = [("Input", "input")] * len(model.input_names)
    for step in model.steps:
        layer, changes = step.layer, any(model.value_shapes[s] != model.value_shapes[step.target] for s in step.sources)
        kind = "join" if layer.joins else "statistics" if layer.buffers else "weights" if layer.params else ""
        found.append((short_call(layer), kind or ("reshape" if changes else "elementwise")))
    names = model.value_names
    return [Box(names[i], call, shapes[i], kind, i in model.outputs) for i, (call, kind) in enumerate(found)]


def _edges(model: "Model") -> list[tuple[int, int]]:
    return [(source, step.target) for step in model.steps for source in step.sources]


def to_dot(model: "Model") -> str:
    """The graph in Graphviz's language: a node a layer, outputs with a double border."""
    lines = ["digraph model {", '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];']
    for number, box in enumerate(_boxes(model)):
        text = "\\n".join(part.replace("\\", "\\\\").replace('"', '\\"') for part in (box.name, box.call, box.shape))
        fill, border = _COLOURS[box.kind]
        double = ", peripheries=2" if box.is_output else ""
        lines.append(f'  n{number} [label="{text}", fillcolor="{fill}", color="{border}"{double}];')
    lines += [f"  n{start} -> n{end};" for start, end in _edges(model)]
    return "\n".join([*lines, "}", ""])


_HEIGHT, _MARGIN = 40.0, 16.0
_LETTER = 6.7  # the width of a letter of 11 px in a typewriter face, where all are equal
_STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;fill:#333}"
    ".name{font-weight:bold;fill:#111}.shape{text-anchor:end;fill:#666}"
    "path{fill:none;stroke:#777;stroke-width:1.2}"
)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _curve(points: list[Point]) -> str:
    """Straight down through a rank, bent between two of them."""
    parts = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if number % 2 or x0 == x1:
            parts.append(f"L{_number(x1)} {_number(y1)}")
        else:
            middle = _number((y0 + y1) / 2)
            parts.append(f"C{_number(x0)} {middle} {_number(x1)} {middle} {_number(x1)} {_number(y1)}")
    return " ".join(parts)


def to_svg(model: "Model") -> str:
    """The graph as an SVG drawn here: boxes coloured by what the layers do, thick borders for outputs."""
    boxes = _boxes(model)
    calls = [box.call if len(box.call) <= _LONGEST else box.call[: _LONGEST - 1] + "\u2026" for box in boxes]
    letters = [max(len(box.name) + len(box.shape) + 2, len(call)) for box, call in zip(boxes, calls, strict=True)]
    widths = [count * _LETTER + 16 for count in letters]
    placed = layout(widths, _HEIGHT, _edges(model))
    width, height = (_number(size + 2 * _MARGIN) for size in (placed.width, placed.height))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M1 1L7 4L1 7" /></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff" />',
        f'<g transform="translate({_number(_MARGIN)} {_number(_MARGIN)})">',
    ]
    lines += [f'<path d="{_curve(points)}" marker-end="url(#arrow)" />' for points in placed.routes]
    for box, call, wide, (x, y) in zip(boxes, calls, widths, placed.centres, strict=True):
        fill, border = _COLOURS[box.kind]
        left, top, right = _number(x - wide / 2), _number(y - _HEIGHT / 2), _number(x + wide / 2 - 8)
        size = f'width="{_number(wide)}" height="{_number(_HEIGHT)}" rx="7"'
        look = f'fill="{fill}" stroke="{border}" stroke-width="{2.5 if box.is_output else 1}"'
        text = _number(x - wide / 2 + 8)
        lines += [
            f"<g><title>{escape(f'{box.name}: {box.call}, {box.shape}')}</title>",
            f'<rect class="box" x="{left}" y="{top}" {size} {look} />',
            f'<text class="name" x="{text}" y="{_number(y - 4)}">{escape(box.name)}</text>',
            f'<text class="shape" x="{right}" y="{_number(y - 4)}">{escape(box.shape)}</text>',
            f'<text x="{text}" y="{_number(y + 12)}">{escape(call)}</text></g>',
        ]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def save_graph(model: "Model", path: str | PathLike[str]) -> None:
    """Write a picture to a path that ends in .svg: Graphviz's where its program `dot` is installed, else that of `to_svg`.
    To one that ends in .dot or .gv, write `to_dot`."""
    name, text = fspath(path), to_dot(model)
    if name.endswith(".svg"):
        program = shutil.which("dot")
        text = _drawn(program, text) if program else to_svg(model)
    elif not name.endswith((".dot", ".gv")):
        raise ConfigError(f"a graph is written to a .svg, .dot or .gv file; got {name!r}")
    write_whole(path, text.encode())


def _drawn(program: str, text: str) -> str:
    done = subprocess.run([program, "-Tsvg"], input=text, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise ExportError(f"Graphviz cannot draw the graph: {done.stderr.strip()}; Model.to_svg draws it without")
    return done.stdout
