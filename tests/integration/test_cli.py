"""Commands on a real database: what they show, change, and exit with."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console

from pgqueue import JobNotFound, Limit, PgQueue, SnoozeJob
from pgqueue.cli import pgqueue
from pgqueue.cli.config import SETTINGS, Shown
from pgqueue.cli.listings import TASKS
from pgqueue.cli.output import Listing, plain
from pgqueue.config import masked, sqlalchemy_url
from pgqueue.testing import drain

Invoke = Callable[..., Result]
BURY = """
    with gone as (delete from pgqueue.jobs where id = any (%s) returning *)
    insert into pgqueue.failed_jobs (id, run_at, created_at, attempt, max_attempts, priority, crashes, queue, task,
                                     unique_key, reason, error_type, error_message, fingerprint, args, errors)
    select id, run_at, created_at, 1, max_attempts, priority, 0, queue, task, unique_key, 'attempts_used',
           'shop.errors.Declined', 'no money', 'f00d', args,
           '[{"attempt": 1, "type": "shop.errors.Declined", "message": "no money", "traceback": "line 1"}]'
    from gone
"""


@pytest.fixture
def app(dsn: str) -> PgQueue:
    return PgQueue(dsn)


@pytest.fixture
def invoke(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.delenv("PGQUEUE_APP", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*args: object, exit_code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(pgqueue, [str(arg) for arg in args], **options)
        assert result.exit_code == exit_code, result.output
        return result

    return call


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def failed(app: PgQueue, dsn: str, count: int, queue: str = "cards") -> list[int]:
    ids = [app.enqueue("shop.charge", {"n": n}, queue=queue).id for n in range(count)]
    with psycopg.connect(dsn) as connection:
        connection.execute(BURY, [ids])
    return ids


def test_ping_says_that_all_is_well(invoke: Invoke) -> None:
    assert "PostgreSQL" in invoke("ping").stdout
    assert records(invoke("ping", "--json"))[0]["ok"] is True


def test_a_database_without_tables_is_exit_code_5_and_names_the_command(invoke: Invoke, empty_dsn: str) -> None:
    for command in (["ping"], ["jobs", "list"], ["queues", "list"]):
        assert "pgqueue migrate" in invoke(*command, "--dsn", empty_dsn, exit_code=5).stderr


def test_the_command_that_makes_the_tables_of_another_schema_names_it(invoke: Invoke, app: PgQueue) -> None:
    for command in (["ping"], ["jobs", "list"]):
        said = invoke(*command, "--schema", "jobs2", exit_code=5).stderr
        assert "run `pgqueue migrate --schema jobs2`" in said
        assert "`pgqueue migrate --schema jobs2` makes its tables" in said
    assert "`pgqueue migrate --schema jobs2`" in invoke("migrate", "--dry-run", "--schema", "jobs2").stderr


def test_migrate_makes_the_tables_once_and_says_so(invoke: Invoke, empty_dsn: str) -> None:
    assert "no tables" in invoke("migrate", "status", "--dsn", empty_dsn, exit_code=5).stdout
    invoke("migrate", "--dry-run", "--dsn", empty_dsn)
    invoke("ping", "--dsn", empty_dsn, exit_code=5)
    for options, said in ((("migrate", "--dsn", empty_dsn), "Upgraded"), (("--dsn", empty_dsn, "migrate"), "Nothing")):
        message = invoke(*options).stderr
        assert said in message
        assert masked(empty_dsn) in message
    assert "up to date" in invoke("migrate", "status", "--dsn", empty_dsn).stdout
    assert "--yes" in invoke("migrate", "down", "--to", "base", "--dsn", empty_dsn, exit_code=2).stderr
    invoke("migrate", "down", "--to", "base", "--yes", "--dsn", empty_dsn)
    invoke("ping", "--dsn", empty_dsn, exit_code=5)


def test_a_job_is_enqueued_with_its_options(invoke: Invoke, app: PgQueue) -> None:
    options = ["--delay", "1h", "-q", "mail", "--priority", "-3", "--key", "k", "--max-attempts", 4, "--tag", "a"]
    [made] = records(invoke("enqueue", "shop.send", "to=a@b.c", "n:=2", "--force", "--json", *options))
    job = app.jobs.get(made["id"])
    assert (job.task, job.queue, dict(job.args)) == ("shop.send", "mail", {"to": "a@b.c", "n": 2})
    assert (job.state, job.priority, job.key, job.max_attempts, job.tags) == ("scheduled", -3, "k", 4, ("a",))
    again = invoke("enqueue", "shop.send", "--force", "-q", "mail", "--key", "k")
    assert f"Job {job.id} holds the key" in again.stderr


def test_a_task_that_nobody_knows_is_not_enqueued_by_mistake(invoke: Invoke, app: PgQueue) -> None:
    refused = invoke("enqueue", "shop.sned", exit_code=3).stderr
    assert "-a MODULE:APP" in refused
    assert "--force" in refused
    assert app.jobs.count() == 0


CODE = """
from pgqueue import PgQueue

app = PgQueue()

@app.task(queue="email")
def send(to: str, copies: int = 1) -> None:
    pass
"""


@pytest.fixture
def code(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An app in the working directory."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "cli_mail").mkdir()
    (tmp_path / "cli_mail" / "__init__.py").touch()
    (tmp_path / "cli_mail" / "tasks.py").write_text(CODE)
    yield "cli_mail.tasks"
    for name in [name for name in sys.modules if name.partition(".")[0] == "cli_mail"]:
        del sys.modules[name]


def test_arguments_are_read_by_the_signature_with_and_without_the_name_of_the_app(
    invoke: Invoke, app: PgQueue, code: str
) -> None:
    for named in ([], ["-a", code]):
        for to in ("12345", '"12345"'):
            result = invoke("enqueue", "send", f"to={to}", "copies=2", "--json", *named)
            assert result.stderr == ""
            assert app.jobs.get(records(result)[0]["id"]).args == {"to": "12345", "copies": 2}
        assert "'copies'" in invoke("enqueue", "send", "to=x", "copies=two", *named, exit_code=2).stderr
        assert "'cc'" in invoke("enqueue", "send", "to=x", "cc=y", *named, exit_code=2).stderr
    assert app.jobs.count() == 4


RENAMED = """
from pgqueue import PgQueue

