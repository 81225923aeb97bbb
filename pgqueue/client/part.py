"""What each part of the client holds."""

from __future__ import annotations

from dataclasses import dataclass

from pgqueue.database import Database


@dataclass(frozen=True, slots=True)
class Part:
    """The database of the app, and the schema of its tables."""

    database: Database
    schema: str
