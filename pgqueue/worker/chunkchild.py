"""A chunk in a process of its own: what `pgqueue.worker.child` does with a call that has several jobs.

What a job is marked with is said at once, so that it holds even if the process dies before the others have ended.
"""

from __future__ import annotations

import contextvars
from functools import partial
from typing import Any

from pgqueue.chunk import ChunkJob, JobRun
from pgqueue.context import Context
from pgqueue.flow import Child
from pgqueue.middleware import around_call
from pgqueue.task import Task
from pgqueue.task.chunkcall import ChunkCall, decided_by
from pgqueue.worker.call import outcome_fields, pack
from pgqueue.worker.line import Line, Teller


def run(task: Task[..., Any], jobs: list[dict[str, Any]], line: Line) -> bytes:
    """Call the task with the jobs; the answer says what became of each."""
    tellers = [Teller(line.send, job["context"]["attempt"], job["context"]["job_id"]) for job in jobs]
    runs = []
    for job, teller in zip(jobs, tellers, strict=True):
        fields = dict(job["context"])
        crashes = fields.pop("crashes")
        fields["found"] = tuple(Child(**child) for child in fields["found"])
        context = Context(**fields, journal=teller.journal)
        asks = partial(line.is_stopped, context.job_id)
        runs.append(JobRun(context, decided_by(task), crashes, partial(_say, line), asks))
    call = ChunkCall(task, runs)
    try:
        if given := call.read(job["args"] for job in jobs):
            # This process may have run a single job before, whose Context is still the current one here.
            value = contextvars.Context().run(_called, task, given, call.contexts())
            for one in runs:
                one.heard = None
            call.returned(value)
    except BaseException as error:
        call.raised(error)
    for one in runs:
        # A thread that the task has left behind is to read and write nothing of the next call.
        one.end()
    for teller in tellers:
        teller.close()
    line.stopped.clear()
    return pack({"ended": [_ended(one) for one in runs]})


def _called(task: Task[..., Any], given: list[ChunkJob[Any]], contexts: list[Context]) -> Any:
    with around_call(task.app.middleware.calls, contexts):
        return task.function(given)


def _say(line: Line, run: JobRun) -> None:
    line.send(pack({"marked": True, **_ended(run)}))


def _ended(run: JobRun) -> dict[str, Any]:
    assert run.outcome is not None
    return {"job": run.context.job_id, **outcome_fields(run.outcome)}
