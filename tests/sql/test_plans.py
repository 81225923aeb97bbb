"""The plans that a worker's session keeps: index scans of its own rows, whatever the statistics say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry
from pgqueue.queries import ageing, claiming, fleet, rescuing
from pgqueue.queries.claiming import claims_of, drop_claims, keep_mark, lanes, release
from pgqueue.queries.finishing import Finished, finish, lock_claimed
from pgqueue.queries.statement import Operation, Statement
from tests.conftest import Server
from tests.sql.rows import ERROR, SCHEMA, Connection, connect, explain, value

WORKER = uuid4()
NOW = datetime(2030, 1, 1, tzinfo=UTC)
IDS, FENCES = list(range(1, 501)), [1, 2]
STATISTICS = {
    # Plans are made by these, not by the rows: a table may look like any of them long after it has changed.
    "true": None,
    "empty": "relpages = 0, reltuples = 0",
    "never analyzed": "relpages = 0, reltuples = -1",
    "no rows in many pages": "relpages = 2000, reltuples = 0",
    "few rows": "relpages = 1, reltuples = 10",
    "very many rows": "relpages = 2000000, reltuples = 100000000",
}
TABLES = ("jobs", "claims", "lanes", "workers", "queues", "tasks", "waiters")
FILL = """
    insert into pgqueue.jobs (queue, task, state, priority, position, claim_id, attempt, run_at)
    select 'q' || n % 5, 'send', s.state, n % 3, case when s.state <> 'scheduled' then n end,
           case when s.state = 'running' then n / 500 + 1 end, 0,
           clock_timestamp() + make_interval(secs => n % 7200 - 60)
    from generate_series(1, 50000) n, lateral (
        select case when n <= 10000 then 'running' when n <= 40000 then 'available' else 'scheduled' end as state) s;
    insert into pgqueue.claims (id, worker_id, queue, job_ids)
    select n + 1, gen_random_uuid(), 'q0', array(select generate_series(n * 500, n * 500 + 499))
    from generate_series(0, 20) n;
    insert into pgqueue.workers (id, name, host, pid, version, queues, tasks, expires_at)
    select gen_random_uuid(), 'w', 'h', 1, '0', '{}', '{}', clock_timestamp() from generate_series(1, 20)
"""


def first(operation: Operation[Any]) -> Statement[Any]:
    statement = next(operation)
    assert isinstance(statement, Statement)
    return statement


def claim(lifo: bool, guarded: bool = False) -> Statement[Any]:
    lane: dict[str, Any] = {"queue": "q1", "priority": 0, "mark": 9, "known": 9, "tasks": ["send"]}
    turn: dict[str, Any] = {
        "count": 500,
        "slots": 9,
        "fence": 2**62,
        "worker": WORKER,
        "lifo": lifo,
        "guarded": guarded,
    }
    return first(claiming.claim(SCHEMA, **lane, **turn))


def finishing(outcome: Outcome | None, *, kept: bool = True, plain: bool = False) -> Statement[Any]:
    batch = [Finished(id_, FENCES[0], "send", outcome, 0.1, kept, plain=plain) for id_ in IDS]
    return first(finish(SCHEMA, WORKER, batch))


HOT: dict[str, Statement[Any]] = {
    "claim": claim(lifo=False),
    "claim newest first": claim(lifo=True),
    "claim beside breakers": claim(lifo=False, guarded=True),
    "age": ageing.age(SCHEMA, queue="q1", every=timedelta(minutes=10), floor=0, count=500),
    "complete": finishing(Completed()),
    "complete_unkept": finishing(Completed(), kept=False),
    "complete plain": finishing(Completed(), plain=True),
    "complete_unkept plain": finishing(Completed(), kept=False, plain=True),
    "retry": finishing(Retry(1.0, ERROR)),
    "fail": finishing(Failed("fail_job", ERROR)),
    "cancel_claimed": finishing(Cancelled("no")),
    "release": release(SCHEMA, IDS, FENCES),
    "lock_claimed": lock_claimed(SCHEMA, [Finished(id_, 1, "send", None) for id_ in IDS]),
    "promote": claiming.promote(SCHEMA, queue="q1", count=500, since=NOW),
    "lanes": lanes(SCHEMA, queue="q1", tasks=["send"]),
    "keep_mark": keep_mark(SCHEMA, queue="q1", priority=0, proven=40_000, least=1, whole=False),
}
BY_CLAIM: dict[str, Statement[Any]] = {
    "drop_claims": drop_claims(SCHEMA, FENCES),
    "orphans": rescuing.orphans(SCHEMA),
    "claims_of": claims_of(SCHEMA, WORKER),
}
JOINS = {"Nested Loop", "Hash Join", "Merge Join"}
# They go from lane to lane, or ask of each job whether another precedes it.
BY_LANE = {"lanes": JOINS, "age": {"Nested Loop"}}


@pytest.fixture(scope="module")
def large(server: Server, template: str) -> Iterator[str]:
    """A database with 50,000 jobs, analyzed once and then left alone."""
    name = server.create(template)
    with psycopg.connect(server.dsn_for(name), autocommit=True) as conn:
        for table in TABLES:
            conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)")
        conn.execute(FILL)
        conn.execute("analyze pgqueue.jobs, pgqueue.claims, pgqueue.workers")
    yield server.dsn_for(name)
    server.drop(name)


@pytest.fixture(params=[*STATISTICS, "without a row"])
def session(request: pytest.FixtureRequest, large: str) -> Iterator[Connection]:
    """A worker's session on a table that looks as `STATISTICS` says."""
    if request.param not in STATISTICS:
        with connect(request.getfixturevalue("dsn")) as conn:
            conn.execute("analyze pgqueue.jobs, pgqueue.claims")
            yield conn
        return
    look = STATISTICS[request.param]
    with psycopg.connect(large, autocommit=True) as admin:
        before = [
            admin.execute(
                "select relpages, reltuples from pg_class where oid = to_regclass(%s)", [f"pgqueue.{table}"]
            ).fetchone()
            for table in TABLES
        ]
        if look is not None:
            for table in TABLES:
                admin.execute(f"update pg_class set {look} where oid = to_regclass('pgqueue.{table}')")
        try:
            with connect(large) as conn:
                yield conn
        finally:
            for table, found in zip(TABLES, before, strict=True):
                assert found is not None
                admin.execute(
                    "update pg_class set relpages = %s, reltuples = %s where oid = to_regclass(%s)",
                    [*found, f"pgqueue.{table}"],
                )


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def is_scan_of_jobs(node: dict[str, Any]) -> bool:
    return node.get("Relation Name") == "jobs" and node["Node Type"] != "ModifyTable"


