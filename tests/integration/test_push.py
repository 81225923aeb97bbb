"""Push to HTTP: requests as a worker delivers them to a server on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, Backoff, DeliveryFailed, Job, JobFailed, Limit, LimitHit, PgQueue
from pgqueue.push import Push
from pgqueue.testing import adrain, drain, run_inline
from tests.integration.conftest import AJoined, Joined
from tests.integration.receiver import Received, Receiver, Say, answer
from tests.integration.waiting import DEADLINE, states, until

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OLD = "whsec_ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7"
DOCS = Path(__file__).parents[2] / "docs" / "push.md"
PEM = Path(__file__).with_name("localhost.pem")
HOUR = "3600"


def local(app: PgQueue, **options: Any) -> Push:
    """May call the test's own server; what it retries waits until a test says so."""
    return Push(app, **{"allow_http": True, "allow_private": True, "backoff": Backoff.fixed(3600), **options})


def signature(secret: str, received: Received) -> str:
    """As a receiver makes it to compare."""
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def reached(job: Job, state: str) -> Callable[[], Any]:
    async def holds() -> bool:
        return (await job.arefresh()).state == state

    return holds


async def never(received: Received, say: Say) -> None:
    """Does not answer."""
    await asyncio.Event().wait()


# What is sent


async def test_a_request_is_delivered_signed_and_its_answer_is_the_result(app: PgQueue) -> None:
    push = local(app, secret=[SECRET, OLD])
    async with Receiver(answer(202, "grüß".encode())) as receiver:
        job = await push.aenqueue(f"{receiver.url}?a=ü", {"order": 7}, headers={"X-Shop": "7"})
        async with app.worker(["push"]):
            assert await job.aresult(DEADLINE) == {"status": 202, "body": "grüß"}
    [sent] = receiver.received
    assert (sent.method, sent.target, sent.body) == ("POST", "/hook?a=%C3%BC", b'{"order":7}')
    assert sent.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (sent.headers["content-type"], sent.headers["x-shop"]) == ("application/json", "7")
    assert sent.headers["webhook-signature"].split(" ") == [signature(SECRET, sent), signature(OLD, sent)]


@pytest.mark.parametrize(
    ("method", "body", "headers"),
    [
        ("PUT", b"\x00\xff", {"Content-Type": "image/png"}),
        ("PATCH", "ü;1", {"content-type": "text/csv"}),
        ("DELETE", None, {}),
        ("GET", None, {"Accept": "text/plain"}),
    ],
)
async def test_other_methods_and_bodies_arrive_as_they_are(
    app: PgQueue, method: str, body: Any, headers: dict[str, str]
) -> None:
    push = local(app)
    async with Receiver() as receiver:
        job = await push.aenqueue(receiver.url, body, method=method, headers=headers)
        await adrain(app)
    assert await job.aresult() == {"status": 200, "body": ""}
    [sent] = receiver.received
    assert sent.method == method
    assert sent.body == (body.encode() if isinstance(body, str) else body or b"")
    assert {name.lower(): value for name, value in headers.items()}.items() <= sent.headers.items()
    assert "webhook-signature" not in sent.headers


async def test_the_id_is_the_same_in_all_attempts_and_another_in_another_job(app: PgQueue) -> None:
    push = local(app, secret=SECRET)
    async with Receiver(answer(500), answer(503), answer(200)) as receiver:
        await push.aenqueue(receiver.url, {"order": 7})
        await adrain(app, with_scheduled=True)
        await push.aenqueue(receiver.url, {"order": 7})
        await push.aenqueue(receiver.url, {"order": 7}, id="order-7")
        await adrain(app, slots=1)
    first, second, third, fourth, fifth = [sent.headers["webhook-id"] for sent in receiver.received]
    assert first == second == third != fourth
    assert fifth == "order-7"
    assert all(sent.headers["webhook-signature"] == signature(SECRET, sent) for sent in receiver.received)


