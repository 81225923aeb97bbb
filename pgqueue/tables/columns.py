"""What the tables are built of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

TIME = sa.DateTime(timezone=True)
TEXTS = ARRAY(TEXT)
NOW = "clock_timestamp()"

VACUUM_OFTEN = {"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_cost_delay": 0}


def column(name: str, kind: Any, comment: str, default: str | None = None, *, null: bool = False) -> sa.Column[Any]:
    # Without autoincrement=False an integer primary key would become a bigserial.
    return sa.Column(
        name, kind, comment=comment, nullable=null, autoincrement=False, server_default=default and sa.text(default)
    )


def nullable(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return column(name, kind, comment, null=True)
