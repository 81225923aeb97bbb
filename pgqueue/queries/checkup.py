"""Whether all is well: the server, the tables, the fleet. Each check is one look; each finding has its fix."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Any, Literal

from pgqueue.queries import breakers, inspecting, limits, overview
from pgqueue.queries.counting import HOLDS_SNAPSHOT
from pgqueue.queries.reading import moment
from pgqueue.queries.statement import Operation, Statement, inline
from pgqueue.revision import check_revision
from pgqueue.wording import agreeing, counted, listed, span

Level = Literal["ok", "warning", "problem"]

SNAPSHOT_OLD, SNAPSHOT_TOO_OLD = 300.0, 3600.0
DEAD_ROWS = 500_000
UNSEEN = 60.0
NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found. `level`: ok, warning (it will hurt), problem (it hurts now)."""

    check: str
    level: Level
    text: str
    fix: str | None = None


Check = Callable[[str], Operation[list[Finding]]]


def server(schema: str) -> Operation[list[Finding]]:
    [(version, shown)] = yield _ask(
        "select current_setting('server_version_num')::int, current_setting('server_version')", schema
    )
    if version < 140_000:
        return [
            Finding("server", "problem", f"PostgreSQL {shown} is not supported", "Upgrade to PostgreSQL 14 or later.")
        ]
    return [Finding("server", "ok", f"PostgreSQL {shown}")]


def tables(schema: str) -> Operation[list[Finding]]:
    found = yield inspecting.revision(schema)
    check_revision(found, schema)
    return [
        Finding(
            "tables", "ok", f"the tables in schema {schema} are at revision {found[0]}, which this pgqueue works on"
        )
    ]


def settings(schema: str) -> Operation[list[Finding]]:
    rows = yield _ask(
        "select name, setting from pg_settings where name = any (%(names)s)", schema, names=list(_SETTINGS)
    )
    found: list[Finding] = []
    for name, value in rows:
        level, what = _SETTINGS[name]
        if value == "off":
            found.append(Finding("settings", level, f"{name} is off: {what}", f"alter system set {name} = on"))
    [(isolation,)] = yield _ask("select current_setting('default_transaction_isolation')", schema)
    if isolation != "read committed":
        text = f"default_transaction_isolation is {isolation}: claims collide and are run again and again"
        found.append(
            Finding("settings", "warning", text, "alter role … set default_transaction_isolation = 'read committed'")
        )
    return found or [Finding("settings", "ok", "settings are as they should be")]


_SETTINGS: dict[str, tuple[Level, str]] = {
    "autovacuum": ("problem", "dead rows are never removed, and claims slow down"),
    "track_counts": ("problem", "autovacuum does not know what there is to do"),
    "fsync": ("problem", "a crash of the server may lose or damage everything"),
    "full_page_writes": ("problem", "a crash of the server may damage tables"),
    "synchronous_commit": ("warning", "a crash of the server may lose jobs whose enqueue was acknowledged"),
}


def snapshots(schema: str, old: float = SNAPSHOT_OLD, too_old: float = SNAPSHOT_TOO_OLD) -> Operation[list[Finding]]:
    """Who keeps dead rows from being removed, for so many seconds."""
    rows = yield _ask(
        "select format('server process %%s of %%s (%%s)', pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), state, '?')), "
        "extract(epoch from clock_timestamp() - xact_start)::float8, format('select pg_terminate_backend(%%s)', pid) "
        f"from pg_stat_activity where {HOLDS_SNAPSHOT} "
        "union all select format('prepared transaction %%s', gid), extract(epoch from clock_timestamp() - prepared)::float8, "
        "format('rollback prepared %%L', gid) from pg_prepared_xacts where database = current_database() "
        "union all select format('replication slot %%s, which nobody reads', slot_name), null, "
        "format('select pg_drop_replication_slot(%%L)', slot_name) "
        "from pg_replication_slots where not active and (xmin is not null or catalog_xmin is not null) "
        "order by 2 desc nulls first limit 20",
        schema,
    )
    found = []
    for who, seconds, fix in rows:
        if seconds is None:
            found.append(Finding("snapshots", "problem", f"{who}, keeps dead rows from being removed", fix))
        elif seconds >= old:
            level: Level = "problem" if seconds >= too_old else "warning"
            text = f"{who} has had a transaction open for {span(seconds)}: dead rows since then cannot be removed"
            found.append(Finding("snapshots", level, text, f"End it where nobody needs it: {fix}"))
    return found or [Finding("snapshots", "ok", "no old transaction keeps dead rows from being removed")]


