"""Roles of their own: the grants that the README names suffice, and who lacks one is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import errors as pg_errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import ConfigurationError, Flow, PgQueue, PgQueueError, Unique, chain, migrate
from pgqueue.cli import pgqueue
from pgqueue.queries import waiting
from pgqueue.testing import drain

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
OF_ENQUEUERS, OF_WORKERS, OF_VIEWERS = (
    block
    for block in re.findall(r"^```sql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    if any(f"to shop_{role}" in block for role in ("web", "worker", "viewer"))
)


DAYS = "select inhrelid::regclass::text from pg_inherits where inhparent = 'pgqueue.completed_jobs'::regclass"


@dataclass(frozen=True)
class Shop:
    """A database whose tables `shop_owner` has made. Roles are of the whole server, so they are named after it."""

    dsn: str
    name: str

    def of(self, role: str) -> str:
        return make_conninfo(self.dsn, user=f"{self.name}_{role}", password="secret")

    def run(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(statements.replace("shop_", f"{self.name}_").encode())


@pytest.fixture
def shop(empty_dsn: str) -> Iterator[Shop]:
    made = Shop(empty_dsn, str(conninfo_to_dict(empty_dsn)["dbname"]))
    roles = ("shop_owner", "shop_web", "shop_worker", "shop_viewer", "shop_nobody")
    made.run("; ".join(f"create role {role} login password 'secret'" for role in roles))
    made.run(f"grant create on database {made.name} to shop_owner")
    migrate.upgrade(made.of("owner"))
    yield made
    made.run(f"drop owned by {', '.join(roles)} cascade")
    made.run(f"drop role {', '.join(roles)}")


def send(n: int) -> int:
    return n


def test_the_grants_of_the_readme_suffice_to_enqueue(shop: Shop) -> None:
    shop.run(OF_ENQUEUERS)
    app = PgQueue(shop.of("web"))
    task = app.task(name="send")(send)
    for conflict in ("skip", "replace", "reschedule", "keep_last_if_running"):
        for until in ("ended", timedelta(hours=1), "forever"):
            if conflict == "keep_last_if_running" and until != "ended":
                continue
            key = Unique(f"{conflict} {until}", on_conflict=conflict, until=until)
            assert [task.using(key=key).enqueue(n).created for n in range(2)] == [True, False]
    app.enqueue("of.others", {}, delay=60, serial_key="one", tags=["new"])
    for count in (1, 10, 3000):
        assert len(app.enqueue_many([task.job(n) for n in range(count)])) == count
    app.database.fetch(waiting.wait(app.schema, [task.enqueue(1).id], "waiters", timedelta(minutes=1)))
    app.flows.enqueue(chain(task.job(1), task.job(2)))
    flow = Flow("several")
    first = flow.add(task.job(1))
    flow.add(task.job(2), after=[first])
    app.flows.enqueue(flow)
    job = task.enqueue(7)
    owner = PgQueue(shop.of("owner"))
    owner.task(name="send")(send)
    drain(owner)
    assert job.result(timeout=60) == 7
    for each in (owner, app):
        each.close()


def test_the_grants_of_the_readme_suffice_for_flows_until_a_key_is_held(shop: Shop) -> None:
    shop.run(OF_ENQUEUERS)
    app = PgQueue(shop.of("web"))
    task = app.task(name="send")(send)
    spans: tuple[Any, ...] = ("ended", timedelta(hours=1), "forever")
    for until in spans:
        keyed = task.using(key=Unique(f"held {until}", until=until))
        made = app.flows.enqueue(chain(task.job(1), keyed.job(2), name="keyed"))
        # What is to wait for the holder locks it against its end: that takes rights to change jobs.
        with pytest.raises(PgQueueError, match=r'permission denied.*"Roles" in the README'):
            app.flows.enqueue(chain(task.job(1), keyed.job(2), name="keyed"))
        assert app.flows.get(made.id).jobs == 2
        assert app.flows.of(app.flows.jobs(made.id)[0].job_id) == app.flows.get(made.id)
    assert [flow.jobs for flow in app.flows.list(name="keyed")] == [2, 2, 2]
    app.close()


def test_the_grants_of_the_readme_suffice_to_look(shop: Shop) -> None:
    shop.run(OF_VIEWERS)
    app = PgQueue(shop.of("viewer"))
    owner = PgQueue(shop.of("owner"))
    job = owner.enqueue("send", {"n": 1})
    assert app.jobs.get(job.id).state == "available"
    assert [reason.code for reason in app.jobs.why(job.id).reasons] == ["no_worker"]
    assert not [finding for finding in app.doctor.look() if "may not look" in finding.text]
    for each in (owner, app):
        each.close()


def test_the_grants_of_the_readme_suffice_to_work_and_what_workers_make_is_the_owners(shop: Shop) -> None:
    shop.run(OF_WORKERS)
    app = PgQueue(shop.of("worker"))
    task = app.task(name="send")(send)
    first, second = task.enqueue(1), task.using(key="k").enqueue(2)
    after = task.using(after=[second]).enqueue(3)
    app.jobs.cancel(first.id)
    with psycopg.connect(shop.dsn) as conn:
        days = [day for (day,) in conn.execute(DAYS)]
        conn.execute(f"drop table {', '.join(days)}".encode())
    assert drain(app).completed == 2
    assert after.refresh().value == 3
    app.queues["default"].pause()
    app.close()
    with psycopg.connect(shop.dsn) as conn:
        assert conn.execute(DAYS).fetchall() != []
        owners = conn.execute("select distinct tableowner from pg_tables where schemaname = 'pgqueue'").fetchall()
    assert owners == [(f"{shop.name}_owner",)]


def test_who_lacks_a_right_is_told_what_to_do(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = PgQueue(shop.of("nobody"))
    with pytest.raises(PgQueueError, match=r'permission denied for schema pgqueue.*"Roles" in the README') as raised:
        app.enqueue("send", {"n": 1})
    assert isinstance(raised.value, pg_errors.InsufficientPrivilege)
    app.close()
    with pytest.raises(ConfigurationError, match=r"refused the role this.*grant create on database"):
        migrate.upgrade(shop.of("nobody"), schema="other")
    monkeypatch.chdir(tmp_path)
    for command in ("ping", "jobs list"):
        result = CliRunner().invoke(pgqueue, [*command.split(), "--dsn", shop.of("nobody")])
        assert result.exit_code == 1
        assert '"Roles" in the README' in result.stderr
