"""Crontab files, and patterns in plain English."""

from __future__ import annotations

import click
import pytest

from pgqueue.cli.crontab import read_crontab
from pgqueue.english import pattern_in_words
from pgqueue.schedule import Cron

FILE = """
# nightly
0 2 * * *       shop.tasks.export
CRON_TZ = "Europe/Paris"
0 9 * * MON-FRI shop.tasks.digest kind=daily to='Ann Lee'
@hourly         shop.tasks.refresh
"""


def test_each_line_is_a_schedule_in_the_zone_that_was_set_last() -> None:
    lines = read_crontab(FILE.splitlines(), "UTC")
    assert [(line.number, line.cron, line.task, line.arguments) for line in lines] == [
        (3, Cron("0 2 * * *"), "shop.tasks.export", ()),
        (5, Cron("0 9 * * MON-FRI", "Europe/Paris"), "shop.tasks.digest", ("kind=daily", "to=Ann Lee")),
        (6, Cron("@hourly", "Europe/Paris"), "shop.tasks.refresh", ()),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("99 * * * * shop.export", "`99` is no minute"),
        ("0 2 * * *", "write five fields"),
        ("@hourly", "write five fields (or @hourly"),
        ("@reboot shop.export", "the short forms are"),
        ("SHELL=/bin/sh", "SHELL is for cron's shell: only CRON_TZ and TZ count here"),
        ("0 2 * * * shop.export name='x", "No closing quotation"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, why: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        read_crontab(["# first", line], "UTC")
    assert raised.value.message.startswith(f"line 2: {line!r}: ")
    assert why in raised.value.message


def test_a_zone_that_there_is_not_is_named_at_the_line_that_uses_it() -> None:
    with pytest.raises(click.UsageError, match=r"line 2: .*there is no time zone 'Mars'"):
        read_crontab(["TZ=Mars", "0 2 * * * shop.export"], "UTC")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("0 9 * * MON-FRI", "At 09:00, Monday through Friday"),
        ("@daily", "At 00:00"),
        ("0 9 * * L5", "At 09:00, on the last Friday of the month"),
        ("0 9 * * FRI#2", "At 09:00, on the second Friday of the month"),
        ("0 9 * * * 15", "At 09:00:15"),
        ("* * * * * */10", "Every 10 seconds"),
        ("what is this", "what is this"),
    ],
)
def test_a_pattern_is_said_in_plain_english(pattern: str, words: str) -> None:
    assert pattern_in_words(pattern) == words
