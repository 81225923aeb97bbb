"""The task that delivers requests: how it is declared, and what an answer comes to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

from pgqueue.backoff import Backoff
from pgqueue.context import Context
from pgqueue.errors import (
    ArgumentError,
    ConfigurationError,
    DeliveryFailed,
    FailJob,
    JobNotFound,
    RetryJob,
    seconds,
)
from pgqueue.limit import Limit, limits_of
from pgqueue.push import request as requests
from pgqueue.push.addresses import Allowed
from pgqueue.push.answer import Answer
from pgqueue.push.bound import BoundPush
from pgqueue.push.breaker import HostBreaker
from pgqueue.push.client import Client, Times
from pgqueue.push.network import CheckedNetwork
from pgqueue.push.request import Request, Rules
from pgqueue.push.signing import Secret, Signer, checked_id, id_of

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

PER_HOST = "{host}"
# Fewer than a queue has slots by default: a slow host leaves some to the others.
LIMIT = Limit(concurrency=4, key=PER_HOST)
PAUSE = Backoff.exponential(30, cap=600, jitter=0.2)


class Push(BoundPush):
    """A task that delivers requests, signed after Standard Webhooks, and never to addresses that are not public.

    `secret` begins with `whsec_`; a list of several signs with each, a function is given the URL and returns either, or
    an awaitable of it. Without one nothing is signed. No secret is stored in a job.

    2xx completes the job, with status and the beginning of the answer as its result. 408, 425, 429, 5xx and broken
    connections are retried by the `backoff`; all other answers fail the job. A 429 or 503 with Retry-After, and
    `breaker_failures` in a row (None: any number), close the host: its jobs wait without using attempts, those younger
    than `patience` (since their enqueue; seconds or timedelta). One of the limits has `key="{host}"`: it is what is
    closed. `breaker_pause` says for how long, by the number of times.

    `allow_http` allows requests that are not encrypted, `allow_private` all addresses (True), or networks such as
    ["10.1.0.0/16"]. `follow_redirects` is how many. `timeout` is for a whole delivery, `connect_timeout` for a
    connection, `read_timeout` for each silence of the host: seconds or timedelta. `tls` is for a certificate authority
    of your own. The environment's proxies are not used. Raises ConfigurationError.

        push = Push(app, secret=os.environ["WEBHOOK_SECRET"])
        push.enqueue("https://example.com/hook", {"order": 7})
    """

    def __init__(
        self,
        app: PgQueue,
        *,
        secret: Secret = None,
        name: str = "pgqueue.push",
        queue: str = "push",
        limit: Limit | Sequence[Limit] = LIMIT,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        patience: float | timedelta = timedelta(days=1),
        breaker_failures: int | None = 5,
        breaker_pause: Backoff = PAUSE,
        timeout: float | timedelta = 30.0,
        connect_timeout: float | timedelta = 10.0,
        read_timeout: float | timedelta = 20.0,
        follow_redirects: int = 0,
        allow_http: bool = False,
        allow_private: bool | Sequence[str] = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._app = app
        self._signer = Signer(secret)
        self._limit = _per_host(limit)
        self._patience = _positive("patience", patience, least=0.0)
        self._times = Times(
            _positive("timeout", timeout),
            _positive("connect_timeout", connect_timeout),
            _positive("read_timeout", read_timeout),
        )
        self._redirects = _whole("follow_redirects", follow_redirects, 0)
        self._failures = None if breaker_failures is None else _whole("breaker_failures", breaker_failures, 1)
        self._pause = breaker_pause
        self._tls = tls
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}
        rules = Rules(bool(allow_http), Allowed.of(allow_private))
        # Whoever waits for a host to be tried takes as long as two deliveries.
        bound = 2 * self._times.total + 30
        declare = app.task(
            bind=True,
            name=name,
            queue=queue,
            limit=limit,
            max_attempts=max_attempts,
            backoff=backoff,
            timeout=bound,
        )
        self.task = declare(self._deliver)
        super().__init__(rules, self.task.using())
        app.at_close.append(self.aclose)

    def using(self, connection: Any = None, **options: Any) -> BoundPush:
        """Options of one enqueue, and the connection whose transaction it joins: all as in `Task.using`.

        with Session(engine) as s, s.begin():
            push.using(s, delay=60, key="order-7").enqueue("https://example.com/hook", {"order": 7})
        """
        return BoundPush(self._rules, self.task.using(connection, **options))

    async def aclose(self) -> None:
        """Close the connections of this event loop; a worker does so at its end. They open again when needed."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.retire()

    async def _deliver(
        self,
        ctx: Context,
        url: str,
        body: str | None = None,
        data: bytes | None = None,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        id: str | None = None,
        host: str = "",
    ) -> dict[str, Any]:
        request, id = self._checked(ctx, url, data if body is None else body, method, headers, id, host)
        async with self._client() as client, client.breaker.turn(request.host):
            closed_for = client.breaker.closed_for(request.host)
            if closed_for and await self._may_wait(ctx):
                self._wait(ctx, closed_for, f"{request.host} has failed again and again")
            try:
                # Signed here: whoever waited for their turn begin now.
                signed = await self._signer.headers(id, str(request.url), request.content or b"")
                answer = await client.send(replace(request, headers={**request.headers, **signed}))
            except DeliveryFailed as failure:
                await self._failed(ctx, client, request, failure)
            return await self._answered(ctx, client, request, answer)

    def _checked(
        self,
        ctx: Context,
        url: str,
        body: str | bytes | None,
        method: str,
        headers: dict[str, str] | None,
        id: str | None,
        host: str,
    ) -> tuple[Request, str]:
        """What is to be sent, and the message's id. Raises FailJob: SQL enqueues what it likes, and rules change."""
        try:
            request = requests.checked(self._rules, url, body, method, headers)
            if host and host != request.host:
                raise ArgumentError(f"host={host!r} is not that of the URL, {request.host!r}: leave it out")
            if id is None:
                id = id_of(f"{self._app.schema} {ctx.task} {ctx.job_id}", str(request.url), request.content or b"")
            return request, checked_id(id)
        except ArgumentError as error:
            raise FailJob(str(error)) from None

    async def _answered(self, ctx: Context, client: Client, request: Request, answer: Answer) -> dict[str, Any]:
        said = f"{request.where} was answered {answer}"
        wait = answer.retry_after(datetime.now(UTC))
        if wait is not None:
            if await self._may_wait(ctx):
                self._wait(ctx, wait, said)
            raise RetryJob(delay=wait) from DeliveryFailed(said)
        match answer.verdict:
            case "delivered":
                client.breaker.succeeded(request.host)
                return {"status": answer.status, "body": answer.text}
            case "again" if answer.status >= 500:
                await self._failed(ctx, client, request, DeliveryFailed(said))
            case "again":
                raise DeliveryFailed(said)
        client.breaker.succeeded(request.host)
        location = answer.header("location") if 300 <= answer.status < 400 else None
        followed = f"; the redirect to {requests.shown(location)} was not followed" if location else ""
        raise FailJob(said + followed)

    async def _failed(self, ctx: Context, client: Client, request: Request, failure: DeliveryFailed) -> NoReturn:
        closed_for = client.breaker.failed(request.host)
        if closed_for and await self._may_wait(ctx):
            self._wait(ctx, closed_for, str(failure))
        raise failure

    def _wait(self, ctx: Context, wait: float, why: str) -> NoReturn:
        ctx.log(f"{why}: nothing is sent to this host for {wait:.0f} s", "warning")
        self._limit.hit(retry_after=wait)

    async def _may_wait(self, ctx: Context) -> bool:
        """Whether the job is young enough to run again without using an attempt."""
        if not ctx.job_id:
            # Run without a queue, where nobody runs it again.
            return True
        try:
            job = await self._app.jobs.aget(ctx.job_id)
        except JobNotFound:
            return False
        return job.created_at is not None and (datetime.now(UTC) - job.created_at).total_seconds() < self._patience

    def _client(self) -> Client:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            # An event loop that has ended takes its connections with it.
            self._clients = {other: one for other, one in self._clients.items() if not other.is_closed()}
            if self._tls is None:
                self._tls = httpx.create_ssl_context(trust_env=False)
            client = self._clients[loop] = Client(
                CheckedNetwork(self._rules.allowed),
                self._tls,
                self._rules,
                self._times,
                self._redirects,
                HostBreaker(self._failures, self._pause, loop.time),
            )
        return client


def _per_host(limit: Limit | Sequence[Limit]) -> Limit:
    for one in limits_of(limit, "Push"):
        if one.key == PER_HOST:
            return one
    raise ConfigurationError(
        f"Push(limit={limit!r}) has none for each host, which a 429 closes: "
        f"give Limit(concurrency=4, key={PER_HOST!r}), alone or in a list with others"
    )


def _positive(name: str, value: float | timedelta, least: float | None = None) -> float:
    try:
        found = seconds(value, name)
    except ArgumentError as error:
        raise ConfigurationError(f"Push: {error}") from None
    if least is None and not found:
        raise ConfigurationError(f"Push({name}={value!r}) must be above 0 seconds")
    return found


def _whole(name: str, value: object, least: int) -> int:
    if type(value) is not int or value < least:
        raise ConfigurationError(f"Push({name}={value!r}) must be a whole number, at least {least}")
    return value
