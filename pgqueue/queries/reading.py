"""What SQL put into a row, read without an error: one odd row must not hide the others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pgqueue import arguments
from pgqueue.errors import ArgumentError

NEVER = datetime(9999, 12, 30, tzinfo=UTC)
"""What `moment` makes of infinity."""


def moment(column: str) -> str:
    """SQL of a time that a datetime can hold: infinity, and years that Python has not, become its first or last day."""
    return (
        f"case when {column} is not null then "
        f"least(greatest({column}, '0001-01-02 00:00+00'), '{NEVER:%Y-%m-%d %H:%M}+00') end"
    )


def span(column: str) -> str:
    """SQL of an interval that a timedelta can hold; a longer one becomes one that is longer than any that can be used."""
    return f"case when {column} is not null then least({column}, '10000 days') end"


class Reader:
    """Reads the JSON columns of one row; what it cannot read, and why, is in `unreadable`."""

    __slots__ = ("unreadable",)

    def __init__(self) -> None:
        self.unreadable: dict[str, str] | None = None

    def value(self, column: str, text: str | None) -> Any:
        """Any JSON; None where it cannot be read."""
        if text is None:
            return None
        try:
            return arguments.loads(text)
        except ArgumentError as error:
            return self._unreadable(column, str(error))

    def object(self, column: str, text: str | None) -> dict[str, Any]:
        """A JSON object; empty where it cannot be read."""
        found = self.value(column, text)
        if found is None or type(found) is dict:
            return found or {}
        return self._unreadable(column, f"the stored JSON is no object but {type(found).__name__}") or {}

    def objects(self, column: str, text: str | None) -> tuple[dict[str, Any], ...]:
        """A JSON array of objects; empty where it cannot be read."""
        found = self.value(column, text)
        if found is None or (type(found) is list and all(type(one) is dict for one in found)):
            return tuple(found or ())
        return self._unreadable(column, "the stored JSON is no array of objects") or ()

    def _unreadable(self, column: str, why: str) -> Any:
        self.unreadable = {**(self.unreadable or {}), column: why}