def dead_rows(schema: str) -> Operation[list[Finding]]:
    rows = yield _ask(
        "select relname, n_dead_tup, n_live_tup, extract(epoch from clock_timestamp() - greatest(last_autovacuum, last_vacuum))::float8, "
        "exists (select from pg_class c, unnest(c.reloptions) o where c.oid = relid and o in ('autovacuum_enabled=false', 'autovacuum_enabled=off')) "
        "from pg_stat_user_tables where schemaname = %(name)s order by n_dead_tup desc",
        schema,
        name=schema,
    )
    found = []
    for table, dead, live, vacuumed, disabled in rows:
        if disabled:
            text = f"autovacuum is disabled for {table}: its dead rows are never removed"
            found.append(
                Finding("dead_rows", "problem", text, f"alter table {schema}.{table} reset (autovacuum_enabled)")
            )
        elif dead > max(DEAD_ROWS, 5 * live):
            when = "was never vacuumed" if vacuumed is None else f"was vacuumed {span(vacuumed)} ago"
            text = f"{table} has {dead:,} dead rows beside {live:,} live ones, and {when}"
            found.append(
                Finding(
                    "dead_rows", "warning", text, f"End what keeps them (see snapshots), then: vacuum {schema}.{table}"
                )
            )
    if not found:
        most = max((row[1] for row in rows), default=0)
        return [Finding("dead_rows", "ok", f"at most {most:,} dead rows in a table")]
    return found


def wraparound(schema: str) -> Operation[list[Finding]]:
    [(table, age, most)] = yield _ask(
        "select c.relname, greatest(age(c.relfrozenxid), mxid_age(c.relminmxid)), current_setting('autovacuum_freeze_max_age')::int "
        "from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %(name)s and c.relkind = 'r' "
        "order by 2 desc limit 1",
        schema,
        name=schema,
    )
    if age > 2 * most:
        text = f"{table} is {age:,} transactions old, where autovacuum should freeze it at {most:,}: at 2 billion the server stops"
        return [Finding("wraparound", "problem", text, f"vacuum freeze {schema}.{table}")]
    return [Finding("wraparound", "ok", f"the oldest table, {table}, is {age:,} transactions old")]


def notifications(schema: str) -> Operation[list[Finding]]:
    [(usage,)] = yield _ask("select pg_notification_queue_usage()", schema)
    if usage < 0.1:
        return [Finding("notifications", "ok", f"the queue of notifications is {usage:.0%} full")]
    text = f"the queue of notifications is {usage:.0%} full: when it is, transactions that notify fail"
    fix = "A session that listens has had a transaction open for long: end it (see snapshots)."
    return [Finding("notifications", "problem" if usage > 0.5 else "warning", text, fix)]


def connections(schema: str) -> Operation[list[Finding]]:
    [(used, most)] = yield _ask(
        "select count(*), current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
        "from pg_stat_activity where backend_type = 'client backend'",
        schema,
    )
    level: Level = "problem" if used >= 0.95 * most else "warning" if used >= 0.8 * most else "ok"
    fix = (
        None if level == "ok" else "Raise max_connections, run fewer workers, or put PgBouncer before it (pooler=True)."
    )
    return [Finding("connections", level, f"{used} of {most} connections are in use", fix)]


def clock(schema: str) -> Operation[list[Finding]]:
    began = time.time()
    [(there,)] = yield _ask("select extract(epoch from clock_timestamp())::float8", schema)
    # The answer may be from any time between the two.
    skew = max(0.0, began - there, there - time.time())
    if skew < 1.0:
        return [Finding("clock", "ok", "the clocks of this host and of the server agree")]
    text = f"the clocks of this host and of the server are {span(skew)} apart: the server's decides, and log times do not fit"
    return [Finding("clock", "warning", text, "Run NTP on both.")]


def queues(schema: str) -> Operation[list[Finding]]:
    found = []
    for queue in (yield from overview.queues(schema)):
        waiting = counted(queue.available + queue.due, "job")
        if queue.capped & {"available", "due"}:
            waiting = f"{queue.available + queue.due:,} jobs or more"
        if queue.stopped == "paused" and (queue.available or queue.due):
            text, fix = f"queue {queue.queue} is paused, with {waiting} in it", f"pgqueue queues resume {queue.queue}"
            found.append(Finding("queues", "warning", text, fix))
        elif queue.unserved:
            text, fix = (
                f"{waiting} in queue {queue.queue}, which no live worker serves",
                f"pgqueue worker -q {queue.queue}",
            )
            found.append(Finding("queues", "problem", text, fix))
    found.sort(key=lambda one: one.level)
    return found or [Finding("queues", "ok", "every queue with jobs that wait has a worker")]


