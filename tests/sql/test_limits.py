"""`pick.sql`, `admit.sql`, `park.sql`, `let_go.sql` and the gates: claims of a queue with limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from pgqueue.admission import PACE
from pgqueue.database import fetch, run
from pgqueue.limit import Limit
from pgqueue.outcome import Retry
from pgqueue.queries import gates, inspecting, limiting, limits
from pgqueue.queries.claiming import Scan
from pgqueue.queries.limiting import Lane
from tests.sql.rows import ERROR, SCHEMA, Connection, add, connect, finish, job_row, rows, value, worker

fences = count(10_000)
ALL: Mapping[tuple[str, str], Collection[str]] = {("queue", "mail"): [""], ("task", "send"): ["", "{customer}"]}


def limit(conn: Connection, scope: str, name: str, key: str = "", **columns: Any) -> None:
    names = ", ".join(["scope", "name", "key", *columns])
    values = ", ".join(["%s"] * (3 + len(columns)))
    conn.execute(
        f"insert into pgqueue.limits ({names}) values ({values})".encode(), [scope, name, key, *columns.values()]
    )


def claim(
    conn: Connection,
    *,
    mark: int = 0,
    count: int = 100,
    slots: int = 100,
    prefetch: int = 0,
    templates: Any = ALL,
    lifo: bool = False,
    by: UUID | None = None,
) -> Scan:
    operation = limiting.claim_limited(
        SCHEMA,
        queue="mail",
        lane=Lane(0, mark, 0),
        tasks=["send"],
        count=count,
        slots=slots,
        prefetch=prefetch,
        fence=next(fences),
        worker=by or worker(conn),
        templates=templates,
        lifo=lifo,
    )
    with conn.transaction():
        return run(conn, operation)


def ids_of(scan: Scan) -> list[int]:
    return [job.id for job in scan.jobs]


def claim_ready(conn: Connection, slots: int = 100) -> list[int]:
    operation = limiting.claim_limited(
        SCHEMA,
        queue="mail",
        lane=None,
        tasks=["send"],
        count=0,
        slots=slots,
        prefetch=0,
        fence=next(fences),
        worker=worker(conn),
        templates=ALL,
    )
    with conn.transaction():
        return [job.id for job in run(conn, operation).ready]


def end(conn: Connection, ids: Sequence[int]) -> None:
    """As a finish does: the rows go, and their places are free."""
    with conn.transaction():
        gone = conn.execute("delete from pgqueue.jobs where id = any (%s) returning places", [list(ids)]).fetchall()
        run(conn, gates.free_held(SCHEMA, {n: places or [] for n, (places,) in enumerate(gone)}, (), {}))
    with conn.transaction():
        run(conn, gates.hand_over(SCHEMA))


def gate(conn: Connection, name: str) -> tuple[int, int, int]:
    """Places taken, jobs parked, jobs on their way."""
    [row] = rows(conn, "select taken, waiting, loose from pgqueue.gates where name = %(name)s", name=name)
    return row["taken"], row["waiting"], row["loose"]


def test_as_many_run_as_a_queue_allows_and_the_rest_is_parked(db: Connection) -> None:
    limit(db, "task", "send", concurrency=2)
    ids = add(db, 5)
    found = claim(db)
    assert ids_of(found) == ids[:2]
    assert gate(db, "task:send") == (2, 3, 0)
    parked = job_row(db, ids[2])
    assert (parked["state"], parked["position"], parked["waits_for"], parked["attempt"]) == (
        "blocked",
        None,
        "task:send",
        0,
    )
    assert job_row(db, ids[0])["places"] == ["task:send"]


def test_a_place_that_is_freed_goes_to_the_first_that_is_parked(db: Connection) -> None:
    limit(db, "task", "send", concurrency=2)
    ids = add(db, 5)
    end(db, ids_of(claim(db))[:1])
    assert gate(db, "task:send") == (2, 2, 1)
    found = claim(db)
    assert (ids_of(found), [job.id for job in found.ready]) == ([], [ids[2]])
    assert gate(db, "task:send") == (2, 2, 0)
    assert job_row(db, ids[2])["places"] == ["task:send"]


def test_what_comes_later_does_not_overtake_what_is_parked(db: Connection) -> None:
    limit(db, "task", "send", concurrency=1)
    first, second, third = add(db, 3)
    assert ids_of(claim(db, count=2)) == [first]
    end(db, [first])
    found = claim(db)
    assert (ids_of(found), [job.id for job in found.ready]) == ([], [second])
    end(db, [second])
    assert claim_ready(db) == [third]


def test_each_value_of_a_key_has_a_limit_of_its_own(db: Connection) -> None:
    limit(db, "task", "send", "{customer}", concurrency=1)
    a = add(db, 2, args='{"customer": "a"}')
    b = add(db, 2, args='{"customer": "b"}')
    assert ids_of(claim(db)) == [a[0], b[0]]
    assert gate(db, "task:send:{customer}:a") == (1, 1, 0)


def test_a_serial_key_runs_one_at_a_time_in_order(db: Connection) -> None:
    ids = add(db, 3)
    db.execute("update pgqueue.jobs set serial_key = 'k'")
    assert ids_of(claim(db, templates={})) == ids[:1]
    end(db, ids[:1])
    assert claim_ready(db) == ids[1:2]
    assert gate(db, "serial:mail:k") == (1, 1, 0)


def test_jobs_begin_at_the_rate_of_their_limit(db: Connection) -> None:
    limit(db, "task", "send", rate=50)
    add(db, 20)
    found = claim(db)
    begins = [job.begins_at or 0.0 for job in found.jobs]
    assert [round(at - begins[0], 6) for at in begins] == [round(n * 0.02 / PACE, 6) for n in range(5)]
    assert gate(db, "task:send") == (0, 15, 0)
    assert value(
        db,
        "select extract(epoch from next_at - clock_timestamp())::float8 from pgqueue.gates where name = 'task:send'",
    ) == pytest.approx(0.12, abs=0.1)


def test_what_could_begin_and_has_no_slot_stays_where_it_is(db: Connection) -> None:
    limit(db, "task", "send", concurrency=9)
    ids = add(db, 4)
    found = claim(db, slots=1)
    assert (ids_of(found), found.full, found.left_from) == (ids[:1], True, job_row(db, ids[1])["position"])
    assert job_row(db, ids[1])["state"] == "available"


def test_a_limit_that_is_raised_or_gone_lets_the_parked_go(db: Connection) -> None:
    limit(db, "task", "send", concurrency=1)
    ids = add(db, 4)
    claim(db)
    db.execute("update pgqueue.limits set concurrency = 3")
    end(db, [])
    with db.transaction():
        assert run(db, gates.let_go(SCHEMA, run(db, gates.locked(SCHEMA, (), ["task:send"])))).went == 2
    assert claim_ready(db) == ids[1:3]


def test_a_parked_job_that_is_deleted_by_hand_is_not_counted_for_ever(db: Connection) -> None:
    limit(db, "task", "send", concurrency=1)
    ids = add(db, 3)
    claim(db)
    db.execute("delete from pgqueue.jobs where id = %s", [ids[1]])
    end(db, ids[:1])
    assert claim_ready(db) == ids[2:]
    end(db, ids[2:])
    assert gate(db, "task:send") == (0, 0, 0)


def test_a_paused_limit_lets_nobody_through(db: Connection) -> None:
    limit(db, "task", "send", paused=True)
    add(db, 2)
    assert ids_of(claim(db)) == []
    assert gate(db, "task:send") == (0, 2, 0)


def test_two_claims_at_once_never_take_more_places_than_there_are(db: Connection, dsn: str) -> None:
    limit(db, "task", "send", concurrency=7)
    add(db, 200)
    with ThreadPoolExecutor(4) as threads:
        sessions = [threads.submit(_work, dsn) for _ in range(4)]
        assert sum(session.result() for session in sessions) == 200
    with db.transaction():
        run(db, gates.hand_over(SCHEMA, all_gates=True))
    assert gate(db, "task:send") == (0, 0, 0)
    assert value(db, "select count(*) from pgqueue.jobs") == 0


def _work(dsn: str) -> int:
    done, empty = 0, 0
    with connect(dsn) as conn:
        while empty < 50:
            found = claim(conn, slots=3, count=20)
            held = [job.id for job in (*found.ready, *found.jobs)]
            assert value(conn, "select count(*) from pgqueue.jobs where state = 'running'") <= 7
            end(conn, held)
            done += len(held)
            empty = 0 if held else empty + 1
    return done


def test_a_job_does_not_overtake_one_of_its_serial_key_that_somebody_has_locked(db: Connection, dsn: str) -> None:
    ids = add(db, 3)
    db.execute("update pgqueue.jobs set serial_key = 'k' where id <> %s", [ids[2]])
    with connect(dsn) as other, other.transaction():
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[0]])
        found = claim(db)
        assert (ids_of(found), found.left_from) == (ids[2:], job_row(db, ids[1])["position"])
        assert job_row(db, ids[1])["state"] == "available"
    assert ids_of(claim(db)) == ids[:1]
    assert job_row(db, ids[1])["state"] == "blocked"


def test_nobody_is_let_go_who_cannot_run(db: Connection) -> None:
    limit(db, "task", "send", concurrency=1)
    ids = add(db, 3)
    claim(db)
    db.execute("select pgqueue.pause('mail')")
    end(db, ids[:1])
    assert gate(db, "task:send") == (0, 2, 0)
    db.execute("select pgqueue.resume('mail')")
    end(db, [])
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert claim_ready(db) == ids[1:2]


def test_gates_that_only_an_end_can_open_do_not_stand_before_those_that_time_opens(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "AT_A_TIME", 3)
    limit(db, "task", "send", rate=1000)
    ids = add(db, 1)
    db.execute("update pgqueue.jobs set state = 'blocked', waits_for = 'task:send', position = null")
    db.execute("insert into pgqueue.gates (name, scope, of, waiting) values ('task:send', 'task', 'send', 1)")
    db.execute(
        "insert into pgqueue.gates (name, scope, of, taken, waiting) "
        "select 'serial:mail:' || n, 'serial', 'mail', 1, 1 from generate_series(1, 10) n"
    )
    worker(db)
    with db.transaction():
        ticked = run(db, gates.tick(SCHEMA))
    assert (ticked.after, ticked.stuck) == (None, [])
    assert claim_ready(db) == ids


def test_a_tick_goes_on_where_the_last_one_ended(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "AT_A_TIME", 3)
    limit(db, "task", "send", "{customer}", rate=1000)
    ids = add(db, 7)
    for n, id_ in enumerate(ids):
        name = f"task:send:{{customer}}:{n}"
        db.execute(
            "update pgqueue.jobs set state = 'blocked', waits_for = %s, position = null where id = %s", [name, id_]
        )
        db.execute(
            "insert into pgqueue.gates (name, scope, of, key, waiting) values (%s, 'task', 'send', '{customer}', 1)",
            [name],
        )
    worker(db)
    after: str | None = ""
    seen = []
    while after is not None:
        with db.transaction():
            after = run(db, gates.tick(SCHEMA, after)).after
        seen.append(value(db, "select count(*) from pgqueue.jobs where ready is not null"))
    assert seen == [3, 6, 7]


def test_a_gate_whose_jobs_nobody_can_take_is_told_and_its_backlog_is_not_counted(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "COUNTED", 5)
    limit(db, "task", "send", rate=1000)
    add(db, 20)
    db.execute("update pgqueue.jobs set state = 'blocked', waits_for = 'task:send', position = null")
    db.execute("insert into pgqueue.gates (name, scope, of, waiting) values ('task:send', 'task', 'send', 20)")
    with db.transaction():
        ticked = run(db, gates.tick(SCHEMA))
    assert ticked.stuck == ["task:send"]
    assert gate(db, "task:send") == (0, 20, 0)
    with db.transaction():
        assert run(db, gates.tick(SCHEMA, "", ticked.stuck)).stuck == ()


def test_a_queue_that_is_last_in_first_out_keeps_the_order_of_a_serial_key(db: Connection) -> None:
    plain, *keyed, last = add(db, 5)
    db.execute("update pgqueue.jobs set serial_key = 'k' where id = any (%s)", [keyed])
    found = claim(db, count=2, slots=1, lifo=True)
    assert (ids_of(found), found.full) == ([last], True)
    found = claim(db, count=1, lifo=True)
    assert (ids_of(found), found.full, found.left_from) == (keyed[:1], True, None)
    assert [job_row(db, id_)["state"] for id_ in keyed[1:]] == ["available", "available"]
    found = claim(db, lifo=True)
    assert (ids_of(found), found.full, gate(db, "serial:mail:k")) == ([plain], False, (1, 2, 0))
    end(db, keyed[:1])
    assert claim_ready(db) == keyed[1:2]


def test_newest_first_a_serial_key_whose_first_job_somebody_has_locked_waits(db: Connection, dsn: str) -> None:
    ids = add(db, 3)
    db.execute("update pgqueue.jobs set serial_key = 'k' where id <> %s", [ids[2]])
    with connect(dsn) as other, other.transaction():
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[0]])
        found = claim(db, lifo=True)
        assert (ids_of(found), found.full, found.left_from is not None) == (ids[2:], True, True)
    assert ids_of(claim(db, lifo=True)) == ids[:1]


def test_newest_first_seven_hundred_jobs_of_a_few_serial_keys_all_run_in_order_in_a_single_slot(db: Connection) -> None:
    ids = add(db, 700)
    db.execute("update pgqueue.jobs set serial_key = (id % 3)::text")
    by = worker(db)
    ran: list[int] = []
    for _ in range(1_500):
        found = claim(db, count=10, slots=1, lifo=True, by=by)
        ran += (held := [job.id for job in (*found.ready, *found.jobs)])
        end(db, held)
        if len(ran) == len(ids):
            break
    assert {key: [id_ for id_ in ran if id_ % 3 == key] for key in range(3)} == {
        key: [id_ for id_ in ids if id_ % 3 == key] for key in range(3)
    }


WAYS = {
    "cancel": "select pgqueue.cancel(array[{id}])",
    "reschedule": "reschedule",
    "enqueue_reschedule": "select pgqueue.enqueue('send', queue => 'mail', key => 'u', on_conflict => 'reschedule', delay => '1 h')",
    "enqueue_replace": "select pgqueue.enqueue('send', queue => 'mail', key => 'u', on_conflict => 'replace')",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("concurrency", [None, 3])
def test_who_was_let_go_and_waits_there_no_more_is_not_on_its_way(
    db: Connection, way: str, concurrency: int | None
) -> None:
    limit(db, "task", "send", rate=50, concurrency=concurrency)
    ids = add(db, 20)
    claimed = ids_of(claim(db))
    db.execute("update pgqueue.jobs set unique_key = 'u' where id = %s", [ids[len(claimed)]])
    end(db, claimed)
    # Its time has come.
    db.execute("update pgqueue.gates set next_at = null")
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    on_their_way = gate(db, "task:send")[2]
    assert job_row(db, ids[len(claimed)])["ready"] is not None
    if way == "reschedule":
        fetch(db, inspecting.reschedule(SCHEMA, [ids[len(claimed)]], None, 3600.0))
    else:
        db.execute(WAYS[way].format(id=ids[len(claimed)]).encode())
    assert fetch(db, gates.miscounted(SCHEMA)) == []
    with db.transaction(force_rollback=True):
        found = run(db, gates.locked(SCHEMA, (), ["task:send"])).by_name["task:send"]
    assert (found.loose, found.taken) == (on_their_way - 1, on_their_way - 1 if concurrency else 0)


def test_who_was_let_go_without_a_place_leaves_the_places_that_are_taken(db: Connection) -> None:
    limit(db, "task", "send", rate=50)
    ids = add(db, 6)
    claim(db)
    with db.transaction():
        db.execute("update pgqueue.gates set next_at = null")
        run(db, gates.tick(SCHEMA))
    db.execute("update pgqueue.limits set concurrency = 9")
    db.execute("update pgqueue.gates set taken = 2")
    db.execute("select pgqueue.cancel(%s)", [ids[5:]])
    with db.transaction(force_rollback=True):
        found = run(db, gates.locked(SCHEMA, (), ["task:send"])).by_name["task:send"]
    assert (found.loose, found.taken) == (0, 2)


@pytest.mark.parametrize(
    ("way", "kept"),
    [("reschedule", True), ("enqueue_reschedule", True), ("enqueue_replace", False), ("cancel", False)],
)
def test_a_job_that_waits_for_its_retry_keeps_its_serial_key_also_where_it_is_moved(
    db: Connection, way: str, kept: bool
) -> None:
    [id_] = add(db, 1, serial_key="k", key="u")
    with db.transaction():
        finish(db, claim(db, templates={}).jobs, Retry(60.0, ERROR), limited=True)
    assert job_row(db, id_)["places"] == ["serial:mail:k"]
    if way == "reschedule":
        fetch(db, inspecting.reschedule(SCHEMA, [id_], None, 3600.0))
    else:
        db.execute(WAYS[way].format(id=id_).encode())
    freed = rows(db, "select gate, loose, places from pgqueue.freed_places")
    assert freed == ([] if kept else [{"gate": "serial:mail:k", "loose": False, "places": 1}])
    if way != "cancel":
        assert job_row(db, id_)["places"] == (["serial:mail:k"] if kept else None)
    [other] = add(db, 1, serial_key="k")
    assert (other in ids_of(claim(db, templates={}))) is not kept


def test_a_fair_limit_outlives_the_pause_of_one_of_its_values(db: Connection) -> None:
    db.execute("select pgqueue.set_limit('queue', 'mail', key => '{tenant}', fair => true)")
    for verb in ("pause", "resume"):
        db.execute(f"select pgqueue.{verb}('mail', key => '{{tenant}}', value => '7')".encode())
    assert rows(db, "select key, fair from pgqueue.limits") == [{"key": "{tenant}", "fair": True}]


def test_a_value_that_is_paused_stays_so_when_the_code_no_longer_declares_its_limit(db: Connection) -> None:
    fetch(db, limits.register(SCHEMA, {("task", "send"): [Limit(concurrency=5, key="{customer}"), Limit(rate=1)]}))
    db.execute("select pgqueue.pause(task => 'send', key => '{customer}', value => '7')")
    for _ in range(2):
        fetch(db, limits.register(SCHEMA, {("task", "send"): []}))
        assert rows(db, "select key, concurrency, declared from pgqueue.limits") == [
            {"key": "{customer}", "concurrency": None, "declared": None}
        ]
    paused, other = add(db, args='{"customer": 7}'), add(db, args='{"customer": 8}')
    assert ids_of(claim(db)) == other
    db.execute("select pgqueue.resume(task => 'send', key => '{customer}', value => '7')")
    assert rows(db, "select from pgqueue.limits") == []
    end(db, [])
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert claim_ready(db) == paused
