"""
Draw a graph as SVG, with nothing but arithmetic.

Parts stand in rows, dependents above what they need. Rows come from the longest path, the order within a row from
repeated sorting by neighbours, and the places from least squares. A line that crosses rows passes through an empty
place in each, so that it does not run behind other parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentlayers.layer import Graph, Node

__all__ = ["to_svg"]

CHARACTER: Final = 7.3
"""Width of a character of 12 px monospace, rounded up."""

HEIGHT, PADDING, GAP, ROW, MARGIN, LINE_WIDTH = 40.0, 12.0, 22.0, 96.0, 16.0, 14.0
SWEEPS: Final = 12
SHORT_TEXT_MAX: Final = 36

STYLE: Final = """\
text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2328;text-anchor:middle}
.kind{fill:#59636e}.edge{fill:none;stroke:#8c959f;stroke-width:1.2}
.part{fill:#f6f8fa;stroke:#8c959f}.resource{fill:#ddf4ff;stroke:#0969da}.value,.configuration{fill:#fff8c5;stroke:#9a6700}
.factory,.callable,.request{fill:#fff;stroke-dasharray:4 3}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.kind{fill:#9198a1}.part{fill:#151b23;stroke:#656c76}
.resource{fill:#121d2f;stroke:#4493f8}.value,.configuration{fill:#272115;stroke:#d29922}.factory,.callable,.request{fill:none}}
"""

ARROW: Final = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#8c959f"/></marker></defs>'
)


@dataclass(eq=False, slots=True)
class _Place:
    """A part, or the place where a line passes through a row."""

    node: Node | None
    width: float
    row: int
    x: float = 0.0
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)

    @property
    def y(self) -> float:
        return MARGIN + self.row * ROW


@dataclass(slots=True)
class _Drawing:
    places: dict[str, _Place]
    rows: list[list[_Place]]
    lines: list[tuple[str, str, str, list[_Place]]]
    """Dependent, parameter, dependency, and the places from the one to the other."""


def to_svg(graph: Graph) -> str:
    """
    Write a picture of the graph: a complete SVG document.

    A graph with a cycle is drawn too; its backward lines go upwards.
    """
    drawing = _laid_out(graph)
    every = [place for row in drawing.rows for place in row]
    width = max((place.x + place.width / 2 for place in every), default=0.0) + MARGIN
    height = 2 * MARGIN + HEIGHT + ROW * max(len(drawing.rows) - 1, 0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {_size(width, height)}>',
        f"<title>{len(graph.nodes)} parts and what they need</title>",
        f"<style>{STYLE}</style>",
        ARROW,
    ]
    lines.extend(_line(*line) for line in drawing.lines)
    lines.extend(_box(place, place.node) for place in every if place.node is not None)
    return "\n".join([*lines, "</svg>"])


# -- writing -----------------------------------------------------------------------------------------------------------
def _size(width: float, height: float) -> str:
    return f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'


def _box(place: _Place, node: Node) -> str:
    left, radius = place.x - place.width / 2, HEIGHT / 2 if node.kind == "resource" else 5
    tip = f"{node.kind} {node.callable}".strip()
    if node.declared_at is not None:
        tip += f", {node.declared_at}"
    return (
        f"<g><title>{escape(tip)}</title>"
        f'<rect class="part {escape(node.kind)}" x="{left:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" '
        f'height="{HEIGHT:.0f}" rx="{radius:.0f}"/>'
        f'<text x="{place.x:.1f}" y="{place.y + 17:.1f}">{escape(node.name)}</text>'
        f'<text class="kind" x="{place.x:.1f}" y="{place.y + 32:.1f}">{escape(_below(node))}</text></g>'
    )


def _line(dependent: str, label: str, dependency: str, places: Sequence[_Place]) -> str:
    upwards = places[-1].row <= places[0].row
    x, y = places[0].x, places[0].y + (0 if upwards else HEIGHT)
    path = [f"M{x:.1f} {y:.1f}"]
    for place in places[1:]:
        top = place.y + (HEIGHT if upwards else 0)
        middle = (y + top) / 2
        path.append(f"C{x:.1f} {middle:.1f} {place.x:.1f} {middle:.1f} {place.x:.1f} {top:.1f}")
        x, y = place.x, top
        if place.node is None:  # straight through the row, clear of the parts beside it
            y = top + HEIGHT
            path.append(f"V{y:.1f}")
    title = f"{dependent} needs {dependency} as {label}"
    return f'<path class="edge" marker-end="url(#tip)" d="{"".join(path)}"><title>{escape(title)}</title></path>'


def _below(node: Node) -> str:
    text = node.callable.rsplit(".", 1)[-1] or node.kind
    return text if len(text) <= SHORT_TEXT_MAX else text[: SHORT_TEXT_MAX - 1] + "…"


# -- rows --------------------------------------------------------------------------------------------------------------
def _laid_out(graph: Graph) -> _Drawing:
    edges = [edge for edge in graph.edges() if edge[2] in graph.nodes]
    pairs = list(dict.fromkeys((above, below) for above, _label, below in edges if above != below))
    backward = _backward(graph.nodes, pairs)
    forward = [pair for pair in pairs if pair not in backward]
    rows = _longest_paths(graph.nodes, forward)
    places = {
        name: _Place(node, 2 * PADDING + CHARACTER * max(len(node.name), len(_below(node))), rows[name])
        for name, node in graph.nodes.items()
    }
    drawing = _Drawing(places, [[] for _ in range(max(rows.values(), default=-1) + 1)], [])
    for place in places.values():
        drawing.rows[place.row].append(place)
    labels: dict[tuple[str, str], list[str]] = {}
    for above, label, below in edges:
        labels.setdefault((above, below), []).append(label)
    for above, below in pairs:
        between = [] if (above, below) in backward else _passages(drawing, places[above], places[below])
        passed = [places[above], *between, places[below]]
        drawing.lines.append((above, ", ".join(labels[above, below]), below, passed))
    _order(drawing.rows)
    _spread(drawing.rows)
    return drawing


def _passages(drawing: _Drawing, above: _Place, below: _Place) -> list[_Place]:
    """Make an empty place in each row between two parts, and join them all."""
    between = [_Place(None, LINE_WIDTH, row) for row in range(above.row + 1, below.row)]
    for place in between:
        drawing.rows[place.row].append(place)
    chain = [above, *between, below]
    for upper, lower in pairwise(chain):
        upper.below.append(lower)
        lower.above.append(upper)
    return between


def _backward(names: Iterable[str], pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Find edges that close a cycle, so that the rest has rows."""
    following: dict[str, list[str]] = {name: [] for name in names}
    for above, below in pairs:
        following[above].append(below)
    backward: set[tuple[str, str]] = set()
    done: set[str] = set()
    for root in following:
        path: dict[str, None] = {}
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.pop(name, None)
                done.add(name)
            elif name not in done and name not in path:
                path[name] = None
                stack.append((name, True))
                backward.update((name, below) for below in following[name] if below in path)
                stack.extend((below, False) for below in following[name] if below not in path)
    return backward


def _longest_paths(names: Iterable[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    rows = dict.fromkeys(names, 0)
    following: dict[str, list[str]] = {name: [] for name in rows}
    waiting = dict.fromkeys(rows, 0)
    for above, below in pairs:
        following[above].append(below)
        waiting[below] += 1
    ready = deque(name for name, count in waiting.items() if not count)
    while ready:
        name = ready.popleft()
        for below in following[name]:
            rows[below] = max(rows[below], rows[name] + 1)
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return rows


# -- places ------------------------------------------------------------------------------------------------------------
def _order(rows: list[list[_Place]]) -> None:
    """Sort each row by the middle of its neighbours, down and up, and keep what crosses least."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for index, row in enumerate(rows) if downwards else reversed(list(enumerate(rows))):
            other = index - 1 if downwards else index + 1
            if not 0 <= other < len(rows):
                continue
            position = {place: at for at, place in enumerate(rows[other])}
            keys = {
                place: _mean([position[n] for n in (place.above if downwards else place.below)], at)
                for at, place in enumerate(row)
            }
            row.sort(key=keys.__getitem__)
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _crossings(rows: list[list[_Place]]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        position = {place: at for at, place in enumerate(lower)}
        ends: list[int] = []
        for place in upper:
            mine = sorted(position[below] for below in place.below)
            count += sum(1 for end in mine for earlier in ends if earlier > end)
            ends.extend(mine)
    return count


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(rows: list[list[_Place]]) -> None:
    """Put each part near the middle of its neighbours without overlap."""
    for row in rows:
        _settle(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            _settle(row, [_mean([n.x for n in (*place.above, *place.below)], place.x) for place in row])
    left = min((place.x - place.width / 2 for row in rows for place in row), default=0.0)
    for row in rows:
        for place in row:
            place.x += MARGIN - left


def _settle(row: list[_Place], wished: list[float]) -> None:
    """Find the places in order, apart by their widths, that differ least in squares from those wished for."""
    offsets = [0.0]
    for before, after in pairwise(row):
        offsets.append(offsets[-1] + (before.width + after.width) / 2 + GAP)
    blocks: list[tuple[float, int]] = []  # mean and count of neighbours that touch
    for at, wish in enumerate(wished):
        mean, count = wish - offsets[at], 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    for place, mean, offset in zip(row, means, offsets, strict=True):
        place.x = mean + offset
