"""Serving the dashboard: with uvicorn for `pgqueue web`, and as WSGI below Flask or Django."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from pgqueue.errors import ConfigurationError
from pgqueue.web.access import Network, is_among, is_loopback, networks
from pgqueue.web.guesses import ADDRESS, forwarded

if TYPE_CHECKING:
    from pgqueue.web.dashboard import Dashboard

# Open pages hold a stream each: they are closed after so long.
STOP_SECONDS = 3
# Behind a proxy, as many connections as pages: past this a browser is told to come later.
CONNECTIONS = 500


def listening(dashboard: Dashboard, host: str, port: int) -> socket.socket:
    """The socket to serve on. Raises ConfigurationError where it would be open to others, or cannot be opened."""
    if not is_loopback(host) and not dashboard.is_closed:
        raise ConfigurationError(
            f"--host {host} can be reached by others, and nobody is asked who they are: give --users FILE "
            "(lines of `pgqueue web --new-user NAME:ROLE`) or --header NAME with --proxy ADDRESS, or stay on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}: choose another --port, or free it"
        ) from error


def serve(dashboard: Dashboard, listener: socket.socket, *, proxies: Iterable[str] = ()) -> None:
    """Serve on a socket until a signal. `proxies` are the addresses or networks of those that end TLS."""
    import uvicorn

    config = uvicorn.Config(
        Behind(dashboard, networks(proxies, "--proxy")),
        log_config=None,
        access_log=False,
        server_header=False,
        # It would put the client's address in the place of the proxy's, by which that is known.
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=CONNECTIONS,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listener])


class Behind:
    """Believes a proxy that a browser came by HTTPS, which its cookies are for alone then, and from which address.

    The address is that by which wrong passwords are counted; the proxy itself stays the client.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[Network]) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            if is_among(connection, self._proxies):
                said = connection.headers.get("x-forwarded-proto", "")
                if said in ("http", "https"):
                    scope["scheme"] = said
                scope[ADDRESS] = forwarded(connection, self._proxies)
        await self._app(scope, receive, send)


def wsgi(dashboard: Dashboard) -> Callable[..., Any]:
    """The dashboard as a WSGI application, to mount below Flask, Django or any other.

    An open page holds a thread of the server for its stream.

        site.wsgi_app = DispatcherMiddleware(site.wsgi_app, {"/jobs": wsgi(Dashboard(app))})
    """
    from a2wsgi import ASGIMiddleware

    # By process: it has a thread, and servers that load the app before they fork leave that behind.
    served: dict[int, Any] = {}
    making = threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        # Not every server says it, and without it the address is not passed on.
        environ.setdefault("REMOTE_PORT", "0")
        with making:
            if (mine := served.get(os.getpid())) is None:
                mine = served[os.getpid()] = ASGIMiddleware(dashboard)  # type: ignore[arg-type]
        return mine(environ, start_response)  # type: ignore[arg-type]

    return application
