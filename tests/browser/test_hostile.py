"""Whatever is stored anywhere is shown as text: nothing of it runs, and nothing of it becomes a part of the page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import PgQueue
from pgqueue.web import Dashboard
from tests.browser.conftest import Look, served
from tests.conftest import Server

TAGS = (
    "<script>{js}</script>",
    "<img src=x onerror={js}>",
    "<svg onload={js}>",
    "<svg><script>{js}</script></svg>",
    "<body onload={js}>",
    "<iframe src=javascript:{js}></iframe>",
    "<iframe srcdoc='<script>parent.{js}</script>'>",
    "<a href=javascript:{js}>x</a>",
    "<details open ontoggle={js}>",
    "<input autofocus onfocus={js}>",
    "<video><source onerror={js}>",
    "<math><mtext><script>{js}</script>",
    "<form action=javascript:{js}><button>x",
    "<object data=javascript:{js}>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=javascript:{js}'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css'</style>",
    "<div hx-get=/audit hx-trigger=load hx-on:click={js}>",
    "<div hx-on::load={js} hx-vals='js:{js}'>",
    "<div data-hx-get=/audit data-hx-trigger=load>",
    "<div hx-sse:connect=https://evil.example/>",
    "<template shadowrootmode=open><script>{js}</script></template>",
    "<noscript><p title='</noscript><img src=x onerror={js}>'>",
    "<a href=x style=position:fixed;inset:0 onmouseover={js}>",
)
BEFORE = ("", '"', "'", ">", "-->", "</pre>", "</textarea>", "</title>", "]]>", "`${{{{")
FORMS = (lambda text: text, str.upper)
VECTORS = (
    [
        form(before + tag.format(js="window.__ran=1") + after)
        for (before, tag), form, after in zip(
            itertools.product(BEFORE, TAGS), itertools.cycle(FORMS), itertools.cycle(["", "<!--"]), strict=False
        )
    ]
    + [f"javascript:window.__ran=1//{n}" for n in range(50)]
    + [f"{{{{ 7*7 }}}}{{% raw %}}<script>window.__ran={n}</script>" for n in range(200)]
)


def store(dsn: str) -> list[str]:
    """Every vector in every field that a page shows; the addresses of those pages."""
    with psycopg.connect(dsn) as conn:
        rows = [
            (
                vector,
                f"{vector}{n}",
                Jsonb({vector: vector, "list": [vector]}),
                [vector],
                Jsonb({"schedule": vector, vector: vector}),
            )
            for n, vector in enumerate(VECTORS)
        ]
        with conn.cursor() as cursor:
            cursor.executemany(
                "insert into pgqueue.jobs (queue, task, state, args, unique_key, serial_key, tags, headers, errors, max_attempts, position) "
                "values (%(v)s, %(v)s, 'available', %(args)s, %(key)s, %(v)s, %(tags)s, %(headers)s, %(errors)s, 5, nextval('pgqueue.jobs_position'))",
                [
                    {
                        "v": vector,
                        "key": key,
                        "args": args,
                        "tags": tags,
                        "headers": headers,
                        "errors": Jsonb(
                            [{"type": vector, "message": vector, "traceback": vector, "at": vector, "attempt": vector}]
                        ),
                    }
                    for vector, key, args, tags, headers in rows
                ],
            )
        [(first, last)] = conn.execute("select min(id), max(id) from pgqueue.jobs").fetchall()
        conn.execute(
            "insert into pgqueue.failed_jobs (id, run_at, created_at, attempt, max_attempts, priority, crashes, queue, task, reason, "
            "error_type, error_message, fingerprint, args, headers, errors, tags) "
            "select id + 100000, now(), now(), 1, 1, 0, 0, queue, task, task, task, task, 'f' || id, args, headers, errors, tags from pgqueue.jobs"
        )
        conn.execute(
            "insert into pgqueue.completed_jobs (id, run_at, created_at, started_at, attempt, max_attempts, priority, state, queue, task, "
            "reason, args, headers, errors, result, tags) "
            "select id + 200000, now(), now(), now(), 1, 1, 0, 'cancelled', queue, task, task, args, headers, errors, args, tags from pgqueue.jobs"
        )
        conn.execute("insert into pgqueue.job_progress (job_id, percent, message) select id, 5, task from pgqueue.jobs")
        conn.execute(
            "insert into pgqueue.job_logs (job_id, logged_at, attempt, level, message) select id, now(), 1, task, task from pgqueue.jobs"
        )
        conn.execute("insert into pgqueue.flows (name) select task from pgqueue.jobs order by id limit 100")
        conn.execute(
            "insert into pgqueue.flow_jobs (job_id, flow_id, task, queue, name) "
            "select id, (select min(id) from pgqueue.flows), task, queue, task from pgqueue.jobs order by id limit 100"
        )
        conn.execute(
            "insert into pgqueue.workers (id, name, host, pid, version, queues, tasks, expires_at) "
            "select gen_random_uuid(), task, task, 1, task, jsonb_build_object(task, 1), array[task], now() + interval '1 hour' "
            "from pgqueue.jobs order by id limit 100"
        )
        conn.execute(
            "insert into pgqueue.schedules (name, task, cron, tz, args, job_options, enabled, source, error) "
            "select key, task, '@daily', task, args, '{}', false, 'live', task from "
            "(select distinct on (task) task as key, task, args from pgqueue.jobs) j"
        )
        conn.execute(
            "insert into pgqueue.audit_log (actor, role, action, target, detail, outcome) "
            "select task, task, task, task, args, task from pgqueue.jobs"
        )
        conn.execute(
            "insert into pgqueue.limits (scope, name, key, concurrency) select 'queue', task, task, 1 from "
            "(select distinct task from pgqueue.jobs) j"
        )
        [(flow,)] = conn.execute("select min(id) from pgqueue.flows").fetchall()
        [(worker,)] = conn.execute("select min(id::text) from pgqueue.workers").fetchall()
    pages = [
        "/",
        "/queues",
        "/failed",
        "/flows",
        f"/flows/{flow}",
        "/schedules",
        "/workers",
        f"/workers/{worker}",
        "/tasks",
    ]
    pages += [
        "/health",
        *(f"/jobs?before={id_ + kind}" for kind in (0, 100_000, 200_000) for id_ in range(first + 50, last, 50)),
    ]
    pages += [f"/audit?before={id_}" for id_ in range(100, len(VECTORS), 100)]
    pages += [f"/jobs/{first + n + kind}" for n in range(0, len(VECTORS), 12) for kind in (0, 100_000, 200_000)]
    pages += [f"/failed/f{first + n}" for n in range(0, len(VECTORS), 25)]
    return pages


@pytest.fixture(scope="session")
def hostile(server: Server, template: str) -> Iterator[tuple[str, list[str]]]:
    name = server.create(template)
    with ExitStack() as stack:
        stack.callback(server.drop, name)
        pages = store(server.dsn_for(name))
        app = PgQueue(server.dsn_for(name))
        stack.callback(app.close)
        yield served(Dashboard(app), stack), pages


OWN = "script[src], link[href], meta[name], meta[charset]"


def test_there_are_enough_of_them() -> None:
    assert len(set(VECTORS)) >= 500


def test_nothing_that_is_stored_runs_or_becomes_a_part_of_a_page(hostile: tuple[str, list[str]], look: Look) -> None:
    address, pages = hostile
    page = look(address)
    page.goto(f"{address}/jobs")
    assert VECTORS[-1] in page.inner_text("main")
    foreign = list[str]()
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(address) else None)
    page.on("dialog", lambda dialog: foreign.append(dialog.message))
    for path in pages:
        answer = page.goto(address + path)
        assert answer is not None
        assert answer.status < 500, path
        found = page.evaluate(
            """() => ({
                ran: window.__ran ?? null,
                own: [...document.scripts].every((one) => one.src.startsWith(location.origin + "/static/")),
                odd: [...document.querySelectorAll("iframe, object, embed, base, style, template, video, img, math, [style], svg script")].length,
                handlers: [...document.querySelectorAll("main *")].filter((one) =>
                    [...one.attributes].some((attribute) => /^(on|data-hx-|hx-(on|vals))/i.test(attribute.name))).length,
                links: [...document.querySelectorAll("a[href], form[action], [formaction]")].filter((one) =>
                    !(one.href?.baseVal ?? one.getAttribute("href") ?? one.getAttribute("formaction") ?? one.getAttribute("action")).startsWith("/")
                    && !one.matches(".skip")).length,
            })"""
        )
        assert found == {"ran": None, "own": True, "odd": 0, "handlers": 0, "links": 0}, (path, json.dumps(found))
    assert foreign == []