def test_it_joins_the_transaction_of_whoever_enqueues(app: PgQueue, joined: Joined) -> None:
    push = local(app)
    with joined() as connection:
        job = push.using(connection, key="order-7", delay=60).enqueue("http://127.0.0.1/", {"order": 7})
        assert (job.queue, job.key, job.args["host"]) == ("push", "order-7", "127.0.0.1")
        connection.rollback()
    assert app.jobs.count(task="pgqueue.push") == 0


async def test_it_joins_async_transactions_too(app: PgQueue, ajoined: AJoined) -> None:
    push = local(app)
    async with ajoined() as connection:
        await push.using(connection).aenqueue("http://127.0.0.1/", {"order": 7})
        await connection.rollback()
    assert app.jobs.count(task="pgqueue.push") == 0


def test_many_are_enqueued_at_once_and_drained_by_a_test(app: PgQueue) -> None:
    push = local(app)
    app.enqueue_many([push.job(f"http://127.0.0.1:1/{n}", {"n": n}) for n in range(3)])
    assert drain(app).retried == 3


async def test_no_secret_is_stored(app: PgQueue, dsn: str) -> None:
    push = local(app, secret=SECRET)
    async with Receiver(answer(500), answer(200)) as receiver:
        await push.aenqueue(receiver.url, {"order": 7})
        await adrain(app, with_scheduled=True)
    [(row,)] = execute(dsn, "select row_to_json(c)::text from pgqueue.completed_jobs c")
    assert SECRET not in row
    assert SECRET.removeprefix("whsec_") not in row
    assert "webhook-signature" not in row


async def test_sql_enqueues_a_delivery(app: PgQueue, dsn: str) -> None:
    local(app)
    async with Receiver() as receiver:
        [example] = re.findall(r"^```sql\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        here = example.replace("https://example.com/hook", receiver.url)
        execute(dsn, here.replace("'example.com'", f"'127.0.0.1:{receiver.port}'"))
        assert (await adrain(app)).completed == 1
    [sent] = receiver.received
    assert (sent.body, sent.headers["content-type"]) == (b'{"order": 7}', "application/json")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ('{"url": "http://example.com/"}', "is not encrypted"),
        ('{"url": "https://127.0.0.1/"}', "no public address"),
        ('{"url": "https://example.com/", "host": "other.example"}', "is not that of the URL"),
        ('{"url": "https://example.com/", "headers": {"X-A": "a\\r\\nb"}}', "cannot be sent"),
        ('{"url": "https://example.com/", "id": "a.b"}', "is no id of a message"),
        ('{"url": "https://example.com/", "method": "CONNECT"}', "is not one of POST"),
    ],
)
async def test_what_sql_enqueues_is_checked_when_it_runs(app: PgQueue, dsn: str, args: str, told: str) -> None:
    Push(app)
    execute(dsn, f"select pgqueue.enqueue('pgqueue.push', '{args}', queue => 'push')")
    assert (await adrain(app)).failed == 1
    [(reason, message)] = execute(dsn, "select reason, error_message from pgqueue.failed_jobs")
    assert reason == "fail_job"
    assert told in message


async def test_a_delivery_can_be_tried_without_a_database() -> None:
    push = local(PgQueue("postgresql:///nowhere"))
    async with Receiver(answer(200, b"hi"), answer(500), answer(429, retry_after="7")) as receiver:
        assert await run_inline(push.task, url=receiver.url) == {"status": 200, "body": "hi"}
        with pytest.raises(DeliveryFailed, match="was answered 500"):
            await run_inline(push.task, url=receiver.url)
        with pytest.raises(LimitHit) as hit:
            await run_inline(push.task, url=receiver.url)
        assert hit.value.delay == 7
        await push.aclose()


