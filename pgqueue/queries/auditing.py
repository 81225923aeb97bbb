"""Who did what in the dashboard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgqueue.queries.statement import Statement, inline


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A row of `audit_log`. `detail` has what else was said, such as a filter; `outcome` what came of it."""

    id: int
    at: datetime
    actor: str
    role: str
    action: str
    target: str
    detail: Mapping[str, Any]
    outcome: str


def record(
    schema: str, *, actor: str, role: str, action: str, target: str, detail: Mapping[str, Any], outcome: str
) -> Statement[int]:
    """Note an action, in its transaction; the row's id."""
    return Statement(
        inline(
            "insert into {schema}.audit_log (actor, role, action, target, detail, outcome) values "
            "(%(actor)s, %(role)s, %(action)s, %(target)s, %(detail)s::jsonb, %(outcome)s) returning id",
            schema,
        ),
        {
            "actor": actor,
            "role": role,
            "action": action,
            "target": target,
            "detail": json.dumps(detail, default=str),
            "outcome": outcome,
        },
        lambda row: row[0],
    )


def close(schema: str, audit_id: int, outcome: str) -> Statement[Any]:
    """What came of an action that was noted when it began."""
    return Statement(
        inline("update {schema}.audit_log set outcome = %(outcome)s where id = %(id)s", schema),
        {"id": audit_id, "outcome": outcome},
    )


def entries(
    schema: str,
    limit: int,
    *,
    before: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
) -> Statement[AuditRow]:
    """Newest first; `before` is the id that the page before ended with."""
    given = {"before": before, "actor": actor, "action": action, "target": target}
    tests = {
        "before": "id < %(before)s",
        "actor": "actor = %(actor)s",
        "action": "action = %(action)s",
        "target": "target = %(target)s",
    }
    where = " and ".join(["true", *(tests[name] for name, value in given.items() if value is not None)])
    return Statement(
        inline(
            "select id, at, actor, role, action, target, detail, outcome from {schema}.audit_log "
            f"where {where} order by id desc limit %(limit)s",
            schema,
        ),
        {"limit": limit, **{name: value for name, value in given.items() if value is not None}},
        lambda row: AuditRow(*row),
    )
