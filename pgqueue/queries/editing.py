"""Changing a waiting job, where nothing that holds for it breaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgqueue import arguments
from pgqueue.errors import ArgumentError, JobNotEditable
from pgqueue.job import Job
from pgqueue.queries.inspecting import found, job, reschedule
from pgqueue.queries.statement import Operation, Statement, inline
from pgqueue.task import Task
from pgqueue.task.registry import Tasks
from pgqueue.template import names_in


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to change; None leaves it. `args` take the place of those of their names, `unset` are left out.

    `delay` is in seconds from now.
    """

    args: Mapping[str, Any] | None = None
    unset: tuple[str, ...] = ()
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    run_at: datetime | None = None
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A job whose row is locked. The templates are those that its task has registered."""

    id: int
    state: str
    queue: str
    task: str
    args: str
    attempt: int
    priority: int
    run_at: str
    key: str | None
    serial_key: str | None
    waits_for: str | None
    is_let_go: bool
    places: tuple[str, ...]
    has_steps: bool
    key_template: str | None
    serial_template: str | None

    @property
    def gate(self) -> str | None:
        """The gate that it is parked at, or that has let it go."""
        return None if self.waits_for == "children" else self.waits_for


def edit(schema: str, job_id: int, change: Edit, tasks: Tasks) -> Operation[Job]:
    """The job as it is then. In one transaction. Its arguments must fit its task, where `tasks` has that.

    Raises JobNotFound, JobNotEditable, ArgumentError.
    """
    rows: list[_Held] = yield _lock(schema, job_id)
    if not rows:
        ended = found((yield job(schema, job_id)), f"with id {job_id}")
        raise JobNotEditable(f"job {job_id} has ended ({ended.state}): only what waits can be edited; enqueue another")
    [held] = rows
    if held.state == "running":
        raise JobNotEditable(
            f"job {job_id} runs: a worker has read it. Cancel it, or edit it while it waits for a retry, if it does"
        )
    change = replace(
        change,
        queue=None if change.queue == held.queue else change.queue,
        priority=None if change.priority == held.priority else change.priority,
    )
    args = None if change.args is None and not change.unset else _args(held, change, tasks.named(held.task))
    _refuse_what_would_break(held, change, args)
    yield _write(schema, held, change, args)
    # Its lane or its limits may be others now: it takes its place, or passes them, anew.
    moves = change.queue is not None or (change.priority is not None and held.gate is None)
    passes = held.gate is not None and args is not None and not _is_only_serial(held)
    if moves or passes or change.run_at is not None or change.delay is not None:
        at = held.run_at if change.run_at is None and change.delay is None else change.run_at
        yield reschedule(schema, [job_id], at, change.delay or 0.0)
    [edited] = yield job(schema, job_id)
    return edited  # type: ignore[no-any-return]


def _args(held: _Held, change: Edit, task: Task[..., Any] | None) -> str | None:
    """Those that it has then, as JSON text; None where they are what they were."""
    before: dict[str, Any] = arguments.loads(held.args)
    for name in change.unset:
        if name not in before:
            raise JobNotEditable(f"job {held.id} has no argument {name!r} to leave out: it has {', '.join(before)}")
    after = {name: value for name, value in before.items() if name not in change.unset} | dict(change.args or {})
    text = _text(held.task, after, task)
    after = arguments.loads(text)
    changed = {name for name, _ in _parts(before) ^ _parts(after)}
    unique, serial = held.key_template, held.serial_template
    if task is not None:
        unique = None if task.options.unique is None else task.options.unique.key
        serial = task.options.serial_key
    for what, key, template in (("unique", held.key, unique), ("serial", held.serial_key, serial)):
        if key is not None and template is not None and (named := sorted(names_in(template) & changed)):
            raise JobNotEditable(
                f"job {held.id} holds the {what} key {key!r}, which is made of {', '.join(named)} ({template}): with "
                "another value it would be another job. Cancel it, and enqueue that one"
            )
    if not changed:
        return None
    if held.has_steps:
        raise JobNotEditable(
            f"job {held.id} has done steps with the arguments that it has, and would not do them again with others: "
            "cancel it, and enqueue another"
        )
    return text


def _text(name: str, args: dict[str, Any], task: Task[..., Any] | None) -> str:
    """As JSON, in the way that the task's signature writes it. Raises ArgumentError."""
    limit, depth = arguments.ARGUMENTS_LIMIT, arguments.ARGUMENTS_DEPTH
    text = arguments.dumps(args, what=f"the arguments of task {name}", limit=limit, depth=depth)
    if task is None:
        return text
    task.signature.bound((), args)
    try:
        return task.signature.dump((), task.signature.load(text))
    except ArgumentError as error:
        # What is advised for stored arguments does not help here.
        raise ArgumentError(str(error).partition(": correct the stored arguments")[0]) from error