# What the answers come to


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_what_may_succeed_later_is_tried_again(app: PgQueue, status: int) -> None:
    push = local(app, max_attempts=2)
    async with Receiver(answer(status, b"not now")) as receiver:
        job = await push.aenqueue(f"{receiver.url}?token=hidden", {})
        await adrain(app, with_scheduled=True)
    assert len(receiver.received) == 2
    failed = await job.arefresh()
    assert (failed.state, failed.reason, failed.attempt) == ("failed", "attempts_used", 2)
    message = failed.errors[-1]["message"]
    assert failed.errors[-1]["type"] == "pgqueue.errors.DeliveryFailed"
    assert message.startswith(f"POST {receiver.url} was answered {status}")
    assert message.endswith(": not now")
    assert "hidden" not in message


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_what_never_will_succeed_fails_at_once(app: PgQueue, status: int) -> None:
    push = local(app)
    async with Receiver(answer(status, b"no such hook")) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app, with_scheduled=True)
        with pytest.raises(JobFailed, match=rf"was answered {status} .*: no such hook"):
            await job.aresult()
    assert len(receiver.received) == 1
    assert (await job.arefresh()).reason == "fail_job"


async def test_a_connection_that_breaks_is_tried_again(app: PgQueue) -> None:
    async def hang_up(received: Received, say: Say) -> None:
        raise ConnectionResetError

    push = local(app, max_attempts=3)
    async with Receiver(hang_up, hang_up, answer(200)) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app, with_scheduled=True)
    ended = await job.arefresh()
    assert (ended.state, ended.attempt) == ("completed", 3)

    gone = await push.aenqueue(receiver.url, {})
    await adrain(app, with_scheduled=True)
    assert "All connection attempts failed" in (await gone.arefresh()).errors[-1]["message"]


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ({"read_timeout": 0.05}, "no answer within 0.05 s"),
        ({"timeout": 0.05}, "not done within 0.05 s"),
    ],
)
async def test_who_does_not_answer_in_time_is_tried_again(app: PgQueue, times: dict[str, float], told: str) -> None:
    push = local(app, max_attempts=1, **times)
    async with Receiver(never) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app)
    failed = await job.arefresh()
    assert failed.reason == "attempts_used"
    assert failed.errors[-1]["message"] == f"POST {receiver.url}: {told}"


async def test_an_answer_that_does_not_end_counts_by_its_status(app: PgQueue) -> None:
    async def drip(received: Received, say: Say) -> None:
        await say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart")
        await asyncio.Event().wait()

    push = local(app, read_timeout=0.05)
    async with Receiver(drip) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app)
    assert await job.aresult() == {"status": 200, "body": "part"}


async def test_of_a_large_answer_only_the_beginning_is_read(app: PgQueue) -> None:
    said = 0

    async def flood(received: Received, say: Say) -> None:
        nonlocal said
        await say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            await say(b"x" * 65_536)
            said += 65_536

    push = local(app)
    async with Receiver(flood) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app)

        async def hung_up() -> bool:
            return receiver.open == 0

        await until(hung_up)
    assert await job.aresult() == {"status": 200, "body": "x" * 4096}
    # The rest is what the sockets' buffers took.
    assert said < 100_000_000


# Hosts that want to be left alone


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_closes_the_host_and_uses_no_attempt(app: PgQueue, dsn: str, status: int) -> None:
    push = local(app, max_attempts=1)
    async with Receiver(answer(status, retry_after=HOUR)) as busy, Receiver() as other:
        first = await push.aenqueue(busy.url, {"n": 1})
        async with app.worker(["push"]):
            await until(reached(first, "scheduled"))
            second = await push.aenqueue(busy.url, {"n": 2})
            await until(reached(second, "blocked"))
            elsewhere = await push.aenqueue(other.url, {})
            assert (await elsewhere.aresult(DEADLINE))["status"] == 200
    waiting = await first.arefresh()
    assert (waiting.attempt, len(busy.received)) == (0, 1)
    [(gate, seconds)] = execute(
        dsn,
        "select name, extract(epoch from closed_until - clock_timestamp()) from pgqueue.gates "
        "where closed_until > now()",
    )
    assert gate == f"task:pgqueue.push:{{host}}:127.0.0.1:{busy.port}"
    assert 3500 < seconds <= 3600
    [line] = app.jobs.logs(first.id)
    assert f"was answered {status}" in line.message
    assert "nothing is sent to this host for 3600 s" in line.message


