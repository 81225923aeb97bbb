"""The ledger: what reached the outside, set against what was ordered. Pure: records in, lines out.

Execution is at least once, so a thing may have been done twice, but never without a reason: each further time needs an
attempt that the killed worker held, or one that ended in an error and was repeated. The transactional booking has no
such excuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pgqueue.demo.records import Records

SHOWN = 8
MOST_IN_A_SECOND = 5
"""The limit of the shop: a burst of 2, and 3 a second."""


@dataclass(frozen=True)
class Line:
    """One line of the ledger. It balances when nothing is wrong."""

    title: str
    finding: str
    wrong: tuple[str, ...] = ()
    remark: str = ""

    @property
    def balances(self) -> bool:
        return not self.wrong


def balance(records: Records) -> list[Line]:
    """Every line of the ledger.

    all(line.balances for line in balance(records))
    """
    return [
        _orders(records),
        _mails(records),
        _previews(records),
        _webhooks(records),
        _rate(records),
        _bookings(records),
        _ready(records),
        _rolled_back(records),
        _reports(records),
        _counts(records),
        _statements(records),
        _killed(records),
        _nothing_left(records),
    ]


def _orders(r: Records) -> Line:
    return Line(
        "orders",
        f"{len(r.in_database)} committed, {len(r.declined)} rolled back",
        _wrong(
            ("confirmed to the customer but not in the database", r.placed - r.in_database),
            ("in the database but not confirmed to a customer", r.in_database - r.placed),
        ),
    )


def _mails(r: Records) -> Line:
    twice, unexplained = _repeats(r, "send_confirmation", r.mails)
    return Line(
        "e-mails",
        f"{r.mails.total()} reached the SMTP server, each customer's in the order of the orders",
        (
            *_wrong(("without an e-mail", r.placed - set(r.mails)), ("sent again for no reason", unexplained)),
            *(
                f"{to} had them in the order {orders}"
                for to, orders in r.post.items()
                if list(orders) != sorted(orders)
            ),
        ),
        _explained(twice, r, "send_confirmation"),
    )


def _previews(r: Records) -> Line:
    return Line(
        "previews",
        f"{len(r.previews)} pictures on disk, each opened; all told 100 %",
        (
            *_wrong(
                ("without a preview", r.placed - set(r.previews)),
                ("did not tell 100 %", r.placed - {order for order, percent in r.progress.items() if percent == 100}),
            ),
            *(f"order {order}: {why}" for order, why in sorted(r.previews.items()) if why),
        ),
    )


def _webhooks(r: Records) -> Line:
    failed = r.failed.get("notify_printer", frozenset())
    twice, unexplained = _repeats(r, "notify_printer", r.accepted)
    both = {order for order in failed & set(r.accepted) if not r.excuses("notify_printer", order)}
    return Line(
        "webhooks",
        f"{len(r.accepted)} accepted, {len(failed)} in failed_jobs",
        _wrong(
            ("neither accepted nor in failed_jobs", r.placed - set(r.accepted) - failed),
            ("accepted, and in failed_jobs too", both),
            ("refused with 400 but not in failed_jobs", r.refused - failed),
            ("accepted again for no reason", unexplained),
        ),
        _explained(twice, r, "notify_printer"),
    )


def _rate(r: Records) -> Line:
    busiest = max(r.most_in_a_second.values(), default=0)
    return Line(
        "rate",
        f"at most {busiest} webhooks of a customer in a second",
        tuple(
            f"{most} of {customer} in a second, {MOST_IN_A_SECOND} are allowed"
            for customer, most in sorted(r.most_in_a_second.items())
            if most > MOST_IN_A_SECOND
        ),
    )


def _bookings(r: Records) -> Line:
    return Line(
        "stock",
        f"{r.bookings.total()} movements, exactly one an order",
        (
            *_wrong(
                ("not booked", r.placed - set(r.bookings)),
                ("booked more than once", {order for order, count in r.bookings.items() if count > 1}),
            ),
            *(f"the stock of {product} is off by {by}" for product, by in sorted(r.stock_off.items()) if by),
        ),
    )


def _ready(r: Records) -> Line:
    return Line(
        "flows",
        f"{len(r.ready)} orders ready, each after its preview and its booking",
        _wrong(
            ("not ready", r.placed - set(r.ready)),
            ("ready before it was booked", {order for order, after in r.ready.items() if not after}),
            ("ready without a preview", set(r.ready) - set(r.previews)),
        ),
    )


def _statements(r: Records) -> Line:
    return Line(
        "statements",
        f"{len(r.statements)} customers have theirs on the first of the month at 9, where they are",
        (
            *(() if r.statements else ("nobody has one",)),
            *(
                f"{name} is on day {day} at {hour}"
                for name, (day, hour) in r.statements.items()
                if (day, hour) != (1, 9)
            ),
        ),
    )


def _rolled_back(r: Records) -> Line:
    traces = {
        "in the database": r.in_database,
        "e-mailed": r.mails,
        "with a preview": r.previews,
        "sent to the printer": {*r.accepted, *r.refused},
        "booked": r.bookings,
        "in failed_jobs": {order for orders in r.failed.values() for order in orders},
    }
    return Line(
        "rolled back",
        f"{len(r.declined)} orders left no trace",
        _wrong(*((f"rolled back, and yet {what}", r.declined.intersection(orders)) for what, orders in traces.items())),
    )


def _reports(r: Records) -> Line:
    return Line(
        "reports",
        f"{len(r.reports)} nominal times, one job each",
        (
            *(() if r.reports else ("the schedule made no job",)),
            *(
                f"the one of {time} was enqueued {count} times"
                for time, count in sorted(r.reports.items())
                if count > 1
            ),
        ),
    )


def _counts(r: Records) -> Line:
    return Line(
        "daily count",
        f"one for all orders of a day, asked for by {len(r.placed)}",
        (
            *(() if r.counts else ("nobody counted",)),
            *(f"{count} on {day}" for day, count in sorted(r.counts.items()) if count > 1),
        ),
    )


def _killed(r: Records) -> Line:
    return Line("kill -9", f"the worker held {len(r.held)} jobs, of which {r.rescued} were rescued")


def _nothing_left(r: Records) -> Line:
    others = {task: orders for task, orders in r.failed.items() if task != "notify_printer"}
    return Line(
        "jobs",
        "none left",
        (
            *(f"{count} of {task} not ended" for task, count in sorted(r.live.items())),
            *_wrong(*((f"whose {task} is in failed_jobs", orders) for task, orders in sorted(others.items()))),
        ),
    )


def _repeats(r: Records, task: str, done: Counter[int]) -> tuple[list[int], list[int]]:
    """Orders for which it was done more than once, and those of them for which that has no reason."""
    repeated = sorted(order for order, count in done.items() if count > 1)
    return repeated, [order for order in repeated if done[order] - 1 > r.excuses(task, order)]


def _explained(repeated: Collection[int], r: Records, task: str) -> str:
    held = [order for order in repeated if (task, order) in r.held]
    others = [order for order in repeated if (task, order) not in r.held]
    parts = []
    if held:
        parts.append(f"again for {listed(held)}: held at the kill")
    if others:
        parts.append(f"again for {listed(others)}: after an error")
    return "; ".join(parts)


def _wrong(*findings: tuple[str, Iterable[int]]) -> tuple[str, ...]:
    return tuple(f"{listed(found)}: {what}" for what, orders in findings if (found := sorted(orders)))


def listed(orders: Collection[int]) -> str:
    """`order 7`, `orders 1, 2 and 9 more`."""
    shown = ", ".join(str(order) for order in list(orders)[:SHOWN])
    more = f" and {len(orders) - SHOWN} more" if len(orders) > SHOWN else ""
    return f"order{'s' if len(orders) > 1 else ''} {shown}{more}"
