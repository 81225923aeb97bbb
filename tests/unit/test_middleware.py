"""Middleware without a database: what it may be, its order, and what it makes of jobs, outcomes and errors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pgqueue import (
    ArgumentError,
    CancelJob,
    ConfigurationError,
    Context,
    FailJob,
    Job,
    Middleware,
    NewJob,
    PgQueue,
    SnoozeJob,
    with_headers,
    with_tags,
)
from pgqueue.middleware import around_call, around_enqueue
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry, Snooze, decide
from pgqueue.worker.wrapping import Wrapped

WRONG: Any = {"headers": {"a": 1}, "tags": ["a"]}
JOBS = [NewJob("send", "{}"), NewJob("send", "{}", headers='{"a":1}', tags='["vip"]')]


class Nothing(Middleware): ...


class AsyncEnqueue(Middleware):
    async def enqueue(self, jobs: Any) -> Any:
        yield jobs


class PlainRun(Middleware):
    async def run(self, context: Context) -> Any: ...  # type: ignore[override]


class AsyncCall(Middleware):
    async def call(self, contexts: Any) -> Any:
        yield


class Called(Middleware):
    """Writes down the calls that pass, and what they raise."""

    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name, self.seen = name, seen

    def call(self, contexts: Sequence[Context]) -> Generator[None, None]:
        self.seen.append((self.name, [context.job_id for context in contexts]))
        try:
            yield
        except ValueError as error:
            self.seen.append((self.name, str(error)))
            raise


class Recorder(Middleware):
    """Writes down what passes; raises where it is told to."""

    def __init__(self, name: str, seen: list[Any], before: Any = None, after: Any = None) -> None:
        self.name, self.seen, self.before, self.after = name, seen, before, after

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        self.seen.append(f"{self.name} before")
        if self.before is not None:
            raise self.before
        try:
            outcome = yield
        except asyncio.CancelledError:
            self.seen.append(f"{self.name} interrupted")
            raise
        self.seen.append((f"{self.name} after", type(outcome).__name__, type(context.error).__name__))
        if self.after is not None:
            raise self.after

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        self.seen.append(f"{self.name} before")
        if self.before is not None:
            raise self.before
        try:
            made = yield with_tags(jobs, self.name)
        except ValueError as error:
            self.seen.append(f"{self.name}: {error}")
            raise
        self.seen.append((f"{self.name} after", len(made)))


@pytest.fixture
def seen() -> list[Any]:
    return []


def decided(error: BaseException) -> Outcome:
    return decide(error, attempt=1, max_attempts=5, crashes=0, delay=lambda _: 1.0)


async def run(*layers: Middleware, raises: BaseException | None = None, commits: bool = False) -> Outcome:
    async def call() -> Outcome:
        if raises is not None:
            raise raises
        return Completed()

    return await Wrapped(Context(7, "send", "default", 1, 5), call, decided, commits).within(layers)


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        (Nothing, r"was given <class .*Nothing.*: add an instance, with \(\)"),
        (print, r"was given <built-in.*: derive it from pgqueue.Middleware"),
        (Nothing(), "middleware Nothing wraps nothing: give it a method run, enqueue or call"),
        (AsyncEnqueue(), "middleware AsyncEnqueue: enqueue must be `def`, not `async def`, and have a `yield`"),
        (AsyncCall(), "middleware AsyncCall: call must be `def`, not `async def`, and have a `yield`"),
        (PlainRun(), "middleware PlainRun: run must be `async def` and have a `yield`"),
    ],
    ids=["class", "function", "nothing", "async enqueue", "async call", "no yield"],
)
def test_what_cannot_wrap_anything_is_refused_at_once(wrong: Any, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix):
        PgQueue().add_middleware(wrong)


def test_one_is_added_once(seen: list[Any]) -> None:
    app, recorder = PgQueue(), Recorder("a", seen)
    app.add_middleware(recorder)
    app.add_middleware(Recorder("a", seen))
    with pytest.raises(ConfigurationError, match="middleware Recorder was added before"):
        app.add_middleware(recorder)


def test_a_call_is_wrapped_by_those_that_wrap_calls_the_first_outermost(seen: list[Any]) -> None:
    app = PgQueue()
    for layer in (Called("a", seen), Recorder("b", seen), Called("c", seen)):
        app.add_middleware(layer)
    contexts = [Context(job_id, "send", "default", 1, 5) for job_id in (7, 8)]
    with pytest.raises(ValueError, match="no"), around_call(app.middleware.calls, contexts):
        raise ValueError("no")
    assert seen == [("a", [7, 8]), ("c", [7, 8]), ("c", "no"), ("a", "no")]


def test_headers_and_tags_are_added_to_those_that_a_job_has() -> None:
    first, second = with_tags(with_headers(JOBS, {"a": 2, "b": None, "c": [3]}), "vip", "eu")
    assert [json.loads(job.headers or "") for job in (first, second)] == [{"a": 2, "c": [3]}, {"a": 1, "c": [3]}]
    assert [json.loads(job.tags or "") for job in (first, second)] == [["vip", "eu"], ["vip", "eu"]]
    assert JOBS[0].headers is None


def test_jobs_stay_the_same_where_there_is_no_header_to_add() -> None:
    assert with_headers(JOBS, {"request_id": None}) is JOBS


def test_a_header_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ArgumentError, match="headers of send"):
        with_headers(JOBS, {"a": object()})


def test_the_first_that_was_added_is_outermost_around_an_enqueue(seen: list[Any]) -> None:
    with around_enqueue([Recorder("a", seen), Recorder("b", seen)], JOBS[:1]) as enqueue:
        assert enqueue.jobs[0].tags == '["a","b"]'
        enqueue.made = (None,)  # type: ignore[assignment]
    assert seen == ["a before", "b before", ("b after", 1), ("a after", 1)]


def test_an_enqueue_of_nothing_passes_by(seen: list[Any]) -> None:
    with around_enqueue([Recorder("a", seen)], []) as enqueue:
        assert enqueue.jobs == []
    assert seen == []


def test_an_error_of_an_enqueue_is_told_from_the_inside_out(seen: list[Any]) -> None:
    with pytest.raises(ValueError, match="lost"), around_enqueue([Recorder("a", seen), Recorder("b", seen)], JOBS):
        raise ValueError("lost")
    assert seen == ["a before", "b before", "b: lost", "a: lost"]


def test_a_middleware_that_refuses_an_enqueue_is_named_and_ends_those_outside(seen: list[Any]) -> None:
    layers = [Recorder("a", seen), Recorder("b", seen, before=ValueError("no tenant"))]
    with pytest.raises(ValueError, match="no tenant") as raised, around_enqueue(layers, JOBS):
        seen.append("enqueued")
    assert seen == ["a before", "b before", "a: no tenant"]
    assert raised.value.__notes__ == ["Raised by middleware Recorder at an enqueue."]


def test_an_error_of_an_enqueue_cannot_be_swallowed() -> None:
    class Swallows(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            with suppress(ValueError):
                yield jobs

    with pytest.raises(ValueError, match="lost"), around_enqueue([Swallows()], JOBS):
        raise ValueError("lost")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "was given 2 new jobs and did not yield as many"),
        (None, "did not yield as many: yield them all, in order"),
        (JOBS[0], "did not yield as many"),
        ([JOBS[0], "x"], "did not yield as many"),
        (
            [JOBS[0], JOBS[1]._replace(headers=WRONG["headers"])],
            "a job of send headers that are no JSON text: use with_headers",
        ),
        ([JOBS[0], JOBS[1]._replace(tags=WRONG["tags"])], "a job of send tags that are no JSON text: use with_tags"),
    ],
    ids=["fewer", "nothing", "one", "text", "headers", "tags"],
)
def test_jobs_that_are_no_jobs_are_refused(given: Any, message: str) -> None:
    class Wrong(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            yield given

    with pytest.raises(ConfigurationError, match=message), around_enqueue([Wrong()], JOBS):
        raise AssertionError("nothing may be enqueued")


def test_an_enqueue_that_yields_twice_or_never_is_told_so() -> None:
    class Twice(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            yield jobs
            yield jobs

    class Never(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            if len(jobs) > 100:
                yield jobs

    with pytest.raises(ConfigurationError, match="Twice has a second `yield` in"), around_enqueue([Twice()], JOBS):
        pass
    with pytest.raises(ConfigurationError, match="Never returned without a `yield`"), around_enqueue([Never()], JOBS):
        raise AssertionError("nothing may be enqueued")


async def test_the_first_that_was_added_is_outermost_around_a_run(seen: list[Any]) -> None:
    assert await run(Recorder("a", seen), Recorder("b", seen)) == Completed()
    told = "Completed", "NoneType"
    assert seen == ["a before", "b before", ("b after", *told), ("a after", *told)]


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [(ValueError("x"), Retry), (FailJob("x"), Failed), (SnoozeJob(5), Snooze), (CancelJob("x"), Cancelled)],
    ids=["error", "fail", "snooze", "cancel"],
)
async def test_what_the_task_raised_and_what_it_comes_to_are_told(
    seen: list[Any], raised: BaseException, outcome: type[Outcome]
) -> None:
    context_error = type(raised).__name__
    assert isinstance(await run(Recorder("a", seen), raises=raised), outcome)
    assert seen == ["a before", ("a after", outcome.__name__, context_error)]


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [(ValueError("x"), Retry), (FailJob("x"), Failed), (SnoozeJob(5), Snooze), (CancelJob("x"), Cancelled)],
    ids=["error", "fail", "snooze", "cancel"],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_middleware_raises_counts_as_the_tasks_own(
    seen: list[Any], raised: BaseException, outcome: type[Outcome], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    b = Recorder("b", seen, **{when: raised})
    assert isinstance(await run(Recorder("a", seen), b, Recorder("c", seen)), outcome)
    inside = ["c before", ("c after", "Completed", "NoneType"), ("b after", "Completed", "NoneType")]
    told = ("a after", outcome.__name__, type(raised).__name__)
    assert seen == ["a before", "b before", *(inside if when == "after" else []), told]
    # A signal is no mishap.
    logged = [record.getMessage() for record in caplog.records]
    expected = [f"middleware Recorder raised around job 7 (send), {when} the task"]
    assert logged == (expected if outcome is Retry else [])


async def test_the_tasks_own_failure_is_not_hidden_by_that_of_a_middleware(
    seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await run(Recorder("a", seen, after=ZeroDivisionError()), raises=ValueError("own"))
    assert isinstance(outcome, Retry)
    assert outcome.error.type == "ValueError"
    assert "after the task" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_middleware_can_end_what_failed_another_way(seen: list[Any]) -> None:
    assert await run(Recorder("a", seen, after=SnoozeJob(5)), raises=ValueError("own")) == Snooze(5)


@pytest.mark.parametrize("raised", [ValueError("x"), FailJob("x")], ids=["error", "signal"])
async def test_what_has_committed_stays_completed(
    seen: list[Any], raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert await run(Recorder("a", seen, after=raised), commits=True) == Completed()
    assert "after it had committed; the job stays completed" in caplog.text


async def test_an_interruption_is_told_from_the_inside_out_and_cannot_be_swallowed(seen: list[Any]) -> None:
    class Swallows(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            with suppress(asyncio.CancelledError):
                yield

    class Breaks(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            try:
                yield
            finally:
                raise ZeroDivisionError

    class Insists(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            with suppress(asyncio.CancelledError):
                yield
            yield

    layers = [Recorder("a", seen), Swallows(), Breaks(), Insists(), Recorder("b", seen)]
    with pytest.raises(asyncio.CancelledError):
        await run(*layers, raises=asyncio.CancelledError())
    assert seen == ["a before", "b before", "b interrupted", "a interrupted"]


async def test_an_interruption_of_a_middleware_that_cleans_up_gives_the_job_back_unless_it_has_committed() -> None:
    entered = asyncio.Event()

    class Slow(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            yield
            entered.set()
            await asyncio.Event().wait()

    for commits in (False, True):
        entered.clear()
        task = asyncio.create_task(run(Slow(), commits=commits))
        await entered.wait()
        task.cancel()
        if commits:
            assert await task == Completed()
        else:
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_run_that_yields_twice_or_never_is_an_error_that_names_it(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            yield
            yield

    class Never(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            if context.attempt > 100:
                yield

    with caplog.at_level(logging.ERROR, "pgqueue.worker"):
        for layer, message in ((Twice(), "second `yield`"), (Never(), "without a `yield`")):
            outcome = await run(layer)
            assert isinstance(outcome, Retry)
            assert message in outcome.error.message
            assert f"middleware {type(layer).__qualname__} raised around job 7" in caplog.text