def held(schema: str) -> Operation[list[Finding]]:
    """What circuit breakers, failed jobs and people keep from beginning; whole queues are looked at by `queues`."""
    found = []
    for known in (yield breakers.read(schema)):
        if known.state != "closed":
            tries = "" if known.tries_in is None else f", and tries a job in {span(known.tries_in)}"
            text = (
                f"the circuit breaker of {known.of} is {known.state.replace('_', ' ')}{tries}{_waiting(known.blocked)}"
            )
            fix = f"Mend the cause, or: pgqueue breakers close --{known.of.scope} {known.of.name}"
            found.append(Finding("held", "warning", text, fix))
    for row in (yield limits.list_limits(schema)):
        if row.paused and row.key is None and row.scope == "task":
            text, fix = f"task {row.name} is paused{_waiting(row.blocked)}", f"pgqueue limits resume --task {row.name}"
            found.append(Finding("held", "warning", text, fix))
    paused = yield limits.paused(schema)
    for one in paused[:NAMED]:
        what = f"{one.key or 'serial key'} {one.value} of {one.scope} {one.name}"
        which = "--serial-key" if one.key is None else f"--key {quote(one.key)} --value"
        fix = f"pgqueue limits resume --{one.scope} {one.name} {which} {quote(one.value)}"
        found.append(Finding("held", "warning", f"{what} is paused{_waiting(one.blocked)}", fix))
    halted = yield limits.halted(schema)
    for key in halted[:NAMED]:
        text = f"serial key {key.serial_key} of queue {key.queue} is halted, since job {key.job_id} failed"
        fix = f"pgqueue failed redrive {key.job_id}, or pgqueue failed purge {key.job_id}"
        found.append(Finding("held", "warning", text + _waiting(key.blocked), fix))
    for keys, what, verb in ((paused, "are paused", "limits paused"), (halted, "are halted", "limits halted")):
        if len(keys) > NAMED:
            found.append(Finding("held", "warning", f"{len(keys) - NAMED:,} more keys {what}", f"pgqueue {verb}"))
    return found or [Finding("held", "ok", "no circuit breaker is open, and no task or key is paused or halted")]


def _waiting(jobs: int) -> str:
    return f": {counted(jobs, 'job')} {agreeing(jobs, 'waits', 'wait')}" if jobs else ""


def tasks(schema: str) -> Operation[list[Finding]]:
    rows = yield _ask(
        "select distinct j.task from (select task from {schema}.jobs where state in ('available', 'scheduled') limit 100000) j "
        "where not exists (select from {schema}.workers w where j.task = any (w.tasks) and w.expires_at > clock_timestamp()) "
        "and exists (select from {schema}.workers w where w.expires_at > clock_timestamp()) order by 1",
        schema,
    )
    found = []
    if rows:
        names = listed([task for (task,) in rows])
        fix = "Deploy the code that has them, or give renamed tasks their former names as aliases."
        found.append(Finding("tasks", "problem", f"jobs wait for tasks that no live worker has: {names}", fix))
    endless = yield _ask(
        "select t.name from {schema}.tasks t left join {schema}.queues q on q.name = t.queue where t.alias_of is null "
        "and coalesce(t.timeout, q.timeout, (t.app_defaults ->> 'timeout')::float8) is null order by 1",
        schema,
    )
    if endless:
        names = listed([task for (task,) in endless])
        fix = "Give the task a timeout, or its queue, or PgQueue(timeout=…)."
        found.append(Finding("tasks", "warning", f"a run may last for ever, since no timeout is set: {names}", fix))
    return found or [Finding("tasks", "ok", "every task is known to a worker and has a timeout")]


def workers(schema: str) -> Operation[list[Finding]]:
    [(alive, dead, held)] = yield _ask(
        "select count(*) filter (where expires_at > clock_timestamp()), count(*) filter (where expires_at < clock_timestamp() - interval '2 minutes'), "
        "(select count(*) from {schema}.claims c where not exists (select from {schema}.workers w where w.id = c.worker_id)) "
        "from {schema}.workers",
        schema,
    )
    if alive == 0:
        found = "no worker is alive" + (f", and {dead} that died still hold jobs" if dead else "")
        return [Finding("workers", "warning" if not dead else "problem", found, "pgqueue worker shop.tasks:app")]
    if dead or held:
        text = f"{counted(dead + held, 'dead worker')} still hold jobs, though {counted(alive, 'live one')} should have taken them back"
        return [Finding("workers", "problem", text, "Look at the log of the workers for errors of the rescuer.")]
    return [Finding("workers", "ok", counted(alive, "live worker"))]


