"""The schema: what the migration makes, and the functions that people, triggers and other languages call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql

from pgqueue import migrate
from pgqueue.config import sqlalchemy_url
from pgqueue.errors import ConfigurationError
from pgqueue.tables import metadata, tables

Connection = psycopg.Connection[tuple[Any, ...]]
Catalog = dict[str, dict[str, Any]]

TABLES = (
    "jobs",
    "claims",
    "lanes",
    "idle_workers",
    "limits",
    "gates",
    "freed_places",
    "breakers",
    "breaker_counts",
    "used_keys",
    "waiters",
    "job_progress",
    "job_logs",
    "job_steps",
    "effects",
    "workers",
    "tasks",
    "queues",
    "schedules",
    "completed_jobs",
    "failed_jobs",
    "alerts",
    "rescues",
    "audit_log",
    "task_minutes",
    "flows",
    "flow_jobs",
    "flow_edges",
    "flow_waits",
    "flow_news",
    "flow_turns",
)
VIEWS = ("all_jobs", "running_jobs", "queue_stats")
DEADLINE = 20.0

CATALOG = """
with tables as (
    select * from pg_class
    where relnamespace = to_regnamespace(%(schema)s) and relkind in ('r', 'p') and not relispartition
      and relname <> 'schema_version')
select 'table ' || relname, jsonb_build_object(
    'kind', relkind, 'persistence', relpersistence, 'options', reloptions, 'partitioned', pg_get_partkeydef(oid),
    'comment', obj_description(oid, 'pg_class'))
from tables
union all
select concat('column ', relname, '.', attname), jsonb_build_object(
    'place', attnum, 'type', format_type(atttypid, atttypmod), 'not null', attnotnull, 'identity', attidentity,
    'generated', attgenerated, 'collation', attcollation, 'storage', attstorage, 'default', pg_get_expr(adbin, adrelid),
    'comment', col_description(attrelid, attnum))
from tables
join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
left join pg_attrdef on adrelid = attrelid and adnum = attnum
union all
select concat('constraint ', relname, '.', conname), jsonb_build_object(
    'definition', pg_get_constraintdef(c.oid), 'comment', obj_description(c.oid, 'pg_constraint'))
from tables join pg_constraint c on conrelid = tables.oid
union all
select concat('index ', i.relname), jsonb_build_object(
    'definition', pg_get_indexdef(indexrelid), 'options', i.reloptions, 'valid', indisvalid,
    'comment', obj_description(indexrelid, 'pg_class'))
from tables join pg_index on indrelid = tables.oid join pg_class i on i.oid = indexrelid
union all
select concat('sequence ', s.relname), jsonb_build_object(
    'type', seqtypid::regtype, 'start', seqstart, 'step', seqincrement, 'least', seqmin, 'most', seqmax,
    'cache', seqcache, 'cycle', seqcycle, 'comment', obj_description(s.oid, 'pg_class'),
    'owner', (select refobjid::regclass from pg_depend
              where classid = 'pg_class'::regclass and objid = s.oid and deptype in ('a', 'i')))
