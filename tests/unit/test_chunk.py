"""The jobs of a chunk, and the outcomes that a task gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    CancelJob,
    ChunkJob,
    ConfigurationError,
    FailJob,
    JobMarked,
    PgQueue,
    RetryJob,
    SnoozeJob,
    Task,
)
from pgqueue.chunk import JobRun
from pgqueue.context import Context
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry, Snooze
from pgqueue.task.chunkcall import ChunkCall, alone, decided_by
from pgqueue.testing import run_inline


@dataclass
class Document:
    id: int


def task_of(body: Callable[[list[ChunkJob[Document]]], Any] = lambda jobs: None, **options: Any) -> Task[..., Any]:
    def index(jobs: list[ChunkJob[Document]]) -> Any:
        return body(jobs)

    made: Task[..., Any] = PgQueue(backoff=Backoff.fixed(5)).task(name="index", chunk=10, **options)(index)
    return made


def call_of(task: Task[..., Any], count: int, attempt: int = 1) -> tuple[ChunkCall, list[ChunkJob[Document]]]:
    runs = [JobRun(Context(n, "index", "default", attempt, 3), decided_by(task)) for n in range(1, count + 1)]
    call = ChunkCall(task, runs)
    return call, call.read([json.dumps({"id": 10 * run.context.job_id}) for run in runs])


def outcomes(call: ChunkCall) -> list[Outcome | None]:
    return [run.outcome for run in call.runs]


def kinds(call: ChunkCall) -> list[str]:
    return [type(run.outcome).__name__ for run in call.runs]


def test_each_mark_is_an_outcome() -> None:
    call, jobs = call_of(task_of(), 8)
    jobs[0].complete({"n": 1})
    jobs[1].retry()
    jobs[2].retry(timedelta(minutes=1), "busy")
    jobs[3].snooze(7)
    jobs[4].cancel("not needed")
    jobs[5].fail("no such document")
    jobs[6].fail(KeyError("x"))
    jobs[7].raised(OSError("gone"))
    completed, again, busy, later, cancelled, failed, caused, raised = outcomes(call)
    assert completed == Completed('{"n":1}')
    assert isinstance(again, Retry)
    assert again.delay == 5
    assert isinstance(busy, Retry)
    assert (busy.delay, busy.error.message) == (60, "busy")
    assert later == Snooze(7)
    assert cancelled == Cancelled("not needed")
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.error.message) == ("fail_job", "no such document")
    assert isinstance(caused, Failed)
    assert caused.error.type == "KeyError"
    assert isinstance(raised, Retry)
    assert (raised.delay, raised.error.type) == (5, "OSError")
    assert all(job.marked for job in jobs)


def test_a_job_is_marked_once_and_not_after_its_call() -> None:
    call, jobs = call_of(task_of(), 2)
    jobs[0].complete()
    with pytest.raises(JobMarked, match=r"job 1 \(index\) is marked already, as completed: .* as to be retried too"):
        jobs[0].retry()
    call.returned(None)
    with pytest.raises(JobMarked, match="is marked already"):
        jobs[1].fail("no")
    call.stop()
    with pytest.raises(JobMarked, match="the call that ran it has ended"):
        jobs[1].fail("no")
    assert outcomes(call) == [Completed(), Completed()]


@pytest.mark.parametrize(
    "wrong", [lambda job: job.retry(-1), lambda job: job.snooze("soon"), lambda job: job.raised("text")]
)
def test_a_mark_that_cannot_be_is_none(wrong: Callable[[ChunkJob[Document]], None]) -> None:
    _, [job] = call_of(task_of(), 1)
    with pytest.raises(ArgumentError):
        wrong(job)
    assert not job.marked
    job.complete()


def test_what_is_returned_is_the_result_of_the_jobs_that_are_not_marked() -> None:
    for value in ([1, 2, KeyError("x")], (1, 2, KeyError("x")), {3: KeyError("x"), 1: 1, 2: 2}):
        call, jobs = call_of(task_of(), 3)
        jobs[1].cancel()
        call.returned(value)
        assert kinds(call) == ["Completed", "Cancelled", "Retry"]
        assert outcomes(call)[0] == Completed("1")


def test_jobs_that_a_dict_leaves_out_are_completed_without_a_result() -> None:
    call, _ = call_of(task_of(), 2)
    call.returned({2: "two"})
    assert outcomes(call) == [Completed(), Completed('"two"')]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1], "returned 1 results for 2 jobs"),
        ("ok", "returned str: return None, a list"),
        ({3: 1}, "returned a result for 3"),
        ({"1": 1}, "returned a result for '1'"),
    ],
)
def test_results_that_fit_no_jobs_are_an_error(value: Any, why: str) -> None:
    call, _ = call_of(task_of(), 2)
    with pytest.raises(ConfigurationError, match=why):
        call.returned(value)


def test_what_is_raised_is_the_error_of_the_jobs_that_are_not_marked() -> None:
    call, jobs = call_of(task_of(give_up_on=LookupError), 3)
    jobs[0].complete()
    call.raised(KeyError("x"))
    completed, first, second = outcomes(call)
    assert completed == Completed()
    assert first is second
    assert isinstance(first, Failed)
    assert first.reason == "gave_up"


def test_a_backoff_that_raises_leaves_no_job_without_an_outcome(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(attempt: int) -> float:
        raise ZeroDivisionError

    call, jobs = call_of(task_of(backoff=Backoff.of(wrong)), 2)
    jobs[0].raised(OSError())
    call.raised(OSError())
    assert kinds(call) == ["Retry", "Retry"]
    assert "the backoff of task index raised" in caplog.text


def test_a_job_whose_arguments_cannot_be_read_fails_alone() -> None:
    task = task_of()
    runs = [JobRun(Context(n, "index", "default", 1, 3), decided_by(task)) for n in (1, 2)]
    call = ChunkCall(task, runs)
    [job] = call.read(['{"id": "one"}', '{"id": 2}'])
    assert (job.id, job.args) == (2, Document(2))
    call.returned(["two"])
    bad, good = outcomes(call)
    assert isinstance(bad, Failed)
    assert (bad.reason, bad.error.type) == ("bad_arguments", "pgqueue.errors.ArgumentError")
    assert good == Completed('"two"')


def test_a_rollback_takes_back_what_was_completed_only() -> None:
    call, jobs = call_of(task_of(), 3)
    jobs[0].complete()
    jobs[1].fail("no")
    call.roll_back()
    call.raised(OSError())
    assert kinds(call) == ["Retry", "Failed", "Retry"]


def test_one_job_is_run_inline_as_a_chunk_of_one() -> None:
    seen: list[Any] = []

    def body(jobs: list[ChunkJob[Document]]) -> list[int]:
        seen.extend((job.args, job.attempt, dict(job.headers)) for job in jobs)
        return [7]

    task = task_of(body)
    assert run_inline(task.using(headers={"x": 1}), 3) == 7
    assert seen == [(Document(3), 1, {"x": 1})]


@pytest.mark.parametrize(
    ("mark", "raises"),
    [
        (lambda job: job.retry(), RetryJob),
        (lambda job: job.snooze(1), SnoozeJob),
        (lambda job: job.cancel(), CancelJob),
        (lambda job: job.fail("no"), FailJob),
        (lambda job: job.raised(KeyError("x")), KeyError),
    ],
)
def test_run_inline_raises_what_a_job_is_marked_with(mark: Any, raises: type[Exception]) -> None:
    with pytest.raises(raises):
        run_inline(task_of(lambda jobs: mark(jobs[0])), id=3)


def test_run_inline_returns_what_a_job_is_completed_with() -> None:
    assert run_inline(task_of(lambda jobs: jobs[0].complete("done")), id=3) == "done"
    assert run_inline(task_of(), id=3) is None


async def test_a_coroutine_is_awaited() -> None:
    async def index(jobs: list[ChunkJob[Document]]) -> dict[int, int]:
        return {jobs[0].id: jobs[0].args.id}

    task: Task[..., Any] = PgQueue().task(name="index", chunk=10)(index)
    assert await alone(task, {"id": 3}, Context(9, "index", "default", 1, 3)) == 3
