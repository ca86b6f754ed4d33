"""Pictures of a graph, and its table."""

import os
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise

import numpy as np
import pytest
from helpers import residual, small_cnn

import convlayers as cl
from convlayers import registry
from convlayers.errors import ConfigError, ExportError, FileAccessError
from convlayers.model.layout import layout

SVG = "{http://www.w3.org/2000/svg}"


class Labelled(cl.Layer):
    """Its configuration is any text."""

    def __init__(self, text="plain"):
        self.text = text

    def forward(self, x, *, training):
        return x, None


def labelled(text, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    cl.register_layer("tested_labelled")(Labelled)
    return cl.Sequential([Labelled(text)], input_shape=(3,))


def branches():
    """Two inputs, four branches, a value that skips all of them, two outputs."""
    a, b = cl.Input((3, 8, 8), name="a"), cl.Input((4, 8, 8), name="b")
    left = cl.ReLU()(cl.Conv2d(4, 3, padding=1)(a), name="left")
    arms = [cl.Conv2d(4, k, padding=k // 2, stride=1)(left) for k in (1, 3, 5)]
    total = cl.Add()(*arms, cl.MaxPool2d(3, stride=1, padding=1)(arms[0]), left, b)
    return cl.Model([a, b], [cl.Tanh()(total), cl.Dense(10)(cl.Flatten()(cl.BatchNorm2d()(total)))])


MODELS = [branches, residual, small_cnn, cl.models.resnet20]


# Graphviz's language


def test_dot():
    x = cl.Input((3, 4, 4), name="x")
    y = cl.Conv2d(2, 3, padding="same", bias=False)(x, name="c")
    assert cl.Model(x, cl.Add()(y, y)).to_dot() == (
        "digraph model {\n"
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];\n'
        '  n0 [label="x\\nInput\\n3x4x4", fillcolor="#ffffff", color="#7a7a7a"];\n'
        '  n1 [label="c\\nConv2d(2, 3, padding=\'same\', bias=False)\\n2x4x4", fillcolor="#dceaf7", color="#4179ab"];\n'
        '  n2 [label="add\\nAdd()\\n2x4x4", fillcolor="#fdebcb", color="#c08a2b", peripheries=2];\n'
        "  n0 -> n1;\n"
        "  n1 -> n2;\n"
        "  n1 -> n2;\n"
        "}\n"
    )


def test_dot_and_svg_escape_texts(monkeypatch):
    model = labelled('a "b" \\ <c> & ]]>', monkeypatch)
    (line,) = [line for line in model.to_dot().splitlines() if "Labelled" in line]
    assert r"""0\nLabelled(text='a \"b\" \\\\ <c> & ]]>')\n3""" in line
    texts = [text.text for text in ElementTree.fromstring(model.to_svg()).iter(f"{SVG}text")]
    assert r"""Labelled(text='a "b" \\ <c> & ]]>')""" in texts


# SVG


def boxes_of(svg):
    """Of each box: left, top, right, bottom."""
    found = []
    for rect in svg.iter(f"{SVG}rect"):
        if rect.get("class") == "box":
            x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def points_of(svg):
    """The points of each edge's path that lie on it: an L's, and a C's last."""
    for path in svg.iter(f"{SVG}path"):
        if path.get("marker-end"):
            parts = re.findall(r"[MLC]([^MLC]+)", path.get("d"))
            yield [tuple(float(n) for n in part.split()[-2:]) for part in parts]


@pytest.mark.parametrize("make", MODELS)
def test_boxes_and_edges_keep_apart(make):
    model = make()
    svg = ElementTree.fromstring(model.to_svg())
    boxes, edges = boxes_of(svg), list(points_of(svg))
    assert len(boxes) == len(model.value_names)
    assert len(edges) == sum(len(step.sources) for step in model.steps)
    for (l0, t0, r0, b0), (l1, t1, r1, b1) in combinations(boxes, 2):
        assert r0 < l1 or r1 < l0 or b0 < t1 or b1 < t0
    for points in edges:
        for (x0, y0), (x1, y1) in pairwise(points):
            assert y0 < y1, "edges go down"
            assert x0 == x1 or not any(y0 < bottom and top < y1 for _, top, _, bottom in boxes), "bends lie between ranks"
            assert not any(left < x0 < right and y0 < bottom and top < y1 for left, top, right, bottom in boxes if x0 == x1)
    width, height = float(svg.get("width")), float(svg.get("height"))
    assert all(left >= 0 and top >= 0 and right <= width - 32 and bottom <= height - 32 for left, top, right, bottom in boxes)


@pytest.mark.parametrize("make", MODELS)
def test_edges_join_what_reads(make):
    model = make()
    svg = ElementTree.fromstring(model.to_svg())
    boxes = boxes_of(svg)
    wanted = [(source, step.target) for step in model.steps for source in step.sources]
    for (source, target), points in zip(wanted, points_of(svg), strict=True):
        for number, (x, y), side in ((source, points[0], 3), (target, points[-1], 1)):
            assert boxes[number][0] < x < boxes[number][2]
            assert y == pytest.approx(boxes[number][side], abs=0.1)


def test_svg_says_what_the_layers_are():
    model = branches()
    svg = ElementTree.fromstring(model.to_svg())
    groups = [g for g in svg.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    for group, name, shape in zip(groups, model.value_names, model.value_shapes, strict=True):
        texts = [text.text for text in group.findall(f"{SVG}text")]
        assert texts[:2] == [name, "x".join(map(str, shape))]
    titles = [g.find(f"{SVG}title").text for g in groups]
    assert titles[0] == "a: Input, 3x8x8"
    assert "conv2d_2: Conv2d(4, 3, padding=1), 4x8x8" in titles
    kinds = {g.find(f"{SVG}title").text.split(":")[0]: g.find(f"{SVG}rect").get("fill") for g in groups}
    assert kinds["conv2d"] == kinds["dense"]
    different = [kinds[name] for name in ("a", "conv2d", "batch_norm2d", "add", "flatten", "tanh")]
    assert len(set(different)) == len(different)
    assert [g.find(f"{SVG}rect").get("stroke-width") for g in groups].count("2.5") == 2


def test_a_long_configuration_is_cut_in_the_box_alone(monkeypatch):
    model = labelled("x" * 200, monkeypatch)
    svg = ElementTree.fromstring(model.to_svg())
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert f"Labelled(text='{'x' * 36}\u2026" in texts
    assert any("x" * 200 in title.text for title in svg.iter(f"{SVG}title"))


def test_pictures_come_out_the_same():
    assert branches().to_svg() == branches().to_svg()
    assert branches().to_dot() == branches().to_dot()


def test_a_chain_is_straight_and_a_long_edge_too():
    placed = layout([50, 80, 30, 40, 60], 20, [(0, 1), (1, 2), (2, 3), (0, 4), (3, 4)])
    assert len({x for x, _ in placed.centres}) == 1
    long = placed.routes[3]
    assert len({x for x, _ in long[1:-1]}) == 1
    assert [len(route) for route in placed.routes] == [2, 2, 2, 8, 2]


def test_an_input_stands_above_what_reads_it():
    placed = layout([40] * 5, 20, [(0, 2), (2, 3), (3, 4), (1, 4)])
    assert placed.centres[1][1] == placed.centres[3][1] > placed.centres[0][1]


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    edges = sorted({(int(rng.integers(0, end)), end) for end in range(1, count) for _ in range(3)}, key=lambda edge: edge[1])
    widths, height = rng.uniform(20, 200, count), 40.0
    placed = layout(widths.tolist(), height, edges)
    rows = {}
    for (x, y), width in zip(placed.centres, widths, strict=True):
        rows.setdefault(y, []).append((x - width / 2, x + width / 2))
    for (start, end), route in zip(edges, placed.routes, strict=True):
        assert route[0] == pytest.approx((placed.centres[start][0], placed.centres[start][1] + height / 2))
        assert abs(route[-1][0] - placed.centres[end][0]) < widths[end] / 2
        for (x, top), (_, bottom) in zip(route[1:-1:2], route[2:-1:2], strict=True):
            assert bottom == pytest.approx(top + height)
            rows[top + height / 2].append((x - 4, x + 4))
    for spans in rows.values():
        for (_, right), (left, _) in pairwise(sorted(spans)):
            assert left - right > 19.9
        assert min(left for left, _ in spans) > -1e-9
        assert max(right for _, right in spans) < placed.width + 1e-9


# Files and the command line


@pytest.fixture
def no_graphviz(monkeypatch):
    monkeypatch.setenv("PATH", "")


def test_files(tmp_path, no_graphviz):
    model = branches()
    for name, text in (("m.svg", model.to_svg()), ("m.dot", model.to_dot()), ("m.gv", model.to_dot())):
        model.save_graph(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    with pytest.raises(ConfigError, match=r"a graph is written to a \.svg, \.dot or \.gv file; got '.*m\.png'"):
        model.save_graph(tmp_path / "m.png")
    with pytest.raises(FileAccessError, match="does not exist"):
        model.save_graph(tmp_path / "none" / "m.svg")


def graphviz(folder, monkeypatch, script):
    """A program `dot` that does what the script says."""
    program = folder / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_graphviz_draws_where_it_is_installed(tmp_path, monkeypatch):
    graphviz(tmp_path, monkeypatch, 'echo "<svg $1>"; cat')
    model = branches()
    model.save_graph(tmp_path / "m.svg")
    assert (tmp_path / "m.svg").read_text() == f"<svg -Tsvg>\n{model.to_dot()}"


def test_graphviz_may_fail(tmp_path, monkeypatch):
    graphviz(tmp_path, monkeypatch, "cat > /dev/null; echo no font >&2; exit 3")
    with pytest.raises(ExportError, match=r"^Graphviz cannot draw the graph: no font; Model\.to_svg draws it without$"):
        branches().save_graph(tmp_path / "m.svg")
    assert not (tmp_path / "m.svg").exists()


def test_command_line(run, refused, tmp_path, no_graphviz):
    model = small_cnn()
    model.save(tmp_path / "model")
    assert run("graph", "model") == (0, model.to_dot(), "")
    assert run("graph", "model", "out.svg") == (0, "", "")
    assert (tmp_path / "out.svg").read_text(encoding="utf-8") == model.to_svg()
    assert run("summary", "model") == (0, model.summary() + "\n", "")
    assert run("summary", "mobilenet-small") == (0, cl.models.mobilenet_small().summary() + "\n", "")
    assert "a graph is written to" in refused(2, "graph", "model", "out.png")
    assert "cannot read lenet: No such file" in refused(1, "summary", "lenet")


# The table


def test_summary_of_a_chain():
    model = small_cnn()
    lines = model.summary().splitlines()
    assert lines[0].split() == ["name", "layer", "output", "parameters", "multiply-adds", "bytes"]
    assert lines[2].split() == ["input", "Input", "2x6x8", str(4 * 96)]
    assert lines[3].split() == ["0", "Conv2d", "4x6x8", "76", f"{4 * 2 * 9 * 48:,}", str(4 * 192)]
    assert lines[8].split() == ["5", "Dense", "3", "147", "144", "12"]
    assert lines[-2].split() == ["total", "223", "3,600", f"{4 * (96 + 192 + 192 + 48 + 48 + 48 + 3):,}"]
    # The convolution writes the maxima of its ReLU's output while it reads the image.
    assert lines[-1].split() == ["peak", f"{4 * (96 + 48):,}"]
    assert len({len(line) for line in lines}) == 1


def test_summary_of_a_graph():
    rows = [re.split(r"  +", line.strip()) for line in residual().summary().splitlines()]
    assert rows[0][2] == "reads"
    assert ["right", "Conv2d", "input_2", "3x6x6", "as left", "2,916", "432"] in rows
    assert ["add", "Add", "left, right, input_1", "3x6x6", "0", "0", "432"] in rows
    assert ["bend", "Tanh", "3x6x6", "0", "0", "432"] in rows
    # The first input is there until the sum is done, the second until its convolution is: at the sum, four values.
    assert rows[-1] == ["peak", f"{4 * 432:,}"]
    a, b = cl.Input((3, 6, 6)), cl.Input((3, 6, 6))
    wider = cl.Model([a, b], cl.Conv2d(8, 1)(cl.Add()(a, b)))
    assert wider.summary().split()[-1] == f"{432 + 8 * 144:,}", "both inputs are gone when the convolution runs"