app = PgQueue()

@app.task(name="mail.send", aliases=["shop.send", "old.deliver"])
def send(to: str) -> str:
    return to
"""


def test_a_task_is_found_by_its_former_names_too(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_renamed.py").write_text(RENAMED)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = ("-a", "cli_renamed:app")
    assert invoke("run", "shop.send", "to=x", *code).stdout == '"x"\n'
    [made] = records(invoke("enqueue", "shop.send", "to=x", *code, "--json"))
    assert made["task"] == "mail.send"
    assert drain(sys.modules.pop("cli_renamed").app).completed == 1
    (tmp_path / "cli_renamed.py").unlink()
    monkeypatch.delenv("PGQUEUE_APP", raising=False)
    assert "Set for task mail.send" in invoke("limits", "set", "--task", "shop.send", "--concurrency", 1).stderr
    [limit] = records(invoke("limits", "list", "--json"))
    assert limit["name"] == "mail.send"
    # An alias does not make short names ambiguous, and without the code it stays what it is.
    assert records(invoke("enqueue", "send", "to=x", "--json"))[0]["task"] == "mail.send"
    assert records(invoke("enqueue", "old.deliver", "to=x", "--json"))[0]["task"] == "old.deliver"
    listed = {row["name"]: (row["alias_of"], row["live_jobs"]) for row in records(invoke("tasks", "list", "--json"))}
    assert listed == {"mail.send": (None, 1), "old.deliver": ("mail.send", 1), "shop.send": ("mail.send", 0)}
    assert "old.deliver (alias of mail.send)" in invoke("tasks", "list", env={"COLUMNS": "200"}).stdout


def test_without_an_app_a_job_goes_by_name_and_the_shell_is_told(invoke: Invoke) -> None:
    assert "not checked" in invoke("enqueue", "shop.send", "to=x", "--force").stderr


def test_a_job_is_not_put_into_a_queue_that_nobody_knows_by_mistake(invoke: Invoke, app: PgQueue, code: str) -> None:
    refused = invoke("enqueue", "send", "to=x", "-q", "emial", exit_code=3).stderr
    assert "did you mean `email`" in refused
    assert "--force" in refused
    assert app.jobs.count() == 0
    invoke("enqueue", "send", "to=x", "-q", "email")
    invoke("enqueue", "send", "to=x", "-q", "emial", "--force")
    assert app.jobs.count() == 2


def test_long_arguments_are_whole_in_show_and_as_json_only(invoke: Invoke, app: PgQueue) -> None:
    text = "x" * 5000
    job = app.enqueue("shop.send", {"text": text})
    listed = invoke("jobs", "list").stdout
    assert max(map(len, listed.splitlines())) < 400
    assert "…" in listed
    assert records(invoke("jobs", "list", "--json"))[0]["args"] == {"text": text}
    assert text in invoke("jobs", "show", job.id).stdout


def test_a_filter_that_matches_no_failed_job_names_the_errors_that_there_are(
    invoke: Invoke, app: PgQueue, dsn: str
) -> None:
    assert "There are no failed jobs" in invoke("failed", "purge", "--all", "--yes").stderr
    failed(app, dsn, 2)
    for verb in ("redrive", "purge"):
        said = invoke("failed", verb, "-e", "Declind", "--yes").stderr
        assert "No failed job matches --error Declind" in said
        assert "did you mean `Declined`" in said
        assert "shop.errors.Declined" in said
        app.enqueue("shop.charge", queue="elsewhere")
        assert "shop.errors.Declined" in invoke("failed", verb, "-q", "elsewhere", "--yes").stderr
    assert app.failed.count() == 2


def test_halted_serial_keys_are_shown_and_resumed(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    assert "No serial key is halted" in invoke("limits", "halted").stderr
    assert "halted" not in invoke("limits", "list").stderr

    @app.task(name="shop.ship", queue="orders", serial_key="{order_id}", halt_on_failed=True, max_attempts=1)
    def ship(order_id: int, fails: bool) -> None:
        if fails:
            raise KeyError(order_id)

    first, *_ = app.enqueue_many([ship.job(7, True), ship.job(7, False), ship.job(8, False)])
    drain(app)
    assert "1 serial key is halted by failed jobs: `pgqueue limits halted`" in invoke("limits", "list").stderr
    [record] = records(invoke("limits", "halted", "--json"))
    assert (record["queue"], record["serial_key"], record["job_id"], record["blocked"]) == ("orders", "7", first.id, 1)
    assert "KeyError: 7" in invoke("limits", "halted", env={"COLUMNS": "200"}).stdout
    assert "Resumed serial key 7" in invoke("limits", "resume", "-q", "orders", "--serial-key", 7).stderr
    assert "No serial key is halted" in invoke("limits", "halted").stderr
    assert drain(app).completed == 1


def test_jobs_are_purged_by_state_and_age(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    for delay in (0, 60):
        app.enqueue("send", queue="mail", delay=delay)
    failed(app, dsn, 2)
    assert "Nobody can answer" in invoke("jobs", "purge", "-s", "failed", exit_code=2).stderr
    assert "running" in invoke("jobs", "purge", "-s", "running", exit_code=2).stderr
    assert "No job matches" in invoke("jobs", "purge", "-s", "failed", "--older-than", "1h", "--yes").stderr
    assert "2 jobs would" in invoke("jobs", "purge", "-s", "failed", "-s", "completed", "--dry-run").stderr
    assert "Purged 2 jobs." in invoke("jobs", "purge", "-s", "failed", "-s", "scheduled", "-q", "cards", "--yes").stderr
    assert "Purged 1 job." in invoke("jobs", "purge", "-s", "available", "--task", "send", "--yes").stderr
    assert [job.state for job in app.jobs.list()] == ["scheduled"]


def test_a_queue_is_obliterated_after_a_question(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    failed(app, dsn, 2)
    app.enqueue("shop.charge", queue="cards")
    assert "did you mean `cards`" in invoke("queues", "obliterate", "crads", "--yes", exit_code=3).stderr
    assert "Nobody can answer" in invoke("queues", "obliterate", "cards", exit_code=2).stderr
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.jobs set state = 'running', claim_id = 1")
        conn.execute(
            "insert into pgqueue.claims select 1, gen_random_uuid(), now(), 'cards', array_agg(id) from pgqueue.jobs"
        )
        conn.execute(
            "insert into pgqueue.schedules (name, task, queue, every, next_run_at) "
            "values ('hourly', 't', 'cards', '1 h', now())"
        )
    assert "1 job of it runs" in invoke("queues", "obliterate", "cards", "--yes", exit_code=1).stderr
    result = invoke("queues", "obliterate", "cards", "--yes", "--force", "--json")
    assert "Obliterated cards: 3 jobs (1 running, 2 failed)." in result.stderr
    assert "hourly" in result.stderr
    [record] = records(result)
    assert (record["queue"], record["running"], record["failed"], record["schedules"]) == ("cards", 1, 2, ["hourly"])
    assert app.jobs.list() == []


def test_jobs_are_listed_shown_and_filtered(invoke: Invoke, app: PgQueue) -> None:
    first = app.enqueue("shop.send", {"to": "x"}, queue="mail")
    second = app.enqueue("shop.charge", queue="cards", delay=60)
    assert [row["id"] for row in records(invoke("jobs", "list", "--json"))] == [second.id, first.id]
    assert [row["id"] for row in records(invoke("jobs", "list", "--json", "-q", "mail"))] == [first.id]
    assert [row["id"] for row in records(invoke("jobs", "list", "--json", "-s", "scheduled"))] == [second.id]
    assert "shop.charge" in invoke("jobs", "list").stdout
    assert '{"to": "x"}' in invoke("jobs", "show", first.id).stdout
    assert records(invoke("jobs", "show", first.id, "--json"))[0]["args"] == {"to": "x"}
    invoke("jobs", "show", 10**9, exit_code=3)


def test_what_cannot_be_read_is_shown_as_such(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    job = app.enqueue("shop.send", {"n": 1})
    deep = f'{{"n": {"[" * 300 + "]" * 300}}}'
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.jobs set args = %s::jsonb", [deep])
        connection.execute(
            "insert into pgqueue.schedules (name, task, every, args, next_run_at) "
            "values ('odd', 'shop.send', '1 hour', %s::jsonb, now()), ('bad', 'shop.send', '0', '{}', now())",
            [deep],
        )
    assert "unreadable: the stored JSON nests deeper" in invoke("jobs", "list").stdout
    [record] = records(invoke("jobs", "list", "--json"))
    assert (record["id"], record["args"], list(record["unreadable"])) == (job.id, {}, ["args"])
    shown = invoke("jobs", "show", job.id).stdout
    assert "unreadable" in shown
    assert "arguments" not in shown
    assert "bad: args: the stored JSON nests deeper" in invoke("schedules", "list").stdout
    assert "schedule odd cannot be read: args" in invoke("schedules", "run", "odd", exit_code=1).stderr
    coming = invoke("schedules", "next", "--json")
    assert {record["schedule"] for record in records(coming)} == {"odd"}
    assert "bad: an interval must be between" in coming.stderr
    invoke("schedules", "next", "bad", exit_code=2)
    assert app.jobs.count() == 1


def test_lines_that_are_piped_end_where_their_text_does(invoke: Invoke, app: PgQueue) -> None:
    app.enqueue("shop.send", {"to": "a"})
    job = app.enqueue("shop.send", {"to": "a" * 50})
    for command in (["jobs", "list"], ["queues", "list"], ["jobs", "show", job.id]):
        lines = invoke(*command).stdout.splitlines()
        assert lines == [line.rstrip() for line in lines] != []


def test_cancel_takes_ids_or_filters_and_asks_first(invoke: Invoke, app: PgQueue) -> None:
    one = app.enqueue("shop.send", queue="mail")
    for _ in range(3):
        app.enqueue("shop.charge", queue="cards")
    invoke("jobs", "cancel", one.id)
    assert app.jobs.get(one.id).state == "cancelled"
    assert "give ids, or a filter" in invoke("jobs", "cancel", exit_code=2).stderr
    assert "3 jobs" in invoke("jobs", "cancel", "-q", "cards", exit_code=2).stderr
    assert app.jobs.count(state="available") == 3
    assert "Cancelled 3 jobs" in invoke("jobs", "cancel", "-q", "cards", "--yes").stderr
    assert app.jobs.count(state="available") == 0
    invoke("jobs", "cancel", one.id, exit_code=3)


def test_promote_lets_a_scheduled_job_run_now(invoke: Invoke, app: PgQueue) -> None:
    job = app.enqueue("shop.send", delay=3600)
    invoke("jobs", "promote", job.id)
    assert app.jobs.get(job.id).state == "available"
    missing = invoke("jobs", "promote", job.id + 1000, exit_code=3).stderr
    assert f"nothing was promoted: there is no job {job.id + 1000}" in missing


def test_promote_says_of_each_job_that_waits_for_something_else_what_that_is(invoke: Invoke, app: PgQueue) -> None:
    @app.task(name="shop.ship", queue="orders", serial_key="{order_id}")
    def ship(order_id: int) -> None:
        raise SnoozeJob(3600)

    child = app.enqueue("shop.pack").id
    parent = ship.using(after=[child]).enqueue(0).id
    first, second = app.enqueue_many([ship.job(7), ship.job(7)])
    drain(app, queues=["orders"])
    later = app.enqueue("shop.send", delay=3600)
    before = app.jobs.get(second.id)
    said = invoke("jobs", "promote", parent, child, second.id, later.id, 10**9).stderr
    assert "Promoted 1 job of 5: the rest were not waiting for their time: " in said
    assert f"job {parent} is blocked, and not by its time (`pgqueue why {parent}`)" in said
    assert f"job {second.id} is blocked, and not by its time" in said
    assert f"job {child} is available already" in said
    assert f"there is no job {10**9}" in said
    assert app.jobs.get(second.id) == before
    assert f"nothing was promoted: job {parent} is blocked" in invoke("jobs", "promote", parent, exit_code=3).stderr
    assert "Promoted 1 job." in invoke("jobs", "promote", first.id).stderr


def test_a_redrive_by_id_says_what_became_of_each_job_that_stays(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    done = app.enqueue("shop.send", queue="mail").id
    held, locked, free = failed(app, dsn, 3)
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.failed_jobs set unique_key = 'order 7' where id = %s", [held])
    holder = app.enqueue("shop.charge", queue="cards", key="order 7").id
    with psycopg.connect(dsn) as connection:
        connection.execute("select from pgqueue.failed_jobs where id = %s for update", [locked])
        said = invoke("failed", "redrive", held, locked, free).stderr
    assert "Redrove 1 failed job; " in said
    assert f"job {held} stayed, since live job {holder} holds its key" in said
    assert f"job {locked} stayed, since another transaction has locked its row: try again" in said
    missing = invoke("failed", "redrive", locked, free, done, 10**9, exit_code=3).stderr
    assert f"nothing was done: job {done} is available, not failed, there is no job {10**9}" in missing.replace(
        f"job {free} is available, not failed, ", ""
    )
    assert f"job {done} is available, not failed" in invoke("failed", "show", done, exit_code=3).stderr
    assert "it never was" in invoke("failed", "show", 10**9, exit_code=3).stderr
    with pytest.raises(JobNotFound, match=f"job {done} is available, not failed"):
        app.failed.get(done)


def test_an_id_that_no_flow_can_have_is_called_a_flow_id(invoke: Invoke) -> None:
    for verb in ("show", "cancel", "retry"):
        assert f"{2**63} is no flow id" in invoke("flows", verb, 2**63, exit_code=2).stderr


def test_failed_jobs_are_listed_counted_and_shown(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    ids = failed(app, dsn, 3)
    assert [row["id"] for row in records(invoke("failed", "list", "--json", "-e", "Declined"))] == ids[::-1]
    assert records(invoke("failed", "list", "--json", "-e", "Timeout")) == []
    [group] = records(invoke("failed", "groups", "--json"))
    assert (group["jobs"], group["fingerprint"], group["error_message"]) == (3, "f00d", "no money")
    assert [row["id"] for row in records(invoke("failed", "list", "--json", "-f", "f00d"))] == ids[::-1]
    assert "3 failed jobs would be meant" in invoke("failed", "redrive", "-f", "f00d", "--dry-run").stderr
    assert "no failed job matches --fingerprint beef" in invoke("failed", "redrive", "-f", "beef").stderr.lower()
    assert "line 1" in invoke("failed", "show", ids[0]).stdout
    invoke("failed", "show", 10**9, exit_code=3)


def test_a_job_that_has_not_failed_is_not_shown_as_one_and_the_command_for_it_is_named(
    invoke: Invoke, app: PgQueue
) -> None:
    job = app.enqueue("shop.charge")
    said = invoke("failed", "show", job.id, exit_code=3).stderr
    assert f"job {job.id} is available, not failed: `pgqueue jobs show {job.id}` shows it" in said
    assert "no job with id 99" in invoke("failed", "show", 99, exit_code=3).stderr


def test_redrive_works_in_batches_and_leaves_what_a_live_job_blocks(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    failed(app, dsn, 1203)
    blocked = app.enqueue("shop.charge", queue="cards", key="only one").id
    with psycopg.connect(dsn) as connection:
        connection.execute(BURY, [[blocked]])
    app.enqueue("shop.charge", queue="cards", key="only one")
    assert "1,204 failed jobs" in invoke("failed", "redrive", "-q", "cards", exit_code=2).stderr
    result = invoke("failed", "redrive", "-e", "f00d", "--yes")
    assert f"Redrove 1,203 failed jobs; job {blocked} stayed, since live job" in result.stderr
    assert app.failed.count() == 1
    assert app.jobs.count(state="available") == 1204


def test_purge_deletes_only_what_was_named(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    ids = failed(app, dsn, 3) + failed(app, dsn, 1, queue="mail")
    invoke("failed", "purge", exit_code=2)
    invoke("failed", "purge", "--all", ids[0], exit_code=2)
    invoke("failed", "purge", ids[0], "--yes")
    invoke("failed", "purge", ids[0], "--yes", exit_code=3)
    assert "Purged 2 failed jobs" in invoke("failed", "purge", "-q", "cards", "--yes").stderr
    assert [job.id for job in app.failed.list()] == [ids[3]]


def test_a_queue_is_paused_and_resumed_and_a_typo_pauses_nothing(invoke: Invoke, app: PgQueue) -> None:
    app.enqueue("shop.send", queue="email")
    result = invoke("queues", "pause", "email", "emial", exit_code=3)
    assert "no worker listens on `emial`" in result.stderr
    assert "did you mean `email`" in result.stderr
    assert [row["paused"] for row in records(invoke("queues", "list", "--json"))] == [False]
    invoke("queues", "pause", "email")
    assert "paused" in invoke("queues", "stats", "email").stdout
    invoke("queues", "resume", "email")
    assert [row["paused"] for row in records(invoke("queues", "stats", "email", "--json"))] == [False]
    assert "email was not paused" in invoke("queues", "resume", "email").stderr


def test_empty_lists_say_what_to_do(invoke: Invoke) -> None:
    assert "pgqueue worker" in invoke("workers", "list").stderr
    assert "no live worker has the name or id w: none is alive" in invoke("workers", "stop", "w", exit_code=3).stderr
    assert "@app.cron" in invoke("schedules", "list").stderr
    assert invoke("tasks", "list").stdout == ""


def test_watch_is_refused_where_nothing_can_be_redrawn(invoke: Invoke) -> None:
    assert "terminal" in invoke("jobs", "list", "--watch", exit_code=2).stderr
    assert "--json" in invoke("jobs", "list", "--watch", "1", "--json", exit_code=2).stderr


def test_a_job_is_edited_and_its_arguments_are_checked_where_the_code_is_at_hand(
    invoke: Invoke, app: PgQueue, code: str
) -> None:
    job = records(invoke("enqueue", f"{code}.send", "to=01", "copies=2", "--json"))[0]["id"]
    said = invoke("jobs", "edit", job, "to=02", "--unset", "copies", "--priority", "-5", "--delay", "1h").stderr
    assert f"Edited job {job}: {code}.send in email, priority -5, in 1h" in said.replace("\n", " ")
    assert "not checked" not in said
    assert dict(app.jobs.get(job).args) == {"to": "02"}
    assert "copies" in invoke("jobs", "edit", job, "copies=x", exit_code=2).stderr
    assert "no worker listens on `emial`" in invoke("jobs", "edit", job, "-q", "emial", exit_code=3).stderr
    assert records(invoke("jobs", "edit", job, "-q", "emial", "--force", "--json"))[0]["queue"] == "emial"
    assert "nothing is to change" in invoke("jobs", "edit", job, exit_code=2).stderr


def test_a_job_without_its_code_is_edited_with_a_warning_and_one_that_ended_is_refused(
    invoke: Invoke, app: PgQueue
) -> None:
    job = app.enqueue("shop.send", {"to": "a"}).id
    assert "The arguments were not checked" in invoke("jobs", "edit", job, "to=b").stderr
    app.jobs.cancel(job)
    assert "has ended (cancelled)" in invoke("jobs", "edit", job, "to=c", exit_code=1).stderr
    assert "no job with id 999" in invoke("jobs", "edit", 999, "to=c", exit_code=3).stderr


def test_jobs_are_deleted_by_id_or_filter_after_a_question(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    gone = failed(app, dsn, 3)
    tagged = [app.enqueue("shop.send", {"n": n}, tags=["trial"]).id for n in range(2)]
    kept = app.enqueue("shop.send").id
    assert "Delete 1 job for good?" in invoke("jobs", "delete", kept, exit_code=2).stderr
    assert (
        "Deleted 2 jobs of 3: the rest run, are being redriven, or are gone"
        in invoke("jobs", "delete", *gone[:2], 999, "--yes").stderr
    )
    assert "Deleted 2 jobs." in invoke("jobs", "delete", "--tag", "trial", "--yes").stderr
    assert "Deleted 1 job." in invoke("jobs", "delete", "-s", "failed", "-q", "cards", "-y").stderr
    assert [job.id for job in app.jobs.list()] == [kept]
    assert "no waiting or ended job has the id" in invoke("jobs", "delete", tagged[0], "-y", exit_code=3).stderr
    assert "give ids, or a filter" in invoke("jobs", "delete", exit_code=2).stderr


def test_jobs_are_exported_as_json_lines_and_csv(invoke: Invoke, app: PgQueue, dsn: str, tmp_path: Path) -> None:
    gone = failed(app, dsn, 2)
    waiting = app.enqueue("shop.send", {"to": "é,\n"}, key="k", tags=["a", "b"])
    shown = invoke("jobs", "export")
    assert [job["id"] for job in records(shown)] == [*gone, waiting.id]
    assert records(shown)[2]["args"] == {"to": "é,\n"}
    assert "Exported 3 jobs." in shown.stderr
    invoke("jobs", "export", "-s", "failed", "-o", tmp_path / "failed.csv")
    with (tmp_path / "failed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["id"]), row["state"], row["key"]) for row in rows] == [(one, "failed", "") for one in gone]
    [row] = csv.DictReader(io.StringIO(invoke("jobs", "export", "-s", "available", "-f", "csv").stdout, newline=""))
    assert (json.loads(row["args"]), row["key"], json.loads(row["tags"])) == ({"to": "é,\n"}, "k", ["a", "b"])
    assert row["created_at"] == plain(waiting.created_at)
    assert (row["ended_at"], row["value"]) == ("", "")
    assert "no task `nobody`" in invoke("jobs", "export", "-t", "nobody", exit_code=3).stderr


def test_what_a_spreadsheet_would_run_is_text_in_csv(invoke: Invoke, app: PgQueue) -> None:
    app.enqueue("shop.send", {}, key='=HYPERLINK("http://x.example","y")', serial_key="@SUM(1)", priority=-5)
    [row] = csv.DictReader(io.StringIO(invoke("jobs", "export", "-f", "csv").stdout, newline=""))
    assert (row["key"][:7], row["serial_key"], row["priority"]) == ("'=HYPER", "'@SUM(1)", "-5")


@pytest.fixture
def engine_code(code: str, empty_dsn: str, tmp_path: Path) -> str:
    """An app on an engine, whose database is not the one that PGQUEUE_DSN names."""
    url = sqlalchemy_url(empty_dsn).render_as_string(hide_password=False)
    made = CODE.replace("PgQueue()", f"PgQueue(engine=create_engine({url!r}))")
    (tmp_path / "cli_mail" / "tasks.py").write_text(f"from sqlalchemy import create_engine\n{made}")
    return code


@pytest.mark.parametrize("named", [True, False])
def test_an_app_whose_own_database_has_no_tables_is_told_which_and_how_to_migrate_that(
    invoke: Invoke, engine_code: str, empty_dsn: str, named: bool
) -> None:
    assert "Nothing to do" in invoke("migrate").stderr
    commands = (["worker", engine_code, "--drain"], ["jobs", "list", "-a", engine_code]) if named else (["worker"],)
    for command in commands:
        said = invoke(*command, exit_code=5).stderr.splitlines()
        assert f"`pgqueue migrate -a {engine_code}{'' if named else ':app'}`" in said[-1]
        assert str(conninfo_to_dict(empty_dsn)["dbname"]) in said[-1]
    assert "Upgraded" in invoke("migrate", "-a", engine_code).stderr
    invoke("jobs", "list", "-a", engine_code)


def test_config_shows_the_database_of_the_app_that_is_named(invoke: Invoke, engine_code: str, empty_dsn: str) -> None:
    for named, found, source in ((["-a", engine_code], empty_dsn, "the app"), ([], None, "PGQUEUE_DSN")):
        [row] = [row for row in records(invoke("config", "--json", *named)) if row["name"] == "dsn"]
        assert row["source"] == source
        assert found is None or str(conninfo_to_dict(found)["dbname"]) in row["value"]


def test_beside_a_dsn_the_schema_is_that_of_the_app_that_is_named(
    invoke: Invoke, code: str, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_mail" / "tasks.py").write_text(CODE.replace("PgQueue()", "PgQueue(schema='mail')"))
    monkeypatch.setenv("PGQUEUE_APP", code)
    for options in ([], ["--dsn", dsn]):
        assert "schema mail: no tables" in invoke("migrate", "status", *options, exit_code=5).stdout
        assert "CREATE TABLE mail." in invoke("migrate", "--sql", *options).stdout
        rows = {row["name"]: row for row in records(invoke("config", "--json", *options))}
        assert (rows["schema"]["value"], rows["schema"]["source"]) == ("mail", "the app")
        assert (rows["dsn"]["value"], rows["dsn"]["source"]) == (masked(dsn), "--dsn" if options else "PGQUEUE_DSN")
    assert invoke("ping", "--schema", "pgqueue").stderr == ""
    monkeypatch.setenv("PGQUEUE_APP", "cli_mail.nowhere")
    said = invoke("ping").stderr
    assert "App cli_mail.nowhere cannot be asked for its schema (there is no module 'cli_mail.nowhere'" in said


def test_config_shows_a_database_of_the_app_that_is_not_the_one_that_is_set(
    invoke: Invoke, engine_code: str, empty_dsn: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUE_APP", engine_code)
    rows = {row["name"]: row for row in records(invoke("config", "--json"))}
    assert (rows["dsn"]["value"], rows["dsn"]["source"]) == (masked(dsn), "PGQUEUE_DSN")
    assert str(conninfo_to_dict(empty_dsn)["dbname"]) in rows["app dsn"]["value"]
    assert "app schema" not in rows


def test_a_dsn_is_shown_whole_on_a_narrow_terminal() -> None:
    shown = rendered(SETTINGS, [Shown("dsn", f"postgresql://shop@{'h' * 60}/shop", "PGQUEUE_DSN", "PGQUEUE_DSN")])
    assert f"postgresql://shop@{'h' * 60}/shop" in re.sub(r"[\s]", "", "".join(shown[2:]).replace("PGQUEUE_DSN", ""))


def test_a_long_task_name_loses_its_beginning() -> None:
    row = (f"shop.{'long.' * 20}send_email", None, None, None, None, None, 3, None)
    [line] = rendered(TASKS, [row])[2:]
    assert re.match(r"….*\.send_email ", line)
    assert "(no worker)" in line


def rendered(listing: Listing[Any], rows: list[Any]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(listing.table(rows, 80))
    return out.getvalue().splitlines()


ENDS = """
from pgqueue import Context, PgQueue

