"""Failed jobs: the same error once, with how often it was; and the way back to their queues."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from starlette.responses import Response

from pgqueue.limit import per_second
from pgqueue.names import data_name
from pgqueue.queries import failures
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.statement import Operation, Statement
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import counted

GROUPS, ROWS, BATCH = 100, 50, 500
FILTERS = ("queue", "task", "error")


async def show(visit: Visit) -> Response:
    which = FailureFilter(None, visit.query("queue"), visit.query("task"), visit.query("error"))
    groups = await visit.fetch(failures.failure_groups(visit.schema, which, GROUPS))
    args = dict(await visit.fetch(failures.args_of(visit.schema, [group.newest for group in groups])))
    given = {name: visit.query(name) for name in FILTERS}
    return visit.render("failed.html", groups=groups, args=args, given=given, is_filtered=any(given.values()))


async def group(visit: Visit) -> Response:
    which = FailureFilter(fingerprint=visit.path("fingerprint"))
    before = visit.query_id("before")
    jobs = await visit.fetch(failures.list_failed(visit.schema, which, ROWS + 1, before))
    groups = await visit.fetch(failures.failure_groups(visit.schema, which, 1))
    if not groups:
        raise NotFound("No failed job has this fingerprint: all of them were redriven or purged, or there was none.")
    newest = jobs[0] if jobs else None
    return visit.render(
        "failure.html",
        group=groups[0],
        jobs=jobs[:ROWS],
        error=newest.errors[-1] if newest and newest.errors else None,
        secrets=(newest.args, newest.headers) if newest else (),
        older=visit.here(before=jobs[ROWS - 1].id) if len(jobs) > ROWS else None,
        first=visit.here(before=None) if before is not None else None,
    )


async def ask_redrive(visit: Visit) -> Response:
    return await _ask(visit, "redrive", "They go back to their queues, oldest first, and their attempts start anew.")


async def ask_purge(visit: Visit) -> Response:
    return await _ask(visit, "purge", "They are deleted for good: neither they nor their errors can be had back.")


async def redrive(visit: Visit) -> Response:
    fingerprint = visit.path("fingerprint")
    to_queue = visit.field("to_queue") and data_name("queue", visit.field("to_queue"))
    rate = per_second(visit.field("rate"))
    which = FailureFilter(fingerprint=fingerprint)

    def some(ids: tuple[int, ...]) -> Statement[int]:
        return failures.redrive(visit.schema, FailureFilter(ids), None, rate, to_queue)

    if rate is None:
        steps = _through(visit, which, some, len)
        done = await visit.perform_each("redrive_failed", fingerprint, steps, to_queue=to_queue)
    else:
        # One after the other over all of them, which one statement works out.
        everything, said = failures.redrive(visit.schema, which, None, rate, to_queue), visit.field("rate")
        done = len(await visit.perform("redrive_failed", fingerprint, everything, to_queue=to_queue, rate=said))
    return visit.back(f"Redrove {counted(done, 'failed job')}.", visit.url("failed"))


async def purge(visit: Visit) -> Response:
    fingerprint = visit.path("fingerprint")

    def some(ids: tuple[int, ...]) -> Statement[int]:
        return failures.purge_failed(visit.schema, FailureFilter(ids))

    steps = _through(visit, FailureFilter(fingerprint=fingerprint), some, sum)
    done = await visit.perform_each("purge_failed", fingerprint, steps)
    return visit.back(f"Purged {counted(done, 'failed job')}.", visit.url("failed"))


async def _ask(visit: Visit, verb: str, meaning: str) -> Response:
    fingerprint = visit.path("fingerprint")
    [number] = await visit.fetch(failures.count_failed(visit.schema, FailureFilter(fingerprint=fingerprint)))
    if not number:
        raise NotFound("No failed job has this fingerprint: all of them were redriven or purged, or there was none.")
    return visit.render(
        "failure_question.html",
        verb=verb,
        shown=counted(number, "failed job"),
        meaning=meaning,
        fingerprint=fingerprint,
    )


def _through(
    visit: Visit,
    which: FailureFilter,
    act: Callable[[tuple[int, ...]], Statement[int]],
    number: Callable[[list[int]], int],
) -> Generator[Operation[Any], Any, int]:
    """All that match, in batches, each in a transaction of its own; how many were acted on, as `number` reads it."""
    done = 0
    ids: list[int] = yield _rows(failures.failed_ids(visit.schema, which))
    for start in range(0, len(ids), BATCH):
        done += number((yield _rows(act(tuple(ids[start : start + BATCH])))))
    return done


def _rows(statement: Statement[Any]) -> Operation[list[Any]]:
    rows: list[Any] = yield statement
    return rows


ENDPOINTS = (
    page("/failed", show, "failed"),
    page("/failed/{fingerprint}", group, "failure"),
    page("/failed/{fingerprint}/redrive", ask_redrive, "ask_redrive", "operator"),
    action("/failed/{fingerprint}/redrive", redrive, "redrive_failed", "operator"),
    page("/failed/{fingerprint}/purge", ask_purge, "ask_purge", "admin"),
    action("/failed/{fingerprint}/purge", purge, "purge_failed", "admin"),
)
