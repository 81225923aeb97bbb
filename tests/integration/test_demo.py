"""The demo from end to end, and its ledger, which must be able to fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from pgqueue import PgQueue
from pgqueue.config import sqlalchemy_url
from pgqueue.demo import run_demo
from pgqueue.demo.ledger import Line, balance
from pgqueue.demo.outside import REFUSED_CUSTOMER, Outside
from pgqueue.demo.reading import flaw
from pgqueue.demo.records import Records
from pgqueue.errors import ConfigurationError
from tests.foreground import python_in_the_foreground

BALANCED = Records(
    placed=frozenset({1, 2, 4}),
    declined=frozenset({3}),
    in_database=frozenset({1, 2, 4}),
    mails=Counter([1, 2, 4]),
    previews={1: "", 2: "", 4: ""},
    accepted=Counter([1, 2]),
    post={"ada@example.com": [1, 4], "alan@example.com": [2, 2]},
    most_in_a_second={"ada@example.com": 5},
    progress={1: 100.0, 2: 100.0, 4: 100.0},
    refused=frozenset({4}),
    failed={"notify_printer": frozenset({4})},
    bookings=Counter([1, 2, 4]),
    ready={1: True, 2: True, 4: True},
    statements={"statement-ada": (1, 9)},
    stock_off={"mug": 0},
    reports=Counter(["12:00", "12:03"]),
    counts=Counter(["2026-11-22"]),
)


def line(records: Records, title: str) -> Line:
    return next(line for line in balance(records) if line.title == title)


def test_a_ledger_in_which_everything_happened_once_balances() -> None:
    assert [line.title for line in balance(BALANCED) if not line.balances] == []


@pytest.mark.parametrize(
    ("title", "wrong", "change"),
    [
        ("orders", "order 2: confirmed to the customer but not in", {"in_database": frozenset({1, 4})}),
        ("orders", "order 9: in the database but not confirmed", {"in_database": frozenset({1, 2, 4, 9})}),
        ("e-mails", "order 2: without an e-mail", {"mails": Counter([1, 4])}),
        ("e-mails", "order 2: sent again for no reason", {"mails": Counter([1, 2, 2, 4])}),
        ("previews", "orders 1, 2: without a preview", {"previews": {4: ""}}),
        ("previews", "order 2: 2.jpg cannot be opened", {"previews": {1: "", 2: "2.jpg cannot be opened", 4: ""}}),
        ("e-mails", "ada@example.com had them in the order [4, 1]", {"post": {"ada@example.com": [4, 1]}}),
        ("previews", "order 2: did not tell 100 %", {"progress": {1: 100.0, 2: 70.0, 4: 100.0}}),
        ("rate", "6 of ada@example.com in a second", {"most_in_a_second": {"ada@example.com": 6}}),
        ("daily count", "nobody counted", {"counts": Counter()}),
        ("daily count", "2 on 2026-11-22", {"counts": Counter({"2026-11-22": 2})}),
        ("webhooks", "order 1: neither accepted nor in failed_jobs", {"accepted": Counter([2])}),
        ("webhooks", "order 1: accepted again for no reason", {"accepted": Counter([1, 1, 2])}),
        ("webhooks", "order 4: accepted, and in failed_jobs too", {"accepted": Counter([1, 2, 4])}),
        ("webhooks", "order 1: refused with 400 but not in failed_jobs", {"refused": frozenset({1, 4})}),
        ("stock", "order 1: not booked", {"bookings": Counter([2, 4])}),
        ("stock", "order 1: booked more than once", {"bookings": Counter([1, 1, 2, 4])}),
        ("stock", "the stock of mug is off by -3", {"stock_off": {"mug": -3}}),
        ("flows", "order 4: not ready", {"ready": {1: True, 2: True}}),
        ("flows", "order 2: ready before it was booked", {"ready": {1: True, 2: False, 4: True}}),
        ("flows", "order 2: ready without a preview", {"previews": {1: "", 4: ""}}),
        ("statements", "nobody has one", {"statements": {}}),
        ("statements", "statement-ada is on day 1 at 7", {"statements": {"statement-ada": (1, 7)}}),
        ("rolled back", "order 3: rolled back, and yet e-mailed", {"mails": Counter([1, 2, 3, 4])}),
        ("rolled back", "order 3: rolled back, and yet in the database", {"in_database": frozenset({1, 2, 3, 4})}),
        ("rolled back", "order 3: rolled back, and yet booked", {"bookings": Counter([1, 2, 3, 4])}),
        ("rolled back", "order 3: rolled back, and yet sent to the printer", {"accepted": Counter([1, 2, 3])}),
        ("rolled back", "order 3: rolled back, and yet with a preview", {"previews": {1: "", 2: "", 3: "", 4: ""}}),
        ("rolled back", "order 3: rolled back, and yet in failed_jobs", {"failed": {"make_preview": frozenset({3})}}),
        ("reports", "the one of 12:00 was enqueued 2 times", {"reports": Counter(["12:00", "12:00"])}),
        ("reports", "the schedule made no job", {"reports": Counter()}),
        ("jobs", "2 of make_preview not ended", {"live": Counter({"make_preview": 2})}),
        ("jobs", "order 1: whose book_stock is in failed_jobs", {"failed": {"book_stock": frozenset({1})}}),
    ],
)
def test_the_ledger_finds_what_is_wrong(title: str, wrong: str, change: dict[str, Any]) -> None:
    found = line(replace(BALANCED, **change), title)

    assert not found.balances
    assert [text for text in found.wrong if text.startswith(wrong)], found.wrong


def test_an_email_sent_twice_is_explained_by_the_killed_worker_that_held_its_job() -> None:
    twice = replace(BALANCED, mails=Counter([1, 2, 2, 4]))
    held = frozenset({("send_confirmation", 2)})

    assert line(replace(twice, held=held), "e-mails").remark == "again for order 2: held at the kill"
    assert line(replace(twice, held=held), "e-mails").balances


def test_a_held_job_explains_one_repetition_of_its_own_task_and_no_more() -> None:
    held = frozenset({("send_confirmation", 2)})

    assert not line(replace(BALANCED, mails=Counter([1, 2, 2, 2, 4]), held=held), "e-mails").balances
    assert not line(replace(BALANCED, accepted=Counter([1, 2, 2]), held=held), "webhooks").balances


def test_nothing_explains_a_second_booking() -> None:
    twice = replace(BALANCED, bookings=Counter([1, 1, 2, 4]), held=frozenset({("book_stock", 1)}))

    assert not line(twice, "stock").balances


def test_a_session_on_the_transaction_of_a_job_commits_only_with_the_job(fresh_dsn: str) -> None:
    engine = create_engine(sqlalchemy_url(fresh_dsn))
    app = PgQueue(engine=engine)
    with engine.begin() as connection:
        connection.execute(text("create table bookings (order_id int)"))

    def book_and_fail() -> None:
        with app.database.transaction() as connection:
            with Session(connection) as session, session.begin():
                session.execute(text("insert into bookings values (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        book_and_fail()

    with engine.connect() as connection:
        assert connection.execute(text("select * from bookings")).all() == []
    engine.dispose()


def test_the_orders_of_a_long_list_are_counted() -> None:
    many = frozenset(range(10, 40))

    [wrong] = line(replace(BALANCED, in_database=BALANCED.in_database | many), "orders").wrong
    assert wrong.startswith("orders 10, 11, 12, 13, 14, 15, 16, 17 and 22 more:")


def test_a_preview_is_opened_and_measured(tmp_path: Path) -> None:
    sizes = {"good": (160, 160), "small": (16, 16)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:300])

    assert flaw(tmp_path / "good.jpg") == ""
    assert "(16, 16)" in flaw(tmp_path / "small.jpg")
    assert "cannot be opened" in flaw(tmp_path / "cut.jpg")


def test_the_printer_refuses_one_customer_and_is_sometimes_unavailable_and_the_seed_decides_when() -> None:
    def answers(seed: int) -> list[int]:
        with Outside(seed) as outside, httpx.Client(base_url=outside.http, trust_env=False) as client:
            orders = [(order, "ada@example.com") for order in range(16)] + [(16, REFUSED_CUSTOMER)]
            return [client.post("/orders", json={"order": o, "customer": c}).status_code for o, c in orders]

    first = answers(1)

    assert set(first[:-1]) == {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    assert first[-1] == HTTPStatus.BAD_REQUEST
    assert first == answers(1) != answers(2)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)

    with pytest.raises(ConfigurationError, match=r"needs aiosmtpd: .*`pip install '\.\[demo\]'"):
        run_demo()


@contextmanager
def demo(*options: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo as a user starts it, in a folder and with variables that could mislead it."""
    misleading = {
        "PGPORT": "1",
        "PGQUEUE_SCHEMA": "other",
        "DATABASE_URL": "postgresql:///other",
        "http_proxy": "http://[::1]:9",
    }
    command = python_in_the_foreground("-m", "pgqueue", "demo", *options)
    environ = {**os.environ, **misleading, "TMPDIR": str(folder), "COLUMNS": "120"}
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.crash
def test_the_demo_balances_although_a_worker_is_killed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo("--orders", "30", "--seed", "1", folder=tmp_path) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    for expected in (
        "27 committed, 3 rolled back",
        "27 pictures on disk, each opened; all told 100 %",
        "one for all orders of a day, asked for by 27",
        "27 movements, exactly one an order",
        "3 orders left no trace",
        "kill -9 of worker-2",
        "The ledger balances.",
    ):
        assert expected in output, output
    assert "✗" not in output
    assert [path.name for path in tmp_path.glob("pgqueue-demo-*")] == []


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_however_the_demo_ends_all_its_processes_end_too(number: signal.Signals, code: int, tmp_path: Path) -> None:
    with demo("--orders", "400", folder=tmp_path) as process:
        children = wait_for_workers(process)
        process.send_signal(number)
        process.wait(timeout=30)
        _, alive = psutil.wait_procs(children, timeout=30)

    assert process.returncode == code
    assert alive == []


def wait_for_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):  # A short-lived one, such as initdb's.
            lines = [" ".join(child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE]
            if sum("-m pgqueue scheduler" in line and "/bin/sh" not in line for line in lines):
                return children
        threading.Event().wait(0.05)
    raise AssertionError(f"the demo started no scheduler within 60 s: exit code {process.poll()}")
