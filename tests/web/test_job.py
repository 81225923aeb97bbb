"""The page of one job: what holds for it, who ran it, what of it has committed, and where its trace is."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgqueue import Backoff, ConfigurationError, Context, PgQueue
from pgqueue.cli import pgqueue
from pgqueue.flow import chain
from pgqueue.queries import beside
from pgqueue.testing import adrain
from pgqueue.web import Dashboard, User
from pgqueue.web.redaction import MASK
from pgqueue.web.traces import trace_of
from tests.web.conftest import Browser, browser, log_in

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
WORKER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


async def facts(browser: Browser, id_: int) -> dict[str, str]:
    """What the page lists of a job, as text."""
    page = (await browser.get(f"/jobs/{id_}")).text
    pairs = re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", page, re.S)
    return {name: " ".join(unescape(re.sub(r"<[^>]+>", "", value)).split()) for name, value in pairs}


async def test_the_options_of_a_job_say_who_decides_them(app: PgQueue, viewer: Browser) -> None:
    app.queue("mail", timeout=20, keep_failed=500)

    @app.task(name="send", queue="mail", backoff=Backoff.fixed(5), keep_completed=timedelta(hours=2))
    def send() -> None: ...

    own, other = send.using(timeout=7).enqueue(), send.enqueue()
    await adrain(app)
    waiting = send.using(timeout=7).enqueue()
    assert app.jobs.get(own.id).state == "completed"
    told = await facts(viewer, waiting.id)
    assert told["Timeout"] == "7.00 s"
    assert told["Backoff"] == "fixed 5 s"
    assert told["Kept once completed"] == "2 h (as its task says)"
    assert told["Kept once failed"] == "the newest 500 jobs (as its queue says)"
    assert (await facts(viewer, other.id))["Timeout"] == "20 s (as its queue says)"


@pytest.mark.parametrize("options", ['{"timeout": "soon", "<b>": [1]}', "[1]", "7", '{"timeout": 1e308}'])
async def test_odd_options_are_shown_as_they_are(app: PgQueue, dsn: str, viewer: Browser, options: str) -> None:
    job = app.enqueue("send")
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.jobs set options = %s::jsonb", [options])
    answer = await viewer.get(f"/jobs/{job.id}")
    assert answer.status_code == 200
    assert "<b>" not in answer.text


async def test_who_runs_a_job_and_since_when_is_said_with_what_it_has_survived(
    app: PgQueue, dsn: str, viewer: Browser
) -> None:
    job = app.enqueue("send")
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into pgqueue.workers (id, expires_at, pid, name, host, version, queues, tasks) "
            "values (%s, now() + interval '1 hour', 4711, 'mailer-1', 'alpha', '1', '{}', '{}')",
            [WORKER],
        )
        conn.execute("insert into pgqueue.claims (id, worker_id, queue, job_ids) values (5, %s, 'a', '{}')", [WORKER])
        conn.execute(
            "update pgqueue.jobs set state = 'running', claim_id = 5, attempt = 2, crashes = 1, suspicions = 2, "
            "cancel_requested = true, errors = %s::jsonb",
            [f'[{{"attempt": 1, "type": "ValueError", "worker": "{WORKER}"}}, {{"attempt": 0, "worker": "x"}}]'],
        )
    told = await facts(viewer, job.id)
    assert told["Runs in"].startswith("mailer-1 on alpha (pid 4711), which claimed it ")
    assert told["Crashes"].startswith("1:")
    assert told["Suspicions"].startswith("2:")
    page = (await viewer.get(f"/jobs/{job.id}")).text
    assert '<span class="badge warning">to stop</span>' in page
    assert page.count(f'href="/workers/{WORKER}"') == 2


async def test_a_worker_that_has_stopped_is_known_by_its_id(app: PgQueue, viewer: Browser) -> None:
    @app.task(name="send")
    def send() -> None: ...

    job = send.enqueue()
    await adrain(app)
    assert (await facts(viewer, job.id))["Ran in"].endswith("which has stopped")
    assert "Runs in" not in await facts(viewer, send.enqueue().id)


@pytest.fixture
async def charged(app: PgQueue) -> int:
    """A job that has failed after two steps and two effects, one of which has not returned."""

    @app.task(name="charge", bind=True, max_attempts=1)
    def charge(ctx: Context, token: str) -> None:
        ctx.step("reserve", lambda: {"receipt": f"for {token}", "password": "hunter22"})
        ctx.step("note", lambda: None)
        ctx.once(f"bank:{token}", lambda: "x" * (beside.SHOWN + 1))
        ctx.once("mail", lambda: [1, 2])
        raise ValueError("no more")

    job = charge.enqueue("abcdef12")
    await adrain(app)
    return job.id


async def test_what_has_committed_is_listed_with_its_results_but_no_secrets(viewer: Browser, charged: int) -> None:
    page = (await viewer.get(f"/jobs/{charged}")).text
    text = unescape(page)
    assert "Steps that have committed" in text
    assert f'receipt="for {MASK}", password="{MASK}"' in text
    assert '<span class="quiet">nothing</span>' in text
    assert f'<td class="long">bank:{MASK}</td>' in text
    assert "too long for a list" in text
    assert "<code>[1, 2]</code>" in text
    assert "hunter22" not in text
    assert "abcdef12" not in text


async def test_effects_are_looked_for_so_far_and_no_further(
    app: PgQueue, dsn: str, viewer: Browser, charged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Done once" in (await viewer.get(f"/jobs/{charged}")).text
    monkeypatch.setattr(beside, "LOOKED_AT", 1)
    page = (await viewer.get(f"/jobs/{charged}")).text
    assert '<td class="long">mail</td>' in page
    assert f"bank:{MASK}" not in page
    assert "looked for among the last 1 effects" in page
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.effects set begun_at = begun_at - interval '1 day', job_id = job_id + 1")
    page = (await viewer.get(f"/jobs/{charged}")).text
    assert "Done once" not in page
    assert "looked for among" not in page


async def test_an_effect_that_is_under_way_is_said_to_be(app: PgQueue, dsn: str, viewer: Browser) -> None:
    job = app.enqueue("send")
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into pgqueue.effects (job_id, fence, key, request) values (%s, 1, 'call the bank', 'x')", [job.id]
        )
    assert '<span class="badge running">under way</span>' in (await viewer.get(f"/jobs/{job.id}")).text


async def test_those_before_and_after_it_in_its_flow_are_listed_with_their_states(
    app: PgQueue, viewer: Browser
) -> None:
    @app.task(name="first")
    def first() -> None: ...

    jobs = [app.new_job(name) for name in ("first", "second", "third")]
    flow = app.flows.enqueue(chain(*jobs, name="order 7"))
    await adrain(app)
    ids = {job.task: job.job_id for job in app.flows.jobs(flow.id)}
    one, two, three = ids["first"], ids["second"], ids["third"]
    page = (await viewer.get(f"/jobs/{two}")).text
    assert re.search(rf'It waits for</th></tr>\s*<tr id="child-{one}">.*<span class="state completed">', page)
    assert re.search(rf'It runs before</th></tr>\s*<tr id="parent-{three}">.*<span class="state blocked">', page)
    page = (await viewer.get(f"/jobs/{one}")).text
    assert f'<tr id="parent-{two}">' in page
    assert 'id="child-' not in page


async def traced(app: PgQueue, password: str, headers: dict[str, Any], trace_url: str | None) -> str:
    job = app.enqueue("send", headers=headers)
    dashboard = Dashboard(app, users=[User("vera", "viewer", password)], trace_url=trace_url)
    async with browser(dashboard) as viewer:
        await log_in(viewer, "vera")
        page = (await viewer.get(f"/jobs/{job.id}")).text
    await dashboard.aclose()
    return page


async def test_its_trace_is_a_link_where_somebody_says_where_traces_are(app: PgQueue, password: str) -> None:
    url = "https://traces.example.com/ui?a=1&id={trace_id}"
    page = await traced(app, password, {"traceparent": PARENT}, url)
    assert f'<a href="https://traces.example.com/ui?a=1&amp;id={TRACE}" rel="noreferrer">{TRACE}</a>' in page
    page = await traced(app, password, {"traceparent": PARENT}, None)
    assert f'<dd class="id">{TRACE}</dd>' in page


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": 7},
        {"traceparent": "00-javascript:alert(1)-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE}"},
        {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE[:-1]}٣-00f067aa0ba902b7-01"},
        {"traceparent": f"00-../../{TRACE[6:]}-00f067aa0ba902b7-01"},
    ],
)
async def test_what_is_no_trace_is_no_link(app: PgQueue, password: str, headers: dict[str, Any]) -> None:
    assert "traces.example.com" not in await traced(app, password, headers, "https://traces.example.com/{trace_id}")


def test_the_trace_of_sentry_is_known_too() -> None:
    assert trace_of({"sentry-trace": f"{TRACE}-00f067aa0ba902b7-1"}) == TRACE
    assert trace_of({"sentry-trace": f"{TRACE}-00f067aa0ba902b7-1", "traceparent": PARENT}) == TRACE


@pytest.mark.parametrize(
    "url",
    [
        "",
        "traces.example.com/{trace_id}",
        "javascript:alert('{trace_id}')",
        "javascript://a.example/%0aalert('{trace_id}')",
        "//traces.example.com/{trace_id}",
        "https:///{trace_id}",
        "https://traces.example.com/",
        "https://{trace_id}/",
        "https://{trace_id}.example.com/{trace_id}",
        "https://a.example\\{trace_id}",
        "https://a.example/\n{trace_id}",
        " https://a.example/{trace_id}",
        "https://[/{trace_id}",
    ],
)
def test_an_address_of_traces_in_which_a_trace_could_be_a_host_is_refused(app: PgQueue, url: str) -> None:
    with pytest.raises(ConfigurationError, match="trace_url"):
        Dashboard(app, trace_url=url)


def test_the_command_line_takes_the_address_of_traces(dsn: str) -> None:
    refused = CliRunner().invoke(pgqueue, ["web", "--dsn", dsn, "--trace-url", "ftp://a.example/{trace_id}"])
    assert refused.exit_code != 0
    assert "trace_url 'ftp://a.example/{trace_id}' is no address of http or https" in refused.output


async def test_a_secret_argument_is_nowhere_on_the_page_of_its_job(app: PgQueue, viewer: Browser) -> None:
    secret = "hunter22hunter"
    args = {"password": secret, "url": f"https://x.example/{secret}"}
    headers = {"note": f"for {secret}"}
    live = app.enqueue("t.login", args, key=f"k-{secret}", serial_key=f"s-{secret}", tags=[secret])
    ended = app.enqueue("t.login", args)
    with psycopg.connect(app.database.dsn) as conn:
        conn.execute("update pgqueue.jobs set headers = %s", [json.dumps(headers)])
        conn.execute(
            "with gone as (delete from pgqueue.jobs where id = %s returning *) insert into pgqueue.completed_jobs "
            "(id, queue, task, args, headers, state, priority, attempt, max_attempts, run_at, created_at, result, "
            "reason) select id, queue, task, args, headers, 'completed', priority, 1, max_attempts, run_at, created_at,"
            " '\"in as hunter22hunter\"', 'with hunter22hunter' from gone",
            [ended.id],
        )
    for path in (f"/jobs/{live.id}", f"/jobs/{ended.id}", "/jobs"):
        assert secret not in unescape((await viewer.get(path)).text)
