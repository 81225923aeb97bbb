"""Reads the records: plain SQL on a connection of its own, files opened one by one. None of it asks the shop's code."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from PIL import Image

from pgqueue.demo.outside import Outside
from pgqueue.demo.records import Records

PREVIEW = ("JPEG", (160, 160))
TASK = "regexp_replace(task, '^.*\\.', '')"
ORDER = "(args ->> 'order_id')::int"

HELD = f"select id, {TASK}, {ORDER} from pgqueue.running_jobs where worker_id = %s and args ? 'order_id'"  # noqa: S608
FAILED = f"select {TASK}, {ORDER} from pgqueue.failed_jobs"  # noqa: S608
LIVE = f"select {TASK}, count(*) from pgqueue.jobs group by 1"  # noqa: S608
ERRORS = f"""
    select {TASK}, {ORDER}, jsonb_array_length(errors) from pgqueue.all_jobs
    where errors is not null and args ? 'order_id'
"""  # noqa: S608
REPORTS = """
    select headers ->> 'scheduled_for', count(*) from pgqueue.all_jobs
    where headers ? 'scheduled_for' group by 1
"""
COUNTS = f"select args ->> 'day', count(*) from pgqueue.all_jobs where {TASK} = 'count_orders' group by 1"  # noqa: S608
PROGRESS = f"""
    select {ORDER}, percent from pgqueue.all_jobs join pgqueue.job_progress on job_id = id
    where {TASK} = 'make_preview'
"""  # noqa: S608
STOCK_OFF = """
    select products.name, products.id, products.stock + coalesce(sum(orders.quantity), 0)
    from products left join orders on orders.product_id = products.id group by products.id
"""
READY = """
    select id, coalesce(ready_at > (select min(booked_at) from stock_movements where order_id = orders.id), false)
    from orders where ready_at is not null
"""
STATEMENTS = """
    select name, extract(day from at)::int, extract(hour from at)::int
    from (select name, next_run_at at time zone tz as at from pgqueue.schedules where name like 'statement-%') s
"""
RESCUED = """
    select count(*) from pgqueue.all_jobs
    where id = any (%(held)s) and ended_at is not null and worker_id is distinct from %(worker)s
"""
FIGURES = f"""
    select {TASK}, count(*), sum(attempt), percentile_cont(array[0.5, 0.95]) within group (order by wait),
           percentile_cont(array[0.5, 0.95]) within group (order by run)
    from (select task, attempt, extract(epoch from started_at - run_at)::float8 as wait,
                 extract(epoch from ended_at - started_at)::float8 as run
          from pgqueue.all_jobs where started_at is not null) ended
    group by 1 order by 1
"""  # noqa: S608
THROUGHPUT = """
    select count(*) / extract(epoch from max(ended_at) - min(created_at))::float8
    from pgqueue.all_jobs where ended_at is not null
"""


@dataclass(frozen=True)
class Told:
    """What the shop's website said: its stock before the first order, and what became of each order."""

    stock: dict[int, int]
    placed: set[int]
    declined: set[int]


@dataclass(frozen=True)
class Held:
    """The jobs of a worker at its death."""

    worker: UUID
    jobs: Mapping[int, tuple[str, int]]
    """Task and order, by job."""


@dataclass(frozen=True)
class Figures:
    """How the jobs of one task went: median and 95th percentile, in seconds. `wait` is that of the last attempt."""

    task: str
    jobs: int
    attempts: int
    wait: tuple[float, float]
    run: tuple[float, float]


def read(dsn: str, told: Told, outside: Outside, previews: Path, held: Held | None) -> Records:
    """Everything that the ledger needs."""
    accepted, refused, unavailable = (
        Counter({order: count for (order, answer), count in outside.answers.items() if answer is status})
        for status in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE)
    )
    with psycopg.connect(dsn) as connection:
        query = connection.execute
        failed: defaultdict[str, set[int]] = defaultdict(set)
        for task, order in query(FAILED):
            failed[task].add(order)
        errors = Counter({(task, order): count for task, order, count in query(ERRORS)})
        # An attempt that was turned away did nothing that a second one could repeat.
        errors -= Counter({("notify_printer", order): count for order, count in (unavailable + refused).items()})
        return Records(
            placed=frozenset(told.placed),
            declined=frozenset(told.declined),
            in_database=frozenset(order for (order,) in query("select id from orders")),
            mails=Counter(outside.mails),
            previews={int(file.stem): flaw(file) for file in previews.glob("*.jpg")},
            accepted=accepted,
            post=outside.post,
            most_in_a_second={customer: busiest(times) for customer, times in outside.requests.items()},
            progress=dict(query(PROGRESS).fetchall()),
            refused=frozenset(refused),
            failed={task: frozenset(orders) for task, orders in failed.items()},
            bookings=_counter(query("select order_id, count(*) from stock_movements group by 1")),
            ready=dict(query(READY).fetchall()),
            statements={name: (day, hour) for name, day, hour in query(STATEMENTS)},
            stock_off={name: left - told.stock[product] for name, product, left in query(STOCK_OFF)},
            reports=_counter(query(REPORTS)),
            counts=_counter(query(COUNTS)),
            live=_counter(query(LIVE)),
            held=frozenset() if held is None else frozenset(held.jobs.values()),
            rescued=0 if held is None else _rescued(connection, held),
            errors=errors,
        )


def busiest(times: Sequence[float]) -> int:
    """How many of these times, in seconds and in order, lie within one second at most."""
    return max((bisect_left(times, began + 1) - n for n, began in enumerate(times)), default=0)


def flaw(file: Path) -> str:
    """What is wrong with a preview; '' when nothing is."""
    try:
        with Image.open(file) as image:
            image.load()
            found = (image.format or "?", image.size)
    except OSError as error:
        return f"{file.name} cannot be opened: {error}"
    return "" if found == PREVIEW else f"{file.name} is {found}, not {PREVIEW}"


def figures(dsn: str) -> tuple[list[Figures], float]:
    """How each task went, and how many jobs ended in a second."""
    with psycopg.connect(dsn) as connection:
        rows = [
            Figures(task, jobs, attempts, tuple(wait), tuple(run))
            for task, jobs, attempts, wait, run in connection.execute(FIGURES)
        ]
        [(throughput,)] = connection.execute(THROUGHPUT)
    return rows, throughput or 0.0


def held_by(connection: psycopg.Connection[Any], worker: UUID) -> Held:
    """What a worker holds now."""
    return Held(worker, {job: (task, order) for job, task, order in connection.execute(HELD, [worker])})


def _rescued(connection: psycopg.Connection[Any], held: Held) -> int:
    [(count,)] = connection.execute(RESCUED, {"worker": held.worker, "held": list(held.jobs)})
    return int(count)


def _counter(rows: Iterable[Any]) -> Counter[Any]:
    return Counter(dict(rows))
