"""A statement described, an operation of several, and the `.sql` files that hold the text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Generic, TypeVar

from psycopg import sql

Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Statement(Generic[Row]):
    """Text with `%(name)s` placeholders, its parameters, and what makes a row of a tuple.

    `alone`: PostgreSQL refuses it in a transaction block. `binary`: its rows come in PostgreSQL's binary format, of which
    numbers are read in half the time.
    """

    text: str
    params: Mapping[str, Any] = field(default_factory=dict)
    row: Callable[[tuple[Any, ...]], Row] | None = None
    alone: bool = False
    binary: bool = False

    def rows(self, tuples: list[tuple[Any, ...]]) -> list[Any]:
        return tuples if self.row is None else [self.row(values) for values in tuples]


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY … FROM STDIN and the bytes that it reads."""

    text: str
    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Together:
    """Statements that do not need each other's rows: one round trip, where the connection can. Sent the rows of each."""

    statements: tuple[Statement[Any], ...]


Operation = Generator[Statement[Any] | Copy | Together, Any, Result]
"""Several statements in turn: it yields each and is sent its rows; what it returns is the result."""


def array(values: Iterable[float]) -> str:
    """Numbers as an array literal, which takes the type that the statement declares.

    The driver would send the smallest type that fits, and the server would cast the whole array for each row.
    """
    return "{" + ",".join(map(str, values)) + "}"


def texts(values: Iterable[str | None]) -> str:
    """Texts as an array literal: the driver's own way to one costs some ten microseconds an element."""
    return "{" + ",".join("NULL" if value is None else _quoted(value) for value in values) + "}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@cache
def text(name: str, schema: str, **parts: str) -> str:
    """The statement of `sql/<name>.sql` for the tables of `schema`; `parts` are SQL for its other braces."""
    return inline(source(name), schema, **parts)


def source(name: str) -> str:
    """What `sql/<name>.sql` says: a part of other statements."""
    return (files("pgqueue") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


@cache
def inline(statement: str, schema: str, **parts: str) -> str:
    """`statement` with `{schema}` replaced by the quoted name, and `{part}` by SQL."""
    filled = {name: sql.SQL(inline(part, schema)) for name, part in parts.items()}
    return sql.SQL(statement).format(schema=sql.Identifier(schema), **filled).as_string()