app = PgQueue()

@app.task(bind=True, transactional=True)
def in_a_function(ctx: Context) -> None:
    ctx.connection.execute("rollback and chain")

@app.task(bind=True, transactional=True)
async def in_a_coroutine(ctx: Context) -> None:
    await ctx.connection.execute("rollback and chain")
"""


@pytest.mark.parametrize("task", ["in_a_function", "in_a_coroutine"])
def test_run_refuses_as_a_worker_does_that_a_task_ends_its_transaction(
    invoke: Invoke, tmp_path: Path, task: str
) -> None:
    (tmp_path / "cli_ends.py").write_text(ENDS)
    result = invoke("run", task, "-a", "cli_ends:app", exit_code=1)
    assert "the task ended the transaction in which its job completes" in result.stderr


def test_a_limit_is_set_listed_paused_and_lifted(invoke: Invoke, app: PgQueue) -> None:
    app.enqueue("shop.charge", queue="cards")
    of = ["--queue", "cards", "--key", "{customer_id}"]
    assert "No limits" in invoke("limits", "list").stderr
    assert "Set for queue cards, {customer_id}" in invoke("limits", "set", *of, "--rate", "90/min", "--burst", 3).stderr
    [row] = records(invoke("limits", "list", "--json"))
    assert (row["scope"], row["name"], row["key"], row["rate"], row["burst"], row["concurrency"]) == (
        *("queue", "cards", "{customer_id}", 1.5, 3, None),
    )
    assert "90/min" in invoke("limits", "list").stdout
    invoke("limits", "set", *of, "--concurrency", 2, "--rate", 0.5)
    shown = invoke("limits", "list").stdout
    assert "30/min" in shown
    assert "queue cards" in shown
    for which, named in (
        ([*of, "--value", 7], "{customer_id} = 7"),
        (["--queue", "cards", "--serial-key", "order-7"], "serial key order-7 of queue cards"),
        (["--task", "charge"], "task shop.charge"),
    ):
        assert named in invoke("limits", "pause", *which).stderr
        assert "Resumed" in invoke("limits", "resume", *which).stderr
        assert "Nothing was paused of" in invoke("limits", "resume", *which).stderr
    invoke("limits", "remove", *of)
    assert "there is no limit of queue cards, {customer_id}" in invoke("limits", "remove", *of, exit_code=3).stderr
    assert records(invoke("limits", "list", "--json")) == []


def test_a_task_is_paused_by_the_name_that_people_type(invoke: Invoke, app: PgQueue, code: str) -> None:
    invoke("limits", "pause", "--task", "send", "-a", code)
    [row] = records(invoke("limits", "list", "--json"))
    assert (row["name"], row["paused"], row["concurrency"]) == (f"{code}.send", True, None)
    assert "paused" in invoke("limits", "list").stdout
    invoke("limits", "resume", "--task", "send", "-a", code)
    assert records(invoke("limits", "list", "--json")) == []


def test_what_is_paused_of_a_key_is_listed_until_it_is_resumed(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    assert "paused" not in invoke("limits", "list").stderr
    app.enqueue("shop.charge", {"customer": 7}, queue="cards")
    invoke("limits", "set", "--queue", "cards", "--key", "{customer}", "--concurrency", 2)
    value = ["--queue", "cards", "--key", "{customer}", "--value", "a:7"]
    serial = ["--queue", "cards", "--serial-key", "order:7"]
    assert "No limit" not in invoke("limits", "pause", *value).stderr
    assert "1 key is paused by hand: `pgqueue limits paused`" in invoke("limits", "list").stderr
    invoke("limits", "pause", *serial)
    assert records(invoke("limits", "paused", "--json")) == [
        {"scope": "queue", "name": "cards", "key": None, "value": "order:7", "blocked": 0},
        {"scope": "queue", "name": "cards", "key": "{customer}", "value": "a:7", "blocked": 0},
    ]
    assert re.search(r"queue cards +serial key +order:7", invoke("limits", "paused").stdout)
    invoke("limits", "resume", *value)
    invoke("limits", "resume", *serial)
    assert "No value and no serial key is paused" in invoke("limits", "paused").stderr
    # A Retry-After of a minute ago.
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.gates set closed_until = now() - interval '1 minute'")
    assert "Nothing was paused of" in invoke("limits", "resume", *value).stderr


def test_a_pause_by_a_key_that_no_limit_has_says_so(invoke: Invoke, app: PgQueue, code: str) -> None:
    app.enqueue("shop.charge", {"customer": 7}, queue="cards")
    of = ["limits", "pause", "--queue", "cards", "--value", "7", "--key"]
    assert "No limit of queue cards has the key {custmer}. It holds" in invoke(*of, "{custmer}").stderr
    invoke("limits", "set", "--queue", "cards", "--key", "{customer}", "--concurrency", 2)
    said = invoke(*of, "{cust}").stderr
    assert "No limit of queue cards has the key {cust}: the keys there are {custmer}, {customer}." in said
    by = ["limits", "pause", "--task", "send", "-a", code, "--value", 7, "--key"]
    assert "names nope, which is no parameter" in invoke(*by, "{nope}", exit_code=2).stderr


def test_a_limit_by_an_argument_that_the_task_has_not_is_refused(invoke: Invoke, app: PgQueue, code: str) -> None:
    by = ["--task", "send", "-a", code, "--concurrency", 1, "--key"]
    assert "names nope, which is no parameter" in invoke("limits", "set", *by, "{nope}", exit_code=2).stderr
    invoke("limits", "set", *by, "{to}")
    assert [row.key for row in app.limits.list()] == ["{to}"]


ON_NAMES = (
    ["jobs", "list"],
    ["jobs", "cancel"],
    ["jobs", "promote"],
    ["jobs", "purge", "-s", "available"],
    ["failed", "list"],
    ["failed", "groups"],
    ["failed", "redrive", "--dry-run"],
    ["failed", "purge", "--dry-run"],
)


@pytest.mark.parametrize("command", [*ON_NAMES, ["limits", "remove"], ["limits", "pause"]], ids=" ".join)
def test_a_task_that_nobody_knows_is_refused_wherever_it_is_named(
    invoke: Invoke, app: PgQueue, command: list[str]
) -> None:
    app.enqueue("shop.tasks.charge")
    said = invoke(*command, "-t", "chrage", exit_code=3).stderr
    assert "there is no task `chrage`; did you mean `charge`" in said
    assert "known are shop.tasks.charge" in invoke(*command, "--task", "mail", exit_code=3).stderr


@pytest.mark.parametrize("command", ON_NAMES, ids=" ".join)
def test_a_queue_that_nobody_knows_is_refused_in_a_filter(invoke: Invoke, app: PgQueue, command: list[str]) -> None:
    app.enqueue("shop.tasks.charge", queue="cards")
    assert "did you mean `cards`" in invoke(*command, "--queue", "crads", exit_code=3).stderr


def test_a_task_is_listed_and_operated_on_by_the_end_of_its_name(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    [gone] = failed(app, dsn, 1)
    # Of this task there is nothing but a failed job: no worker has registered it.
    assert [row["id"] for row in records(invoke("failed", "list", "--task", "charge", "--json"))] == [gone]
    assert "1 failed job would be meant" in invoke("failed", "redrive", "--task", "charge", "--dry-run").stderr
    job = app.enqueue("shop.tasks.send")
    assert [row["id"] for row in records(invoke("jobs", "list", "--task", "send", "--json"))] == [job.id]
    assert "Cancelled 1 job" in invoke("jobs", "cancel", "--task", "send", "--yes").stderr
    assert [row["id"] for row in records(invoke("jobs", "list", "--task", "send", "--json"))] == [job.id]
    app.enqueue("blog.tasks.send")
    app.enqueue("shop.tasks.send")
    assert "several tasks are called 'send'" in invoke("jobs", "list", "--task", "send", exit_code=2).stderr


def test_a_limit_is_lifted_by_the_end_of_the_name_of_its_task(invoke: Invoke, app: PgQueue) -> None:
    app.limits.set(Limit(concurrency=1), task="shop.tasks.charge")
    assert "Lifted the limit of task shop.tasks.charge" in invoke("limits", "remove", "--task", "charge").stderr
    assert app.limits.list() == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["set", "--queue", "crads", "--concurrency", "1"], 3, "did you mean"),
        (["set", "--queue", "cards"], 2, "give --concurrency, --rate or both"),
        (["set", "--queue", "cards", "--rate", "often"], 2, "'often' is no rate"),
        (["set", "--queue", "cards", "--concurrency", "0"], 2, "not in the range 1<=x"),
        (["set", "--queue", "cards", "--concurrency", "1", "--burst", "2"], 2, "give --rate too"),
        (["set", "--task", "shop.charge", "--fair", "--key", "{n}"], 2, "give --queue and --key"),
        (["set", "--concurrency", "1"], 2, "give one of --queue and --task"),
        (["remove"], 2, "give one of --queue and --task"),
        (["pause", "--queue", "cards", "--task", "shop.charge"], 2, "give one of --queue and --task"),
        (["pause", "--queue", "cards", "--key", "{n}"], 2, "give --key and --value"),
        (["pause", "--task", "shop.charge", "--serial-key", "7"], 2, "--serial-key is of a queue"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(
    invoke: Invoke, app: PgQueue, arguments: list[str], exit_code: int, said: str
) -> None:
    app.enqueue("shop.charge", queue="cards")
    assert said in invoke("limits", *arguments, exit_code=exit_code).stderr
    assert app.limits.list() == []


def test_a_job_is_enqueued_with_a_serial_key_and_shown_with_it(invoke: Invoke) -> None:
    [made] = records(invoke("enqueue", "shop.ship", "--force", "--json", "--serial-key", "order-7"))
    assert re.search(r"serial key\s+order-7", invoke("jobs", "show", made["id"]).stdout)


def test_a_redrive_can_be_looked_at_first_paced_and_sent_elsewhere(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    ids = failed(app, dsn, 3)
    assert "3 failed jobs would be meant" in invoke("failed", "redrive", "--queue", "cards", "--dry-run").stderr
    assert app.failed.count() == 3
    invoke("failed", "redrive", "--all", "--yes", "--rate", "1/h", "--to-queue", "slow")
    assert [(app.jobs.get(id_).queue, app.jobs.get(id_).state) for id_ in ids] == [
        ("slow", "available"),
        ("slow", "scheduled"),
        ("slow", "scheduled"),
    ]


def test_a_breaker_is_set_listed_opened_and_taken_away(invoke: Invoke, app: PgQueue) -> None:
    app.enqueue("shop.charge", queue="cards")
    of = ["--queue", "cards"]
    assert "No circuit breakers" in invoke("breakers", "list").stderr
    made = invoke("breakers", "set", *of, "--failures", 10, "--open-for", "2m", "--on", "TimeoutError")
    assert "Set for queue cards" in made.stderr
    invoke("breakers", "set", *of, "--ratio", 0.25, "--within", "5m")
    [row] = records(invoke("breakers", "list", "--json"))
    assert (row["scope"], row["name"], row["state"], row["failures"], row["ratio"], row["minimum"]) == (
        *("queue", "cards", "closed", 10, 0.25, 20),
    )
    assert (row["within"], row["open_for"], row["cap"], row["errors"]) == (300, 120, 600, ["TimeoutError"])
    assert "10 and 25% of 20 or more in 5m" in invoke("breakers", "list").stdout
    assert "Opened the circuit breaker of queue cards: for 1h" in invoke("breakers", "open", *of, "--for", "1h").stderr
    shown = invoke("breakers", "list").stdout
    assert re.search(r"queue cards +open", shown)
    assert "in 59m" in shown or "in 1h" in shown
    invoke("breakers", "reset", *of)
    assert "half-open" in invoke("breakers", "list").stdout
    assert "until" not in invoke("breakers", "close", *of).stderr
    assert "close` with the same options" in invoke("breakers", "open", *of).stderr
    [row] = records(invoke("breakers", "list", "--json"))
    assert (row["state"], row["tries_at"], row["reason"]) == ("open", None, "by hand")
    assert records(invoke("limits", "list", "--json")) == []
    invoke("breakers", "remove", *of)
    assert records(invoke("breakers", "list", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["set", "--queue", "crads", "--failures", "1"], 3, "did you mean"),
        (["set", "--queue", "cards"], 2, "never opens"),
        (["set", "--queue", "cards", "--ratio", "2"], 2, "above 0 and up to 1"),
        (["set", "--failures", "1"], 2, "give one of --queue and --task"),
        (["open", "--queue", "cards"], 3, "there is no circuit breaker of queue cards"),
        (["close", "--queue", "cards"], 3, "there is no circuit breaker of queue cards"),
    ],
)
def test_a_breaker_that_cannot_be_is_refused(
    invoke: Invoke, app: PgQueue, arguments: list[str], exit_code: int, said: str
) -> None:
    app.enqueue("shop.charge", queue="cards")
    assert said in invoke("breakers", *arguments, exit_code=exit_code).stderr
    assert app.breakers.list() == []


def test_the_jobs_of_a_queue_are_let_age(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    app.enqueue("shop.charge", queue="cards")
    query = "select ageing, ageing_floor from pgqueue.queues where name = 'cards'"
    assert "Jobs of cards age every 10m" in invoke("queues", "age", "cards", "10m", "--floor", -1).stderr
    with psycopg.connect(dsn) as conn:
        assert conn.execute(query).fetchall() == [(timedelta(minutes=10), -1)]
        assert "age no more" in invoke("queues", "age", "cards", "--off").stderr
        assert conn.execute(query).fetchall() == [(None, None)]
    assert "at least a second" in invoke("queues", "age", "cards", "0.1", exit_code=2).stderr
    assert "give a time" in invoke("queues", "age", "cards", exit_code=2).stderr
    assert "did you mean" in invoke("queues", "age", "crads", "10m", exit_code=3).stderr
