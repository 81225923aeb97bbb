"""`pgqueue bench`: what it reports, that it accounts for every job and leaves nothing behind. Not the speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from benchmarks import drain as benchmark
from pgqueue import ConfigurationError
from pgqueue.bench import SCHEMA, bare, work
from pgqueue.bench.figures import Latencies, Rates, Spread
from pgqueue.bench.ledger import Ledger, Unbalanced, balance
from pgqueue.bench.making import own_schema
from pgqueue.bench.part import Part, PartFailed
from pgqueue.bench.place import Place
from pgqueue.bench.server import has_pooler
from pgqueue.bench.work import Noop
from pgqueue.cli import pgqueue
from pgqueue.cli.benchview import PICKUP, RATES
from tests.foreground import python_in_the_foreground
from tests.integration.bouncer import bouncer, program

DEADLINE = 30.0
# What makes a lost job of every seventh, as soon as the table is there.
SWALLOW = """
create function swallow() returns trigger language plpgsql as $$
begin return case when new.id % 7 > 0 then new end; end $$;
create function watch() returns event_trigger language plpgsql as $$
begin
  if exists (select from pg_event_trigger_ddl_commands() where object_identity = 'pgqueue_bench.jobs') then
    create trigger swallow before insert on pgqueue_bench.jobs for each row execute function public.swallow();
  end if;
end $$;
create event trigger watch on ddl_command_end when tag in ('CREATE TABLE') execute function watch();
"""
SAME = """
select queue, task, args, state, priority, max_attempts, attempt, position is not null, unique_key, options, headers,
       tags
from pgqueue_bench.jobs
"""

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(empty_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    monkeypatch.setenv("PGQUEUE_DSN", empty_dsn)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.delenv("PGQUEUE_APP", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*args: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(pgqueue, ["bench", "--jobs", "20", "--rounds", "1", *args])
        assert result.exit_code == exit_code, result.output
        return result

    return call


@pytest.fixture
def place(empty_dsn: str) -> Iterator[Place]:
    found = Place(empty_dsn)
    with own_schema(found):
        yield found


def schemas(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"
        )
        return {name for (name,) in rows}


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextmanager
def running(dsn: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A `pgqueue bench` that has begun to measure."""
    environ = {**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = python_in_the_foreground("-m", "pgqueue", "bench", "--jobs", "5000", "--rounds", "100", *args)
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: SCHEMA in schemas(dsn) and connected(dsn) > 1)
        yield process
    finally:
        process.kill()
        process.communicate()


