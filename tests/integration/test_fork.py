"""One app in many processes and event loops: each opens connections of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pgqueue import PgQueue
from pgqueue.config import sqlalchemy_url
from pgqueue.testing import enqueued

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


def in_a_fork(work: Callable[[], Any]) -> int:
    """The exit code of a forked child that does `work`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def numbers(app: PgQueue) -> list[int]:
    return sorted(job.args["n"] for job in enqueued(app))


def test_children_of_a_preloading_server_enqueue_with_the_parents_app(dsn: str) -> None:
    app = PgQueue(dsn)
    app.enqueue("send", {"n": 0})

    def child(n: int) -> None:
        app.enqueue("send", {"n": n})
        asyncio.run(enqueue_and_close(app, n + 10))

    assert [in_a_fork(partial(child, n)) for n in (1, 2, 3)] == [0, 0, 0]
    app.enqueue("send", {"n": 4})
    assert numbers(app) == [0, 1, 2, 3, 4, 11, 12, 13]
    app.close()


def test_a_fork_of_a_fork_enqueues(dsn: str) -> None:
    app = PgQueue(dsn)
    app.enqueue("send", {"n": 0})

    def child() -> None:
        app.enqueue("send", {"n": 1})
        assert in_a_fork(lambda: app.enqueue("send", {"n": 2})) == 0
        app.enqueue("send", {"n": 3})

    assert in_a_fork(child) == 0
    assert numbers(app) == [0, 1, 2, 3]
    app.close()


def test_a_child_that_closes_the_app_leaves_the_parents_connections_alone(dsn: str) -> None:
    app = PgQueue(dsn)
    app.enqueue("send", {"n": 0})
    assert in_a_fork(app.close) == 0
    app.enqueue("send", {"n": 1})
    assert numbers(app) == [0, 1]
    app.close()


async def test_a_fork_inside_a_running_event_loop_enqueues(dsn: str) -> None:
    app = PgQueue(dsn)
    await app.aenqueue("send", {"n": 0})
    assert in_a_fork(lambda: app.enqueue("send", {"n": 1})) == 0
    await app.aenqueue("send", {"n": 2})
    assert numbers(app) == [0, 1, 2]
    await app.aclose()


def test_a_fork_while_another_thread_enqueues_does_not_hang(dsn: str) -> None:
    app = PgQueue(dsn)
    app.database._pools._lock.acquire()
    try:
        code = in_a_fork(lambda: app.enqueue("send", {"n": 1}))
    finally:
        app.database._pools._lock.release()
    assert code == 0
    assert numbers(app) == [1]
    app.close()


async def enqueue_and_close(app: PgQueue, n: int) -> None:
    await app.aenqueue("send", {"n": n})
    await app.database.aclose()


def test_two_event_loops_one_after_the_other_share_an_app(dsn: str) -> None:
    app = PgQueue(dsn)
    for n in (1, 2):
        asyncio.run(enqueue_and_close(app, n))
    assert numbers(app) == [1, 2]
    app.close()


def test_an_event_loop_that_ended_without_closing_the_app_does_not_hurt_the_next(dsn: str) -> None:
    app = PgQueue(dsn)

    async def enqueue(n: int) -> None:
        await app.aenqueue("send", {"n": n})

    for n in (1, 2, 3):
        asyncio.run(enqueue(n))
    assert numbers(app) == [1, 2, 3]
    app.close()


def test_two_event_loops_at_once_share_an_app(dsn: str) -> None:
    app = PgQueue(dsn)
    barrier = threading.Barrier(2)

    async def enqueue(base: int) -> None:
        for n in range(10):
            barrier.wait(10)
            await app.aenqueue("send", {"n": base + n})
        await app.database.aclose()

    threads = [threading.Thread(target=asyncio.run, args=[enqueue(base)]) for base in (0, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(app) == list(range(20))
    app.close()


def test_two_event_loops_share_an_app_on_an_engine(dsn: str) -> None:
    app = PgQueue(engine=create_engine(sqlalchemy_url(dsn), poolclass=NullPool))
    for n in (1, 2):
        asyncio.run(enqueue_and_close(app, n))
    assert numbers(app) == [1, 2]
