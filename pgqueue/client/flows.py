"""Flows: enqueued, looked at, cancelled and retried as a whole."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue.client.inserter import Inserter
from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError, JobNotFound
from pgqueue.flow import Flow, Node
from pgqueue.job import Job, checked_id, checked_limit
from pgqueue.queries import failures, flows, inspecting
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.flows import FlowJob, FlowRow
from pgqueue.queries.statement import Operation

SHOWN = 1_000


@dataclass(frozen=True, slots=True, repr=False)
class EnqueuedFlow:
    """A flow that was enqueued: its id, and its jobs in the order in which they were added."""

    id: int
    name: str | None
    jobs: tuple[Job, ...]
    nodes: tuple[Node, ...]

    def __repr__(self) -> str:
        named = "" if self.name is None else f" {self.name!r}"
        return f"<EnqueuedFlow {self.id}{named} of {len(self.jobs)} jobs>"

    def __getitem__(self, node: Node | str) -> Job:
        """The job of a node, or of the name that it was given. Raises JobNotFound.

        app.flows.enqueue(flow)["publish"].result(timeout=60)
        """
        for one, job in zip(self.nodes, self.jobs, strict=True):
            if one is node or (isinstance(node, str) and one.name == node):
                return job
        raise JobNotFound(f"{node!r} is no job of flow {self.id}")


@dataclass(frozen=True, slots=True)
class Flows(Part):
    """`app.flows`: jobs that depend on each other."""

    inserter: Inserter

    def enqueue(self, flow: Flow, using: Any = None) -> EnqueuedFlow:
        """Enqueue all jobs of a flow, or none; those that wait for others are `blocked` until these have ended.

        `using` joins the caller's transaction. A job whose unique key a live job holds stands for that one: who waits
        for it waits for that. Raises ArgumentError for a cycle and a name that is not there, JobNotFound for a job to
        wait for that does not exist.

            app.flows.enqueue(chain(charge.job(7), ship.job(7), name="order 7"), using=session)
        """
        plan = _checked(flow).plan()
        return self._enqueued(flow, plan.places, *self.inserter.insert_flow(plan, using))

    async def aenqueue(self, flow: Flow, using: Any = None) -> EnqueuedFlow:
        """As `enqueue`."""
        plan = _checked(flow).plan()
        return self._enqueued(flow, plan.places, *await self.inserter.ainsert_flow(plan, using))

    @staticmethod
    def _enqueued(flow: Flow, places: Sequence[int], flow_id: int, jobs: Sequence[Job]) -> EnqueuedFlow:
        return EnqueuedFlow(flow_id, flow.name, tuple(jobs[place] for place in places), tuple(flow.nodes))

    def get(self, flow_id: int) -> FlowRow:
        """State and counts: jobs, live, completed, failed, cancelled. Raises JobNotFound.

        app.flows.get(12).failed
        """
        return _one(self.database.fetch(flows.flow_row(self.schema, checked_id(flow_id, "flow"))), flow_id)

    async def aget(self, flow_id: int) -> FlowRow:
        """As `get`."""
        return _one(await self.database.afetch(flows.flow_row(self.schema, checked_id(flow_id, "flow"))), flow_id)

    def list(self, *, name: str | None = None, limit: int = 100, before: int | None = None) -> builtins.list[FlowRow]:
        """Newest first; with this name; those with an id below `before`."""
        return self.database.fetch(flows.list_flows(self.schema, checked_limit(limit), name, before))

    def of(self, job_id: int) -> FlowRow:
        """The flow of a job, live or ended. Raises JobNotFound."""
        rows = self.database.fetch(flows.flow_of_job(self.schema, checked_id(job_id)))
        if not rows:
            raise JobNotFound(f"job {job_id} is in no flow, or the flow has ended and its history was pruned")
        return rows[0]

    def jobs(self, flow_id: int, *, limit: int = SHOWN) -> builtins.list[FlowJob]:
        """Its jobs, each with its state and the ids of those that it waits for; the first `limit`."""
        return self.database.fetch(flows.jobs_of(self.schema, checked_id(flow_id, "flow"), checked_limit(limit)))

    def cancel(self, flow_id: int, why: str = "cancelled with its flow", using: Any = None) -> builtins.list[int]:
        """Cancel all its live jobs, or none; returns their ids. Running ones are not retried. Raises JobNotFound.

        Jobs that were there before and that it only waits for are left alone.
        """
        return self.database.run(self._cancelling(checked_id(flow_id, "flow"), why), using, atomic=True)

    async def acancel(
        self, flow_id: int, why: str = "cancelled with its flow", using: Any = None
    ) -> builtins.list[int]:
        """As `cancel`."""
        return await self.database.arun(self._cancelling(checked_id(flow_id, "flow"), why), using, atomic=True)

    def retry(self, flow_id: int) -> builtins.list[int]:
        """Redrive its failed jobs; returns their ids. Those that failed for them wait again. Raises JobNotFound.

        One whose child was cancelled or deleted runs without it. What was cancelled itself does not come back.
        """
        return self.database.run(self.retrying(checked_id(flow_id, "flow")), atomic=True)

    async def aretry(self, flow_id: int) -> builtins.list[int]:
        """As `retry`."""
        return await self.database.arun(self.retrying(checked_id(flow_id, "flow")), atomic=True)

    def _cancelling(self, flow_id: int, why: str) -> Operation[builtins.list[int]]:
        _one((yield flows.flow_row(self.schema, flow_id)), flow_id)
        live = yield flows.live_ids(self.schema, flow_id)
        return [job_id for job_id, _ in (yield inspecting.cancel(self.schema, live, why))]

    def retrying(self, flow_id: int) -> Operation[builtins.list[int]]:
        """What `retry` does, to be run in one transaction."""
        _one((yield flows.flow_row(self.schema, flow_id)), flow_id)
        failed = yield flows.failed_ids(self.schema, flow_id)
        if not failed:
            return []
        return [*(yield failures.redrive(self.schema, FailureFilter(ids=tuple(failed))))]


def _checked(flow: Flow) -> Flow:
    given: object = flow
    if not isinstance(given, Flow):
        raise ArgumentError(
            f"flows.enqueue takes a Flow, chain(…), group(…), chord(…), tree(…) or batch(…), not {type(flow).__name__}"
        )
    return flow


def _one(rows: builtins.list[FlowRow], flow_id: int) -> FlowRow:
    if not rows:
        raise JobNotFound(f"there is no flow {flow_id}: it never was, or has ended and its history was pruned")
    return rows[0]
