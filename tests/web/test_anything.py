"""Whatever is asked, of every page and every action: an answer that is no fault of the server."""

from __future__ import annotations

import asyncio
import os
import re
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgqueue import PgQueue
from pgqueue.web import Dashboard, User
from pgqueue.web.pages import ENDPOINTS
from pgqueue.web.routing import Endpoint
from tests.web.conftest import Browser, browser, log_in

NAMES = (
    *("id", "name", "task", "queue", "state", "key", "tag", "before", "verb", "fingerprint", "error", "actor"),
    *("action", "target", "cron", "every", "tz", "arguments", "catch_up", "overlap", "grace", "jitter", "start"),
    *("end", "max_runs", "concurrency", "rate", "burst", "value", "serial_key", "fair", "duration", "to_queue"),
    *("look", "back", "priority", "delay", "next", "token", "unset", "when", "max_attempts"),
)
WORDS = ("", "0", "1", "-1", "9" * 30, "1e9", "cancel", "completed", "failed", "@daily", "5m", "{", "{}", "[]", "NaN")
EXAMPLES = 200 if os.environ.get("PGQUEUE_CHAOS") == "long" else 6
TEXTS = st.one_of(st.sampled_from(WORDS), st.text(max_size=30), st.text("{}[]\"'\\%;:/?&=<>.,+-*", max_size=12))
FIELDS = st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=5)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(TEXTS, min_size=2, max_size=2), query=FIELDS, form=FIELDS, live=st.booleans())
def test_nothing_that_is_asked_is_an_error_of_the_server(
    dsn: str,
    password: str,
    endpoint: Endpoint,
    parts: list[str],
    query: dict[str, str],
    form: dict[str, str],
    live: bool,
) -> None:
    async def ask() -> None:
        app = PgQueue(dsn)
        dashboard = Dashboard(app, users=[User("ann", "admin", password)])
        try:
            async with browser(dashboard) as admin:
                await log_in(admin, "ann")
                await once(admin)
        finally:
            await dashboard.aclose()
            await app.aclose()

    async def once(admin: Browser) -> None:
        given_parts = iter(parts)
        path = re.sub(r"{\w+}", lambda _: quote(next(given_parts), safe="") or "x", endpoint.path)
        if endpoint.is_action:
            token = await admin.token("/queues")
            answer = await admin.post(path, {**form, "token": token})
        else:
            answer = await admin.get(path, params=query, headers={"HX-Request": "true"} if live else {})
        assert answer.status_code < 500, (path, answer.status_code, answer.text)

    asyncio.run(ask())
