"""Serving the dashboard: with uvicorn for `pgqueue web`, and as WSGI below Flask or Django."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError
from pgqueue.web.access import is_loopback

if TYPE_CHECKING:
    from pgqueue.web.dashboard import Dashboard

# Open pages hold a stream each: they are closed after so long.
STOP_SECONDS = 3
# Behind a proxy, as many connections as pages: past this a browser is told to come later.
CONNECTIONS = 500


def serve(dashboard: Dashboard, host: str, port: int, *, proxies: str | None = None) -> None:
    """Serve until a signal. `proxies` are the addresses whose X-Forwarded headers are believed, parted by commas.

    Raises ConfigurationError where it would be open to others.
    """
    import uvicorn

    if not is_loopback(host) and not dashboard.is_closed:
        raise ConfigurationError(
            f"--host {host} can be reached by others, and nobody is asked who they are: give --users FILE "
            "(lines of `pgqueue web --new-user NAME:ROLE`) or --header NAME with --proxy ADDRESS, or stay on 127.0.0.1"
        )
    uvicorn.run(
        dashboard,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=proxies is not None,
        forwarded_allow_ips=proxies or "",
        timeout_graceful_shutdown=STOP_SECONDS,
        limit_concurrency=CONNECTIONS,
        lifespan="on",
    )


def wsgi(dashboard: Dashboard) -> Callable[..., Any]:
    """The dashboard as a WSGI application, to mount below Flask, Django or any other.

    An open page holds a thread of the server for its stream.

        site.wsgi_app = DispatcherMiddleware(site.wsgi_app, {"/jobs": wsgi(Dashboard(app))})
    """
    from a2wsgi import ASGIMiddleware

    served: Any = ASGIMiddleware(dashboard)  # type: ignore[arg-type]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        # Not every server says it, and without it the address is not passed on.
        environ.setdefault("REMOTE_PORT", "0")
        return served(environ, start_response)

    return application
