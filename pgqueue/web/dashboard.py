"""The dashboard: an ASGI application of pages and actions, behind one door."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from pgqueue import config
from pgqueue.web import live, login
from pgqueue.web.access import Asked, Authenticate, Door, Loopback, Passwords, ProxyHeader, User, Visitor
from pgqueue.web.guard import Guard
from pgqueue.web.guesses import Guesses, keys_of
from pgqueue.web.live import Pulse
from pgqueue.web.pages import ENDPOINTS
from pgqueue.web.reading import Reader
from pgqueue.web.redaction import NAMES, Redaction
from pgqueue.web.rendering import Renderer
from pgqueue.web.routing import route
from pgqueue.web.scraping import scraping
from pgqueue.web.session import Session, Sessions
from pgqueue.web.traces import PLACE, checked_trace_url
from pgqueue.web.visit import Visit

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

# A prefix that a proxy or a framework sets has no end of line and no host.
START = "/"


class Dashboard:
    """The dashboard of an app, as an ASGI application to mount under any prefix.

    It is closed, but to who asks from the machine that it runs on, by the name localhost, where none of `users`,
    `header` and `authenticate` is given. `users` enter with a password; `header` is of a proxy that has asked them;
    `authenticate` is given the request and returns a `Visitor`, or None for nobody (a function, or a coroutine).
    `hosts` are the names by which it is reached, beside localhost; "*" where a proxy checks them. Processes that share
    a `secret` (16 characters at least) share who has entered. `redact` adds to the names of arguments whose values are
    not shown. `trace_url` is where traces are looked at, with {trace_id} in its path, query or fragment. Raises
    ConfigurationError.

        site.mount("/jobs", Dashboard(app, users=[User("ann", "admin", hash)], hosts=["jobs.example.com"]))
    """

    def __init__(
        self,
        app: PgQueue,
        *,
        users: Iterable[User] = (),
        header: ProxyHeader | None = None,
        authenticate: Authenticate | None = None,
        hosts: Iterable[str] = (),
        secret: str | None = None,
        redact: Iterable[str] = (),
        trace_url: str | None = None,
    ) -> None:
        self.app = app
        self.passwords = Passwords(users)
        self.guesses = Guesses()
        self.sessions = Sessions(secret, self.passwords)
        self.reader = Reader(app.database, app.schema)
        # Seconds that pages have taken to be drawn.
        self._drawn = 0.0
        self.pulse = Pulse(lambda: self.reader.spent + self._drawn)
        self.redaction = Redaction((*NAMES, *redact))
        self._renderer = Renderer(self.redaction)
        self._trace_url = checked_trace_url(trace_url)
        doors: list[Door] = []
        if header is not None:
            doors.append(header)
        if authenticate is not None:
            doors.append(Asked(authenticate))
        if not doors and not self.passwords:
            doors.append(Loopback())
        self._doors = tuple(doors)
        self._site = self._made()
        self._guarded: ASGIApp = Guard(self._site, hosts)

    @property
    def is_closed(self) -> bool:
        """Whether somebody must say who they are, wherever they come from."""
        return not any(isinstance(door, Loopback) for door in self._doors)

    @property
    def place(self) -> str:
        """Which database and schema, for people."""
        return config.place(self.app.database.dsn, self.app.schema)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guarded(scope, receive, send)

    async def visitor(self, connection: HTTPConnection, session: Session | None) -> Visitor | None:
        """Who asks; None for nobody."""
        if (entered := self.sessions.visitor(session)) is not None:
            return entered
        for door in self._doors:
            if (found := await door.visitor(connection)) is not None:
                return found
        return None

    async def entering(self, connection: HTTPConnection, name: str, password: str) -> User | None:
        """The user with this name and password, after a while where wrong ones came before. Raises TooMany."""
        guess = await self.guesses.wait(keys_of(connection, name, self.sessions.known(connection, name)))
        user = await self.passwords.entering(name, password)
        if user is not None:
            self.guesses.right(guess)
        return user

    def prefix(self, connection: HTTPConnection) -> str:
        """What stands before every path of the dashboard."""
        return str(connection.scope.get("root_path", "")).rstrip("/")

    def path(self, connection: HTTPConnection) -> str:
        """The path of a request, without the prefix."""
        return str(connection.scope["path"]).removeprefix(self.prefix(connection)) or START

    def url(self, connection: HTTPConnection, name: str, /, **path: Any) -> str:
        # SQL may have stored any text as a name.
        quoted = {key: one if key == "path" else quote(str(one), safe="") for key, one in path.items()}
        return self.prefix(connection) + str(self._site.url_path_for(name, **quoted))

    def login_url(self, connection: HTTPConnection, asked: str) -> str:
        return f"{self.url(connection, 'login')}?{urlencode({'next': asked})}"

    def trace_url(self, trace: str) -> str | None:
        """Where a trace is looked at; None where nobody has said it."""
        return self._trace_url.replace(PLACE, trace) if self._trace_url else None

    def own_address(self, connection: HTTPConnection, asked: str) -> str:
        """`asked` where it is a page of the dashboard; else its first page."""
        home = self.prefix(connection) + START
        # Browsers take a backslash for a slash, and two slashes for a host.
        fits = asked.startswith(home) and not asked.startswith("//") and "\\" not in asked and asked.isprintable()
        return asked if fits else home

    def render(self, template: str, visit: Visit, values: Mapping[str, Any]) -> str:
        began = time.perf_counter()
        try:
            return self._renderer.page(template, visit, values)
        finally:
            self._drawn += time.perf_counter() - began

    def render_outside(self, template: str, request: Request, values: Mapping[str, Any]) -> str:
        """A page for somebody who has not entered."""
        return self._renderer.outside(template, lambda name, **path: self.url(request, name, **path), values)

    async def aclose(self) -> None:
        """Close its connections; they open again when they are needed."""
        await self.reader.close()

    def _made(self) -> Starlette:
        static = StaticFiles(packages=[("pgqueue.web", "static")])
        routes: list[Any] = [
            *(route(self, endpoint) for endpoint in ENDPOINTS),
            *login.routes(self),
            Route("/live", self._live, methods=["GET"], name="live"),
            Route("/metrics", scraping(self), methods=["GET"], name="metrics"),
            Mount("/static", static, name="static"),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> Any:
            yield
            await self.aclose()

        return Starlette(routes=routes, lifespan=lifespan)

    async def _live(self, request: Request) -> Response:
        if await self.visitor(request, self.sessions.read(request)) is None:
            return PlainTextResponse("Log in first.\n", 401)
        return live.stream(self.pulse, request)
