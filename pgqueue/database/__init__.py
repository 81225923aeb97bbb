"""Runs statements on whatever connection it is given, sync or async, and keeps the app's own pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue.database.database import PLANNER, Database
from pgqueue.database.lending import alent, lent
from pgqueue.database.listening import alistening, listening
from pgqueue.database.looking import Look
from pgqueue.database.running import NoPartition, abegan, afetch, arun, fetch, run
from pgqueue.database.using import is_async

if TYPE_CHECKING:
    from pgqueue.database.using import AsyncUsing, SyncUsing, Using

__all__ = [
    "PLANNER",
    "AsyncUsing",
    "Database",
    "Look",
    "NoPartition",
    "SyncUsing",
    "Using",
    "abegan",
    "afetch",
    "alent",
    "alistening",
    "arun",
    "fetch",
    "is_async",
    "lent",
    "listening",
    "run",
]
