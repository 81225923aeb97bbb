"""Exports: every job once, in pages, whatever happens to it meanwhile."""

from __future__ import annotations

import random

import pytest

from pgqueue import ArgumentError, FailJob, PgQueue
from pgqueue.queries import exporting
from pgqueue.queries.inspecting import JobFilter
from pgqueue.testing import drain


@pytest.fixture(params=[{}, {"LOOK_AT": 2}, {"MOST_BYTES": 30}])
def ids(app: PgQueue, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> dict[str, list[int]]:
    """Jobs in every state but running, of two queues, by state; pages that look at all, at two rows, at few bytes."""
    for name, value in request.param.items():
        monkeypatch.setattr(exporting, name, value)

    @app.task(name="t")
    def t(n: int) -> None:
        if n < 0:
            raise FailJob("no")

    made: dict[str, list[int]] = {"completed": [], "failed": [], "cancelled": [], "available": [], "scheduled": []}
    for state, n in (("completed", 1), ("failed", -1), ("completed", 2), ("failed", -2)):
        made[state].append(t.enqueue(n).id)
    drain(app)
    for _ in range(3):
        made["scheduled"].append(t.using(delay=60, tags=["late"]).enqueue(3).id)
        made["cancelled"].append(t.enqueue(4).id)
        made["available"].append(t.using(queue="other").enqueue(5).id)
    app.jobs.cancel(made["cancelled"])
    return made


def test_every_job_is_exported_once_in_the_order_of_their_ids(app: PgQueue, ids: dict[str, list[int]]) -> None:
    assert [job.id for job in app.jobs.export()] == sorted(one for of_state in ids.values() for one in of_state)
    for state, of_state in ids.items():
        assert [(job.id, job.state) for job in app.jobs.export(state=state)] == [(one, state) for one in of_state]
    assert [job.id for job in app.jobs.export(queue="other")] == ids["available"]
    assert [job.id for job in app.jobs.export(tag="late", task="t")] == ids["scheduled"]
    assert [job.id for job in app.jobs.export(before=ids["failed"][1])] == [
        ids["completed"][0],
        ids["failed"][0],
        ids["completed"][1],
    ]
    assert list(app.jobs.export(queue="nobody")) == []


async def test_the_async_export_is_the_same(app: PgQueue, ids: dict[str, list[int]]) -> None:
    assert [job.id async for job in app.jobs.aexport(state="failed")] == ids["failed"]


@pytest.mark.usefixtures("ids")
def test_a_job_that_ends_during_an_export_comes_once(app: PgQueue) -> None:
    every = [job.id for job in app.jobs.export()]
    going = app.jobs.export()
    seen = [next(going).id]
    drain(app)
    assert seen + [job.id for job in going] == every


def test_a_page_of_large_jobs_has_fewer(app: PgQueue) -> None:
    noise = random.Random(7)
    app.enqueue_many([app.new_job("t", {"noise": noise.randbytes(100_000).hex()}) for _ in range(30)])
    jobs, last = app.database.run(exporting.page(app.schema, JobFilter(), 0))
    assert 5 < len(jobs) < 25
    assert last == jobs[-1].id
    assert len(list(app.jobs.export())) == 30


def test_what_is_no_filter_is_refused(app: PgQueue) -> None:
    with pytest.raises(ArgumentError, match="jobs have no filter 'name'"):
        list(app.jobs.export(name="x"))