async def test_after_the_time_that_was_asked_for_all_are_delivered(app: PgQueue) -> None:
    push = local(app, limit=Limit(concurrency=1, key="{host}"))
    async with Receiver(answer(429, retry_after="0"), answer(200)) as receiver:
        await app.aenqueue_many([push.job(receiver.url, {"n": n}) for n in range(4)])
        async with app.worker(["push"]):

            async def delivered() -> bool:
                return (await states(app))["completed"] == 4

            await until(delivered)
    assert len(receiver.received) == 5


async def test_who_has_waited_too_long_uses_attempts_at_the_times_that_are_asked_for(app: PgQueue) -> None:
    push = local(app, max_attempts=2, patience=0)
    async with Receiver(answer(429, retry_after=HOUR)) as receiver:
        job = await push.aenqueue(receiver.url, {})
        await adrain(app)
        waiting = await job.arefresh()
        assert (waiting.state, waiting.attempt) == ("scheduled", 1)
        assert waiting.run_at - waiting.created_at > timedelta(minutes=59)  # type: ignore[operator]
        await adrain(app, with_scheduled=True)
    failed = await job.arefresh()
    assert (failed.state, failed.reason, len(receiver.received)) == ("failed", "attempts_used", 2)
    assert failed.errors[-1]["type"] == "pgqueue.errors.DeliveryFailed"


async def test_a_host_that_fails_again_and_again_is_left_alone_and_comes_back(app: PgQueue) -> None:
    push = local(
        app,
        max_attempts=3,
        backoff=Backoff.fixed(0),
        limit=Limit(concurrency=1, key="{host}"),
        breaker_failures=2,
        breaker_pause=Backoff.fixed(0.2),
    )
    async with Receiver(*[answer(500)] * 5, answer(200)) as receiver:
        jobs = await app.aenqueue_many([push.job(receiver.url, {"n": n}) for n in range(3)])
        async with app.worker(["push"]):

            async def delivered() -> bool:
                return (await states(app))["completed"] == 3

            await until(delivered)
        ended = [await job.arefresh() for job in jobs]
    # The first failure only: those that closed the host, and tried it, used none.
    assert sum(len(job.errors) for job in ended) == 1
    assert len(receiver.received) == 8


async def test_jobs_that_begin_while_the_host_is_closed_send_nothing(app: PgQueue, dsn: str) -> None:
    go = asyncio.Event()

    async def slowly(received: Received, say: Say) -> None:
        await go.wait()
        await say(answer(500))

    many = Limit(concurrency=10, key="{host}")
    push = local(app, limit=many, breaker_failures=1, breaker_pause=Backoff.fixed(3600))
    async with Receiver(slowly) as receiver:
        jobs = await app.aenqueue_many([push.job(receiver.url, {"n": n}) for n in range(10)])
        async with app.worker({"push": 20}):

            async def all_sent() -> bool:
                return len(receiver.received) == 10

            await until(all_sent)
            late = await push.aenqueue(receiver.url, {})
            await until(reached(late, "blocked"))
            go.set()
            for job in jobs:
                await until(reached(job, "scheduled"))
            # As if its gate had been opened by hand.
            await asyncio.to_thread(execute, dsn, "update pgqueue.gates set closed_until = null")
            await app.jobs.areschedule(late.id)
            await until(reached(late, "scheduled"))
    assert len(receiver.received) == 10
    assert {(await job.arefresh()).attempt for job in [*jobs, late]} == {0}


