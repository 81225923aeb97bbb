"""How long the dashboard's pages take on the server: `python -m benchmarks.pages DSN [ENDED] [LIVE]`.

Fills a database of its own with ENDED (1,000,000) completed and LIVE (100,000) waiting jobs and 5,000 failed ones, of
200 queues and 500 tasks, with figures of three days in which 200 of them ran in every minute, and asks for each page
nine times. Prints the milliseconds of the median and the slowest, a line a page; the bound is 300. What charts show is
read once in ten seconds: of a page with charts the slowest says what reading costs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from statistics import median

import httpx
import psycopg

from pgqueue import PgQueue, migrate
from pgqueue.web import Dashboard

TIMES = 9
FILL = """
    insert into pgqueue.completed_jobs (id, run_at, created_at, started_at, attempt, max_attempts, priority, state,
        queue, task, args, result)
    select n, now(), now(), now(), 1, 25, 0, case when n %% 50 = 0 then 'cancelled' else 'completed' end,
        'queue-' || n %% 200, 'shop.tasks.task_' || n %% 500, jsonb_build_object('to', n || '@shop.example', 'n', n),
        to_jsonb(n)
    from generate_series(1, %(ended)s) n;
    insert into pgqueue.jobs (id, queue, task, args, state, priority, position, run_at, attempt, max_attempts, tags)
    select %(ended)s + n, 'queue-' || n %% 200, 'shop.tasks.task_' || n %% 500, jsonb_build_object('n', n),
        case n %% 4 when 0 then 'scheduled' else 'available' end, 0,
        case n %% 4 when 0 then null else nextval('pgqueue.jobs_position') end,
        case n %% 4 when 0 then now() + interval '1 hour' else now() end, 0, 25,
        case when n %% 1000 = 0 then array['vip'] end
    from generate_series(1, %(live)s) n;
    insert into pgqueue.failed_jobs (id, run_at, created_at, started_at, attempt, max_attempts, priority, crashes,
        queue, task, reason, error_type, error_message, fingerprint, args, errors)
    select %(ended)s + %(live)s + n, now(), now(), now(), 1, 1, 0, 0, 'queue-' || n %% 200,
        'shop.tasks.task_' || n %% 40, 'attempts_used', 'ValueError', 'no such order ' || n, md5((n %% 40)::text),
        jsonb_build_object('n', n),
        jsonb_build_array(jsonb_build_object('type', 'ValueError', 'message', 'no such order', 'traceback',
            repeat('  File "shop/tasks.py", line 12, in charge' || chr(10), 40)))
    from generate_series(1, 5000) n;
    insert into pgqueue.flows (name) select 'order ' || n from generate_series(1, 1000) n;
    insert into pgqueue.flow_jobs (job_id, flow_id, task, queue, state)
    select n, 1 + n %% 1000, 'shop.tasks.task_1', 'queue-1', 'completed' from generate_series(1, 10000) n;
    insert into pgqueue.task_minutes (minute, queue, task, completed, failed, retried,
        snoozed, cancelled, runs, waits, run_seconds, wait_seconds)
    select date_bin(make_interval(mins =>
            case when ago <= 70 then 1 when ago <= 420 then 2 when ago <= 1500 then 10 else 30 end), at, '2000-01-01Z'),
        'queue-' || lane,
        'shop.tasks.task_' || lane, sum(1 + lane), 0, 0, 0, 0, array_fill(1 + lane, array[8], array[9]),
        array_fill(9, array[8], array[11]), 1, 1
    from generate_series(0, 4319) ago, generate_series(0, 199) lane,
        lateral (select date_trunc('minute', now()) - make_interval(mins => ago) as at) m
    group by 1, lane;
    insert into pgqueue.audit_log (actor, role, action, target, detail, outcome)
    select 'ann', 'admin', 'pause_queue', 'queue-' || n %% 200, '{}', 'done' from generate_series(1, 10000) n;
"""


def fill(dsn: str, ended: int, live: int) -> None:
    migrate.upgrade(dsn)
    with psycopg.ClientCursor(psycopg.connect(dsn, autocommit=True)) as cursor:
        if cursor.execute("select 1 from pgqueue.completed_jobs limit 1").fetchone() is None:
            cursor.execute(FILL, {"ended": ended, "live": live})
        cursor.execute("analyze")


def paths(ended: int, live: int) -> list[str]:
    failed = ended + live + 1
    return [
        *(
            "/",
            "/?span=6h",
            "/?span=24h",
            "/?span=3d",
            "/queues",
            "/queues/queue-7?span=3d",
            "/tasks/shop.tasks.task_7?span=3d",
        ),
        *("/queues", "/queues/queue-7", "/jobs", "/jobs?state=completed", "/jobs?state=cancelled"),
        *("/jobs?state=available", "/jobs?state=running", "/jobs?queue=queue-7", "/jobs?task=shop.tasks.task_7"),
        *("/jobs?tag=vip", "/jobs?key=none", "/jobs?queue=queue-7&state=completed", "/jobs?task=nothing"),
        *(f"/jobs?before={ended // 2}", "/jobs/all?verb=cancel&queue=queue-7", f"/jobs/{ended // 2}"),
        *(
            f"/jobs/{ended + 5}",
            f"/jobs/{failed}",
            "/failed",
            "/failed?task=shop.tasks.task_7",
            "/failed?error=ValueError",
        ),
        *("/failed/" + "c4ca4238a0b923820dcc509a6f75849b", "/schedules", "/flows", "/flows/7", "/tasks"),
        *("/tasks/shop.tasks.task_7", "/workers", "/health", "/audit", "/audit?target=queue-7"),
    ]


async def measure(dsn: str, ended: int, live: int) -> None:
    app = PgQueue(dsn)
    dashboard = Dashboard(app)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(dashboard), base_url="http://localhost", timeout=60
    ) as client:
        for path in paths(ended, live):
            took, statuses = [], set()
            for _ in range(TIMES):
                began = time.perf_counter()
                answer = await client.get(path)
                took.append((time.perf_counter() - began) * 1e3)
                statuses.add(answer.status_code)
            found = {
                "path": path,
                "status": max(statuses),
                "median_ms": round(median(took), 1),
                "worst_ms": round(max(took), 1),
            }
            print(json.dumps(found), flush=True)
    await dashboard.aclose()
    await app.aclose()


def main(dsn: str, ended: str = "1000000", live: str = "100000") -> None:
    fill(dsn, int(ended), int(live))
    asyncio.run(measure(dsn, int(ended), int(live)))


if __name__ == "__main__":
    main(*sys.argv[1:])