from pg_class s join pg_sequence on seqrelid = s.oid
where relnamespace = to_regnamespace(%(schema)s)
"""


@pytest.fixture
def db(dsn: str) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()


def catalog(connection: Connection, schema: str = "pgqueue") -> Catalog:
    return dict(connection.execute(CATALOG, {"schema": f'"{schema}"'}).fetchall())


def differences(left: Catalog, right: Catalog) -> dict[str, tuple[Any, Any]]:
    """What is not the same on both sides, each with the facts that differ."""
    found = {}
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if one is None or other is None:
            found[name] = (one, other)
        elif facts := [fact for fact in one if one[fact] != other[fact]]:
            found[name] = ({fact: one[fact] for fact in facts}, {fact: other[fact] for fact in facts})
    return found


def rows(connection: Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query, values).fetchall()


def one(connection: Connection, query: str, *values: Any) -> Any:
    ((found,),) = rows(connection, query, *values)
    return found


def insert(connection: Connection, table: str, **values: Any) -> Any:
    """Insert a row by hand, and return its first column."""
    statement = sql.SQL("insert into pgqueue.{} ({}) values ({}) returning *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    adapted = [Jsonb(value) if isinstance(value, dict) else value for value in values.values()]
    found = connection.execute(statement, adapted).fetchone()
    assert found is not None
    return found[0]


def insert_live(connection: Connection, **values: Any) -> int:
    job = {"queue": "mail", "task": "send", "state": "available", "position": 1} | values
    return int(insert(connection, "jobs", **job))


def insert_failed(connection: Connection, job_id: int, **values: Any) -> int:
    now = datetime.now(UTC)
    job = {
        "id": job_id,
        "run_at": now,
        "created_at": now - timedelta(days=1),
        "attempt": 5,
        "max_attempts": 5,
        "priority": 3,
        "crashes": 1,
        "queue": "mail",
        "task": "send",
        "reason": "attempts_used",
        "error_type": "builtins.ValueError",
        "error_message": "no",
        "fingerprint": f"print-{job_id}",
        "args": {"n": job_id},
        "errors": Jsonb([{"attempt": 5}]),
    } | values
    return int(insert(connection, "failed_jobs", **job))


def insert_idle_worker(connection: Connection, queue: str) -> None:
    connection.execute(
        "with made as (insert into pgqueue.workers (id, expires_at, pid, name, host, version, queues, tasks) "
        "values (gen_random_uuid(), clock_timestamp() + '1 minute', 1, 'w', 'h', '1', '{}', '{}') returning id) "
        "insert into pgqueue.idle_workers (worker_id, queue) select id, %s from made",
        [queue],
    )


def listen(dsn: str, *channels: str) -> Connection:
    connection = psycopg.connect(dsn, autocommit=True)
    for channel in channels:
        connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    return connection


def heard(listener: Connection, channel: str = "pgqueue") -> list[tuple[str, str]]:
    """Every notification that was sent before this call."""
    listener.execute("select pg_notify(%s, 'last')", [channel])
    found = []
    for notice in listener.notifies(timeout=DEADLINE):
        if notice.payload == "last":
            break
        found.append((notice.channel, notice.payload))
    return found


def wait_until(connection: Connection, query: str, *values: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not one(connection, query, *values):
        assert time.monotonic() < end, f"did not become true: {query}"


def wait_until_blocked(watcher: Connection, session: Connection) -> None:
    wait_until(watcher, "select cardinality(pg_blocking_pids(%s)) > 0", session.info.backend_pid)


# The metadata and the migration


def test_create_all_makes_the_catalog_of_the_migration(db: Connection, empty_dsn: str) -> None:
    engine = create_engine(sqlalchemy_url(empty_dsn))
    with engine.begin() as connection:
        connection.execute(text("create schema pgqueue"))
        metadata().create_all(connection)
    engine.dispose()
    with psycopg.connect(empty_dsn) as made:
        assert differences(catalog(made), catalog(db)) == {}


@pytest.mark.parametrize(
    ("alteration", "seen"),
    [
        ("comment on table pgqueue.jobs is null", "table jobs"),
        ("comment on column pgqueue.failed_jobs.reason is null", "column failed_jobs.reason"),
        ("comment on sequence pgqueue.jobs_position is 'Other.'", "sequence jobs_position"),
        ("alter sequence pgqueue.jobs_position cache 10", "sequence jobs_position"),
        ("alter table pgqueue.jobs set (fillfactor = 90)", "table jobs"),
        ("alter table pgqueue.workers reset (fillfactor)", "table workers"),
        ("alter table pgqueue.queues add column extra text", "column queues.extra"),
        ("alter table pgqueue.tasks drop column timeout", "column tasks.timeout"),
        ("alter table pgqueue.jobs alter column crashes type integer", "column jobs.crashes"),
        ("alter table pgqueue.jobs alter column max_attempts set default 20", "column jobs.max_attempts"),
        ("alter table pgqueue.jobs alter column id set generated always", "column jobs.id"),
        ("alter table pgqueue.claims alter column job_ids drop not null", "column claims.job_ids"),
        (
            """alter table pgqueue.jobs drop constraint jobs_state_check,
               add constraint jobs_state_check check (state <> '')""",
            "constraint jobs.jobs_state_check",
        ),
        (
            "alter table pgqueue.schedules rename constraint schedules_rule_check to other_check",
            "constraint schedules.schedules_rule_check",
        ),
        (
            """drop index pgqueue.jobs_claim;
               create index jobs_claim on pgqueue.jobs (queue, priority, position) where position > 0""",
            "index jobs_claim",
        ),
        (
            "drop index pgqueue.schedules_due; create index schedules_due on pgqueue.schedules (next_run_at)",
            "index schedules_due",
        ),
        ("drop index pgqueue.completed_jobs_id", "index completed_jobs_id"),
    ],
)
def test_the_comparison_sees_one_altered_thing(db: Connection, alteration: str, seen: str) -> None:
    before = catalog(db)
    db.execute(alteration)
    assert seen in differences(before, catalog(db))


def test_the_catalog_of_the_comparison_is_not_empty(db: Connection) -> None:
    assert {f"table {name}" for name in TABLES} == {name for name in catalog(db) if name.startswith("table ")}
    assert {table.name for table in metadata().tables.values()} == set(TABLES)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_in_the_metadata_has_the_columns_of_the_real_one(db: Connection, view: str) -> None:
    described = [
        (column.name, column.type.compile(dialect=postgresql.dialect()).lower())  # type: ignore[no-untyped-call]
        for column in getattr(tables(), view).columns
    ]
    assert described == rows(
        db,
        "select attname, format_type(atttypid, atttypmod) from pg_attribute "
        "where attrelid = to_regclass(%s) and attnum > 0 order by attnum",
        f"pgqueue.{view}",
    )


def test_the_metadata_of_a_schema_is_made_once_and_its_name_is_checked() -> None:
    assert tables() is tables("pgqueue")
    assert metadata("other") is metadata("other") is not metadata()
    assert tables("other").jobs.schema == tables("other").all_jobs.schema == "other"
    with pytest.raises(ConfigurationError, match="schema name 'No; drop' is not valid"):
        metadata("No; drop")


def test_every_table_column_view_function_and_free_sequence_has_a_comment(db: Connection) -> None:
    silent = rows(
        db,
        """
        with relations as (
            select * from pg_class
            where relnamespace = 'pgqueue'::regnamespace and not relispartition and relname <> 'schema_version')
        select relname::text from relations
        where (relkind in ('r', 'p', 'v') or relname = 'jobs_position') and obj_description(oid, 'pg_class') is null
        union all
        select concat(relname, '.', attname) from relations join pg_attribute on attrelid = relations.oid
        where relkind in ('r', 'p') and attnum > 0 and not attisdropped and col_description(attrelid, attnum) is null
        union all
        select oid::regprocedure::text from pg_proc
        where pronamespace = 'pgqueue'::regnamespace and obj_description(oid, 'pg_proc') is null
        """,
    )
    assert silent == []


def test_a_downgrade_to_base_leaves_only_the_version_and_can_be_upgraded_again(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        before = catalog(connection)
        connection.execute("select pgqueue.enqueue('send')")
        assert migrate.downgrade(empty_dsn, to="base").current is None
        assert rows(
            connection,
            """
            select relname::text from pg_class where relnamespace = 'pgqueue'::regnamespace
            union select proname::text from pg_proc where pronamespace = 'pgqueue'::regnamespace
            union select typname::text from pg_type where typnamespace = 'pgqueue'::regnamespace
            order by 1
            """,
        ) == [("_schema_version",), ("schema_version",), ("schema_version_pkc",)]
        assert migrate.upgrade(empty_dsn).pending == ()
        assert differences(before, catalog(connection)) == {}
        assert one(connection, "select count(*) from pgqueue.jobs") == 0


def test_the_sql_of_the_migration_run_by_hand_makes_the_same_schema(dsn: str, empty_dsn: str) -> None:
    functions = "select proname, prosrc from pg_proc where pronamespace = 'pgqueue'::regnamespace order by 1"
    with psycopg.connect(empty_dsn, autocommit=True) as by_hand, psycopg.connect(dsn) as migrated:
        by_hand.execute(migrate.script())
        assert differences(catalog(by_hand), catalog(migrated)) == {}
        assert rows(by_hand, functions) == rows(migrated, functions)
    assert migrate.status(empty_dsn) == migrate.status(dsn)


def test_two_migrations_at_once_both_succeed(empty_dsn: str) -> None:
    waiting = """
        select count(*) = 2 from pg_locks join pg_database on pg_database.oid = pg_locks.database
        where locktype = 'advisory' and not granted and datname = current_database()
    """
    with ThreadPoolExecutor(2) as pool, psycopg.connect(empty_dsn, autocommit=True) as gate:
        gate.execute("select pg_advisory_lock(hashtext('pgqueue migrate pgqueue'))")
        migrations = [pool.submit(migrate.upgrade, empty_dsn) for _ in range(2)]
        wait_until(gate, waiting)
        gate.execute("select pg_advisory_unlock_all()")
        for migration in migrations:
            status = migration.result(DEADLINE)
            assert status.current == status.newest


# `order` needs quotes wherever it is written; the long one is as long as a name and a channel can be.
@pytest.mark.parametrize("other", ["order", "o" * 63])
def test_a_second_schema_lives_next_to_the_first_and_touches_only_its_own_tables(empty_dsn: str, other: str) -> None:
    migrate.upgrade(empty_dsn)
    migrate.upgrade(empty_dsn, schema=other)
    with (
        psycopg.connect(empty_dsn, autocommit=True) as connection,
        listen(empty_dsn, "pgqueue", other) as listener,
    ):

        def run(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql.SQL(query).format(other=sql.Identifier(other))).fetchall()

        def counted() -> list[tuple[Any, ...]]:
            return run("""
                select (select count(*) from pgqueue.jobs), (select count(*) from pgqueue.completed_jobs),
                       (select count(*) from pgqueue.failed_jobs), (select count(*) from pgqueue.queues)
                union all
                select (select count(*) from {other}.jobs), (select count(*) from {other}.completed_jobs),
                       (select count(*) from {other}.failed_jobs), (select count(*) from {other}.queues)
            """)

        assert catalog(connection, other).keys() == catalog(connection).keys()
        assert run("select pgqueue.enqueue('a', key => 'k')") == [(1,)]
        assert run("select {other}.enqueue('b', key => 'k'), {other}.enqueue('c')") == [(1, 2)]
        assert counted() == [(1, 0, 0, 0), (2, 0, 0, 0)]

        run("select {other}.cancel(array[1])")
        run("select {other}.pause('default')")
        assert counted() == [(1, 0, 0, 0), (1, 1, 0, 1)]
        insert_failed(connection, 9)
        assert run("select {other}.redrive(everything => true)") == []
        assert run("select {other}.purge_failed(everything => true)") == [(0,)]
        assert counted() == [(1, 0, 1, 0), (1, 1, 0, 1)]

        run("select {other}.resume('default')")
        run("select pgqueue.resume('default')")
        assert heard(listener) == [(other, "resumed default"), ("pgqueue", "resumed default")]


# Rules of the design


def test_there_are_no_foreign_keys_and_no_triggers(db: Connection) -> None:
    schema = "(select 'pgqueue'::regnamespace)"
    assert rows(db, f"select conname from pg_constraint where contype = 'f' and connamespace = {schema}") == []
    assert (
        rows(db, f"select tgname from pg_trigger join pg_class c on c.oid = tgrelid where c.relnamespace = {schema}")
        == []
    )


def test_no_index_mentions_state_attempt_or_claim_so_that_a_claim_is_a_hot_update(db: Connection) -> None:
    mentions = (
        "select indexname from pg_indexes where schemaname = 'pgqueue' and tablename = 'jobs' "
        r"and indexdef ~ '\m(state|attempt|claim_id)\M'"
    )
    assert rows(db, mentions) == []
    db.execute("create index wrong on pgqueue.jobs (queue) where claim_id is null")
    assert rows(db, mentions) == [("wrong",)]


def test_completed_jobs_has_partitions_for_today_and_seven_days_and_none_for_the_rest(empty_dsn: str) -> None:
    today = "select (clock_timestamp() at time zone 'UTC')::date"
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        # The days are those of UTC wherever the migration's session is.
        connection.execute(
            sql.SQL("alter database {} set timezone = 'Pacific/Auckland'").format(
                sql.Identifier(connection.info.dbname)
            )
        )
        migrate.upgrade(empty_dsn)
        before = one(connection, today)
        assert one(connection, "select partdefid::int from pg_partitioned_table") == 0
        connection.execute("set timezone = 'UTC'")
        bounds = [
            bound
            for (bound,) in rows(
                connection,
                "select pg_get_expr(relpartbound, oid) from pg_class "
                "where relispartition and relkind = 'r' and relnamespace = 'pgqueue'::regnamespace order by relname",
            )
        ]
        # Midnight may pass between the migration and the question.
        assert bounds in [
            [
                f"FOR VALUES FROM ('{first + timedelta(d)} 00:00:00+00') TO ('{first + timedelta(d + 1)} 00:00:00+00')"
                for d in range(8)
            ]
            for first in (before, before - timedelta(1))
        ]
        assert one(connection, "select pgqueue.make_partitions()") in (0, 1)
        assert one(connection, "select pgqueue.make_partitions(9)") == 2


def test_two_sessions_that_make_partitions_at_once_both_succeed(fresh_dsn: str) -> None:
    make = "select pgqueue.make_partitions(9)"
    with (
        psycopg.connect(fresh_dsn) as first,
        psycopg.connect(fresh_dsn, autocommit=True) as second,
        psycopg.connect(fresh_dsn, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as pool,
    ):
        assert one(first, make) >= 2
        late = pool.submit(one, second, make)
        wait_until_blocked(watcher, second)
        first.commit()
        assert late.result(DEADLINE) == 0


# enqueue


def test_enqueue_with_only_a_task_makes_an_available_job_with_the_defaults(db: Connection) -> None:
    job_id = one(db, "select pgqueue.enqueue('shop.send')")
    assert rows(
        db,
        "select id, state, queue, task, args, priority, attempt, max_attempts, position is not null, claim_id, "
        "unique_key, options, headers, errors, tags, run_at <= clock_timestamp() from pgqueue.jobs",
    ) == [(job_id, "available", "default", "shop.send", {}, 0, 0, 25, True, None, None, None, None, None, None, True)]


def test_enqueue_takes_every_option(db: Connection) -> None:
    job_id = one(
        db,
        """
        select pgqueue.enqueue('send', '{"to": "a@b.c"}', queue => 'mail', run_at => '2100-01-01 00:00+00',
                               priority => -5, key => 'welcome-7', max_attempts => 3, timeout => 1.5,
                               tags => array['x', 'y'], headers => '{"traceparent": "00"}')
        """,
    )
    assert rows(
        db,
        "select id, state, queue, task, args, priority, max_attempts, position, run_at, unique_key, "
        "options, headers, tags from pgqueue.jobs",
    ) == [
        (
            job_id,
            "scheduled",
            "mail",
            "send",
            {"to": "a@b.c"},
            -5,
            3,
            None,
            datetime(2100, 1, 1, tzinfo=UTC),
            "welcome-7",
            {"timeout": 1.5},
            {"traceparent": "00"},
            ["x", "y"],
        )
    ]


def test_enqueue_with_a_delay_schedules_and_with_a_past_run_at_does_not(db: Connection) -> None:
    db.execute(
        "select pgqueue.enqueue('later', delay => '1 hour'), pgqueue.enqueue('now', delay => '0 seconds'),"
        " pgqueue.enqueue('past', run_at => '2001-01-01 00:00+00')"
    )
    assert rows(
        db,
        "select task, state, position is not null, date_trunc('hour', run_at - created_at + interval '1 minute') "
        "from pgqueue.jobs where task <> 'past' order by id",
    ) == [("later", "scheduled", False, timedelta(hours=1)), ("now", "available", True, timedelta(0))]
    assert rows(db, "select state, run_at from pgqueue.jobs where task = 'past'") == [
        ("available", datetime(2001, 1, 1, tzinfo=UTC))
    ]


def test_positions_follow_the_order_of_the_enqueues(db: Connection) -> None:
    db.execute("select pgqueue.enqueue('t', jsonb_build_object('n', n)) from generate_series(1, 5) n")
    assert rows(db, "select args -> 'n' from pgqueue.jobs order by position") == [(n,) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("task", "queue", "call", "expected"),
    [
        ({}, {}, "", ("default", 0, 25)),
        ({}, {}, ", queue => 'mail'", ("mail", 0, 25)),
        ({}, {"priority": 3, "max_attempts": 7}, ", queue => 'mail'", ("mail", 3, 7)),
        ({"priority": 5, "max_attempts": 9}, {}, "", ("mail", 5, 9)),
        ({"priority": 0, "max_attempts": 9}, {"priority": 3, "max_attempts": 7}, "", ("mail", 0, 9)),
        (
            {"priority": 5, "max_attempts": 9},
            {"priority": 3, "max_attempts": 7},
            ", priority => 1, max_attempts => 2, queue => 'x'",
            ("x", 1, 2),
        ),
    ],
)
def test_a_default_comes_from_the_job_then_its_task_then_its_queue(
    db: Connection, task: dict[str, Any], queue: dict[str, Any], call: str, expected: tuple[Any, ...]
) -> None:
    if task:
        insert(db, "tasks", name="send", queue="mail", **task)
    if queue:
        insert(db, "queues", name="mail", **queue)
    db.execute(f"select pgqueue.enqueue('send'{call})")
    assert rows(db, "select queue, priority, max_attempts from pgqueue.jobs") == [expected]


def test_a_task_that_sets_only_its_queue_leaves_the_rest_to_the_queue(db: Connection) -> None:
    insert(db, "tasks", name="send", queue="mail", priority=None, max_attempts=None)
    insert(db, "queues", name="mail", priority=3, max_attempts=7)
    db.execute("select pgqueue.enqueue('send')")
    assert rows(db, "select queue, priority, max_attempts from pgqueue.jobs") == [("mail", 3, 7)]


def test_a_trigger_enqueues_in_the_transaction_of_its_row(db: Connection) -> None:
    db.execute("""
        create table pg_temp.orders (id bigint, mail text);
        create function pg_temp.welcome() returns trigger language plpgsql as $$
        begin
            perform pgqueue.enqueue('send', jsonb_build_object('order', new.id, 'to', new.mail));
            return new;
        end $$;
        create trigger welcome after insert on orders for each row execute function pg_temp.welcome();
    """)
    db.execute("insert into orders values (7, 'a@b.c')")
    with db.transaction(force_rollback=True):
        db.execute("insert into orders values (8, 'x@y.z')")
    assert rows(db, "select task, args from pgqueue.jobs") == [("send", {"to": "a@b.c", "order": 7})]


def nested(levels: int) -> str:
    """A member of an object, of arrays and objects in turn."""
    opening = "".join('["[{\\"", ' if level % 2 else '{"b": ' for level in range(levels))
    closing = "".join("]" if level % 2 else "}" for level in reversed(range(levels)))
    return f'"a": {opening}1{closing}'


NAME_HINT = "at most 100 letters, digits and . _ -"
RANGE_HINT = "priority is a smallint"


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        ("null", "task name NULL is not valid", NAME_HINT),
        ("''", "task name '' is not valid", NAME_HINT),
        ("'-rf'", "task name '-rf' is not valid", NAME_HINT),
        ("'a b'", "task name 'a b' is not valid", NAME_HINT),
        ("'é'", "task name 'é' is not valid", NAME_HINT),
        (r"e'a\nb'", "is not valid", NAME_HINT),
        ("repeat('a', 101)", "is not valid", NAME_HINT),
        ("'t', queue => '-q'", "queue name '-q' is not valid", NAME_HINT),
        ("'t', queue => ''", "queue name '' is not valid", NAME_HINT),
        ("'t', '[1]'", "args of task t must be a JSON object, not array", "by name"),
        ("'t', 'null'", "args of task t must be a JSON object, not null", "by name"),
        ("'t', null", "args of task t must be a JSON object, not null", "by name"),
        ("'t', '\"x\"'", "args of task t must be a JSON object, not string", "by name"),
        ("'t', jsonb_build_object('x', repeat('a', 1048576))", "args of task t have 1048585 bytes", "Store the data"),
        ("'t', run_at => now(), delay => '1 s'", "task t was given both run_at and delay", "one of the two"),
        ("'t', run_at => 'infinity'", "run_at infinity, which is out of range", "run_at is finite"),
        ("'t', run_at => '-infinity'", "run_at -infinity", "run_at is finite"),
        ("'t', delay => '-1 second'", "delay -00:00:01", "delay is not negative"),
        ("'t', priority => 32768", "priority 32768", RANGE_HINT),
        ("'t', priority => -32769", "priority -32769", RANGE_HINT),
        ("'t', key => ''", "key ''", "key has 1 to 500 characters"),
        ("'t', key => repeat('k', 501)", "key 'kkk", "key has 1 to 500 characters"),
        ("'t', max_attempts => 0", "max_attempts 0", "max_attempts is at least 1"),
        ("'t', timeout => 0", "timeout 0", "seconds above 0"),
        ("'t', timeout => 'NaN'", "timeout NaN", "seconds above 0"),
        ("'t', timeout => 'infinity'", "timeout Infinity", "seconds above 0"),
        ("'t', headers => '[]'", "headers []", "headers is an object"),
        ("'t', tags => array['']", "tags", "each of tags"),
        ("'t', tags => array[repeat('x', 501)]", "tags", "each of tags"),
        ("'t', run_at => '10000-01-01'", "run_at 10000-01-01", "run_at is finite and in the years 1 to 9999"),
        ("'t', run_at => '0044-03-15 BC'", "run_at 0044-03-15", "run_at is finite and in the years 1 to 9999"),
        (f"'t', '{{{nested(65)}}}'", "args of task t nest deeper than 65 levels", "Flatten"),
        (f"'t', '{{{nested(3000)}}}'", "args of task t nest deeper than 65 levels", "Flatten"),
        (f"'t', headers => '{{{nested(65)}}}'", "headers of task t nest deeper than 65 levels", "Flatten"),
    ],
)
def test_enqueue_refuses_bad_input_and_says_what_to_do(db: Connection, call: str, message: str, hint: str) -> None:
    with pytest.raises(errors.InvalidParameterValue) as refused, db.transaction():
        db.execute(f"select pgqueue.enqueue({call})")
    assert message in (refused.value.diag.message_primary or "")
    assert hint in (refused.value.diag.message_hint or "")
    assert one(db, "select count(*) from pgqueue.jobs") == 0


def test_enqueue_refuses_an_infinite_delay(db: Connection) -> None:
    if db.info.server_version < 170000:
        pytest.skip("an interval is always finite before PostgreSQL 17")
    with pytest.raises(errors.InvalidParameterValue, match="delay infinity, which is out of range"):
        db.execute("select pgqueue.enqueue('t', delay => 'infinity')")


@pytest.mark.parametrize(
    "call",
    [
        "repeat('a', 100)",
        "'_'",
        "'.a-b_C.9'",
        "'t', key => repeat('é', 500)",
        f"'t', '{{{nested(64)}}}', headers => '{{{nested(64)}}}'",
        """'t', jsonb_build_object('wide', array_fill('{"a": [1]}'::jsonb, array[500]))""",
        """'t', jsonb_build_object('text', repeat('[{', 500))""",
    ],
)
def test_enqueue_takes_what_is_just_allowed(db: Connection, call: str) -> None:
    assert one(db, f"select pgqueue.enqueue({call}) > 0")


@pytest.mark.parametrize("state", ["available", "scheduled", "running", "blocked"])
def test_a_key_that_a_live_job_of_the_queue_holds_returns_that_job(db: Connection, state: str) -> None:
    held = insert_live(db, unique_key="k", state=state)
    assert one(db, "select pgqueue.enqueue('send', '{\"new\": 1}', queue => 'mail', key => 'k', priority => 9)") == held
    assert rows(db, "select id, args, priority from pgqueue.jobs") == [(held, {}, 0)]
    assert one(db, "select pgqueue.enqueue('send', queue => 'other', key => 'k')") != held
    assert one(db, "select pgqueue.enqueue('send', queue => 'mail', key => 'K')") != held


def test_a_key_is_free_again_when_its_job_has_ended(db: Connection) -> None:
    first = one(db, "select pgqueue.enqueue('send', key => 'k')")
    db.execute("select pgqueue.cancel(array[%s])", [first])
    assert one(db, "select pgqueue.enqueue('send', key => 'k')") > first


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_of_two_transactions_with_one_key_waits_for_the_first(dsn: str, commits: bool) -> None:
    enqueue = "select pgqueue.enqueue('send', key => 'k')"
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn) as second,
        psycopg.connect(dsn, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as pool,
    ):
        held = one(first, enqueue)
        late = pool.submit(one, second, enqueue)
        wait_until_blocked(watcher, second)
        if commits:
            first.commit()
        else:
            first.rollback()
        assert (late.result(DEADLINE) == held) is commits
        second.commit()
        assert one(watcher, "select count(*) from pgqueue.jobs") == 1


def test_enqueue_notifies_only_when_a_worker_of_the_queue_is_idle(dsn: str) -> None:
    with listen(dsn, "pgqueue") as listener, psycopg.connect(dsn, autocommit=True) as connection:
        insert_idle_worker(connection, "other")
        connection.execute("select pgqueue.enqueue('send', queue => 'mail')")
        assert heard(listener) == []

        insert_idle_worker(connection, "mail")
        connection.execute("select pgqueue.enqueue('send', queue => 'mail', priority => -2)")
        position = one(connection, "select position from pgqueue.jobs where priority = -2")
        assert heard(listener) == [("pgqueue", f"available mail -2 {position}")]

        connection.execute("select pgqueue.enqueue('send', queue => 'mail', delay => '1 hour')")
        assert heard(listener) == [("pgqueue", "scheduled mail")]


def test_enqueue_takes_its_transaction_id_before_a_position(db: Connection) -> None:
    ((body,),) = rows(db, "select prosrc from pg_proc where proname = 'enqueue_job'")
    assert body.index("pg_current_xact_id()") < body.index("nextval(")
    db.execute("select pgqueue.enqueue('send')")
    assert one(db, "select pg_current_xact_id_if_assigned() is not null")


def test_enqueue_runs_as_its_owner_with_a_fixed_search_path(db: Connection) -> None:
    assert rows(db, "select prosecdef, proconfig from pg_proc where oid = 'pgqueue.enqueue'::regproc") == [
        (True, ["search_path=pgqueue, pg_catalog, pg_temp"])
    ]


def test_a_role_without_a_grant_cannot_enqueue_and_a_producer_can_do_nothing_else(db: Connection) -> None:
    db.execute("create role pgqueue_test_producer; grant usage on schema pgqueue to pgqueue_test_producer")
    db.execute("set local role pgqueue_test_producer")
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function enqueue"), db.transaction():
        db.execute("select pgqueue.enqueue('send')")

    db.execute("reset role; grant execute on function pgqueue.enqueue to pgqueue_test_producer")
    db.execute("set local role pgqueue_test_producer")
    assert one(db, "select pgqueue.enqueue('send') > 0")
    for query in ("select * from pgqueue.jobs", "select pgqueue.cancel(array[1])", "select pgqueue.pause('mail')"):
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"), db.transaction():
            db.execute(query)


def test_temporary_tables_and_the_callers_search_path_do_not_hijack_enqueue(db: Connection) -> None:
    db.execute("""
        create temp table jobs (like pgqueue.jobs including all);
        create temp table tasks as select 'send' as name, 'stolen' as queue, 9::smallint as priority, 1 as max_attempts;
        create schema evil;
        create function evil.clock_timestamp() returns timestamptz language sql
            as $$ select timestamptz '2001-01-01 00:00+00' $$;
        create function evil.jsonb_typeof(jsonb) returns text language sql as $$ select 'object' $$;
        set local search_path = pg_temp, evil, pg_catalog;
    """)
    job_id = one(db, "select pgqueue.enqueue('send')")
    assert rows(db, "select * from jobs") == []
    assert rows(db, "select id, queue, run_at > '2020-01-01' from pgqueue.jobs") == [(job_id, "default", True)]
    with pytest.raises(errors.InvalidParameterValue, match="must be a JSON object"):
        db.execute("select pgqueue.enqueue('send', '[]')")


# cancel


def test_cancel_ends_waiting_jobs_marks_running_ones_and_returns_what_each_was(dsn: str) -> None:
    with listen(dsn, "pgqueue") as listener, psycopg.connect(dsn) as db:
        waiting = insert_live(db, unique_key="k", priority=2, args={"a": 1}, tags=["x"], attempt=1, max_attempts=4)
        scheduled = insert_live(db, state="scheduled", position=None)
        blocked = insert_live(db, state="blocked", position=None)
        running = insert_live(db, state="running", claim_id=5)
        spared = insert_live(db)
        found = rows(
            db, "select id, was from pgqueue.cancel(%s, 'not needed')", [waiting, scheduled, blocked, running, 2**40]
        )
        assert sorted(found) == sorted(
            [(waiting, "available"), (scheduled, "scheduled"), (blocked, "blocked"), (running, "running")]
        )
        assert rows(db, "select id, state, claim_id, cancel_requested from pgqueue.jobs order by id") == [
            (running, "running", 5, True),
            (spared, "available", None, False),
        ]
        assert rows(
            db,
            "select id, queue, task, unique_key, priority, args, tags, attempt, max_attempts, state, reason, "
            "worker_id, started_at from pgqueue.completed_jobs where id = %s",
            waiting,
        ) == [(waiting, "mail", "send", "k", 2, {"a": 1}, ["x"], 1, 4, "cancelled", "not needed", None, None)]
        assert one(db, "select count(*) from pgqueue.completed_jobs where state = 'cancelled'") == 3
        db.commit()
        assert heard(listener) == [("pgqueue", f"cancel {running}")]


def test_cancel_of_nothing_returns_nothing_and_a_second_cancel_changes_nothing(db: Connection) -> None:
    job_id = insert_live(db)
    assert rows(db, "select * from pgqueue.cancel('{}')") == []
    assert rows(db, "select * from pgqueue.cancel(array[%s])", job_id) == [(job_id, "available")]
    assert rows(db, "select * from pgqueue.cancel(array[%s])", job_id) == []
    assert rows(db, "select id, reason from pgqueue.completed_jobs") == [(job_id, "cancelled")]


# redrive and purge_failed


def redriven(db: Connection, arguments: str = "everything => true", *values: Any) -> list[int]:
    return sorted(job_id for (job_id,) in rows(db, f"select pgqueue.redrive({arguments})", *values))


def kept(db: Connection) -> list[int]:
    return [job_id for (job_id,) in rows(db, "select id from pgqueue.failed_jobs order by id")]


def test_redrive_keeps_what_the_job_is_and_starts_its_attempts_anew(db: Connection) -> None:
    job_id = 2**53 + 1
    insert_failed(db, job_id, unique_key="k", options={"timeout": 2}, headers={"h": 1}, tags=["x"])
    assert redriven(db) == [job_id]
    assert kept(db) == []
    assert rows(
        db,
        "select id, state, queue, task, args, priority, attempt, max_attempts, crashes, suspicions, claim_id, "
        "cancel_requested, unique_key, options, headers, errors, tags, position is not null, "
        "run_at <= clock_timestamp(), created_at < clock_timestamp() - interval '23 hours' from pgqueue.jobs",
    ) == [
        (
            *(job_id, "available", "mail", "send", {"n": job_id}, 3, 0, 5, 0, 0, None, False),
            *("k", {"timeout": 2}, {"h": 1}, [{"attempt": 5}], ["x"], True, True, True),
        )
    ]


def test_redrive_makes_the_oldest_available_first_and_notifies_once_a_lane(dsn: str) -> None:
    with listen(dsn, "pgqueue") as listener, psycopg.connect(dsn, autocommit=True) as db:
        for job_id, queue, priority, key in (
            (3, "mail", 0, "a"),
            (1, "mail", 0, "z"),
            (2, "mail", 0, None),
            (4, "sms", 1, "b"),
        ):
            insert_failed(db, job_id, queue=queue, priority=priority, unique_key=key)
        assert redriven(db) == [1, 2, 3, 4]
        assert rows(db, "select id from pgqueue.jobs order by position") == [(1,), (2,), (3,), (4,)]
        first, last = (one(db, "select position from pgqueue.jobs where id = %s", n) for n in (1, 4))
        assert sorted(heard(listener)) == [
            ("pgqueue", f"available mail 0 {first}"),
            ("pgqueue", f"available sms 1 {last}"),
        ]


@pytest.mark.parametrize(
    ("rate", "told"),
    [("1e-12", "rate 1e-12 cannot be"), ("1 / 31000000.0", "the last of 150 jobs would run in more than")],
)
def test_redrive_at_a_rate_that_ends_beyond_a_century_is_refused(db: Connection, rate: str, told: str) -> None:
    for job_id in range(1, 151):
        insert_failed(db, job_id)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=told), db.transaction():
        redriven(db, f"everything => true, rate => {rate}")
    assert len(kept(db)) == 150
    assert redriven(db, "everything => true, rate => 1 / 31000000.0, max_jobs => 2") == [1, 2]


def test_redrive_leaves_a_job_whose_key_a_live_job_of_its_queue_holds(db: Connection) -> None:
    live = insert_live(db, unique_key="k")
    insert_failed(db, 101, unique_key="k")
    insert_failed(db, 102, unique_key="k", queue="other")
    insert_failed(db, 103)
    assert redriven(db) == [102, 103]
    assert kept(db) == [101]
    assert one(db, "select id from pgqueue.jobs where unique_key = 'k' and queue = 'mail'") == live


def test_redrive_of_two_failed_jobs_with_one_key_takes_the_older(db: Connection) -> None:
    for job_id in (9, 7, 8):
        insert_failed(db, job_id, unique_key="k")
    assert redriven(db) == [7]
    assert kept(db) == [8, 9]


def test_redrive_skips_a_job_that_somebody_else_redrives_now(dsn: str) -> None:
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        insert_failed(first, 1)
        insert_failed(first, 2)
        first.commit()
        assert redriven(first, "array[1]") == [1]
        assert redriven(second) == [2]
        first.commit()
        second.commit()
        assert kept(first) == []


FILTERS = [
    ("everything => true", [1, 2, 3, 4, 5]),
    ("array[1, 3, 99]", [1, 3]),
    ("'{}'::bigint[]", []),
    ("queue => 'sms'", [4]),
    ("queue => 'none'", []),
    ("task => 'call'", [5]),
    ("error => 'Timeout'", [2]),
    ("error => 'TimeoutError'", [1, 3]),
    ("error => 'asyncio.TimeoutError'", [3]),
    ("error => 'Error'", []),
    ("error => 'my_Error'", [4]),
    ("error => 'my%%'", []),
    ("error => '%%'", []),
    ("error => ''", []),
    ("error => 'print-5'", [5]),
    ("everything => true, max_jobs => 2", [1, 2]),
    ("everything => true, max_jobs => 0", []),
    ("queue => 'mail', error => 'TimeoutError', max_jobs => 1", [1]),
]


def insert_failures(db: Connection) -> None:
    insert_failed(db, 1, error_type="TimeoutError")
    insert_failed(db, 2, error_type="requests.exceptions.Timeout")
    insert_failed(db, 3, error_type="asyncio.TimeoutError")
    insert_failed(db, 4, error_type="shop.my_Error", queue="sms")
    insert_failed(db, 5, error_type="shop.myxError", task="call")


@pytest.mark.parametrize(("arguments", "expected"), FILTERS)
def test_redrive_takes_only_what_its_filters_name(db: Connection, arguments: str, expected: list[int]) -> None:
    insert_failures(db)
    assert redriven(db, arguments) == expected
    assert kept(db) == sorted({1, 2, 3, 4, 5} - set(expected))


@pytest.mark.parametrize(("arguments", "expected"), FILTERS)
def test_purge_failed_deletes_only_what_its_filters_name(db: Connection, arguments: str, expected: list[int]) -> None:
    insert_failures(db)
    assert one(db, f"select pgqueue.purge_failed({arguments})") == len(expected)
    assert kept(db) == sorted({1, 2, 3, 4, 5} - set(expected))
    assert one(db, "select count(*) from pgqueue.jobs") == 0


@pytest.mark.parametrize("arguments", ["", "max_jobs => 5", "everything => true, queue => 'mail'"])
@pytest.mark.parametrize("verb", ["redrive", "purge_failed"])
def test_without_saying_which_nothing_is_redriven_or_purged(db: Connection, verb: str, arguments: str) -> None:
    insert_failures(db)
    with pytest.raises(errors.InvalidParameterValue, match="it is not said which failed jobs"):
        db.execute(f"select pgqueue.{verb}({arguments})".encode())


# pause and resume


@pytest.mark.parametrize("name", ["", "a b", "-x", "é", "x" * 101, None])
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_name_that_no_queue_can_have_is_refused(db: Connection, verb: str, name: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=r"queue name .* is not valid|not said what: queue NULL"):
        db.execute(f"select pgqueue.{verb}(%s)".encode(), [name])


def test_pause_stops_a_queue_with_or_without_settings_and_resume_lets_it_go_on(dsn: str) -> None:
    with listen(dsn, "pgqueue") as listener, psycopg.connect(dsn, autocommit=True) as db:
        insert(db, "queues", name="mail", priority=4, max_attempts=2)
        for queue in ("mail", "new", "mail"):
            db.execute("select pgqueue.pause(%s)", [queue])
        assert rows(db, "select name, paused, priority, max_attempts from pgqueue.queues order by name") == [
            ("mail", True, 4, 2),
            ("new", True, None, None),
        ]
        assert one(db, "select paused from pgqueue.queue_stats where queue = 'new'") is True
        heard(listener)

        db.execute("select pgqueue.resume('mail')")
        assert rows(db, "select name, paused from pgqueue.queues order by name") == [("mail", False), ("new", True)]
        assert heard(listener) == [("pgqueue", "resumed mail")]


def test_resume_of_a_queue_without_a_row_changes_nothing(db: Connection) -> None:
    db.execute("select pgqueue.resume('none')")
    assert rows(db, "select * from pgqueue.queues") == []
