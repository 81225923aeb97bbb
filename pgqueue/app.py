"""The app: its tasks, queues and schedules, and the ways to enqueue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from pgqueue import arguments, config
from pgqueue.alert import REPEAT, TOLD, Alert, AlertRule, Severity, alert_rule
from pgqueue.backoff import Backoff
from pgqueue.breaker import Breaker, checked
from pgqueue.chunk import ChunkJob
from pgqueue.client import (
    Alerts,
    Breakers,
    Doctor,
    FailedJobs,
    Figures,
    Flows,
    Inserter,
    Jobs,
    Limits,
    Queues,
    Schedules,
    Watch,
    Workers,
    staggered,
)
from pgqueue.context import Context
from pgqueue.database import Database
from pgqueue.effects import KEEP_EFFECTS
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.events import Callback, EventName, Subscribers
from pgqueue.flow import NOT_GIVEN, after_of
from pgqueue.job import AS_REGISTERED, Job, NewJob
from pgqueue.limit import Limit, limits_of
from pgqueue.middleware import Middleware, Stack
from pgqueue.names import data_name, schema_name
from pgqueue.policy import CatchUp, Overlap, Policy
from pgqueue.queries.fleet import QueueRow
from pgqueue.retention import DAY, Keep, retention
from pgqueue.schedule import Cron, Every
from pgqueue.schedules import Schedule
from pgqueue.task import (
    Called,
    Errors,
    Hook,
    RunIn,
    Task,
    Tasks,
    Unique,
    ageing_of,
    filled,
    hook_name,
    new_job,
    task_options,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from pgqueue.database import Using
    from pgqueue.metrics import Metrics
    from pgqueue.worker import Worker

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

MAX_ATTEMPTS = 25


class PgQueue:
    """Tasks, queues and schedules of an application, and its connection to PostgreSQL.

    Without arguments the DSN comes from `PGQUEUE_DSN`, `pgqueue.toml`, `DATABASE_URL` or libpq's variables, and is
    looked up at the first use. `engine` shares a SQLAlchemy engine (sync or async) instead. `on_failed` names the task
    that is told of failed jobs, `keep_completed` (24 hours) and `keep_failed` (until they are purged) how long ended
    jobs are kept, where neither their task nor their queue says. Own pools hold up to `pool_size` connections, opened
    when needed. `pooler=True` is for PgBouncer in transaction mode: no session settings, no prepared statements,
    polling in place of LISTEN. `keep_effects` (seconds or timedelta) is how long workers remember what `Context.once`
    has done: longer than any job may take until its last attempt.

        app = PgQueue("postgresql:///shop")

        @app.task(queue="email")
        async def send_email(to: str) -> None: ...
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        engine: Engine | AsyncEngine | None = None,
        schema: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        backoff: Backoff | None = None,
        timeout: float | timedelta | None = None,
        on_failed: str | None = None,
        keep_completed: Keep | None = None,
        keep_failed: Keep | None = None,
        pool_size: int = 4,
        pooler: bool = False,
        keep_effects: float | timedelta = KEEP_EFFECTS,
    ) -> None:
        self.schema = schema_name(schema or config.find("schema").value or "pgqueue")
        self.database = Database(dsn, engine=engine, pool_size=pool_size, pooler=pooler)
        if max_attempts < 1:
            raise ConfigurationError(f"max_attempts={max_attempts} must be at least 1")
        self.max_attempts = max_attempts
        self.backoff = backoff or Backoff.default()
        self.keep_effects = timedelta(seconds=seconds(keep_effects, "keep_effects"))
        self.timeout = None if timeout is None else seconds(timeout, "timeout")
        self.keep_completed = retention(keep_completed, "keep_completed of the app") or DAY
        self.keep_failed = retention(keep_failed, "keep_failed of the app")
        self.on_failed = hook_name(on_failed, "on_failed of the app")
        self.tasks = Tasks()
        self.declared_queues: dict[str, QueueRow] = {}
        self.declared_schedules: dict[str, Schedule] = {}
        self.declared_alerts: dict[str, AlertRule] = {}
        self.subscribers = Subscribers()
        # What `pgqueue.metrics.Metrics(app)` has put here.
        self.metrics: Metrics | None = None
        # Closes what tasks have opened in an event loop: at a worker's end, and with `aclose`.
        self.at_close: list[Callable[[], Awaitable[Any]]] = []
        self.middleware = Stack()
        self.jobs = Jobs(self.database, self.schema, self.tasks)
        self.failed = FailedJobs(self.database, self.schema)
        self.queues = Queues(self.database, self.schema)
        self.limits = Limits(self.database, self.schema)
        self.breakers = Breakers(self.database, self.schema)
        self.workers = Workers(self.database, self.schema)
        self.alerts = Alerts(self.database, self.schema)
        self.doctor = Doctor(self.database, self.schema)
        self.figures = Figures(self.database, self.schema)
        self.inserter = Inserter(
            self.database,
            self.schema,
            self.jobs,
            self.max_attempts,
            self.declared_queues,
            self.subscribers,
            self.middleware,
        )
        self.schedules = Schedules(self.database, self.schema, self.inserter)
        self.flows = Flows(self.database, self.schema, self.inserter)

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        chunk: int,
        wait: float | timedelta | None = None,
        name: str | None = None,
        aliases: Sequence[str] = (),
        queue: str = "default",
        priority: int | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: float | timedelta | None = None,
        retry_on: Errors | None = None,
        give_up_on: Errors | None = None,
        unique: Unique | None = None,
        serial_key: str | None = None,
        halt_on_failed: bool = False,
        limit: Limit | Sequence[Limit] | None = None,
        breaker: Breaker | None = None,
        keep_completed: Keep | None = None,
        keep_failed: Keep | None = None,
        on_failed: Hook | None = None,
        transactional: bool = False,
        run_in: RunIn | None = None,
    ) -> Callable[[Callable[[list[ChunkJob[A]]], R]], Task[..., R]]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        bind: Literal[True],
        name: str | None = None,
        aliases: Sequence[str] = (),
        queue: str = "default",
        priority: int | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: float | timedelta | None = None,
        retry_on: Errors | None = None,
        give_up_on: Errors | None = None,
        unique: Unique | None = None,
        serial_key: str | None = None,
        halt_on_failed: bool = False,
        limit: Limit | Sequence[Limit] | None = None,
        breaker: Breaker | None = None,
        keep_completed: Keep | None = None,
        keep_failed: Keep | None = None,
        on_failed: Hook | None = None,
        transactional: bool = False,
        run_in: RunIn | None = None,
    ) -> Callable[[Callable[Concatenate[Context, P], R]], Task[P, R]]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        queue: str = "default",
        priority: int | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: float | timedelta | None = None,
        retry_on: Errors | None = None,
        give_up_on: Errors | None = None,
        unique: Unique | None = None,
        serial_key: str | None = None,
        halt_on_failed: bool = False,
        limit: Limit | Sequence[Limit] | None = None,
        breaker: Breaker | None = None,
        keep_completed: Keep | None = None,
        keep_failed: Keep | None = None,
        on_failed: Hook | None = None,
        transactional: bool = False,
        bind: Literal[False] = False,
        run_in: RunIn | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(self, function: Any = None, /, *, name: str | None = None, timeout: Any = None, **options: Any) -> Any:
        """Register a function as a task. Raises ConfigurationError for a declaration that cannot work.

        `max_attempts` counts the first run. With `retry_on` only these errors are retried, with `give_up_on` all but
        these; others send the job to `failed_jobs` at once. `timeout` is in seconds. `unique` gives its jobs a key.
        Jobs whose `serial_key`, a template of arguments, comes out the same run one at a time, in order; with
        `halt_on_failed` none of the key runs after one that failed for good, until that one is redriven or purged, or
        the key is resumed. A `breaker` stops the task while it fails. `bind` passes the Context first. `run_in` is
        'coroutine', 'thread' or 'process'; by default it follows from the function. `keep_completed` and `keep_failed`
        say how long ended jobs are kept: an age, the newest so many, 0 or False for none. `on_failed` is a task, or its
        name, that is enqueued with each job that goes to `failed_jobs`; False for none. `transactional` runs the task
        in the transaction that completes the job: `ctx.connection`. `aliases` are names that it had before: jobs that
        were enqueued under one run as this task.

        With `chunk` a call gets that many jobs, or what has been there for `wait` seconds (1 without it), as a list of
        ChunkJob; each is enqueued by itself and has an outcome of its own. Its `timeout` is that of the call.

            @app.task(queue="email", max_attempts=8, backoff=Backoff.exponential(1, cap=3600), timeout=30)
            async def send_email(to: str) -> None: ...
        """

        def register(target: Callable[..., Any]) -> Task[..., Any]:
            given: object = target
            if not callable(given):
                raise ConfigurationError(
                    f"@app.task was given {given!r}: it stands above a function, as @app.task or @app.task(name='send')"
                )
            bound = None if timeout is None else seconds(timeout, "timeout")
            task = Task(self, target, name, task_options(timeout=bound, **options))
            self.tasks.add(task)
            return task

        return register if function is None else register(function)

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        name: str | None = None,
        catch_up: CatchUp = "latest",
        grace: float | timedelta | None = None,
        overlap: Overlap = "allow",
        jitter: float | timedelta | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        max_runs: int | None = None,
        **args: Any,
    ) -> Callable[[Task[P, R]], Task[P, R]]:
        """Enqueue the task at the times of a cron expression; one job per nominal time, however many schedulers run.

        Above `@app.task()`. Further keyword arguments are the job's. `catch_up` says what becomes of times that were
        missed: "latest" (the newest is fired), "skip" or "all"; none is fired later than `grace`. `overlap` says what
        is done while the job of the time before has not ended: "allow", "skip", "queue_one" or "cancel_running". Jobs
        begin up to `jitter` after their time. No time before `start` or after `end` is fired, and `max_runs` at most.
        Times are timedeltas or seconds. Raises ConfigurationError for an expression that never fires.

            @app.cron("0 9 * * MON-FRI", tz="Europe/Paris", catch_up="skip", overlap="queue_one")
            @app.task()
            def digest() -> None: ...
        """
        policy = (catch_up, grace, overlap, jitter, start, end, max_runs)
        return self._scheduled(Cron(expression, tz), name, policy, args)

    def every(
        self,
        interval: float | timedelta,
        *,
        name: str | None = None,
        catch_up: CatchUp = "latest",
        grace: float | timedelta | None = None,
        overlap: Overlap = "allow",
        jitter: float | timedelta | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        max_runs: int | None = None,
        **args: Any,
    ) -> Callable[[Task[P, R]], Task[P, R]]:
        """Enqueue the task every `interval` (seconds or timedelta), anchored at 1970-01-01 00:00 UTC.

        The others are as in `cron`. Raises ConfigurationError for an interval below a second or above ten years.

            @app.every(timedelta(minutes=5), overlap="skip")
            @app.task()
            def refresh() -> None: ...
        """
        policy = (catch_up, grace, overlap, jitter, start, end, max_runs)
        return self._scheduled(Every.of(interval), name, policy, args)

    def _scheduled(
        self, rule: Cron | Every, name: str | None, policy: tuple[Any, ...], args: dict[str, Any]
    ) -> Callable[[Task[P, R]], Task[P, R]]:
        def declare(task: Task[P, R]) -> Task[P, R]:
            if not isinstance(task, Task):
                raise ConfigurationError(f"a schedule belongs above @app.task(), not on {task!r}")
            template: Task[..., R] = task
            what = data_name("schedule", name or task.name)
            try:
                job = template.job(**args)
            except ArgumentError as error:
                options = ("name", "tz", *(one.name for one in fields(Policy)))
                near = [option for given in args for option in get_close_matches(given, options, 1)]
                example = "Arguments of its job follow the options of the schedule: @app.cron('@daily', tenant='acme')"
                hint = f"Did you mean the option {' and '.join(near)}?" if near else example
                raise ArgumentError(f"schedule {what}: {error}. {hint}") from error
            schedule = Schedule(what, rule, job, Policy(*policy))
            if schedule.name in self.declared_schedules:
                raise ConfigurationError(f"two schedules are named {schedule.name}: give one of them a name")
            self.declared_schedules[schedule.name] = schedule
            return task

        return declare

    def queue(
        self,
        name: str,
        *,
        priority: int | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        lifo: bool = False,
        limit: Limit | Sequence[Limit] | None = None,
        breaker: Breaker | None = None,
        ageing: float | timedelta | None = None,
        ageing_floor: int | None = None,
        keep_completed: Keep | None = None,
        keep_failed: Keep | None = None,
        on_failed: Hook | None = None,
    ) -> None:
        """Declare a queue's defaults; workers write them to the table `queues` at their start.

        `lifo` runs the newest job first within a priority; jobs of one serial key stay first in first out. For each
        time `ageing` (seconds or timedelta) that a job has waited its priority is one sooner, down to `ageing_floor`,
        or to the soonest at which jobs of the queue wait or run. A `breaker` stops the queue while its jobs fail.
        `keep_completed`, `keep_failed` and `on_failed` are as in `task`. Raises ConfigurationError for a queue that is
        declared twice and differently.

            app.queue("email", max_attempts=5, limit=Limit(rate="100/min"), keep_completed=timedelta(hours=24))
        """
        new_job(f"queue {name}", "{}", priority=priority, max_attempts=max_attempts, timeout=timeout)
        bound = None if timeout is None else seconds(timeout, "timeout")
        limits = limits_of(limit, f"queue {name}")
        declared = QueueRow(
            data_name("queue", name),
            priority,
            max_attempts,
            bound,
            lifo,
            retention(keep_completed, f"keep_completed of queue {name}"),
            limits,
            checked(breaker, f"queue {name}"),
            *ageing_of(ageing, ageing_floor, f"queue {name}"),
            hook_name(on_failed, f"on_failed of queue {name}"),
            retention(keep_failed, f"keep_failed of queue {name}"),
        )
        before = self.declared_queues.setdefault(name, declared)
        if before != declared:
            differ = [one.name for one in fields(QueueRow) if getattr(before, one.name) != getattr(declared, one.name)]
            first, second = (", ".join(f"{one}={getattr(row, one)}" for one in differ) for row in (before, declared))
            raise ConfigurationError(
                f"queue {name} is declared twice: with {first}, then with {second}; declare it once"
            )

    def alert(
        self,
        name: str,
        alert: Alert,
        *,
        severity: Severity = "warning",
        runbook: str | None = None,
        to: Called | str | Sequence[Called | str] | None = None,
        repeat: float | timedelta | None = REPEAT,
    ) -> None:
        """Declare what is to be said when something is wrong: in the log, and by jobs of the tasks `to`.

        It is said once in the fleet when it begins, again every `repeat` (seconds or timedelta; None for not again),
        and when it is over. Tasks are called with alert, status ("firing", "still_firing" or "resolved"), severity,
        message, runbook, value and since. Workers and schedulers look every 15 seconds. Raises ConfigurationError.

            app.alert("card-errors", Alert.failures(10, within=300, queue="money"), severity="critical", to=page)
        """
        targets: Any = () if to is None else to if isinstance(to, list | tuple) else (to,)
        names = [hook_name(target, f"to of alert {name}", TOLD) for target in targets]
        if not all(names):
            raise ConfigurationError(f"alert {name}: to={to!r} must be a task, the name of one, or a list of them")
        rule = alert_rule(name, alert, severity, runbook, tuple(map(str, names)), repeat)
        if rule.name in self.declared_alerts:
            raise ConfigurationError(f"two alerts are named {rule.name}: give one of them another name")
        self.declared_alerts[rule.name] = rule

    def enqueue(
        self, task: str, args: Mapping[str, Any] | None = None, *, using: Using | None = None, **options: Any
    ) -> Job:
        """Enqueue by name, without the task's code. `options` as in `Task.using`.

        app.enqueue("shop.tasks.send_email", {"to": "a@b.c"}, delay=60)
        """
        return self.inserter.insert([self.new_job(task, args, **options)], using)[0]

    async def aenqueue(
        self, task: str, args: Mapping[str, Any] | None = None, *, using: Using | None = None, **options: Any
    ) -> Job:
        """As `enqueue`."""
        return (await self.inserter.ainsert([self.new_job(task, args, **options)], using))[0]

    def new_job(self, task: str, args: Mapping[str, Any] | None = None, **options: Any) -> NewJob:
        """A job by name, checked, not enqueued; against the signature where this app has the task."""
        known = self.tasks.named(data_name("task", task))
        given: Any = {} if args is None else args
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise ArgumentError(f"{task}: args must be a mapping of names to values, not {kind}")
        if known is not None:
            return known.using(**options).job(**dict(given))
        text = arguments.dumps(
            dict(given), what=f"args of {task}", limit=arguments.ARGUMENTS_LIMIT, depth=arguments.ARGUMENTS_DEPTH
        )
        key = options.pop("key", None)
        unique = key if isinstance(key, Unique) else None
        if unique is not None:
            # As they are stored.
            key = filled(unique.key, arguments.loads(text))
        after = after_of(task, options.pop("after", NOT_GIVEN), options.pop("on_failure", "fail_parent"))
        job = new_job(task, text, key=key, unique=unique, **options)._replace(after=after)
        # What the task is registered with may say what happens while its key is held.
        return job if unique is not None else job._replace(on_conflict=AS_REGISTERED)

    def enqueue_many(
        self, jobs: Sequence[NewJob], using: Using | None = None, *, spread: float | timedelta | None = None
    ) -> Sequence[Job]:
        """Enqueue many jobs in one transaction; returned in order. From 2,000 on by COPY, where no job has a key.

        `spread` (seconds or timedelta) staggers them: the nth may run n times that much later.

            app.enqueue_many([send_email.job(to) for to in addresses], spread=0.1)
        """
        return self.inserter.insert(staggered(jobs, spread), using)

    async def aenqueue_many(
        self, jobs: Sequence[NewJob], using: Using | None = None, *, spread: float | timedelta | None = None
    ) -> Sequence[Job]:
        """As `enqueue_many`."""
        return await self.inserter.ainsert(staggered(jobs, spread), using)

    def on(self, event: EventName, callback: Callback) -> Callback:
        """Call `callback(event)` in this process when it happens; `pgqueue.Event` says what there is.

        Callbacks of a worker run on its event loop: keep them short.

        app.on("failed", lambda event: print(event.job_id, event.detail))
        """
        self.subscribers.add(event, callback)
        return callback

    def watch(self, *events: EventName, timeout: float | None = None) -> Watch:
        """What happens in all workers that publish their events (`publish_events=True`, `--publish-events`).

        A hint for people who look on, and nothing to rely on: events are sent four times a second, some of them where
        there are many, and are lost where the connection breaks. Without names it gives all; "enqueued" is never sent.
        An event's `detail` is its error's type, its percentage of progress, or None. It ends after `timeout` seconds.

        Raises ConfigurationError for an event that there is not and behind a pooler, ConnectionFailed.

            with app.watch("failed", "retried") as events:      # `async with` and `async for` in a coroutine
                for event in events:
                    print(event.worker, event.task, event.job_id, event.detail)
        """
        return Watch(self.database, self.schema, events, timeout)

    def add_middleware(self, middleware: Middleware) -> None:
        """Wrap each run and each enqueue of this app in it; the first that was added is the outermost.

        A worker takes those that are there when it starts. Raises ConfigurationError for what cannot wrap anything.

            app.add_middleware(RequestId())
        """
        self.middleware.add(middleware)

    def worker(self, queues: Mapping[str, int] | Sequence[str] | None = None, **options: Any) -> Worker:
        """A worker in this process, for small deployments and tests; stops gracefully on leaving.

        `queues` maps names or globs to slots; without it, every queue that a task names, ten slots each.

            async with app.worker(queues={"email": 10}):
                ...
        """
        from pgqueue.worker import Worker

        return Worker(self, queues, **options)

    def close(self) -> None:
        """Close the sync pool; it opens again when it is needed."""
        self.database.close()

    async def aclose(self) -> None:
        """Close the pools of this event loop, and what tasks have opened there."""
        for close in self.at_close:
            await close()
        await self.database.aclose()