def schedules(schema: str) -> Operation[list[Finding]]:
    rows = yield _ask(
        f"select name, error, enabled and error is null and next_run_at is distinct from 'infinity', "
        f"extract(epoch from {{schema}}.clock() - {moment('next_run_at')})::float8 from {{schema}}.schedules order by name",
        schema,
    )
    [(unseen, never)] = yield _ask(
        "select extract(epoch from clock_timestamp())::float8 - last_value, last_value = 1 from {schema}.scheduler_seen",
        schema,
    )
    found = [
        Finding(
            "schedules",
            "problem",
            f"schedule {name} is disabled: {error}",
            f"Mend its pattern, then: pgqueue schedules resume {name}",
        )
        for name, error, _, _ in rows
        if error
    ]
    on = [name for name, _, is_on, _ in rows if is_on]
    late = [name for name, _, is_on, behind in rows if is_on and (behind or 0) > UNSEEN]
    told = []
    if on and unseen > UNSEEN:
        when = "ever" if never else f"for {span(unseen)}"
        are = agreeing(len(on), "is", "are")
        told.append(f"no scheduler has been seen {when}, and {counted(len(on), 'schedule')} {are} on")
    fix = "pgqueue scheduler" if told else "Look at the log of the scheduler."
    if late:
        told.append(f"due for more than a minute and not fired: {listed(late)}")
    if told:
        found.append(Finding("schedules", "problem" if late else "warning", "; ".join(told), fix))
    return found or [Finding("schedules", "ok", f"{counted(len(rows), 'schedule')}, none late")]


def flows(schema: str) -> Operation[list[Finding]]:
    """Jobs that go on only when somebody redrives what they wait for."""
    rows = yield _ask(
        "select j.id, j.flow_id, array_agg(e.child_id order by e.child_id) filter (where m.state = 'failed') from "
        "(select id, flow_id from {schema}.jobs where state = 'blocked' and waits_for = 'children' order by id limit 100000) j "
        "join {schema}.flow_waits w on w.job_id = j.id join {schema}.flow_edges e on e.parent_id = j.id and e.round = w.round "
        "join {schema}.flow_jobs m on m.job_id = e.child_id "
        "group by j.id, j.flow_id having bool_or(m.state = 'failed' and e.on_failure = 'wait') and bool_and(m.state is not null) order by 1",
        schema,
    )
    if not rows:
        return [Finding("flows", "ok", "no job of a flow waits for one that has failed for good")]
    shown = listed([f"{parent} for {', '.join(map(str, failed[:NAMED]))}" for parent, _, failed in rows])
    text = f"{counted(len(rows), 'job')} {agreeing(len(rows), 'waits', 'wait')} until failed jobs are redriven: {shown}"
    parent, flow, failed = rows[0]
    settle = f"pgqueue flows cancel {flow}" if flow is not None else f"pgqueue jobs cancel {parent}"
    fix = (
        f"Mend the cause, then: pgqueue failed redrive {' '.join(map(str, failed[:NAMED]))}, or give them up: {settle}"
    )
    return [Finding("flows", "warning", text, fix)]


def partitions(schema: str) -> Operation[list[Finding]]:
    [(ahead,)] = yield _ask(
        "select count(*) from generate_series(1, 7) d where to_regclass(format('%%I.completed_jobs_%%s', %(name)s::text, "
        "to_char((clock_timestamp() at time zone 'UTC')::date + d, 'YYYYMMDD'))) is not null",
        schema,
        name=schema,
    )
    if ahead >= 2:
        return [Finding("partitions", "ok", f"partitions of the history are made {ahead} days ahead")]
    text = f"partitions of the history are made {ahead} days ahead: workers make a week of them, once a minute"
    return [Finding("partitions", "warning", text, f"pgqueue doctor --fix, or: select {schema}.make_partitions()")]


def plans(schema: str) -> Operation[list[Finding]]:
    """Whether the server would find the next jobs by their index."""
    found = []
    for table, query in (
        (
            "jobs",
            "select id from {schema}.jobs where queue = 'default' and priority = 0 and position > 0 and position is not null order by position limit 100",
        ),
        ("jobs", "select id from {schema}.jobs where id = any (array[1, 2, 3]::bigint[])"),
        ("failed_jobs", "select id from {schema}.failed_jobs where id = 1"),
    ):
        [(rows,)] = yield _ask(
            "select reltuples::bigint from pg_class where oid = %(table)s::regclass",
            schema,
            table=f'"{schema}".{table}',
        )
        plan = yield _ask(f"explain (costs off) {query}", schema)
        if rows > 10_000 and any("Seq Scan" in line for (line,) in plan):
            text = f"the server reads the whole of {table} ({rows:,} rows) where an index would do"
            found.append(
                Finding(
                    "plans", "problem", text, f"analyze {schema}.{table}; look at enable_indexscan and random_page_cost"
                )
            )
    return found or [Finding("plans", "ok", "jobs are found by their indexes")]


CHECKS: tuple[Check, ...] = (
    server,
    tables,
    settings,
    connections,
    clock,
    snapshots,
    dead_rows,
    wraparound,
    notifications,
    partitions,
    plans,
    workers,
    queues,
    held,
    tasks,
    schedules,
    flows,
)


def _ask(query: str, schema: str, **params: Any) -> Statement[Any]:
    return Statement(inline(query, schema), params)
