"""Where settings come from, and the DSN in the forms that psycopg and SQLAlchemy read.

A setting is looked for in the call (or flag), then `PGQUEUE_*`, then `pgqueue.toml` or `[tool.pgqueue]` in
`pyproject.toml` of the working directory; the DSN also in `DATABASE_URL` and libpq's `PG*` variables.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError, conninfo
from sqlalchemy import URL

from pgqueue.errors import ConfigurationError

SETTINGS = ("dsn", "schema", "app")
DSN_PREFIXES = ("postgresql+psycopg://", "postgresql+psycopg_async://", "postgres://", "postgresql://")


class NoDatabase(ConfigurationError):
    """A DSN is set nowhere."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was found."""

    value: Any
    source: str


def find(
    name: str, given: Any = None, *, environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Setting:
    """The setting `name` (as `dsn`, `schema`, `app`); its value is None when it is set nowhere.

    find("schema")        # Setting(value=None, source="not set")
    """
    if given is not None:
        return Setting(given, "given")
    variable = f"PGQUEUE_{name.upper()}"
    if environ.get(variable):
        return Setting(environ[variable], variable)
    for file, values in _files(folder or Path.cwd()):
        if name in values:
            return Setting(values[name], file)
    if name == "dsn":
        if environ.get("DATABASE_URL"):
            return Setting(environ["DATABASE_URL"], "DATABASE_URL")
        if any(environ.get(f"PG{part}") for part in ("HOST", "HOSTADDR", "DATABASE", "USER", "SERVICE", "PORT")):
            return Setting("", "PG* variables")
    return Setting(None, "not set")


def _files(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for file, path in (("pgqueue.toml", ()), ("pyproject.toml", ("tool", "pgqueue"))):
        try:
            values: Any = tomllib.loads((folder / file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{folder / file} cannot be read: {error}") from error
        for part in path:
            values = values.get(part, {})
            if not isinstance(values, dict):
                raise ConfigurationError(
                    f"{folder / file} cannot be read: {part!r} is not a table, write [{'.'.join(path)}]"
                )
        for key, value in values.items():
            if key not in SETTINGS:
                near = get_close_matches(key, SETTINGS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"write {', '.join(SETTINGS)}"
                raise ConfigurationError(f"{folder / file} has a setting {key!r}, which nothing reads: {hint}")
            if not isinstance(value, str):
                raise ConfigurationError(f"{folder / file}: {key} = {value!r} must be text")
        found.append((file, values))
    return found


def required_dsn(given: str | None = None) -> str:
    """The DSN as libpq reads it. Raises NoDatabase, and ConfigurationError when it cannot be parsed."""
    found = find("dsn", given)
    if found.value is None:
        raise NoDatabase(
            "no database is set: give --dsn or PgQueue(dsn), or set PGQUEUE_DSN or DATABASE_URL "
            '(for example "postgresql://user@localhost/shop")'
        )
    return libpq_dsn(found.value)


def libpq_dsn(dsn: str) -> str:
    """`dsn` in a form that libpq reads: SQLAlchemy's prefixes and old spellings are accepted."""
    for prefix in DSN_PREFIXES:
        if dsn.startswith(prefix):
            dsn = "postgresql://" + dsn.removeprefix(prefix)
            break
    try:
        conninfo.conninfo_to_dict(dsn)
    except ProgrammingError as error:
        raise ConfigurationError(
            f"the DSN {_refusal(dsn, str(error).strip())}; "
            "write it as postgresql://user:password@host:5432/database "
            "(special characters percent-encoded) or as host=… dbname=…"
        ) from None
    if _is_misread(dsn):
        raise ConfigurationError(
            f"the DSN {masked(dsn)} cannot be read: its password has characters that end it; "
            "percent-encode them: write @ as %40, / as %2F, # as %23, : as %3A"
        )
    return dsn


def _is_misread(dsn: str) -> bool:
    """Whether libpq takes a part of the password for the host, or for the port and the database."""
    authority, _, path = dsn.partition("://")[2].partition("?")[0].partition("/")
    if authority.count("@") > 1:
        return True
    return "@" in path and re.fullmatch(r"[^:@\[]*:(?!\d*$)[^@]*", authority) is not None


def _refusal(dsn: str, reason: str) -> str:
    """Why `dsn` cannot be read, with no more of it than can be no password."""
    if re.fullmatch(r"[\w.-]+", dsn):
        return f"{dsn!r} cannot be read: it is neither a URL nor made of name=value"
    if scheme := re.match(r"([A-Za-z][\w+.-]*)://", dsn):
        base, _, driver = scheme[1].partition("+")
        if driver and base in ("postgres", "postgresql"):
            return f"{scheme[0]}… cannot be read: pgqueue does not use the driver {driver}"
        if base != "postgresql":
            return f"{scheme[0]}… cannot be read: {scheme[0]} is not PostgreSQL"
    # libpq quotes what it stumbled over, which may be the password.
    if reason.startswith('missing "=" after'):
        return 'cannot be read: a part of it has no "=", or a value with a space has no quotes'
    return "cannot be read: " + re.sub('".*"', '"…"', reason, flags=re.DOTALL)


def sqlalchemy_url(dsn: str, *, driver: str = "postgresql+psycopg") -> URL:
    """`dsn` as a SQLAlchemy URL: every libpq parameter travels in the query."""
    parts = {k: str(v) for k, v in conninfo.conninfo_to_dict(libpq_dsn(dsn)).items() if v is not None}
    return URL.create(
        driver,
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        database=parts.pop("dbname", None),
        query=parts,
    )


def place(dsn: str, schema: str) -> str:
    """Which database and schema, for people: `shop`, `shop · jobs`."""
    parts = conninfo.conninfo_to_dict(dsn)
    name = str(parts.get("dbname") or parts.get("user") or "postgres")
    return name if schema == "pgqueue" else f"{name} · {schema}"


def masked(dsn: str) -> str:
    """`dsn` without its password, for people."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:
        return "(not readable)"
    if not parts:
        return "(all from libpq's variables)"
    if _is_misread(dsn):
        scheme, _, rest = dsn.partition("://")
        return f"{scheme}://{rest.partition(':')[0]}:***@{rest.partition('?')[0].rpartition('@')[2]}"
    if parts.get("password"):
        parts["password"] = "***"  # noqa: S105
    if not dsn.startswith(("postgresql://", "postgres://")):
        return conninfo.make_conninfo("", **parts)
    where = parts.get("host") or ""
    user = f"{parts['user']}{':***' if parts.get('password') else ''}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{user}{where}{port}/{parts.get('dbname') or ''}"
