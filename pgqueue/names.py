"""The names that pgqueue accepts: of queues and tasks (data) and of its schema (an identifier)."""

from __future__ import annotations

import re

from pgqueue.errors import ConfigurationError

_DATA = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,99}")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def data_name(kind: str, name: object) -> str:
    """`name` if it can name a queue, task or schedule. Raises ConfigurationError.

    data_name("queue", "email")    # "email"
    """
    if isinstance(name, str) and _DATA.fullmatch(name):
        return name
    raise ConfigurationError(
        f"{kind} name {name!r} is not valid: use 1 to 100 of the letters a-z and A-Z, digits and . _ - ; "
        "it does not begin with a hyphen"
    )


def schema_name(name: object) -> str:
    """`name` if it can name the schema of the tables. Raises ConfigurationError."""
    if isinstance(name, str) and _IDENTIFIER.fullmatch(name) and not name.startswith("pg_") and name != "public":
        return name
    raise ConfigurationError(
        f"schema name {name!r} is not valid: use 1 to 63 lower-case letters, digits and _ ; "
        "it does not begin with a digit or pg_, and is not public: the tables have a schema of their own"
    )
