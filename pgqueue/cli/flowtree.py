"""A flow as a tree in the terminal: parents above the jobs that they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgqueue.cli.output import DIM, STATES, duration, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text
    from rich.tree import Tree

    from pgqueue.queries.flows import FlowJob, FlowRow

# Of one parent; the rest is counted.
BROTHERS = 20
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
    add_all(tree, [job.job_id for job in jobs if job.job_id not in children], by_id, drawn)
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


def add_all(tree: Tree, ids: Sequence[int], by_id: dict[int, FlowJob], drawn: set[int]) -> None:
    """Down the tree without recursion: a chain of a thousand jobs is a thousand levels deep."""
    from rich.text import Text

    waiting: list[tuple[Tree, Sequence[int]]] = [(tree, ids)]
    while waiting:
        parent, brothers = waiting.pop()
        shown, rest = chosen(brothers, by_id)
        for id_ in shown:
            job = by_id.get(id_)
            if job is None:
                parent.add(Text(f"{id_}  of another flow", style=DIM))
            elif id_ in drawn:
                parent.add(line(job).append("  see above", DIM))
            else:
                drawn.add(id_)
                branch = parent.add(line(job))
                if job.children:
                    waiting.append((branch, job.children))
        if rest:
            counts = Counter(by_id[id_].state if id_ in by_id else "of another flow" for id_ in rest)
            parent.add(
                Text("… " + ", ".join(f"{count:,} more {state}" for state, count in counts.most_common()), style=DIM)
            )


def chosen(ids: Sequence[int], by_id: dict[int, FlowJob]) -> tuple[Sequence[int], Sequence[int]]:
    """Those that are drawn, what is not done first; and those that are only counted."""
    if len(ids) <= BROTHERS:
        return ids, ()

    def rank(id_: int) -> int:
        job = by_id.get(id_)
        return UNFINISHED.index(job.state) if job is not None and job.state in UNFINISHED else len(UNFINISHED)

    first = set(sorted(ids, key=rank)[:BROTHERS])
    return [id_ for id_ in ids if id_ in first], [id_ for id_ in ids if id_ not in first]


def line(job: FlowJob) -> Text:
    from rich.text import Text

    text = Text(f"{job.job_id}  ", no_wrap=True, overflow="ellipsis")
    text.append(job.task if job.name is None else f"{printable(job.name)} ({job.task})").append("  ")
    text.append(job.state, STATES.get(job.state, DIM))
    if job.percent is not None and job.state == "running":
        text.append(f"  {job.percent:g} %")
    if job.attempt is not None and job.attempt > 1:
        text.append(f"  attempt {job.attempt}", DIM)
    if job.error and job.state != "completed":
        text.append(f"  {printable(job.error)[:200]}", DIM)
    return text
