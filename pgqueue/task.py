"""A registered function: how it is called, enqueued, and run."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from string import Formatter
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar

from pgqueue import arguments
from pgqueue.arguments import Signature
from pgqueue.backoff import Backoff
from pgqueue.context import Context, enter
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.job import Job, NewJob, checked_key
from pgqueue.names import data_name
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome, decide

logger = logging.getLogger("pgqueue.task")

P = ParamSpec("P")
R = TypeVar("R")

RunIn = Literal["coroutine", "thread", "process"]
RESULT_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Unique:
    """A template of the unique key, filled with the job's arguments: at most one live job of a queue has the key.

    @app.task(unique=Unique("thumb:{image_id}"))
    """

    key: str

    def fill(self, args: Mapping[str, Any]) -> str:
        return checked_key(self.key.format(**args))

    def fields(self) -> set[str]:
        return {name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(self.key) if name is not None}


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task declares about its jobs; None leaves it to the queue and the app. `timeout` is in seconds."""

    queue: str = "default"
    priority: int | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    backoff: Backoff | None = None
    unique: Unique | None = None
    keep_completed: bool = True
    transactional: bool = False
    bind: bool = False
    run_in: RunIn | None = None


class Enqueuer(Protocol):
    """What a task needs of its app."""

    def insert(self, jobs: Sequence[NewJob], using: Any = None) -> list[Job]: ...
    async def ainsert(self, jobs: Sequence[NewJob], using: Any = None) -> list[Job]: ...
    def backoff_of(self, task: Task[..., Any]) -> Backoff: ...


