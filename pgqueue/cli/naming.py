"""Tasks and queues by the names that people type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.errors import NotFound, did_you_mean, some_of

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

NO_TASKS = ": no worker has registered any yet; give -a MODULE:APP to read your code, or --force to enqueue it anyway"
NO_JOBS = ": no worker has registered any yet, and no job has one"


def task_to_enqueue(app: PgQueue, name: str, *, force: bool = False) -> str:
    """The task that a new job is of: of the code where it is at hand, else of the table. `force` takes any name.

    Of the table also the one that is written out in full.
    """
    from pgqueue.queries import inspecting

    if app.tasks.named(name) is not None:
        return name
    rows = app.database.fetch(inspecting.list_tasks(app.schema))
    registered = [known for known, queue, *_, of in rows if queue is not None and (of is None or known == name)]
    known = [*app.tasks, *(one for one in registered if one == name)] if app.tasks else registered
    return full_name(name, known, whose="there is", none=NO_TASKS, force=force)


def task_of_jobs(app: PgQueue, name: str, also: Iterable[str] = ()) -> str:
    """The task that a filter means, by the name that its jobs have: of the code, the table, or any job, live or ended.

    `also` are names that are known besides. A former name is one too, and makes no short name ambiguous.
    """
    from pgqueue.queries import inspecting

    rows = app.database.fetch(inspecting.list_tasks(app.schema))
    tasks = {*app.tasks, *also, *(known for known, *_, of in rows if of is None)}
    former = {*app.tasks.aliases, *(known for known, *_, of in rows if of is not None)}
    if name in former:
        return name
    known = tasks if named(name, tasks) else tasks | former
    if not named(name, known):
        known |= set(app.database.fetch(inspecting.ended_tasks(app.schema, name)))
    return full_name(name, known, whose="there is", none=NO_JOBS)


def task_itself(app: PgQueue, name: str, also: Iterable[str] = ()) -> str:
    """The task that limits and breakers are of: as `task_of_jobs`, by its own name also for a former one."""
    from pgqueue.queries import inspecting

    found = task_of_jobs(app, name, also)
    return app.database.fetch(inspecting.own_name(app.schema, app.tasks.aliases.get(found, found)))[0]


def full_names(app: PgQueue, where: dict[str, Any]) -> dict[str, Any]:
    """`where` with the full name of its task. Refuses a task or a queue that nobody knows: it is a typo."""
    if where.get("queue") is not None:
        require(app, where["queue"])
    return where if where.get("task") is None else where | {"task": task_of_jobs(app, where["task"])}


def require(app: PgQueue, name: str, *, forced: bool = False) -> None:
    """Refuse a name that no job, worker, task or setting has, here or in the database: it is a typo.

    `forced` says whether --force would let it pass.
    """
    from pgqueue.names import data_name
    from pgqueue.queries import fleet

    data_name("queue", name)
    known = {task.options.queue for task in app.tasks.values()} | set(app.declared_queues)
    known |= set(app.database.fetch(fleet.queue_names(app.schema)))
    if name in known:
        return
    # Only now, since it counts all jobs: what is served and has no row, and what has ended.
    known |= {row.queue for row in app.queues.stats()}
    if name not in known and not app.jobs.list(queue=name, limit=1):
        listed = f"; known are {some_of(known)}" if known else ""
        hint = (did_you_mean(name, known) or listed) + ("; --force takes it anyway" if forced else "")
        raise NotFound(f"no worker listens on `{name}`, and no job is in it{hint}")


def full_name(name: str, known: Iterable[str], *, whose: str, none: str = "", force: bool = False) -> str:
    """`shop.tasks.send_email` for `send_email`, if only one task ends so. `force` lets unknown names pass.

    `none` says what to do when nothing is known.
    """
    names = sorted(known)
    found = named(name, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise click.UsageError(f"several tasks are called {name!r}: {', '.join(found)}")
    if force:
        return name
    near = did_you_mean(name, [*names, *(candidate.rpartition(".")[2] for candidate in names)])
    listed = f"; known are {some_of(names)}" if names else none
    raise NotFound(f"{whose} no task `{name}`{near or listed}")


def named(name: str, known: Iterable[str]) -> Sequence[str]:
    """Those that have this name, else those that end with it."""
    names = list(known)
    return [name] if name in names else [one for one in names if one.endswith(f".{name}")]
