"""The picture of a flow: where its jobs stand, and the lines between them. What runs first is on the left.

Jobs are in layers, each to the right of all that it waits for (longest path), and in an order within a layer in which
few lines cross: every job near the middle of its neighbours, by turns from the left and from the right (the barycentre
method of Sugiyama, Tagawa and Toda, 1981).
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import fmean

from pgqueue.queries.flows import FlowEdge, FlowJob

WIDTH, HEIGHT = 196, 46
ACROSS, DOWN = 72, 14
MARGIN = 12
SWEEPS = 6
# So many alike are one box.
ALIKE = 4
# Of a text in a box; its title has the whole.
LONGEST = 25


@dataclass(frozen=True, slots=True)
class Box:
    """One job, or several that are alike: of one task, with the same parents and children."""

    jobs: tuple[FlowJob, ...]
    label: str
    state: str
    note: str
    callback: str | None
    x: float
    y: float

    @property
    def short(self) -> str:
        """Of a task's name the end tells more; of others the beginning."""
        if len(self.label) <= LONGEST:
            return self.label
        return f"{self.label[: LONGEST - 1]}…" if self.jobs[0].name else f"…{self.label[-LONGEST + 1 :]}"


@dataclass(frozen=True, slots=True)
class Line:
    """From a box to one that waits for it, as the path of an SVG. `policy`: what a child that fails does."""

    path: str
    policy: str
    title: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes and lines, and how large all of it is, in pixels."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float


def drawn(jobs: Sequence[FlowJob], edges: Sequence[FlowEdge]) -> Picture:
    """The picture of a flow. Jobs of other flows that it waits for are in it, without a state."""
    known = {job.job_id: job for job in jobs}
    for edge in edges:
        if edge.child not in known:
            known[edge.child] = FlowJob(edge.child, "of another flow", "", None, "", (), None, None, None)
    groups = _alike(known, edges)
    of = {job: number for number, group in enumerate(groups) for job in group}
    links = {(of[edge.child], of[edge.parent]): edge for edge in edges}
    layers, ways = _with_ways(_layers(len(groups), links), links)
    layers = _ordered(layers, [pair for way in ways.values() for pair in pairwise(way)])
    tallest = max((len(layer) for layer in layers), default=0)
    height = tallest * (HEIGHT + DOWN) - DOWN
    places: dict[int, tuple[float, float]] = {}
    for column, layer in enumerate(layers):
        top = (height - (len(layer) * (HEIGHT + DOWN) - DOWN)) / 2
        for row, number in enumerate(layer):
            places[number] = MARGIN + column * (WIDTH + ACROSS), MARGIN + top + row * (HEIGHT + DOWN)
    callbacks = {of[edge.parent]: edge.callback for edge in edges}
    boxes = [
        _box(tuple(known[job] for job in group), callbacks.get(number), *places[number])
        for number, group in enumerate(groups)
    ]
    lines = [_line([places[one] for one in ways[link]], edge) for link, edge in links.items()]
    width = len(layers) * (WIDTH + ACROSS) - ACROSS
    return Picture(tuple(boxes), tuple(lines), width + 2 * MARGIN, height + 2 * MARGIN)


def _alike(known: Mapping[int, FlowJob], edges: Sequence[FlowEdge]) -> list[tuple[int, ...]]:
    """Jobs that nobody needs to tell apart, together."""
    parents, children = defaultdict(set), defaultdict(set)
    for edge in edges:
        parents[edge.child].add(edge.parent)
        children[edge.parent].add(edge.child)
    alike: defaultdict[object, list[int]] = defaultdict(list)
    for id_, job in known.items():
        alike[job.task, job.name, frozenset(parents[id_]), frozenset(children[id_])].append(id_)
    groups: list[tuple[int, ...]] = []
    for found in alike.values():
        groups += [tuple(found)] if len(found) >= ALIKE else [(one,) for one in found]
    return sorted(groups)


def _layers(boxes: int, links: Mapping[tuple[int, int], FlowEdge]) -> list[list[int]]:
    """Each to the right of all that it waits for."""
    waits = Counter(parent for _, parent in links)
    after = defaultdict(list)
    for child, parent in links:
        after[child].append(parent)
    layer = [0] * boxes
    free = deque(number for number in range(boxes) if not waits[number])
    while free:
        number = free.popleft()
        for parent in after[number]:
            layer[parent] = max(layer[parent], layer[number] + 1)
            waits[parent] -= 1
            if not waits[parent]:
                free.append(parent)
    layers: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for number, place in enumerate(layer):
        layers[place].append(number)
    return layers


def _with_ways(
    layers: list[list[int]], links: Mapping[tuple[int, int], FlowEdge]
) -> tuple[list[list[int]], dict[tuple[int, int], list[int]]]:
    """A line that passes layers has a place in each, which no box covers; and the places of each line."""
    column = {number: place for place, layer in enumerate(layers) for number in layer}
    following = count(len(column))
    ways = {}
    for child, parent in links:
        between = []
        for place in range(column[child] + 1, column[parent]):
            layers[place].append(number := next(following))
            between.append(number)
        ways[child, parent] = [child, *between, parent]
    return layers, ways


def _ordered(layers: list[list[int]], links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The layers in an order in which few lines cross."""
    left, right = defaultdict(list), defaultdict(list)
    for child, parent in links:
        left[parent].append(child)
        right[child].append(parent)
    place = {number: float(row) for layer in layers for row, number in enumerate(layer)}
    for sweep in range(SWEEPS):
        neighbours = left if sweep % 2 == 0 else right
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            middle = {
                number: fmean(place[one] for one in neighbours[number]) if neighbours[number] else place[number]
                for number in layer
            }
            layer.sort(key=middle.__getitem__)
            place |= {number: float(row) for row, number in enumerate(layer)}
    return layers


def _box(jobs: tuple[FlowJob, ...], callback: str | None, x: float, y: float) -> Box:
    first = jobs[0]
    label = first.name or first.task
    if len(jobs) == 1:
        return Box(jobs, label, first.state, f"{first.job_id} {first.state}".strip(), callback, x, y)
    states = Counter(job.state for job in jobs)
    # What needs somebody's attention first decides the colour.
    state = next(
        (one for one in ("failed", "running", "available", "scheduled", "blocked") if states[one]), first.state
    )
    note = ", ".join(f"{number:,} {one}" for one, number in states.most_common())
    return Box(jobs, f"{label} × {len(jobs):,}", state, note, callback, x, y)


def _line(places: Sequence[tuple[float, float]], edge: FlowEdge) -> Line:
    x, y = places[0][0] + WIDTH, places[0][1] + HEIGHT / 2
    path = f"M{x:g},{y:g}"
    for left, top in places[1:]:
        next_x, next_y = left, top + HEIGHT / 2
        bend = (next_x - x) / 2
        path += f"C{x + bend:g},{y:g} {next_x - bend:g},{next_y:g} {next_x:g},{next_y:g}"
        x, y = next_x + WIDTH, next_y
        # Straight through a layer that it passes.
        path += f"H{x:g}" if (left, top) != places[-1] else ""
    policy = edge.on_failure.replace("_", " ")
    return Line(path, edge.on_failure, f"{edge.parent} waits for {edge.child}; if that fails: {policy}")