class Task(Generic[P, R]):
    """What `@app.task` makes of a function. Calling it runs the function; `enqueue` makes a job.

    @app.task(queue="email", max_attempts=8)
    async def send_email(to: str) -> str: ...

    send_email.enqueue("a@b.c")
    """

    def __init__(self, app: Enqueuer, function: Callable[P, R], name: str | None, options: TaskOptions) -> None:
        self.app = app
        self.function = function
        self.name = data_name("task", name or _name_of(function))
        self.options = replace(options, queue=data_name("queue", options.queue))
        self.signature = Signature(function, bind=options.bind, name=self.name)
        self.run_in: RunIn = _run_in(function, options, self.name)
        self.__name__ = getattr(function, "__name__", self.name)
        self.__qualname__ = getattr(function, "__qualname__", self.name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        _check(self.name, options, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.options.queue} run_in={self.run_in}>"

    def job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """A job of this task, checked, not enqueued. Raises ArgumentError when the arguments do not fit the signature.

        app.enqueue_many([send_email.job("a@b.c"), send_email.job("d@e.f")])
        """
        return self.using().job(*args, **kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue on an own connection, committed on return.

        Raises ArgumentError, ConnectionFailed, SchemaOutOfDate.
        """
        return self.using().enqueue(*args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `enqueue`."""
        return await self.using().aenqueue(*args, **kwargs)

    def using(
        self,
        connection: Any = None,
        *,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        key: str | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        tags: Sequence[str] | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> BoundTask[P, R]:
        """The task with options of one enqueue, and the connection whose transaction it joins.

        `connection`: psycopg Connection or AsyncConnection, SQLAlchemy Connection, Session, AsyncConnection or
        AsyncSession. `delay` and `timeout` are seconds or timedelta; `run_at` is aware. Raises ArgumentError.

            with Session(engine) as s, s.begin():
                send_email.using(s, delay=60, key="welcome-7").enqueue("a@b.c")
        """
        template = new_job(
            self.name,
            "{}",
            queue=self.options.queue if queue is None else queue,
            delay=delay,
            run_at=run_at,
            priority=self.options.priority if priority is None else priority,
            key=key,
            max_attempts=self.options.max_attempts if max_attempts is None else max_attempts,
            timeout=timeout,
            tags=tags,
            headers=headers,
        )
        return BoundTask(self, connection, template)

    def run_in_child(self, context: Mapping[str, Any], args: str) -> Outcome:
        """Run the job in this process and say what came of it; for the children of a worker."""
        fields = dict(context)
        crashes = fields.pop("crashes")
        held = Context(**fields)
        enter(held)
        try:
            return Completed(self.dump_result(self.function(**self.load(args, held))))  # type: ignore[call-arg]
        except BaseException as error:
            return self.decide(error, held.attempt, held.max_attempts, crashes)

    def load(self, args: str, context: Context) -> dict[str, Any]:
        """Keyword arguments of a run, typed by the signature. Raises ArgumentsDoNotFit."""
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
        backoff = self.app.backoff_of(self)
        return decide(error, attempt=attempt, max_attempts=max_attempts, crashes=crashes, delay=backoff.delay)

    def dump_result(self, value: Any) -> str | None:
        """A result as JSON text; one that cannot be stored is dropped with a warning: the job has done its work."""
        if value is None:
            return None
        try:
            return arguments.dumps(value, what=f"result of task {self.name}", limit=RESULT_LIMIT)
        except ArgumentError as error:
            logger.warning("%s; the job completes without a result", error)
            return None


class ArgumentsDoNotFit(ArgumentError):
    """The stored arguments do not fit the task's signature."""


@dataclass(frozen=True, slots=True)
class BoundTask(Generic[P, R]):
    """A task with the options of one enqueue."""

    task: Task[P, R]
    connection: Any
    template: NewJob

    def job(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """As `Task.job`, with these options."""
        text = self.task.signature.dump(args, kwargs)
        key = self.template.key
        if key is None and self.task.options.unique is not None:
            # As they are stored: an enqueue from SQL has only those to fill the key with.
            known = {**self.task.signature.bound(args, kwargs), **arguments.loads(text)}
            key = self.task.options.unique.fill(known)
        given = self.template
        return NewJob(
            given.task,
            text,
            given.queue,
            given.priority,
            given.run_at,
            given.delay,
            given.max_attempts,
            key,
            given.tags,
            given.headers,
            given.options,
        )

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `Task.enqueue`, in the transaction of the connection that was given."""
        return self.task.app.insert([self.job(*args, **kwargs)], self.connection)[0]

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """As `enqueue`."""
        return (await self.task.app.ainsert([self.job(*args, **kwargs)], self.connection))[0]


def new_job(
    task: str,
    args: str,
    *,
    queue: str | None = None,
    delay: float | timedelta | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    key: str | None = None,
    max_attempts: int | None = None,
    timeout: float | timedelta | None = None,
    tags: Sequence[str] | None = None,
    headers: Mapping[str, Any] | None = None,
) -> NewJob:
    """A job with every option checked. `args` is JSON text. Raises ArgumentError that names the option and the fix."""
    if run_at is not None:
        if delay is not None:
            raise ArgumentError(f"{task}: both delay={delay!r} and run_at={run_at!r} were given: give one of the two")
        aware: Any = run_at
        if not isinstance(aware, datetime) or aware.utcoffset() is None:
            raise ArgumentError(f"{task}: run_at={run_at!r} must be an aware datetime, such as datetime.now(UTC)")
    if priority is not None and (type(priority) is not int or not -32768 <= priority <= 32767):
        raise ArgumentError(
            f"{task}: priority={priority!r} must be a whole number from -32768 to 32767; lower runs first"
        )
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 2**31 - 1):
        raise ArgumentError(f"{task}: max_attempts={max_attempts!r} must be a whole number of at least 1")
    if timeout is not None and seconds(timeout) <= 0:
        raise ArgumentError(f"{task}: timeout={timeout!r} must be above 0 seconds")
    if tags is not None and not (_is_list(tags) and all(isinstance(tag, str) for tag in tags)):
        raise ArgumentError(f"{task}: tags={tags!r} must be a list of strings")
    if headers is not None and not isinstance(headers, Mapping):
        raise ArgumentError(f"{task}: headers={headers!r} must be a mapping")
    if queue is not None:
        _checked(task, queue)
    limit = arguments.ARGUMENTS_LIMIT
    return NewJob(
        task,
        args,
        queue,
        priority,
        run_at,
        None if delay is None else seconds(delay),
        max_attempts,
        None if key is None else checked_key(key),
        arguments.dumps(list(tags), what=f"tags of {task}", limit=limit) if tags else None,
        arguments.dumps(dict(headers), what=f"headers of {task}", limit=limit) if headers else None,
        None if timeout is None else json.dumps({"timeout": seconds(timeout)}),
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def _checked(task: str, queue: str) -> None:
    try:
        data_name("queue", queue)
    except ConfigurationError as error:
        raise ArgumentError(f"{task}: {error}") from None


def _name_of(function: Callable[..., Any]) -> str:
    module, qualname = function.__module__, function.__qualname__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        file = getattr(sys.modules["__main__"], "__file__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif file is not None:
            module = Path(file).stem
        else:
            raise ConfigurationError(
                f"task {qualname} is defined in an interactive session: workers cannot import it. "
                'Put it in a module, or give it a name: @app.task(name="…")'
            )
    if "<lambda>" in qualname:
        raise ConfigurationError('a lambda has no name to register: give it one with @app.task(name="…")')
    return f"{module}.{qualname.replace('<locals>.', '')}"


def _run_in(function: Callable[..., Any], options: TaskOptions, name: str) -> RunIn:
    coroutine = inspect.iscoroutinefunction(function)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"task {name} is a generator: a task returns its result")
    if options.run_in is None:
        return "coroutine" if coroutine else "thread"
    if options.run_in not in ("coroutine", "thread", "process"):
        raise ConfigurationError(f"task {name}: run_in={options.run_in!r} must be 'coroutine', 'thread' or 'process'")
    if coroutine is not (options.run_in == "coroutine"):
        kind = "a coroutine function" if coroutine else "a plain function"
        raise ConfigurationError(f"task {name} is {kind}: it cannot run in a {options.run_in}")
    if options.run_in == "process" and "<locals>" in function.__qualname__:
        raise ConfigurationError(
            f"task {name} is a local function: a process cannot import it. Move it to module level"
        )
    return options.run_in


def _check(name: str, options: TaskOptions, function: Callable[..., Any]) -> None:
    try:
        new_job(name, "{}", priority=options.priority, max_attempts=options.max_attempts, timeout=options.timeout)
    except ArgumentError as error:
        raise ConfigurationError(str(error)) from None
    if options.transactional and options.run_in == "process":
        raise ConfigurationError(
            f"task {name}: a transactional task cannot run in a process, which has no part in the worker's transaction"
        )
    if options.unique is not None:
        unknown = options.unique.fields() - set(inspect.signature(function).parameters)
        if unknown:
            raise ConfigurationError(
                f"task {name}: the key {options.unique.key!r} names {', '.join(sorted(unknown))}, "
                "which is no parameter of it"
            )
