"""PostgreSQL goes away, hangs up, or takes a command whose answer is lost: workers come back by themselves."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgqueue import PgQueueError, migrate
from pgqueue.dev import EmbeddedServer
from pgqueue.embedded.binaries import Account, temporary_folder
from tests.crash.fleet import LONG, Fleet, eventually
from tests.crash.proxy import Proxy
from tests.crash.shop import app, order, wait_for

pytestmark = pytest.mark.crash

HANG_UP = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and application_name like 'pgqueue %'
"""
FINISHING = "select pid from pg_stat_activity where application_name = 'pgqueue finishes'"
LISTENING = "select count(*) from pg_stat_activity where application_name = 'pgqueue listener' and query ~* 'listen'"
SECONDS = 30.0 if LONG else 4.0


class Feeder:
    """Enqueues small orders all the time, and remembers which enqueues were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _feed(self) -> None:
        while not self._over.wait(0.01):
            try:
                self.acknowledged.update(job.id for job in app.enqueue_many([order.job(0.02)] * 5))
            except (psycopg.OperationalError, PgQueueError):
                continue


def every(interval: float, seconds: float, do: Callable[[], object]) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        do()
        threading.Event().wait(interval)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for a Unix socket, whose path must be short: pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="pgqueue-proxy-", dir="/tmp") as folder:
        yield Path(folder)


def test_workers_whose_connections_are_cut_all_the_time_run_each_job_once(fleet: Fleet) -> None:
    workers = [fleet.start(), fleet.start()]
    with Feeder() as feeder:
        every(0.2, SECONDS, lambda: fleet.query(HANG_UP))
    fleet.drained()

    assert len(feeder.acknowledged) > 100
    ended = fleet.assert_at_rest(feeder.acknowledged)
    assert set(ended.values()) == {"completed"}
    assert fleet.query("select distinct attempt from {schema}.completed_jobs") == [(1,)]
    assert not fleet.unexplained()
    assert all(worker.alive for worker in workers)


def test_workers_start_while_their_connections_are_cut(fleet: Fleet) -> None:
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.03):
            fleet.query(HANG_UP)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        workers = [fleet.start(registered=False) for _ in range(4)]
        eventually(lambda: all(worker.says("connect") or fleet.is_registered(worker) for worker in workers), "no start")
        eventually(lambda: fleet.value("select count(*) from {schema}.workers") >= 1, "none has registered")
    finally:
        over.set()
        cutter.join()
    assert all(worker.alive for worker in workers)
    eventually(lambda: all(fleet.is_registered(worker) for worker in workers), "not all have registered")
    job = order.enqueue().id
    fleet.assert_at_rest_soon([job])


@pytest.mark.parametrize("times", [1, 3])
def test_a_claim_whose_answer_is_lost_is_given_back_and_made_again(
    fleet: Fleet, tmp_path: Path, sockets: Path, times: int
) -> None:
    with Proxy(fleet.dsn, sockets, answer=b"lost-on-the-way", times=times) as proxy:
        worker = fleet.start(dsn=proxy.dsn, lease=1.5)
        marked = wait_for.enqueue(str(tmp_path / "lost-on-the-way")).id
        fleet.open_gate(tmp_path / "lost-on-the-way", worker)
        ended = fleet.assert_at_rest_soon([marked])
        assert proxy.left == 0

    assert ended == {marked: "completed"}
    assert fleet.query("select attempt from {schema}.completed_jobs") == [(1,)]
    assert len(fleet.noted("begin", marked)) == 1


def test_a_claim_that_the_worker_does_not_know_is_given_back(fleet: Fleet) -> None:
    worker = fleet.start(lease=1.5)
    with psycopg.connect(fleet.dsn) as connection:
        jobs = [job.id for job in app.enqueue_many([order.job() for _ in range(3)], using=connection)]
        connection.execute("update pgqueue.jobs set state = 'running', attempt = 1, claim_id = 77")
        connection.execute(
            "insert into pgqueue.claims (id, worker_id, queue, job_ids) "
            "select 77, id, 'orders', %s from pgqueue.workers",
            [jobs],
        )

    ended = fleet.assert_at_rest_soon(jobs)
    assert set(ended.values()) == {"completed"}
    assert fleet.query("select distinct attempt from {schema}.completed_jobs") == [(1,)]
    assert sorted(entry.job_id for entry in fleet.noted("begin", pid=worker.pid)) == jobs


def test_a_finish_whose_answer_is_lost_takes_no_other_job_of_the_claim_with_it(
    fleet: Fleet, tmp_path: Path, sockets: Path
) -> None:
    gate = tmp_path / "gate"
    with Proxy(fleet.dsn, sockets, request=b'insert into "pgqueue".completed_jobs', times=1) as proxy:
        worker = fleet.start(dsn=proxy.dsn, lease=1.0)
        jobs = [job.id for job in app.enqueue_many([wait_for.job(str(gate)), order.job(), order.job(), order.job()])]
        eventually(lambda: fleet.live() == 1, "the short ones have not ended")
        eventually(lambda: proxy.left == 0, "nothing was lost")
        # Its claims are reconciled in the rhythm of its heartbeats.
        fleet.follow_heartbeats(worker, 4)
        fleet.open_gate(gate, worker)
        fleet.assert_at_rest_soon(jobs)

    assert not fleet.unexplained()
    assert fleet.query("select distinct attempt from {schema}.completed_jobs") == [(1,)]


def test_a_claim_row_that_cannot_be_dropped_takes_no_running_job_with_it(
    fleet: Fleet, tmp_path: Path, sockets: Path
) -> None:
    gate = tmp_path / "gate"
    with Proxy(fleet.dsn, sockets, request=b'delete from "pgqueue".claims', times=2) as proxy:
        worker = fleet.start(dsn=proxy.dsn, lease=1.0)
        small = order.enqueue().id
        fleet.drained()
        jobs = [job.id for job in app.enqueue_many([wait_for.job(str(gate)), order.job(), order.job(), order.job()])]
        eventually(lambda: fleet.live() == 1, "the short ones have not ended")
        another = order.enqueue().id
        eventually(lambda: fleet.noted("end", another), "the worker has stopped")
        # Its claims are reconciled in the rhythm of its heartbeats.
        fleet.follow_heartbeats(worker, 4)
        fleet.open_gate(gate, worker)
        fleet.assert_at_rest_soon([small, another, *jobs])

    assert not fleet.unexplained()


def test_a_registration_whose_answer_is_lost_is_made_again(fleet: Fleet, sockets: Path) -> None:
    with Proxy(fleet.dsn, sockets, request=b'insert into "pgqueue".workers', times=1) as proxy:
        fleet.start(dsn=proxy.dsn, lease=30.0)
        job = order.enqueue().id
        assert fleet.assert_at_rest_soon([job]) == {job: "completed"}
        assert proxy.left == 0


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, Fleet]]:
    """A durable server of its own, migrated, and a fleet on it."""
    folder = temporary_folder(Account(os.geteuid(), os.getegid()))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "data").start()
    fleet = Fleet(server.dsn, tmp_path)
    try:
        migrate.upgrade(server.dsn)
        app.database.point_at(server.dsn)
        yield server, fleet
    finally:
        fleet.end()
        app.close()
        server.stop()
        shutil.rmtree(folder)
        for worker in fleet.workers:
            print(f"--- {worker.log.name}, pid {worker.pid}", worker.log.read_text()[-4000:], sep="\n")


def crash(server: EmbeddedServer) -> None:
    """As `pg_ctl stop -m immediate`: no checkpoint, recovery at the next start."""
    os.kill(server.pid, signal.SIGQUIT)
    server.stop()


def test_no_acknowledged_job_is_lost_when_postgresql_crashes(durable: tuple[EmbeddedServer, Fleet]) -> None:
    server, fleet = durable
    workers = [fleet.start(), fleet.start()]
    with Feeder() as feeder:
        for n in range(12 if LONG else 4):
            before = len(fleet.noted("end"))
            eventually(lambda before=before: len(fleet.noted("end")) > before + 50, "the workers do not work")  # type: ignore[misc]
            if n % 2:
                crash(server)
                server.start()
            else:
                # The postmaster then ends all others, and recovers.
                [(pid,), *_] = eventually(lambda: fleet.query(FINISHING), "no worker is connected")
                os.kill(pid, signal.SIGKILL)
    fleet.drained()

    ended = fleet.ended()
    # An enqueue whose answer was lost may have committed.
    assert ended.keys() >= feeder.acknowledged
    assert set(ended.values()) == {"completed"}
    fleet.assert_at_rest(ended)
    assert all(worker.alive for worker in workers)


def test_a_worker_that_is_started_before_postgresql_waits_for_it(durable: tuple[EmbeddedServer, Fleet]) -> None:
    server, fleet = durable
    job = order.enqueue().id
    server.stop()
    worker = fleet.start(registered=False)
    eventually(lambda: worker.says("cannot connect"), "it says nothing")
    assert worker.alive
    server.start()

    assert fleet.assert_at_rest_soon([job]) == {job: "completed"}


def test_a_notification_from_a_stranger_stops_no_worker(fleet: Fleet) -> None:
    worker = fleet.start()
    eventually(lambda: fleet.value(LISTENING), "the worker does not listen")
    for payload in ("available orders x y", "available orders 0 " + "9" * 60, "cancel me", "cancel", "", "é €"):
        fleet.query("select pg_notify('pgqueue', %s)", payload)
    job = order.enqueue().id

    assert fleet.assert_at_rest_soon([job]) == {job: "completed"}
    eventually(lambda: worker.says("none of pgqueue's: 'available orders x y'"), "the worker has not heard them")
    assert worker.alive
