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
    """From the top down, as it is read; without recursion: a chain of a thousand jobs is a thousand levels deep."""
    from rich.text import Text

    waiting = below(tree, ids, by_id)
    while waiting:
        parent, one = waiting.pop()
        job = by_id.get(one) if isinstance(one, int) else None
        if isinstance(one, str):
            parent.add(Text(one, style=DIM))
        elif job is None:
            parent.add(Text(f"{one}  of another flow", style=DIM))
        elif job.job_id in drawn:
            parent.add(line(job).append("  see above" if job.children else "", DIM))
        else:
            drawn.add(job.job_id)
            waiting += below(parent.add(line(job)), job.children, by_id)


def below(parent: Tree, ids: Sequence[int], by_id: dict[int, FlowJob]) -> list[tuple[Tree, int | str]]:
    """What is drawn below it, the last first: ids, and how many more there are."""
    shown, rest = chosen(ids, by_id)
    ones: list[int | str] = [*shown]
    if rest:
        counts = Counter(by_id[id_].state if id_ in by_id else "of another flow" for id_ in rest)
        ones.append("… " + ", ".join(f"{count:,} more {state}" for state, count in counts.most_common()))
    return [(parent, one) for one in reversed(ones)]


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
