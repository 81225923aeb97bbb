"""A flow as a tree in the terminal: parents above the jobs that they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pgqueue.cli.output import DIM, STATES, duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text
    from rich.tree import Tree

    from pgqueue.queries.flows import FlowJob, FlowRow

# Of one parent; the rest is counted.
BROTHERS = 20
# What a level is moved in by.
INDENT = 4
# Of a name.
SHORTEST = 12
UNFINISHED = ("running", "failed", "available", "scheduled", "blocked")


def draw(row: FlowRow, jobs: Sequence[FlowJob], width: int) -> RenderableType:
    """The flow's own line, and its jobs. One that several wait for is drawn once, and named where it is met again."""
    from rich.console import Group
    from rich.text import Text
    from rich.tree import Tree

    by_id = {job.job_id: job for job in jobs}
    children = {child for job in jobs for child in job.children}
    tree = Tree(head(row), guide_style=DIM)
    drawn: set[int] = set()
    add_all(tree, [job.job_id for job in jobs if job.job_id not in children], by_id, drawn, width)
    if row.jobs > len(jobs):
        return Group(tree, Text(f"the first {len(jobs):,} of {row.jobs:,} jobs", style=DIM))
    return tree


def head(row: FlowRow) -> Text:
    from rich.text import Text

    line = Text.assemble(f"flow {row.id}", (f"  {printable(row.name)}" if row.name else ""), "  ")
    line.append(row.state, STATES.get(row.state, ""))
    ended = row.jobs - row.live
    took = "" if row.ended_at is None else f" in {duration((row.ended_at - row.created_at).total_seconds())}"
    return line.append(f"  {ended:,} of {row.jobs:,} ended{took}", DIM)


class Place(NamedTuple):
    """Where a job is drawn: so deep in the tree. `of`: who waits for it, where that one stands on the same level."""

    under: Tree
    depth: int
    of: int | None = None


def add_all(tree: Tree, ids: Sequence[int], by_id: dict[int, FlowJob], drawn: set[int], width: int) -> None:
    """From the top down, as it is read; without recursion: a chain of a thousand jobs is a thousand levels deep.

    On a terminal that is too narrow for so many levels the rest goes on on the last one.
    """
    from rich.text import Text

    waiting = below(Place(tree, 1), ids, by_id)
    while waiting:
        place, one = waiting.pop()
        job = by_id.get(one) if isinstance(one, int) else None
        room = width - INDENT * place.depth
        if isinstance(one, str):
            place.under.add(Text(one, style=DIM))
        elif job is None:
            place.under.add(Text(f"{one}  of another flow", style=DIM))
        elif job.job_id in drawn:
            place.under.add(line(job, place.of, room).append("  see above" if job.children else "", DIM))
        else:
            drawn.add(job.job_id)
            branch = place.under.add(line(job, place.of, room))
            deeper = INDENT * (place.depth + 1) <= width // 2
            of_it = Place(branch, place.depth + 1) if deeper else place._replace(of=job.job_id)
            waiting += below(of_it, job.children, by_id)


def below(place: Place, ids: Sequence[int], by_id: dict[int, FlowJob]) -> list[tuple[Place, int | str]]:
    """What is drawn below it, the last first: ids, and how many more there are."""
    shown, rest = chosen(ids, by_id)
    ones: list[int | str] = [*shown]
    if rest:
        counts = Counter(by_id[id_].state if id_ in by_id else "of another flow" for id_ in rest)
        ones.append("… " + ", ".join(f"{count:,} more {state}" for state, count in counts.most_common()))
    return [(place, one) for one in reversed(ones)]


def chosen(ids: Sequence[int], by_id: dict[int, FlowJob]) -> tuple[Sequence[int], Sequence[int]]:
    """Those that are drawn, what is not done first; and those that are only counted."""
    if len(ids) <= BROTHERS:
        return ids, ()

    def rank(id_: int) -> int:
        job = by_id.get(id_)
        return UNFINISHED.index(job.state) if job is not None and job.state in UNFINISHED else len(UNFINISHED)

    first = set(sorted(ids, key=rank)[:BROTHERS])
    return [id_ for id_ in ids if id_ in first], [id_ for id_ in ids if id_ not in first]


def line(job: FlowJob, of: int | None, room: int) -> Text:
    """One job; `of` which other, where that is not plain from its place. Long names lose their beginning."""
    from rich.text import Text

    text = Text("" if of is None else f"{of} ← ", style="", no_wrap=True, overflow="ellipsis")
    text.append(f"{job.job_id}  ")
    name = job.task if job.name is None else f"{printable(job.name)} ({job.task})"
    callback = "" if job.callback is None else f"  on {job.callback}"
    left = max(room - len(text) - len(callback) - len(job.state) - 2, SHORTEST)
    text.append(name if len(name) <= left else f"…{name[1 - left :]}").append(callback, DIM).append("  ")
    text.append(job.state, STATES.get(job.state, DIM))
    if job.percent is not None and job.state == "running":
        text.append(f"  {job.percent:g} %")
    if job.attempt is not None and job.attempt > 1:
        text.append(f"  attempt {job.attempt}", DIM)
    if job.error and job.state != "completed":
        text.append(f"  {printable(job.error)[:200]}", DIM)
    return text