# Where requests may go


async def test_a_name_that_leads_inside_is_refused_when_it_runs(app: PgQueue) -> None:
    push = Push(app, allow_http=True)
    async with Receiver() as receiver:
        with pytest.raises(ArgumentError, match="no public address"):
            push.job(receiver.url)
        job = await push.aenqueue(f"http://localhost:{receiver.port}/", {})
        assert (await adrain(app)).failed == 1
    assert receiver.connections == 0
    with pytest.raises(JobFailed, match=r"localhost leads to .*, which is no public address"):
        await job.aresult()


async def test_proxies_of_the_environment_are_not_used(app: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await local(app).aenqueue(receiver.url, {})
        assert (await adrain(app)).completed == 1
    assert (proxy.connections, receiver.connections) == (0, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed_unless_asked_for(app: PgQueue, status: int) -> None:
    push = local(app)
    async with Receiver(answer(status, location="/other")) as receiver:
        job = await push.aenqueue(receiver.url, {})
        assert (await adrain(app)).failed == 1
        with pytest.raises(JobFailed, match="the redirect to /other was not followed"):
            await job.aresult()
    assert len(receiver.received) == 1


async def test_a_redirect_is_followed_with_the_same_request(app: PgQueue) -> None:
    push = local(app, secret=SECRET, follow_redirects=2)
    async with Receiver(answer(308, location="/second"), answer(307, location="third?x=1"), answer(200)) as receiver:
        job = await push.aenqueue(receiver.url, {"order": 7}, headers={"Authorization": "Bearer x"})
        await adrain(app)
        assert (await job.aresult())["status"] == 200
    assert [sent.target for sent in receiver.received] == ["/hook", "/second", "/third?x=1"]
    assert {(sent.method, sent.body) for sent in receiver.received} == {("POST", b'{"order":7}')}
    assert {sent.headers["authorization"] for sent in receiver.received} == {"Bearer x"}
    assert len({sent.headers["webhook-signature"] for sent in receiver.received}) == 1


async def test_a_redirect_to_another_host_takes_no_credentials_along(app: PgQueue) -> None:
    push = local(app, secret=SECRET, follow_redirects=1)
    headers = {"Authorization": "Bearer x", "X-Api-Key": "x", "Content-Type": "text/csv"}
    async with Receiver() as other, Receiver(answer(307, location=other.url)) as receiver:
        await push.aenqueue(receiver.url, "a;b", headers=headers)
        assert (await adrain(app)).completed == 1
    [sent] = other.received
    assert (sent.body, sent.headers["content-type"]) == (b"a;b", "text/csv")
    assert sent.headers["webhook-signature"] == signature(SECRET, sent)
    assert not {"authorization", "x-api-key"} & sent.headers.keys()


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://169.254.169.254/latest/meta-data", "redirects to where nothing is sent: 169.254.169.254 is no public"),
        ("http://[::ffff:10.0.0.1]/", "redirects to where nothing is sent"),
        ("file:///etc/passwd", "redirects to where nothing is sent"),
        ("http://user:p@example.com/", "has a user name in it"),
        ("http://[", "redirects to where nothing is sent"),
        ("/again", "more than 1 redirects"),
    ],
)
async def test_each_step_of_a_redirect_is_checked(app: PgQueue, location: str, told: str) -> None:
    push = local(app, follow_redirects=1, allow_private=["127.0.0.0/8"])
    async with Receiver(answer(307, location=location)) as receiver:
        job = await push.aenqueue(receiver.url, {})
        assert (await adrain(app)).failed == 1
    assert told in (await job.arefresh()).errors[-1]["message"]