def connected(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        query = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        [count] = connection.execute(query).fetchone() or [0]
        return int(count)


@pytest.mark.slow
def test_everything_is_measured_beside_its_bare_loop_and_nothing_is_left_behind(invoke: Invoke, empty_dsn: str) -> None:
    [line] = invoke("--json").stdout.splitlines()
    report = json.loads(line)

    assert [row["name"] for row in report["rates"]] == [
        "enqueue one",
        "enqueue many",
        "drain",
        "drain, no history",
        "enqueue and run",
    ]
    for row in report["rates"]:
        assert row["ratio"]["median"] == pytest.approx(row["pgqueue"]["median"] / row["bare"]["median"])
        assert len(row["bare"]["rounds"]) == 1
    assert [row["name"] for row in report["pickup"]] == ["from before the call", "from its end", "bare NOTIFY"]
    for row in report["pickup"]:
        assert row["p50"] <= row["p95"] <= row["p99"] <= row["max"]
        assert row["jobs"] == 10
    assert (report["jobs"], report["rounds"], report["pooler"]) == (20, 1, False)
    assert set(report["settings"]) == {"fsync", "synchronous_commit", "shared_buffers", "max_wal_size"}
    assert report["round_trip"] > 0
    assert schemas(empty_dsn) == set()


def test_one_can_choose_what_is_measured_and_where(invoke: Invoke, empty_dsn: str) -> None:
    shown = invoke("--only", "enqueue", "--schema", "elsewhere").stdout

    assert "enqueue many" in shown
    assert "drain, no" not in shown
    assert "Pickup" not in shown
    assert schemas(empty_dsn) == set()


def test_what_cannot_be_measured_is_refused_with_what_can(invoke: Invoke) -> None:
    assert "choose of enqueue, drain, mixed, pickup" in invoke("--only", "speed", exit_code=2).stderr


def test_a_schema_that_is_not_its_own_is_refused_and_stays(invoke: Invoke, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("create schema pgqueue_bench create table precious ()")

    assert "choose another name with --schema" in invoke(exit_code=2).stderr
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("select from pgqueue_bench.precious")


def test_two_at_once_do_not_share_a_schema(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="another `pgqueue bench` is using"), own_schema(place):
        pass

    assert place.count("jobs") == 0


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_it_still_cleans_up(empty_dsn: str, number: int, exit_code: int) -> None:
    with running(empty_dsn) as process:
        process.send_signal(number)
        process.send_signal(number)

        assert process.wait(DEADLINE) == exit_code
    assert schemas(empty_dsn) == set()
    until(lambda: connected(empty_dsn) == 0)


@pytest.mark.slow
def test_what_a_killed_one_left_behind_is_dropped_by_the_next(invoke: Invoke, empty_dsn: str) -> None:
    with running(empty_dsn) as process:
        process.kill()
    # Its processes have ended with it.
    until(lambda: connected(empty_dsn) == 0)
    assert schemas(empty_dsn) == {SCHEMA}

    invoke("--only", "enqueue")
    assert schemas(empty_dsn) == set()


def test_a_lost_job_is_found_and_is_exit_code_1(invoke: Invoke, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        connection.execute(SWALLOW)

    said = invoke("--only", "drain", exit_code=1).stderr
    assert "drain: the ledger does not balance. Of 20 jobs 2 never ran (6, 13)" in said
    assert schemas(empty_dsn) == set()


def test_the_ledger_names_what_was_lost_and_what_ran_twice() -> None:
    ledger = Ledger(3)
    assert [ledger.hit(number) for number in (0, 2, 2, 7)] == [False] * 4

    with pytest.raises(Unbalanced, match=r"1 never ran \(1\), 1 ran more than once \(2\), 4 are left"):
        balance("drain", 3, ledger.wrong(), left=4)

    assert ledger.hit(1)
    balance("drain", 3, [], left=0)


def test_the_bare_loops_write_the_row_that_an_enqueue_writes(place: Place) -> None:
    noop = Noop(place)
    noop.task.enqueue(5)
    noop.app.close()
    with place.connect() as connection:
        bare.inserting(connection, SCHEMA)(5)
        bare.copy(connection, SCHEMA, bare.rows([5]))

        enqueued, inserted, copied = connection.execute(SAME).fetchall()
    assert enqueued == inserted == copied


@pytest.mark.parametrize("kept", [True, False])
def test_the_bare_claim_loop_finishes_each_job_once(place: Place, kept: bool) -> None:
    noop = Noop(place)
    noop.app.enqueue_many([noop.task.job(number) for number in range(1200)])
    noop.app.close()
    with place.connect() as connection:
        ids = bare.ClaimLoop(connection, SCHEMA).run(kept=kept)

    assert sorted(ids) == list(range(1, 1201))
    assert (place.count("jobs"), place.count("claims")) == (0, 0)
    assert place.count("completed_jobs") == (1200 if kept else 0)


def test_a_process_that_fails_says_why(empty_dsn: str) -> None:
    with Part(Place(empty_dsn), work.drain, jobs=10, kept=True) as part:
        part.begin()
        with pytest.raises(PartFailed, match=r"(?s)drain ended with exit code 1.*pgqueue migrate"):
            part.result()


def numbers_between_signals(place: Place, begin: Callable[[], None], *, count: int) -> list[int]:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    begin()
    return list(range(count))


def test_a_long_answer_arrives_whole_where_python_does_not_buffer_and_signals_come(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    count = 1_000_000
    with Part(Place(empty_dsn), numbers_between_signals, count=count) as part:
        part.begin()
        assert part.result() == list(range(count))


def test_a_server_without_a_pooler_is_known_as_such(empty_dsn: str) -> None:
    assert not has_pooler(empty_dsn)


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="no pgbouncer on the PATH: apt-get install pgbouncer")
def test_a_pooler_is_seen_and_measured_through(invoke: Invoke, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with bouncer(empty_dsn) as pooled:
        monkeypatch.setenv("PGQUEUE_DSN", pooled)
        report = json.loads(invoke("--only", "drain,pickup", "--json").stdout)

    assert report["pooler"] is True
    assert [row["name"] for row in report["pickup"]] == ["from before the call", "from its end"]
    assert schemas(empty_dsn) == set()


@pytest.mark.parametrize("what", ["limit", "worker"])
def test_the_benchmarks_of_the_project_use_the_same_pieces(empty_dsn: str, what: str) -> None:
    assert benchmark.measure(what, empty_dsn, 50, "no_history") > 0
    assert schemas(empty_dsn) == set()


def test_its_tables_fit_80_columns() -> None:
    spread = Spread((123_456.7, 234_567.8, 99_999.9))
    rates = [Rates("drain, no history", "claim, finish", spread, spread)]
    pickup = [Latencies.of("from before the call", [[0.0012, 1.5, 0.003]])]
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(RATES.table(rates, 80), PICKUP.table(pickup, 80))

    assert "100,000–234,568" in drawn.get()
    assert "1500.00" in drawn.get()
    assert max(map(len, drawn.get().splitlines())) <= 80


def test_percentiles_are_values_that_were_measured() -> None:
    latencies = Latencies.of("pickup", [[float(n) for n in range(1, 101)]])

    assert [latencies.percentile(share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert Latencies.of("pickup", [[3.0]]).percentile(0.5) == 3
