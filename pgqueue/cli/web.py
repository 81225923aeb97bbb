"""`pgqueue web`: the dashboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgqueue.cli.logs import Format, logging_options
from pgqueue.cli.options import app_option, database_options
from pgqueue.cli.output import note
from pgqueue.cli.target import Target
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

EXTRA = "the dashboard needs starlette, jinja2 and uvicorn: install pgqueue[web]"


@click.command("web")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on.")
@click.option("--users", type=click.Path(path_type=Path), metavar="FILE", help="Who may enter: lines name:role:hash.")
@click.option("--new-user", metavar="NAME:ROLE", help="Ask for a password, print a line for that file, and end.")
@click.option("--header", metavar="NAME", help="Header in which a proxy names whom it has let in, with --proxy.")
@click.option(
    "--header-role",
    type=click.Choice(["viewer", "operator", "admin"]),
    default="viewer",
    show_default=True,
    help="Role of those whom the header names.",
)
@click.option("--proxy", multiple=True, metavar="ADDRESS", help="Address or network of a proxy; repeatable.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Name by which it is reached; repeatable.")
@click.option(
    "--secret-file", type=click.Path(path_type=Path), metavar="FILE", help="Signs the sessions; random without."
)
@click.option("--redact", multiple=True, metavar="NAME", help="Also hide arguments of this name; repeatable.")
@click.option("--trace-url", metavar="URL", help="Where traces are looked at: https://…/{trace_id}.")
@logging_options
@database_options
@app_option
@click.pass_obj
def command(
    target: Target,
    host: str,
    port: int,
    users: Path | None,
    new_user: str | None,
    header: str | None,
    header_role: str,
    proxy: tuple[str, ...],
    allow_host: tuple[str, ...],
    secret_file: Path | None,
    redact: tuple[str, ...],
    trace_url: str | None,
    log_format: Format,
    log_level: str,
    verbose: bool,
) -> None:
    """Serve the dashboard.

    On 127.0.0.1 it asks nobody who they are. Elsewhere, and behind a proxy, it needs --users, or --header and --proxy.

    \b
      pgqueue web
      pgqueue web --new-user ann:admin >> users
      pgqueue web --host 0.0.0.0 --users users --allow-host jobs.example.com
    """
    try:
        from pgqueue.web.access import ProxyHeader, read_users
        from pgqueue.web.dashboard import Dashboard
        from pgqueue.web.serving import listening, serve
    except ImportError as error:
        raise ConfigurationError(f"{EXTRA} ({error})") from error
    from pgqueue.cli import logs

    if new_user is not None:
        print(user_line(new_user))
        return
    if header is not None and not proxy:
        raise click.UsageError("--header would be believed of anybody: name the proxy that sends it with --proxy")
    app = target.optional_app() if target.has_app() else None
    app = app or target.unconnected_app()
    logs.set_up(log_format, log_level, verbose=verbose)
    dashboard = Dashboard(
        app,
        users=read_users(users) if users else (),
        header=ProxyHeader(header, proxy, role=header_role) if header else None,  # type: ignore[arg-type]
        hosts=(*allow_host, *([host] if host not in ("0.0.0.0", "::") else [])),  # noqa: S104
        secret=secret_of(secret_file),
        redact=redact,
        trace_url=trace_url,
    )
    with listening(dashboard, host, port) as listener:
        note(greeting(app, host, listener.getsockname()[1], asks=dashboard.is_closed))
        serve(dashboard, listener, proxies=proxy)


def user_line(given: str) -> str:
    """A line of the users' file, after asking for the password. Raises ConfigurationError."""
    from pgqueue.web.access import User, hashed

    name, _, role = given.partition(":")
    # Before the password is asked for.
    User(name, role or "viewer", hashed(name))  # type: ignore[arg-type]
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < 8:
        raise ConfigurationError(f"the password has {len(password)} characters: give at least 8")
    user = User(name, role or "viewer", hashed(password))  # type: ignore[arg-type]
    return f"{user.name}:{user.role}:{user.password}"


def secret_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the secret of {path} cannot be read: {error}") from error


def greeting(app: PgQueue, host: str, port: int, *, asks: bool) -> str:
    from pgqueue import config

    place = f"[{host}]" if ":" in host else host
    who = "asks for a name" if asks else "open to this machine; behind a proxy give --users"
    return f"The dashboard of {config.masked(app.database.dsn)} is at http://{place}:{port} ({who})."