async def test_a_redirect_that_would_lose_the_body_is_not_followed(app: PgQueue) -> None:
    push = local(app, follow_redirects=5)
    async with Receiver(answer(302, location="/other"), answer(302, location="/other"), answer(200)) as receiver:
        await push.aenqueue(receiver.url, {})
        assert (await adrain(app)).failed == 1
        await push.aenqueue(receiver.url, method="GET")
        assert (await adrain(app)).completed == 1
    assert [(sent.method, sent.target) for sent in receiver.received] == [
        ("POST", "/hook"),
        ("GET", "/hook"),
        ("GET", "/other"),
    ]


# Connections


def server_tls() -> tuple[ssl.SSLContext, list[str | None]]:
    """A server's side, and the names that it was asked for."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    context.sni_callback = lambda _, name, __: names.append(name)
    return context, names


async def test_tls_and_the_host_are_those_of_the_name_though_the_address_was_chosen(app: PgQueue) -> None:
    context, names = server_tls()
    push = local(app, allow_http=False, tls=ssl.create_default_context(cafile=str(PEM)))
    async with Receiver(tls=context) as receiver:
        await push.aenqueue(f"https://localhost:{receiver.port}/hook", {"order": 7})
        assert (await adrain(app)).completed == 1
        wrong = await push.aenqueue(f"https://127.0.0.1:{receiver.port}/hook", {})
        assert (await adrain(app)).retried == 1
    assert names[0] == "localhost"
    assert [sent.headers["host"] for sent in receiver.received] == [f"localhost:{receiver.port}"]
    assert "IP address mismatch" in (await wrong.arefresh()).errors[-1]["message"]


async def test_a_certificate_that_nobody_vouches_for_is_refused(app: PgQueue) -> None:
    context, _ = server_tls()
    push = local(app)
    async with Receiver(tls=context) as receiver:
        job = await push.aenqueue(f"https://localhost:{receiver.port}/hook", {})
        assert (await adrain(app)).retried == 1
    assert receiver.received == []
    assert "CERTIFICATE_VERIFY_FAILED" in (await job.arefresh()).errors[-1]["message"]


async def test_a_worker_keeps_a_connection_and_closes_it_at_its_end(app: PgQueue) -> None:
    push = local(app, limit=Limit(concurrency=1, key="{host}"))
    async with Receiver() as receiver:
        await app.aenqueue_many([push.job(receiver.url, {"n": n}) for n in range(5)])
        await adrain(app)
        assert (len(receiver.received), receiver.connections) == (5, 1)

        async def closed() -> bool:
            return receiver.open == 0

        await until(closed)
        await push.aenqueue(receiver.url, {})
        await adrain(app)
        assert receiver.connections == 2


async def test_the_end_of_one_worker_breaks_no_delivery_of_another(app: PgQueue) -> None:
    go = asyncio.Event()

    async def slowly(received: Received, say: Say) -> None:
        await go.wait()
        await say(answer(200))

    push = local(app)
    async with Receiver(slowly) as receiver, app.worker(["push"]):
        job = await push.aenqueue(receiver.url, {})

        async def sent() -> bool:
            return len(receiver.received) == 1

        await until(sent)
        async with app.worker(["other:1"]):
            pass
        go.set()
        assert (await job.aresult(DEADLINE))["status"] == 200

        async def closed() -> bool:
            return receiver.open == 0

        await until(closed)
    assert (await job.arefresh()).attempt == 1


async def test_a_worker_that_must_stop_gives_the_delivery_back(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    push = local(app)
    async with Receiver(never, answer(200)) as receiver:
        job = await push.aenqueue(receiver.url, {"order": 7})
        async with app.worker(["push"]) as worker:

            async def sent() -> bool:
                return len(receiver.received) == 1

            await until(sent)
            worker.give_back()
            await worker.wait()
        given_back = await job.arefresh()
        assert (given_back.state, given_back.attempt) == ("available", 0)

        async def closed() -> bool:
            return receiver.open == 0

        await until(closed)
        await adrain(app)
    assert (await job.aresult())["status"] == 200
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
