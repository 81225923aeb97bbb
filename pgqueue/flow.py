"""Jobs that depend on each other, described: which waits for which, and what a child that fails does to its parent.

A flow is any acyclic graph: children run first, parents after. Nothing here touches the database: `app.flows.enqueue`
inserts what is described, all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pgqueue import arguments
from pgqueue.errors import ArgumentError, ChildFailed, TaskSignal
from pgqueue.job import Job, NewJob, checked_id

OnFailure = Literal["fail_parent", "ignore", "run_parent", "cancel_siblings", "wait"]
Callback = Literal["success", "complete", "failure"]
# What an edge to a callback does with a job of its batch that does not complete.
_CALLBACKS: dict[Callback, OnFailure] = {"success": "wait", "complete": "ignore", "failure": "run_parent"}


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A job of a flow that is being described; `name` is what `after` and the flow's listings call it."""

    flow: Flow
    index: int
    job: NewJob
    name: str | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name or self.index} {self.job.task}>"


One: TypeAlias = Node | Job | int | str
After: TypeAlias = One | Sequence[One] | Mapping[Any, OnFailure]
# Known by its identity: a list that happens to be empty was given.
NOT_GIVEN: Sequence[int] = range(0)
Part: TypeAlias = "NewJob | Flow"


class Plan(NamedTuple):
    """A flow as it is enqueued: jobs, children before their parents, and edges (parent, child, on_failure).

    Edges name jobs by their place; those in `outside` have the id of a job that exists in place of the child.
    """

    name: str | None
    jobs: tuple[NewJob, ...]
    names: tuple[str | None, ...]
    callbacks: tuple[Callback | None, ...]
    edges: tuple[tuple[int, int, OnFailure], ...]
    outside: tuple[tuple[int, int, OnFailure], ...]
    places: tuple[int, ...]


def plan_fields(plan: Plan) -> dict[str, Any]:
    """A plan as JSON can hold it, for another process."""
    jobs = [
        job._replace(
            run_at=job.run_at and job.run_at.isoformat(),  # type: ignore[arg-type]
            keep_key=job.keep_key and job.keep_key.total_seconds(),  # type: ignore[arg-type]
        )
        for job in plan.jobs
    ]
    return {**plan._asdict(), "jobs": [list(job) for job in jobs]}


def plan_of(fields: Mapping[str, Any]) -> Plan:
    """What `plan_fields` made."""
    jobs = [NewJob(*values) for values in fields["jobs"]]
    read = [
        job._replace(
            run_at=job.run_at and datetime.fromisoformat(str(job.run_at)),
            keep_key=None if job.keep_key is None else timedelta(seconds=job.keep_key),  # type: ignore[arg-type]
            after=tuple((job_id, policy) for job_id, policy in job.after),
        )
        for job in jobs
    ]
    lists: dict[str, Any] = {
        name: tuple(tuple(one) if isinstance(one, list) else one for one in fields[name]) for name in Plan._fields[2:]
    }
    return Plan(fields["name"], tuple(read), **lists)


