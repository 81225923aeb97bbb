"""Progress and log lines of jobs: written by workers in batches, read by people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue.journal import LogLine, Progress
from pgqueue.queries.statement import Statement, array, inline, text, texts


class Told(NamedTuple):
    """What one run has told."""

    job_id: int
    fence: int
    progress: Progress | None
    lines: Sequence[LogLine]


def write(schema: str, worker: UUID, told: Sequence[Told]) -> Statement[Any]:
    """(progress written, lines written), without those of claims that the worker has lost."""
    progressed = [one for one in told if one.progress is not None]
    logged = [(one, line) for one in told for line in one.lines]
    return Statement(
        text("write_journal", schema),
        {
            "worker": worker,
            "fences": array({one.fence for one in told}),
            "progress_ids": array(one.job_id for one in progressed),
            "progress_fences": array(one.fence for one in progressed),
            "percents": array(one.progress.percent for one in progressed if one.progress),
            "messages": texts(one.progress.message for one in progressed if one.progress),
            "log_ids": array(one.job_id for one, _ in logged),
            "log_fences": array(one.fence for one, _ in logged),
            "attempts": array(line.attempt for _, line in logged),
            "times": [line.at for _, line in logged],
            "levels": texts(line.level for _, line in logged),
            "lines": texts(line.message for _, line in logged),
        },
    )


def note(schema: str, lines: Sequence[tuple[int, int, str]]) -> Statement[Any]:
    """Lines of pgqueue's own, of the level warning, on (job, attempt)."""
    return Statement(
        inline(
            "insert into {schema}.job_logs (job_id, attempt, logged_at, level, message) "
            "select job_id, attempt, clock_timestamp(), 'warning', line "
            "from unnest(%(ids)s::bigint[], %(attempts)s::int[], %(lines)s::text[]) g (job_id, attempt, line)",
            schema,
        ),
        {
            "ids": array(id_ for id_, _, _ in lines),
            "attempts": array(attempt for _, attempt, _ in lines),
            "lines": texts(line for _, _, line in lines),
        },
    )


def progress(schema: str, job_id: int) -> Statement[Progress]:
    return Statement(
        inline("select percent, message from {schema}.job_progress where job_id = %(id)s", schema),
        {"id": job_id},
        lambda row: Progress(*row),
    )


def logs(schema: str, job_id: int, limit: int) -> Statement[LogLine]:
    """The last lines of a job, oldest first."""
    return Statement(
        inline(
            "select attempt, logged_at, level, message from (select * from {schema}.job_logs where job_id = %(id)s "
            "order by id desc limit %(limit)s) l order by id",
            schema,
        ),
        {"id": job_id, "limit": limit},
        lambda row: LogLine(*row),
    )
