"""Wrapping runs and enqueues: what all jobs of an app have in common, and no task should have to say."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from pgqueue import arguments
from pgqueue.context import Context
from pgqueue.errors import ConfigurationError
from pgqueue.job import Job, NewJob, checked_tag
from pgqueue.outcome import Outcome


class Middleware:
    """Wraps every run and every enqueue of an app: override `run`, `enqueue`, `call`. Each yields exactly once.

    What stands before the `yield` is done first by the middleware that was added first, what stands after it last.

        class RequestId(Middleware):
            async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
                with bound(request_id=context.headers.get("request_id")):
                    outcome = yield
                logger.info("%s: %s", context.task, type(outcome).__name__)

            def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
                made = yield with_headers(jobs, {"request_id": request_id.get()})

        app.add_middleware(RequestId())
    """

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        """Around one run of a job. The `yield` gives what the run came to, whether it returned or raised.

        It runs on the worker's event loop, whatever the task is, and must not block that. Context variables that are
        set here are seen by a coroutine and in a task's thread; a task in a process of its own gets `context.headers`,
        which may be replaced here for the run, and what `call` does there. The timeout of the task is not that of its
        middleware, and a transactional task begins and commits inside.

        What is raised before the `yield` counts as the task's own error, and the task does not run. What is raised
        after it replaces the outcome, as the task's own; but the task's own failure stays where this is an error too,
        and so does a transactional task's completion. RetryJob, SnoozeJob, CancelJob and FailJob mean what they mean
        in a task. A run that is interrupted raises asyncio.CancelledError at the `yield`, and stays interrupted.

        Each job of a chunk is wrapped by itself. The call has them all, and does not see what is set for one of them,
        but what `call` sets; a job that is ended before the `yield` is not in it.

        `context.error` is what the run raised; None where it completed, and for an error in a process of its own, of
        which the outcome has the text.
        """
        yield

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        """Around an enqueue of one job or many. Yields the jobs to make in place of those given, in the same order.

        The `yield` gives the jobs as they were made; in a caller's transaction they are not committed then. It is the
        same for `enqueue`, `aenqueue`, their bulk forms and the scheduler: it must not block. What is raised here, or
        by the enqueue, goes to the caller. SQL that enqueues does not come by.
        """
        yield jobs

    def call(self, contexts: Sequence[Context]) -> Generator[None, None]:
        """Around a call that context variables of `run` do not reach: of a task in a process of its own, there, and of
        a chunk with the contexts of all its jobs, wherever that runs.

        The headers are those that `run` has left. What is raised here counts as the task's own error; it must not
        block the event loop. A process has the middleware that the import of the task's module adds.

            def call(self, contexts: Sequence[Context]) -> Generator[None, None]:
                with bound(request_id=contexts[0].headers.get("request_id") if len(contexts) == 1 else None):
                    yield
        """
        yield


@dataclass(slots=True)
class Stack:
    """The middleware of an app, outermost first: those that wrap runs, those that wrap enqueues, and calls."""

    runs: list[Middleware] = field(default_factory=list)
    enqueues: list[Middleware] = field(default_factory=list)
    calls: list[Middleware] = field(default_factory=list)

    def add(self, middleware: Middleware) -> None:
        """Raises ConfigurationError for what cannot wrap anything, or is there already."""
        given: object = middleware
        if not isinstance(given, Middleware):
            fix = "add an instance, with ()" if isinstance(given, type) else "derive it from pgqueue.Middleware"
            raise ConfigurationError(f"add_middleware was given {given!r}: {fix}")
        name, kind = name_of(middleware), type(middleware)
        if any(one is middleware for one in (*self.runs, *self.enqueues, *self.calls)):
            raise ConfigurationError(f"middleware {name} was added before: each wraps once")
        runs, enqueues = kind.run is not Middleware.run, kind.enqueue is not Middleware.enqueue
        calls = kind.call is not Middleware.call
        if not (runs or enqueues or calls):
            raise ConfigurationError(f"middleware {name} wraps nothing: give it a method run, enqueue or call")
        if not inspect.isasyncgenfunction(kind.run):
            raise ConfigurationError(f"middleware {name}: run must be `async def` and have a `yield`")
        for method in (kind.enqueue, kind.call):
            if not inspect.isgeneratorfunction(method):
                raise ConfigurationError(
                    f"middleware {name}: {method.__name__} must be `def`, not `async def`, and have a `yield`"
                )
        if runs:
            self.runs.append(middleware)
        if enqueues:
            self.enqueues.append(middleware)
        if calls:
            self.calls.append(middleware)


def name_of(middleware: Middleware) -> str:
    """As messages call it."""
    return type(middleware).__qualname__


def with_headers(jobs: Sequence[NewJob], headers: Mapping[str, Any]) -> Sequence[NewJob]:
    """The jobs with these headers too. A header that a job has already stays; those that are None are left out.

    Raises ArgumentError for what JSON cannot hold.

        yield with_headers(jobs, {"request_id": request_id.get()})
    """
    added = {name: value for name, value in headers.items() if value is not None}
    if not added:
        return jobs
    # The jobs of a bulk have mostly the same headers: none.
    texts: dict[str | None, str] = {}
    for job in jobs:
        if job.headers not in texts:
            whole = {**added, **(arguments.loads(job.headers) if job.headers else {})}
            texts[job.headers] = arguments.dumps(whole, what=f"headers of {job.task}", limit=arguments.ARGUMENTS_LIMIT)
    return [job._replace(headers=texts[job.headers]) for job in jobs]


def with_tags(jobs: Sequence[NewJob], *tags: str) -> Sequence[NewJob]:
    """The jobs with these tags too. Raises ArgumentError for one that is empty, longer than 500 characters, or no text.

    yield with_tags(jobs, f"tenant:{tenant.get()}")
    """
    texts: dict[str | None, str] = {}
    for job in jobs:
        if job.tags not in texts:
            for tag in tags:
                checked_tag(tag, job.task)
            whole = dict.fromkeys([*(arguments.loads(job.tags) if job.tags else ()), *tags])
            texts[job.tags] = arguments.dumps(list(whole), what=f"tags of {job.task}", limit=arguments.ARGUMENTS_LIMIT)
    return [job._replace(tags=texts[job.tags]) for job in jobs]


@dataclass(slots=True)
class Enqueue:
    """An enqueue within its middleware: `jobs` is what it is to make, `made` is to be set to what it made."""

    jobs: Sequence[NewJob]
    made: Sequence[Job] = ()


def around_enqueue(layers: Sequence[Middleware], jobs: Sequence[NewJob]) -> AbstractContextManager[Enqueue]:
    """Wrap an enqueue, outermost layer first. Raises what they raise, and ConfigurationError for one that is wrong.

    with around_enqueue(app.middleware.enqueues, jobs) as enqueue:
        enqueue.made = insert(enqueue.jobs)
    """
    enqueue = Enqueue(jobs)
    return _wrapped(layers, enqueue) if layers and jobs else nullcontext(enqueue)


@contextmanager
def around_call(layers: Sequence[Middleware], contexts: Sequence[Context]) -> Iterator[None]:
    """Wrap a call of a task, outermost layer first. Raises what they raise, and the call."""
    with ExitStack() as around:
        for layer in layers:
            around.enter_context(contextmanager(layer.call)(contexts))
        yield


@contextmanager
def _wrapped(layers: Sequence[Middleware], enqueue: Enqueue) -> Iterator[Enqueue]:
    with ExitStack() as around:
        for layer in layers:
            around.enter_context(_within(layer, enqueue))
        yield enqueue


@contextmanager
def _within(layer: Middleware, enqueue: Enqueue) -> Iterator[None]:
    name = name_of(layer)
    generator = layer.enqueue(enqueue.jobs)
    try:
        given = next(generator)
    except StopIteration:
        raise ConfigurationError(
            f"middleware {name} returned without a `yield`, and nothing was enqueued: to refuse an enqueue, raise"
        ) from None
    except Exception as error:
        error.add_note(f"Raised by middleware {name} at an enqueue.")
        raise
    enqueue.jobs = _checked(name, enqueue.jobs, given)
    try:
        yield
    except BaseException as error:
        with suppress(StopIteration):
            generator.throw(error)
            generator.close()
        # Where it swallows the error, nothing was enqueued all the same.
        raise
    try:
        generator.send(enqueue.made)
    except StopIteration:
        return
    generator.close()
    raise ConfigurationError(f"middleware {name} has a second `yield` in enqueue: each yields once")


def _checked(name: str, jobs: Sequence[NewJob], given: Sequence[NewJob]) -> Sequence[NewJob]:
    if given is jobs:
        return jobs
    wrong: object = given
    if not (isinstance(wrong, Sequence) and len(wrong) == len(jobs) and all(isinstance(one, NewJob) for one in wrong)):
        raise ConfigurationError(
            f"middleware {name} was given {len(jobs)} new jobs and did not yield as many: yield them all, in order"
        )
    for job in given:
        for what, text in (("headers", job.headers), ("tags", job.tags)):
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(
                    f"middleware {name} gave a job of {job.task} {what} that are no JSON text: use with_{what}"
                )
    return given