class Flow:
    """Describes a flow; `app.flows.enqueue` enqueues it. Good for any number of enqueues.

        flow = Flow("video 7")
        probe = flow.add(probe_video.job(7))
        thumbs = [flow.add(thumbnail.job(7, at), after=probe) for at in (1, 5, 9)]
        flow.add(publish.job(7), after=thumbs, on_failure="ignore")
        app.flows.enqueue(flow, using=session)

    `chain`, `group`, `chord`, `tree` and `batch` make the common shapes.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = _checked_name(name, "the name of a flow")
        self.nodes: list[Node] = []
        self._names: set[str] = set()
        self._edges: list[tuple[int, One, OnFailure]] = []
        self._callbacks: dict[int, Callback] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        named = "" if self.name is None else f" {self.name!r}"
        return f"<Flow{named} of {len(self.nodes)} jobs>"

    def add(
        self, job: NewJob, *, after: After = NOT_GIVEN, on_failure: OnFailure = "fail_parent", name: str | None = None
    ) -> Node:
        """Add a job that waits for those in `after`: nodes of this flow, their names, or jobs that exist, or their ids.

        Names may be given before they are added. `on_failure` says what a child that fails for good, or is cancelled,
        does to this job; `after` as a mapping says it for each child:

        - "fail_parent": it goes to `failed_jobs` unrun, and waits again when the child is redriven;
        - "ignore": the child counts as done;
        - "run_parent": it begins at once, without the other children;
        - "cancel_siblings": its other children are cancelled, and it fails;
        - "wait": it waits until the child is redriven and completes.

        Raises ArgumentError.

            flow.add(ship.job(7), after={charge: "cancel_siblings", reserve: "cancel_siblings", greet: "ignore"})
        """
        given: object = job
        if not isinstance(given, NewJob):
            raise ArgumentError(f"{self!r} was given {job!r}: add jobs made by task.job(…)")
        _checked_name(name, "name")
        if name in self._names:
            raise ArgumentError(f"two jobs of {self!r} are named {name!r}: each has a name of its own, or none")
        edges = _edges(job.task, after, on_failure)
        for one, _ in edges:
            if isinstance(one, Node) and one.flow is not self:
                raise ArgumentError(
                    f"{one!r} is of another flow: a job waits for jobs of its own flow, or by their ids"
                )
        node = Node(self, len(self.nodes), job, name)
        self.nodes.append(node)
        if name is not None:
            self._names.add(name)
        self._edges += [(node.index, one, policy) for one, policy in edges]
        return node

    def plan(self) -> Plan:
        """The graph, checked: children before their parents. Raises ArgumentError for cycles and unknown names."""
        if not self.nodes:
            raise ArgumentError("the flow has no jobs: add some")
        named = {node.name: node.index for node in self.nodes if node.name is not None}
        edges: dict[tuple[int, int], OnFailure] = {}
        outside: dict[tuple[int, int], OnFailure] = {}
        for parent, one, policy in self._edges:
            match one:
                case Node():
                    edges[parent, one.index] = policy
                case str() if one in named:
                    edges[parent, named[one]] = policy
                case str():
                    known = ", ".join(sorted(map(repr, named))) or "none"
                    raise ArgumentError(
                        f"{self.nodes[parent]!r} waits for {one!r}, which is no job of the flow: there are {known}"
                    )
                case _:
                    outside[parent, _id_of(one)] = policy
        for node in self.nodes:
            outside |= {(node.index, job_id): _policy(policy) for job_id, policy in node.job.after}
        order = self._ordered(edges)
        places = {index: place for place, index in enumerate(order)}
        return Plan(
            self.name,
            tuple(self.nodes[index].job for index in order),
            tuple(self.nodes[index].name for index in order),
            tuple(self._callbacks.get(index) for index in order),
            tuple((places[parent], places[child], policy) for (parent, child), policy in edges.items()),
            tuple((places[parent], job_id, policy) for (parent, job_id), policy in outside.items()),
            tuple(places[node.index] for node in self.nodes),
        )

    def _ordered(self, edges: Iterable[tuple[int, int]]) -> list[int]:
        """Of those that may come next the one that was added first."""
        sorter: TopologicalSorter[int] = TopologicalSorter({node.index: () for node in self.nodes})
        for parent, child in edges:
            sorter.add(parent, child)
        order: list[int] = []
        ready: list[int] = []
        try:
            sorter.prepare()
            while sorter.is_active():
                for index in sorter.get_ready():
                    heappush(ready, index)
                order.append(heappop(ready))
                sorter.done(order[-1])
            return order
        except CycleError as error:
            shown = " after ".join(f"{self.nodes[index].name or self.nodes[index].job.task}" for index in error.args[1])
            raise ArgumentError(f"the flow has a cycle, so that none of it could begin: {shown}") from None

    def heads(self) -> list[Node]:
        """Those that wait for no other job of the flow."""
        parents = {parent for parent, one, _ in self._edges if isinstance(one, Node | str)}
        return [node for node in self.nodes if node.index not in parents]

    def tails(self) -> list[Node]:
        """Those that no other job of the flow waits for, but callbacks."""
        named = {node.name: node for node in self.nodes if node.name is not None}
        children = {
            named.get(one) if isinstance(one, str) else one
            for parent, one, _ in self._edges
            if parent not in self._callbacks
        }
        return [node for node in self.nodes if node not in children and node.index not in self._callbacks]

    def call_back(self, job: NewJob, when: Callback, of: Sequence[Node]) -> Node:
        """Add a job that runs once all of `of` completed ("success"), ended ("complete"), or one failed ("failure")."""
        node = self.add(job, after=of, on_failure=_CALLBACKS[when])
        self._callbacks[node.index] = when
        return node

    def take(self, part: Part, *, after: Sequence[Node] = (), on_failure: OnFailure = "fail_parent") -> list[Node]:
        """Add a job, or all jobs of another flow, whose heads wait for `after`; returns its tails here."""
        if isinstance(part, NewJob):
            return [self.add(part, after=after, on_failure=on_failure)]
        given: object = part
        if not isinstance(given, Flow):
            raise ArgumentError(
                f"a {type(given).__name__} is no part of a flow: give jobs made by task.job(…), or flows; the jobs of "
                "a list side by side are group(*jobs)"
            )
        heads = {node.index for node in part.heads()}
        mine: dict[int, Node] = {}
        for node in part.nodes:
            mine[node.index] = self.add(
                node.job, after=after if node.index in heads else (), on_failure=on_failure, name=node.name
            )
        for parent, one, policy in part._edges:
            self._edges.append((mine[parent].index, mine[one.index] if isinstance(one, Node) else one, policy))
        self._callbacks |= {mine[index].index: when for index, when in part._callbacks.items()}
        return [mine[node.index] for node in part.tails()]


def chain(*parts: Part, name: str | None = None, on_failure: OnFailure = "fail_parent") -> Flow:
    """One after the other: every head of a part waits for every tail of the part before. Raises ArgumentError.

    Between two groups of a thousand that makes a million edges: put a job between them.

    app.flows.enqueue(chain(fetch.job(url), group(resize.job(1), resize.job(2)), publish.job()))
    """
    flow = Flow(name)
    tails: list[Node] = []
    for part in _given(parts, "chain"):
        tails = flow.take(part, after=tails, on_failure=on_failure)
    return flow


def group(*parts: Part, name: str | None = None) -> Flow:
    """Side by side. Raises ArgumentError.

    group(resize.job(1), resize.job(2))
    """
    return _side_by_side(parts, "group", name)


def _side_by_side(parts: Sequence[Part], what: str, name: str | None = None) -> Flow:
    flow = Flow(name)
    for part in _given(parts, what):
        flow.take(part)
    return flow


def chord(parts: Sequence[Part], body: Part, *, name: str | None = None, on_failure: OnFailure = "fail_parent") -> Flow:
    """All of `parts` side by side, and `body` when they have ended. Raises ArgumentError.

    chord([count.job(page) for page in pages], add_up.job())
    """
    return chain(_side_by_side(parts, "chord"), body, name=name, on_failure=on_failure)


def tree(job: NewJob, *children: Part, name: str | None = None, on_failure: OnFailure = "fail_parent") -> Flow:
    """A job and its children, which run first and may be trees themselves. Raises ArgumentError.

    tree(book.job(1), tree(chapter.job(1), page.job(1), page.job(2)), tree(chapter.job(2), page.job(3)))
    """
    flow = Flow(name)
    ends = [end for child in children for end in flow.take(child)]
    flow.add(job, after=ends, on_failure=on_failure)
    return flow


def batch(
    jobs: Sequence[NewJob],
    *,
    on_success: NewJob | None = None,
    on_complete: NewJob | None = None,
    on_failure: NewJob | None = None,
    name: str | None = None,
) -> Flow:
    """Jobs side by side, and callbacks: when all completed, when all have ended, when the first failed for good.

    `on_success` waits while a job of the batch is in `failed_jobs`, and runs when it was redriven and completed. A
    callback that is not to run ends as cancelled. Raises ArgumentError.

        batch([send.job(to) for to in addresses], on_complete=report.job(), on_failure=alarm.job())
    """
    flow = _side_by_side(jobs, "batch", name)
    members = list(flow.nodes)
    callbacks: list[tuple[NewJob | None, Callback]] = [
        (on_success, "success"),
        (on_complete, "complete"),
        (on_failure, "failure"),
    ]
    for job, when in callbacks:
        if job is not None:
            flow.call_back(job, when, members)
    return flow


class WaitForChildren(TaskSignal):
    """Enqueue jobs, and run this job again when they have ended; uses no attempt.

    `children` are jobs made by `task.job(…)`, or flows. They are enqueued in the transaction in which the job goes back
    to wait for them; middleware that wraps enqueues is given them before, and no jobs after. `on_failure` is as in
    `Flow.add`. The run that follows finds them in `ctx.children()`. Raises ArgumentError.

        @app.task(bind=True)
        def add_up(ctx: Context, pages: int) -> int:
            if not ctx.children():
                raise WaitForChildren([count.job(page) for page in range(pages)])
            return sum(child.result for child in ctx.children())
    """

    def __init__(self, children: Part | Sequence[Part], *, on_failure: OnFailure = "fail_parent") -> None:
        super().__init__("the task waits for its children")
        # A NewJob is a sequence too.
        several = isinstance(children, Sequence) and not isinstance(children, NewJob)
        parts: Any = tuple(children) if several else (children,)  # type: ignore[arg-type]
        self.plan = _side_by_side(parts, "WaitForChildren").plan()
        self.on_failure = _policy(on_failure)


@dataclass(frozen=True, slots=True)
class Child:
    """What a job that a job has waited for came to.

    `state` is completed, failed, cancelled, skipped (a callback) or gone (deleted); None while it lives, for a parent
    that did not wait.
    """

    job_id: int
    task: str
    name: str | None
    state: str | None
    value: str | None = None
    error: Mapping[str, Any] | None = None

    @property
    def result(self) -> Any:
        """What its task returned, as JSON gives it back.

        Raises ChildFailed where it has not completed, or what it returned could not be stored.

        total = sum(child.result for child in ctx.children() if child.state == "completed")
        """
        error = self.error or {}
        if self.state == "completed" and error:
            why = error.get("message")
            raise ChildFailed(f"job {self.job_id} ({self.task}) completed, and its result is not stored: {why}")
        if self.state != "completed":
            why = ": ".join(filter(None, (error.get("type"), error.get("message")))) or "nothing more is known"
            state = "has not ended" if self.state is None else f"is {self.state}"
            raise ChildFailed(f"job {self.job_id} ({self.task}) {state}, and has no result: {why}")
        return None if self.value is None else arguments.loads(self.value)


def after_of(task: str, after: Any, on_failure: OnFailure) -> tuple[tuple[int, str], ...]:
    """What `Task.using(after=…)` was given: ids and policies. Raises ArgumentError."""
    edges = _edges(task, after, on_failure)
    if any(isinstance(one, Node | str) for one, _ in edges):
        raise ArgumentError(f"{task}: after= takes jobs that exist, or their ids; jobs to come go into a Flow")
    return tuple({_id_of(one): policy for one, policy in edges}.items())


def _edges(task: str, after: Any, on_failure: OnFailure) -> list[tuple[One, OnFailure]]:
    policy = _policy(on_failure)
    if after is NOT_GIVEN and policy != "fail_parent":
        raise ArgumentError(
            f"{task}: on_failure={policy!r} says what a job that it waits for does to it, and it waits for none: "
            "give after=…, or give on_failure to the job that waits for this one"
        )
    if isinstance(after, Mapping):
        return [(_one(one), _policy(own)) for one, own in after.items()]
    if isinstance(after, Node | Job | NewJob | str | int) or not isinstance(after, Iterable):
        return [(_one(after), policy)]
    return [(_one(one), policy) for one in after]


def _one(given: object) -> One:
    if isinstance(given, Node | Job | str):
        return given
    if isinstance(given, NewJob):
        raise ArgumentError(
            f"after= was given a job of {given.task} that is not enqueued: add it to the flow, and give its node"
        )
    return checked_id(given)


def _id_of(one: object) -> int:
    return one.id if isinstance(one, Job) else checked_id(one)


def _checked_name(name: Any, what: str) -> str | None:
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
        raise ArgumentError(f"{what} {str(name)[:60]!r} is not valid: use 1 to 200 printable characters")
    return name


def _policy(given: object) -> OnFailure:
    if given not in get_args(OnFailure):
        known = ", ".join(map(repr, get_args(OnFailure)))
        raise ArgumentError(f"on_failure={given!r} is not known: use one of {known}")
    return given  # type: ignore[return-value]


def _given(parts: Sequence[Part], what: str) -> Sequence[Part]:
    if not parts:
        raise ArgumentError(f"{what}() was given no jobs")
    return parts


__all__ = ["Child", "Flow", "Node", "OnFailure", "Plan", "WaitForChildren", "batch", "chain", "chord", "group", "tree"]
