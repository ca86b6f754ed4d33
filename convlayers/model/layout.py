"""Where the boxes of a graph go: a layered drawing from the top down (Sugiyama, Tagawa and Toda 1981).

1. A box stands in the rank behind the last one that it reads, so every edge goes down.
2. An edge over several ranks gets a place in each of those between, so that it passes beside the boxes there.
3. Each rank is sorted by the mean position of the neighbours in the rank before, then behind it, in turns.
4. Places that follow each other form columns that do not cross (after Brandes and Koepf 2001): a chain of boxes, or a long
   edge. A column has one position across, as near to the mean of its neighbours as the columns beside it allow.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]
Edge = tuple[int, int]

_ACROSS, _DOWN = 20.0, 26.0  # gaps between neighbours, and between ranks
_LINE = 8.0  # the width of an edge's place in a rank
_PORTS = 14.0  # between two edges that arrive at one box
_SWEEPS = 16


class Layout(NamedTuple):
    """Centres of the boxes; for each edge its points, from the first box's bottom to the second's top; the whole size."""

    centres: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


def layout(widths: Sequence[float], height: float, edges: Sequence[Edge]) -> Layout:
    """Place boxes of these widths and one height. Each edge goes to a box of a higher number, and they come sorted by it."""
    boxes = len(widths)
    ranks, room, paths = _ranks(boxes, edges), list(widths), []
    for start, end in edges:
        between = range(ranks[start] + 1, ranks[end])
        paths.append([start, *range(len(room), len(room) + len(between)), end])
        ranks += between
        room += [_LINE] * len(between)
    above: list[list[int]] = [[] for _ in room]
    below: list[list[int]] = [[] for _ in room]
    for path in paths:
        for upper, lower in pairwise(path):
            below[upper].append(lower)
            above[lower].append(upper)
    rows: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    for place, rank in enumerate(ranks):
        rows[rank].append(place)
    _sort(rows, above, below)
    column = _columns(rows, above, boxes)
    x = _across(rows, column, [a + b for a, b in zip(above, below, strict=True)], room)
    top = [rank * (height + _DOWN) for rank in ranks]
    routes = []
    for path, port in zip(paths, _ports(paths, x, widths), strict=True):
        start, *passed, end = path
        points = [(x[start], top[start] + height)]
        for place in passed:
            points += [(x[place], top[place]), (x[place], top[place] + height)]
        routes.append([*points, (port, top[end])])
    size = max(value + width / 2 for value, width in zip(x, room, strict=True))
    return Layout([(x[b], top[b] + height / 2) for b in range(boxes)], routes, size, max(top) + height)


def _ranks(boxes: int, edges: Sequence[Edge]) -> list[int]:
    ranks = [0] * boxes
    for start, end in edges:
        ranks[end] = max(ranks[end], ranks[start] + 1)
    # An input stands right above the first that reads it, wherever that is.
    first = dict.fromkeys({start for start, _ in edges} - {end for _, end in edges}, max(ranks))
    for start, end in edges:
        if start in first:
            first[start] = min(first[start], ranks[end] - 1)
    return [first.get(box, rank) for box, rank in enumerate(ranks)]


def _mean(values: Iterable[float], default: float) -> float:
    found = list(values)
    return sum(found) / len(found) if found else default


def _sort(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    position = {place: float(number) for row in rows for number, place in enumerate(row)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            row.sort(key=lambda place: _mean((position[n] for n in near[place]), position[place]))
            position.update({place: float(number) for number, place in enumerate(row)})


def _columns(rows: list[list[int]], above: list[list[int]], boxes: int) -> list[int]:
    """The number of each place's column. Long edges come first, then boxes, which rather follow a box than an edge."""
    column = list(range(len(above)))
    for upper, row in pairwise(rows):
        position = {place: number for number, place in enumerate(upper)}
        joined: list[tuple[int, int]] = []

        def importance(place: int) -> int:
            return 1 if place < boxes else 0 if above[place][0] >= boxes else 2

        for number, place in sorted(enumerate(row), key=lambda item: importance(item[1])):
            near = sorted(position[p] for p in [p for p in above[place] if p < boxes] or above[place])
            if not near:
                continue
            middle = near[(len(near) - 1) // 2]
            if all((middle - p) * (number - n) > 0 for p, n in joined):
                joined.append((middle, number))
                column[place] = column[upper[middle]]
    return column


def _across(rows: list[list[int]], column: list[int], near: list[list[int]], room: Sequence[float]) -> list[float]:
    """The centre of each place; the leftmost begins at 0."""
    gaps: list[tuple[int, int, float]] = []  # a column, the one to its right, and the least distance between them
    for row in rows:
        gaps += [(column[a], column[b], (room[a] + room[b]) / 2 + _ACROSS) for a, b in pairwise(row)]
    x = dict.fromkeys(column, 0.0)
    moved = True
    while moved:  # as far to the left as the gaps allow
        moved = False
        for left, right, gap in gaps:
            if x[right] < x[left] + gap:
                x[right], moved = x[left] + gap, True
    beside: dict[int, list[int]] = {number: [] for number in x}
    for place, others in enumerate(near):
        beside[column[place]] += [column[other] for other in others if column[other] != column[place]]
    on_left: dict[int, list[tuple[int, float]]] = {number: [] for number in x}
    on_right: dict[int, list[tuple[int, float]]] = {number: [] for number in x}
    for left, right, gap in gaps:
        on_left[right].append((left, gap))
        on_right[left].append((right, gap))
    for sweep in range(_SWEEPS):
        for number in list(x) if sweep % 2 == 0 else reversed(list(x)):
            least = max((x[left] + gap for left, gap in on_left[number]), default=-math.inf)
            most = min((x[right] - gap for right, gap in on_right[number]), default=math.inf)
            x[number] = min(max(_mean((x[other] for other in beside[number]), x[number]), least), most)
    edge = min(x[c] - width / 2 for c, width in zip(column, room, strict=True))
    return [x[c] - edge for c in column]


def _ports(paths: Sequence[Sequence[int]], x: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Where each edge arrives: side by side around the box's centre, in the order in which they come."""
    arriving: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        arriving.setdefault(path[-1], []).append(number)
    ports = [0.0] * len(paths)
    for box, numbers in arriving.items():
        step = min(_PORTS, widths[box] / (len(numbers) + 1))
        for place, number in enumerate(sorted(numbers, key=lambda n: x[paths[n][-2]])):
            ports[number] = x[box] + (place - (len(numbers) - 1) / 2) * step
    return ports