def inputs(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a node reads row by row: not what a subquery computes once beforehand."""
    for part in node.get("Plans", ()):
        if part.get("Parent Relationship") in ("Outer", "Inner", "Subquery"):
            yield part
            yield from inputs(part)


def condition(node: dict[str, Any]) -> str:
    return str(node.get("Index Cond", ""))


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_reads_jobs_by_index_only_names_its_queue_or_its_ids_and_joins_nothing(
    session: Connection, name: str
) -> None:
    plan = explain(session, HOT[name])
    scans = [node for node in nodes(plan) if is_scan_of_jobs(node)]
    assert scans
    for node in scans:
        assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
        assert "(queue = " in condition(node) or "(id = ANY" in condition(node), node
    for node in nodes(plan):
        if node["Node Type"] in JOINS:
            by_lane = node["Node Type"] in BY_LANE.get(name, ())
            assert by_lane or not any(is_scan_of_jobs(part) for part in inputs(node)), node


@pytest.mark.parametrize(
    "name", ["complete", "complete_unkept", "complete plain", "complete_unkept plain", "fail", "cancel_claimed"]
)
def test_a_finish_looks_for_who_waits_by_the_ids_of_its_jobs(session: Connection, name: str) -> None:
    plan = explain(session, HOT[name])
    [scan] = [
        node for node in nodes(plan) if node.get("Relation Name") == "waiters" and node["Node Type"] != "ModifyTable"
    ]
    assert scan["Node Type"] == "Index Scan"
    assert "(job_id = ANY" in condition(scan)
    # Not even that where nobody has waited lately.
    assert any("now()" in node.get("One-Time Filter", "") for node in nodes(plan))


@pytest.mark.parametrize("lifo", [False, True])
def test_a_claim_walks_its_lane_in_order_from_the_mark_on(session: Connection, lifo: bool) -> None:
    plan = explain(session, claim(lifo))
    [walk] = [node for node in nodes(plan) if is_scan_of_jobs(node) and node["Index Name"] == "jobs_claim"]
    for part in ("queue = ", "priority = ", '"position" > '):
        assert part in condition(walk)
    assert walk["Scan Direction"] == ("Backward" if lifo else "Forward")
    [limit] = [node for node in nodes(plan) if node["Node Type"] == "Limit" and walk in list(inputs(node))]
    assert "Sort" not in {node["Node Type"] for node in inputs(limit)}


def test_a_promotion_walks_only_what_is_due_in_the_order_of_the_times(session: Connection) -> None:
    plan = explain(session, HOT["promote"])
    walks = [node for node in nodes(plan) if is_scan_of_jobs(node) and node["Index Name"] == "jobs_due"]
    assert len(walks) == 2
    for walk in walks:
        assert "queue = " in condition(walk)
        assert "run_at <= " in condition(walk) or "run_at > " in condition(walk)


@pytest.mark.parametrize("name", BY_CLAIM)
def test_what_starts_from_claims_reaches_jobs_by_id(session: Connection, name: str) -> None:
    plan = explain(session, BY_CLAIM[name])
    for node in nodes(plan):
        if is_scan_of_jobs(node):
            assert node["Node Type"] in ("Index Scan", "Index Only Scan"), node
            assert "(id = ANY" in condition(node), node


def test_the_search_for_unknown_tasks_walks_two_indexes_in_their_order(session: Connection) -> None:
    plan = list(nodes(explain(session, fleet.unknown_tasks(SCHEMA, "q1", 10))))
    scans = [node for node in plan if is_scan_of_jobs(node)]
    assert {node.get("Index Name") for node in scans} == {"jobs_claim", "jobs_due"}
    assert all("(queue = " in condition(node) for node in scans)
    limited = [part for node in plan if node["Node Type"] == "Limit" for part in inputs(node)]
    # The lanes are sorted, and the jobs are not.
    assert not [sort for sort in limited if "Sort" in sort["Node Type"] and any(map(is_scan_of_jobs, inputs(sort)))]


def test_a_finish_looks_at_no_more_jobs_than_it_names(large: str) -> None:
    with connect(large) as conn, conn.transaction(force_rollback=True):
        before = value(conn, "select pg_stat_get_xact_tuples_fetched('pgqueue.jobs'::regclass)")
        conn.execute(HOT["complete_unkept"].text, HOT["complete_unkept"].params)
        after = value(conn, "select pg_stat_get_xact_tuples_fetched('pgqueue.jobs'::regclass)")
        assert after - before <= 2 * len(IDS)
