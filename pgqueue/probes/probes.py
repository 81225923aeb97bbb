"""`/healthz`, `/startedz` and `/readyz`: yes or no, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import psycopg

from pgqueue.database import Database, Look
from pgqueue.database.looking import Session
from pgqueue.errors import PgQueueError
from pgqueue.health import Health
from pgqueue.probes.server import Answer, Routes
from pgqueue.queries import inspecting
from pgqueue.revision import check_revision

EVERY, WITHIN = 1.0, 3.0


class Probes:
    """The probes of a process, or of several that have one port: `health` says how they are, whatever they do.

    - /healthz: 200 unless it should be started anew, since its event loop has stood still for two minutes
    - /startedz: 200 once it has registered and begun to work
    - /readyz: 200 while it works: the database answers, the tables are of this version, claims succeed

    Each other answer is 503. The body is JSON: `{"ok": false, "why": ["…"]}`.
    """

    def __init__(self, database: Database, schema: str, health: Callable[[], Health]) -> None:
        self._schema = schema
        self._health = health
        self._look = Look(database, "pgqueue probe", self._check, every=EVERY, within=WITHIN)

    @property
    def routes(self) -> Routes:
        return {
            "/healthz": lambda: _answer(self._health().hung),
            "/startedz": lambda: _answer(self._health().starting),
            "/readyz": lambda: _answer(self._unready()),
        }

    def _unready(self) -> list[str]:
        health = self._health()
        return [*health.hung, *health.starting, *health.unready, *self._database()]

    def _database(self) -> list[str]:
        try:
            self._look.result()
        except (psycopg.Error, PgQueueError, TimeoutError, OSError) as error:
            return [str(error).strip() or type(error).__name__]
        return []

    def _check(self, session: Session) -> None:
        check_revision(session.fetch(inspecting.revision(self._schema)), self._schema)


def _answer(why: Iterable[str]) -> Answer:
    reasons = list(why)
    body = json.dumps({"ok": not reasons, "why": reasons}, ensure_ascii=False)
    return Answer(503 if reasons else 200, "application/json", body.encode() + b"\n")
