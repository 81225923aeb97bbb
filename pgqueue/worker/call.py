"""What a worker and its task processes say to each other: messages of JSON, each behind its length."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, get_args

from pgqueue.flow import plan_fields, plan_of
from pgqueue.journal import LogLine, Progress
from pgqueue.outcome import AttemptError, Outcome, Wait

LENGTH = struct.Struct("!Q")
# What a message has that comes before the answer.
ON_THE_WAY = frozenset({"told", "marked", "ask"})
KINDS: dict[str, type[Outcome]] = {kind.__name__: kind for kind in get_args(Outcome)}


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a task, as its process needs it.

    `module` and `qualname` say where the task is found (`__main__` means the worker's own script), `context` holds the
    JSON-able fields of the run's Context, `args` is the JSON text of the arguments object. `schema` and `fence` are for
    what the run stores in transactions of its own.

        Call("shop.tasks", "thumbnail", {"job_id": 7, "attempt": 1}, '{"image_id": 3}')
    """

    module: str
    qualname: str
    context: dict[str, Any]
    args: str
    schema: str = ""
    fence: int = 0

    @property
    def task(self) -> str:
        return f"{self.module}.{self.qualname}"


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """One run of a chunk task, as its process needs it: `jobs` have each the `context` and the `args` of a Call."""

    module: str
    qualname: str
    jobs: list[dict[str, Any]]

    @property
    def task(self) -> str:
        return f"{self.module}.{self.qualname}"


def pack(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return LENGTH.pack(len(body)) + body


def pack_outcome(outcome: Outcome) -> bytes:
    return pack(outcome_fields(outcome))


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Wait):
        fields = {
            "plan": plan_fields(outcome.plan),
            "on_failure": outcome.on_failure,
            "max_attempts": outcome.max_attempts,
        }
        return {"outcome": "Wait", "fields": fields}
    return {"outcome": type(outcome).__name__, "fields": asdict(outcome)}


def told_fields(progress: Progress | None, lines: list[LogLine]) -> dict[str, Any]:
    """Progress and log lines, on the way before the outcome."""
    return {"told": progress, "lines": [(n, at.isoformat(), level, text) for n, at, level, text in lines]}


def read_told(answer: dict[str, Any]) -> tuple[Progress | None, list[LogLine]]:
    lines = [LogLine(n, datetime.fromisoformat(at), level, text) for n, at, level, text in answer["lines"]]
    return Progress(*answer["told"]) if answer["told"] else None, lines


def read_outcome(answer: dict[str, Any]) -> Outcome:
    fields = dict(answer["fields"])
    if "plan" in fields:
        fields["plan"] = plan_of(fields["plan"])
    if "error" in fields:
        error = fields["error"]
        fields["error"] = AttemptError(**{**error, "kinds": tuple(error["kinds"])})
    return KINDS[answer["outcome"]](**fields)
