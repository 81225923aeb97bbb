"""One request: who asks, what for, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from psycopg import errors as pg_errors
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pgqueue.database import afetch, arun
from pgqueue.errors import ArgumentError, PgQueueError
from pgqueue.queries import auditing
from pgqueue.queries.statement import Operation, Statement
from pgqueue.web.access import Visitor
from pgqueue.web.reading import FIGURES_SECONDS
from pgqueue.web.session import Session

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.web.dashboard import Dashboard

Row = TypeVar("Row")
Result = TypeVar("Result")

LARGEST_ID = 2**63 - 1


# Somebody holds what is to be changed, or for too long.
CONTENDED = (
    pg_errors.QueryCanceled,
    pg_errors.LockNotAvailable,
    pg_errors.SerializationFailure,
    pg_errors.DeadlockDetected,
)


class Interrupted(PgQueueError):
    """Of what takes many transactions some were not to be had."""


class NotFound(Exception):
    """There is no such thing: the text says which."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What a page or an action is given."""

    request: Request
    dashboard: Dashboard
    session: Session
    visitor: Visitor
    form: FormData

    @property
    def app(self) -> PgQueue:
        return self.dashboard.app

    @property
    def schema(self) -> str:
        return self.dashboard.app.schema

    @property
    def is_live(self) -> bool:
        """Whether an open page asks for what is new, not a person for a page."""
        return self.request.headers.get("hx-request") == "true"

    # What was asked for

    def query(self, name: str, among: Sequence[str] | None = None) -> str | None:
        """A parameter of the address; None where it is empty, or none of `among`."""
        value = self.request.query_params.get(name, "").strip()
        return None if not value or (among is not None and value not in among) else value

    def query_id(self, name: str) -> int | None:
        """A parameter that is an id; None where it is none."""
        return _id(self.query(name) or "")

    def path_id(self, name: str = "id") -> int:
        """The id in the path. Raises NotFound for what can be none."""
        given = str(self.request.path_params[name])
        if (found := _id(given)) is None:
            raise NotFound(f"{given} is no id")
        return found

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def field(self, name: str) -> str | None:
        """A field of the form; None where it is empty."""
        value = self.form.get(name)
        return value.strip() or None if isinstance(value, str) else None

    def required(self, name: str) -> str:
        """As `field`. Raises ArgumentError where it is empty."""
        if (value := self.field(name)) is None:
            raise ArgumentError(f"{name} is empty: fill it in")
        return value

    def ids(self, name: str = "id") -> list[int]:
        """The ids that were ticked. Raises ArgumentError where there is none."""
        found = [_id(value) for value in self.form.getlist(name) if isinstance(value, str)]
        ids = [one for one in found if one is not None]
        if not ids or len(ids) != len(found):
            raise ArgumentError("no job is chosen: tick one at least")
        return ids

    # Reading

    async def fetch(self, statement: Statement[Row]) -> list[Row]:
        """The rows of one statement; open pages that ask for the same share them."""
        return await self.share(_key(statement), lambda: self.dashboard.reader.fetch(statement))

    async def share(self, key: object, read: Callable[[], Awaitable[Result]]) -> Result:
        """What `read` finds; for all open pages that ask for `key` at a tick, once."""
        if not self.is_live:
            return await read()
        return await self.dashboard.reader.shared(key, read)

    async def fetch_figures(self, statement: Statement[Row]) -> list[Row]:
        """As `fetch`, of what may be some seconds old: for people too it is read once in a while."""
        reader = self.dashboard.reader
        return await reader.shared(_key(statement), lambda: reader.fetch(statement), FIGURES_SECONDS)

    async def run(self, operation: Operation[Result]) -> Result:
        """What an operation finds, in one read-only transaction."""
        return await self.dashboard.reader.run(operation)

    async def read(self, key: object, operation: Callable[[], Operation[Result]]) -> Result:
        """As `run`; open pages that ask for the same `key` share what it finds."""
        return await self.share(key, lambda: self.run(operation()))

    # Acting

    async def perform(self, action: str, target: str, operation: Operation[Any] | Statement[Any], **detail: Any) -> Any:
        """Do something and note it in the audit log, in one transaction; what the operation returns."""
        async with self.acting(action, target, **detail) as conn:
            if isinstance(operation, Statement):
                return await afetch(conn, operation)
            return await arun(conn, operation)

    async def perform_on_jobs(self, action: str, target: str, operation: Operation[Any] | Statement[Any]) -> Any:
        """As `perform`, of what returns the jobs that it was done to: where there are none, that is noted."""
        async with self.dashboard.reader.acting() as conn:
            [noted] = await afetch(conn, self._record(action, target, {}, "done"))
            done = await (afetch(conn, operation) if isinstance(operation, Statement) else arun(conn, operation))
            if not done:
                await afetch(conn, auditing.close(self.schema, noted, "nothing"))
            return done

    @asynccontextmanager
    async def acting(
        self, action: str, target: str, told: Mapping[str, Any] | None = None, **detail: Any
    ) -> AsyncIterator[Any]:
        """A connection in a transaction that notes the action at its end: for the verbs of the app, as their `using`.

        `told` is noted too, as it is then: what only the doing shows.
        """
        async with self.dashboard.reader.acting() as conn:
            yield conn
            await afetch(conn, self._record(action, target, {**detail, **(told or {})}, "done"))

    async def perform_each(
        self, action: str, target: str, steps: Generator[Operation[Any], Any, Result], **detail: Any
    ) -> Result:
        """As `perform`, for what takes many transactions: noted before the first, and again after the last."""
        reader = self.dashboard.reader
        async with reader.acting() as conn:
            [noted] = await afetch(conn, self._record(action, target, detail, "begun"))
        sent, outcome, begun = None, "failed", False
        try:
            while True:
                try:
                    step = steps.send(sent)
                except StopIteration as end:
                    outcome = "done"
                    return end.value  # type: ignore[no-any-return]
                try:
                    async with reader.acting() as conn:
                        sent = await arun(conn, step)
                except CONTENDED as error:
                    if not begun:
                        raise
                    raise Interrupted(
                        f"{str(error).splitlines()[0]}: what was done before stays; do it again for the rest"
                    ) from error
                begun = True
        finally:
            async with reader.acting() as conn:
                await afetch(conn, auditing.close(self.schema, noted, outcome))

    def _record(self, action: str, target: str, detail: Mapping[str, Any], outcome: str) -> Statement[int]:
        return auditing.record(
            self.schema,
            actor=self.visitor.name,
            role=self.visitor.role,
            action=action,
            target=target,
            detail={name: value for name, value in detail.items() if value is not None},
            outcome=outcome,
        )

    # Answering

    def url(self, name: str, /, *, query: Mapping[str, Any] | None = None, **path: Any) -> str:
        """The address of a page or an action, with the prefix under which the dashboard is mounted."""
        found = self.dashboard.url(self.request, name, **path)
        given = {key: value for key, value in (query or {}).items() if value not in (None, "")}
        return f"{found}?{urlencode(given)}" if given else found

    def here(self, **query: Any) -> str:
        """The address of this page, with some parameters changed; None takes one out."""
        given = {**self.request.query_params, **query}
        kept = {key: value for key, value in given.items() if value not in (None, "")}
        path = self.dashboard.prefix(self.request) + self.dashboard.path(self.request)
        return f"{path}?{urlencode(kept)}" if kept else path

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page; of it only what is live, for an open page that asks."""
        page = self.dashboard.render(template, self, values)
        response = HTMLResponse(page, status)
        if self.dashboard.sessions.read(self.request) is None:
            self.dashboard.sessions.write(response, self.request, self.session)
        if not self.is_live and self.dashboard.sessions.told(self.request):
            self.dashboard.sessions.forget_message(response, self.request)
        return response

    def back(self, text: str, to: str, *, kind: str = "done") -> Response:
        """Go to a page, which shows `text`."""
        response = RedirectResponse(to, 303)
        self.dashboard.sessions.tell(response, self.request, kind, text)
        return response


def _key(statement: Statement[Any]) -> object:
    """Two statements with it ask for the same."""
    return statement.text, repr(sorted(statement.params.items()))


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    number = int(text)
    return number if number <= LARGEST_ID else None