def _parts(args: dict[str, Any]) -> set[tuple[str, str]]:
    # As text: to Python, true is 1.
    return {(name, json.dumps(value, sort_keys=True)) for name, value in args.items()}


def _refuse_what_would_break(held: _Held, change: Edit, args: str | None) -> None:
    if change.max_attempts is not None and change.max_attempts <= held.attempt:
        raise JobNotEditable(
            f"job {held.id} has used {held.attempt} of its attempts: max_attempts={change.max_attempts} leaves none; give "
            f"{held.attempt + 1} or more, or cancel it"
        )
    for what, key in (("unique", held.key), ("serial", held.serial_key)):
        if change.queue is not None and key is not None:
            raise JobNotEditable(
                f"job {held.id} has the {what} key {key!r}, which holds within queue {held.queue}: it cannot move to {change.queue}. "
                "Cancel it, and enqueue another there"
            )
    if held.is_let_go and held.serial_key is not None and args is not None:
        raise JobNotEditable(
            f"job {held.id} is the next of its serial key {held.serial_key!r} to run, and has passed its limits with the "
            "arguments that it has: pause its queue and try again when it waits, or cancel it"
        )


def _is_only_serial(held: _Held) -> bool:
    """Whether it waits for its turn of a serial key alone, which its arguments have nothing to do with."""
    return not held.is_let_go and all(gate.startswith("serial:") for gate in (held.waits_for or "", *held.places))


def _lock(schema: str, job_id: int) -> Statement[_Held]:
    return Statement(
        inline(
            "select j.id, j.state, j.queue, j.task, j.args::text, j.attempt, j.priority, j.run_at::text, j.unique_key, j.serial_key, j.waits_for, "
            "j.ready is not null, coalesce(j.places, '{{}}'), exists (select from {schema}.job_steps s where s.job_id = j.id), "
            "t.unique_key, t.serial_key "
            "from {schema}.jobs j left join {schema}.tasks t on t.name = j.task where j.id = %(id)s for update of j",
            schema,
        ),
        {"id": job_id},
        lambda row: _Held(*row),
    )


def _write(schema: str, held: _Held, change: Edit, args: str | None) -> Statement[Any]:
    """In a lane that is another it has no place yet: that is what comes next."""
    return Statement(
        inline(
            "with edited as (update {schema}.jobs set args = coalesce(%(args)s::jsonb, args), queue = coalesce(%(queue)s, queue), "
            "max_attempts = coalesce(%(max_attempts)s, max_attempts), priority = coalesce(%(priority)s::smallint, priority), "
            "aged = case when %(priority)s::smallint is null then aged end, "
            "position = case when coalesce(%(queue)s, queue) = queue and coalesce(%(priority)s::smallint, priority) = priority "
            "then position end where id = %(id)s returning id) "
            "update {schema}.flow_jobs set queue = %(queue)s where job_id = (select id from edited) and %(queue)s::text is not null "
            "returning 1",
            schema,
        ),
        {
            "id": held.id,
            "args": args,
            "queue": change.queue,
            "max_attempts": change.max_attempts,
            "priority": change.priority,
        },
    )
