"""The task and its enqueues, and what a worker asks of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from pgqueue import arguments
from pgqueue.arguments import Signature
from pgqueue.backoff import Backoff
from pgqueue.context import Context, enter
from pgqueue.effects import RunEffects
from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.flow import NOT_GIVEN, After, Child, OnFailure, WaitForChildren, after_of
from pgqueue.job import Job, NewJob
from pgqueue.journal import Journal
from pgqueue.middleware import Stack, around_call, around_enqueue
from pgqueue.names import data_name
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome, Wait, decide, storable
from pgqueue.task import chunking
from pgqueue.task.declaring import aliases_of, check, how_to_run, name_of
from pgqueue.task.options import RunIn, TaskOptions, Unique, filled, new_job

logger = logging.getLogger("pgqueue.task")

P = ParamSpec("P")
R = TypeVar("R")

RESULT_LIMIT = 64 * 1024


class Inserts(Protocol):
    """Where an enqueue ends."""

    def insert(self, jobs: Sequence[NewJob], using: Any = None) -> Sequence[Job]: ...
    async def ainsert(self, jobs: Sequence[NewJob], using: Any = None) -> Sequence[Job]: ...


class App(Protocol):
    """What a task needs of its app."""

    max_attempts: int
    backoff: Backoff
    middleware: Stack

    @property
    def inserter(self) -> Inserts: ...


class Task(Generic[P, R]):
    """What `@app.task` makes of a function. Calling it runs the function; `enqueue` makes a job.

    @app.task(queue="email", max_attempts=8)
    async def send_email(to: str) -> str: ...

    send_email.enqueue("a@b.c")
    """

    def __init__(self, app: App, function: Callable[P, R], name: str | None, options: TaskOptions) -> None:
        self.app = app
        self.function = function
        self.name = data_name("task", name_of(function) if name is None else name)
        self.aliases = aliases_of(self.name, options.aliases)
        self.options = replace(options, queue=data_name("queue", options.queue))
        self.chunk = chunking.declared(self.name, options)
        self.signature = (
            Signature(function, bind=options.bind, name=self.name)
            if self.chunk is None
            else chunking.ChunkSignature(function, name=self.name)
        )
        self.run_in: RunIn = how_to_run(function, options, self.name)
        self.__name__ = getattr(function, "__name__", self.name)
        self.__qualname__ = getattr(function, "__qualname__", self.name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        # A coroutine that takes its arguments and nothing else.
        self.is_plain = self.run_in == "coroutine" and not (options.transactional or options.bind)
        check(self.name, options, self.signature.names)
        self._unbound = self.using()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.options.queue} run_in={self.run_in}>"

    @property
    def backoff(self) -> Backoff:
        """Its own, else the app's."""
        return self.options.backoff or self.app.backoff

    def job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job of this task, checked, not enqueued. Raises ArgumentError when the arguments do not fit the signature.

        app.enqueue_many([send_email.job("a@b.c"), send_email.job("d@e.f")])
        """
        return self._unbound.job(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue on an own connection, committed on return.

        Raises ArgumentError, ConnectionFailed, SchemaOutOfDate.
        """
        return self._unbound.enqueue(*args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `enqueue`."""
        return await self._unbound.aenqueue(*args, **kwargs)

    def using(
        self,
        connection: Any = None,
        *,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        key: str | Unique | None = None,
        serial_key: str | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        tags: Sequence[str] | None = None,
        headers: Mapping[str, Any] | None = None,
        after: After = NOT_GIVEN,
        on_failure: OnFailure = "fail_parent",
    ) -> BoundTask[P, R]:
        """The task with options of one enqueue, and the connection whose transaction it joins.

        `connection`: psycopg Connection or AsyncConnection, SQLAlchemy Connection, Session, AsyncConnection or
        AsyncSession. `delay` and `timeout` are seconds or timedelta; `run_at` is aware. Jobs of a queue with one
        `serial_key` run one at a time, in order. `key` is the unique key, or a Unique that also says what happens while
        a job holds it. `after` are jobs that exist, or their ids, for which it waits; `on_failure` is what one of them
        that does not complete does to it, as in `Flow.add`. Raises ArgumentError.

            with Session(engine) as s, s.begin():
                send_email.using(s, delay=60, key="welcome-7").enqueue("a@b.c")
        """
        unique = key if isinstance(key, Unique) else self.options.unique
        template = new_job(
            self.name,
            "{}",
            queue=self.options.queue if queue is None else queue,
            delay=delay,
            run_at=run_at,
            priority=self.options.priority if priority is None else priority,
            key=None if isinstance(key, Unique) else key,
            serial_key=serial_key,
            unique=unique,
            max_attempts=self.options.max_attempts if max_attempts is None else max_attempts,
            timeout=timeout,
            tags=tags,
            headers=headers,
        )
        if after is not NOT_GIVEN or on_failure != "fail_parent":
            template = template._replace(after=after_of(self.name, after, on_failure))
        return BoundTask(self, connection, template, unique)

    def run_in_child(
        self, context: Mapping[str, Any], args: str, journal: Journal, open_effects: Callable[[Context], RunEffects]
    ) -> Outcome:
        """Run the job in this process and say what came of it; for the children of a worker."""
        fields = dict(context)
        crashes = fields.pop("crashes")
        fields["found"] = tuple(Child(**child) for child in fields["found"])
        held = Context(**fields, journal=journal, open_effects=open_effects)
        enter(held)
        try:
            with around_call(self.app.middleware.calls, [held]):
                return self.completed(self.function(**self.load(args, held)))  # type: ignore[call-arg]
        except BaseException as error:
            return self.decide(error, held.attempt, held.max_attempts, crashes)

    def load(self, args: str, context: Context | None = None) -> dict[str, Any]:
        """Keyword arguments of a run, typed by the signature, with the context where it asks for one.

        Raises ArgumentsDoNotFit.
        """
        try:
            kwargs = self.signature.load(args)
        except (ArgumentError, ConfigurationError) as error:
            raise ArgumentsDoNotFit(str(error)) from error
        if self.options.bind:
            kwargs[self.signature.context_name] = context
        return kwargs

    def decide(self, error: BaseException, attempt: int, max_attempts: int, crashes: int) -> Outcome:
        """The outcome of an attempt that raised. Arguments that do not fit will not fit later either."""
        if isinstance(error, ArgumentsDoNotFit):
            return Failed("bad_arguments", AttemptError.of(error.__cause__ or error))
        if isinstance(error, WaitForChildren):
            try:
                return self._wait(error)
            except Exception as refused:
                error = refused
        return decide(
            error,
            attempt=attempt,
            max_attempts=max_attempts,
            crashes=crashes,
            delay=self.backoff.delay,
            gives_up=self.options.gives_up,
        )

    def _wait(self, signal: WaitForChildren) -> Wait | Failed:
        if self.chunk is not None:
            refused = ConfigurationError(
                f"task {self.name} takes chunks: a chunk cannot wait for children; leave out chunk=, or enqueue a flow "
                "whose last job does what was to follow"
            )
            # The next attempt would come to the same.
            return Failed("fail_job", AttemptError.of(refused))
        # They are enqueued when the outcome is written: what wraps the enqueue is given them, and is told of no jobs.
        with around_enqueue(self.app.middleware.enqueues, signal.plan.jobs) as enqueue:
            jobs = tuple(enqueue.jobs)
        return Wait(signal.plan._replace(jobs=jobs), signal.on_failure, self.app.max_attempts)

    def completed(self, value: Any) -> Completed:
        """What a run that returned `value` came to; one that cannot be stored fails nothing: the work is done."""
        if value is None:
            return Completed()
        try:
            what = f"the result of task {self.name}"
            return Completed(arguments.dumps(value, what=what, limit=RESULT_LIMIT, returned=True))
        except ArgumentError as error:
            logger.warning("%s; the job completes without it", error)
            return Completed(unstored=storable(str(error)))


class ArgumentsDoNotFit(ArgumentError):
    """The stored arguments do not fit the task's signature."""


@dataclass(frozen=True, slots=True)
class BoundTask(Generic[P, R]):
    """A task with the options of one enqueue."""

    task: Task[P, R]
    connection: Any
    template: NewJob
    unique: Unique | None = None

    def job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """As `Task.job`, with these options. Raises ArgumentError where a connection was given, too."""
        if self.connection is not None:
            raise ArgumentError(
                f"{self.task.name}: a job that is enqueued later joins no transaction now: give the connection to what "
                "enqueues it, as in enqueue_many(jobs, using=…) or flows.enqueue(flow, using=…)"
            )
        return self.new_job(*args, **kwargs)

    def new_job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """As `job`, for who enqueues it on that connection now."""
        task, given = self.task, self.template
        text = task.signature.dump(args, kwargs)
        key, serial_key = given.key, given.serial_key
        unique = self.unique if key is None else None
        serial = task.options.serial_key if serial_key is None else None
        if unique is not None or serial is not None:
            # As they are stored: an enqueue from SQL has only those to fill the keys with.
            known = {**task.signature.bound(args, kwargs), **arguments.loads(text)}
            if unique is not None:
                key = filled(unique.key, known)
            if serial is not None:
                serial_key = filled(serial, known, "serial_key")
        return NewJob(
            given.task,
            text,
            given.queue,
            given.priority,
            given.run_at,
            given.delay,
            given.max_attempts,
            key,
            serial_key,
            given.on_conflict,
            given.keep_key,
            given.tags,
            given.headers,
            given.options,
            given.after,
        )

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `Task.enqueue`, in the transaction of the connection that was given."""
        return self.task.app.inserter.insert([self.new_job(*args, **kwargs)], self.connection)[0]

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `enqueue`."""
        return (await self.task.app.inserter.ainsert([self.new_job(*args, **kwargs)], self.connection))[0]
