"""`pgqueue flows`: listed, shown as trees, cancelled, retried."""

from __future__ import annotations

import io
import re

import psycopg
import pytest
from rich.console import Console

from pgqueue import Flow, PgQueue, Task, batch, chain, group, tree
from pgqueue.cli.flowtree import draw
from pgqueue.testing import drain
from tests.integration.test_cli import Invoke, app, invoke, records

__all__ = ["app", "invoke"]


@pytest.fixture
def work(app: PgQueue) -> Task[[str], str]:
    @app.task(name="shop.work", max_attempts=1)
    def work(name: str) -> str:
        if name == "bad":
            raise ValueError("no such video")
        return name

    return work


def test_flows_are_listed_with_what_became_of_their_jobs(invoke: Invoke, app: PgQueue, work: Task[[str], str]) -> None:
    assert "No flows" in invoke("flows", "list").stderr
    app.flows.enqueue(chain(work.job("a"), work.job("b"), name="video 7"))
    app.flows.enqueue(chain(work.job("bad"), work.job("c"), name="video 8"))
    drain(app)
    first, second = records(invoke("flows", "list", "--json"))
    assert (first["name"], first["state"], first["failed"]) == ("video 8", "failed", 2)
    assert (second["name"], second["state"], second["completed"]) == ("video 7", "completed", 2)
    listed = invoke("flows", "list", "--name", "video 8").stdout
    assert "video 8" in listed
    assert "video 7" not in listed


def test_a_flow_is_shown_as_a_tree_of_parents_above_their_children(
    invoke: Invoke, app: PgQueue, work: Task[[str], str]
) -> None:
    flow = Flow("video 7")
    probe = flow.add(work.job("probe"), name="probe")
    thumbs = [flow.add(work.job("bad" if n else "ok"), after=probe, name=f"thumb {n}") for n in range(2)]
    flow.add(work.job("publish"), after=thumbs, name="publish")
    made = app.flows.enqueue(flow)
    drain(app)
    lines = invoke("flows", "show", made.id).stdout.splitlines()
    ids = [job.id for job in made.jobs]
    assert lines[0].startswith(f"flow {made.id}  video 7  failed  4 of 4 ended in ")
    assert f"└── {ids[3]}  publish (shop.work)  failed  job {ids[2]} (shop.work) failed: ValueError" in lines[1]
    assert f"    ├── {ids[1]}  thumb 0 (shop.work)  completed" in lines[2]
    assert lines[3] == f"    │   └── {ids[0]}  probe (shop.work)  completed"
    assert lines[4] == f"    └── {ids[2]}  thumb 1 (shop.work)  failed  no such video"
    assert invoke("flows", "show", ids[0], "--job").stdout.splitlines() == lines
    assert [record["children"] for record in records(invoke("flows", "show", made.id, "--json"))][-1] == ids[1:3]


def test_a_long_chain_and_a_wide_group_are_drawn(invoke: Invoke, app: PgQueue, work: Task[[str], str]) -> None:
    deep = app.flows.enqueue(chain(*(work.job("a") for _ in range(300))))
    assert len(invoke("flows", "show", deep.id).stdout.splitlines()) == 301
    wide = app.flows.enqueue(tree(work.job("top"), group(*(work.job("a") for _ in range(100)))))
    shown = invoke("flows", "show", wide.id).stdout
    assert "… 80 more available" in shown
    huge = app.flows.enqueue(group(*(work.job("a") for _ in range(1500))))
    assert "the first 1,000 of 1,500 jobs" in invoke("flows", "show", huge.id).stdout


def test_a_deep_flow_fits_a_narrow_terminal_and_still_says_who_waits_for_whom(
    app: PgQueue, work: Task[[str], str]
) -> None:
    made = app.flows.enqueue(
        chain(group(work.job("x"), work.job("y")), *(work.job("a") for _ in range(30)), name="video 7")
    )
    lines = drawn(app, made.id, 80)
    ids = [job.id for job in made.jobs]
    assert len(lines) == 33
    assert max(map(len, lines)) <= 80
    assert all(re.search(r"\d  shop\.work  (blocked|available)$", line) for line in lines[1:])
    assert lines[-3].endswith(f" {ids[3]} ← {ids[2]}  shop.work  blocked")
    assert [line.split()[-4:-2] for line in lines[-2:]] == [["←", str(ids[0])], ["←", str(ids[1])]]


def test_a_long_name_loses_its_beginning_and_not_the_state(app: PgQueue) -> None:
    app.task(name="shop." + "deep." * 17 + "publish")(nothing)
    made = app.flows.enqueue(chain(*(app.new_job("shop." + "deep." * 17 + "publish") for _ in range(2))))
    for line in drawn(app, made.id, 60)[1:]:
        assert re.search(r"…\S*deep\.publish  (blocked|available)$", line)
        assert len(line) <= 60


def test_callbacks_of_a_batch_are_told_apart(invoke: Invoke, app: PgQueue, work: Task[[str], str]) -> None:
    callback = work.job("told")
    made = app.flows.enqueue(batch([work.job("a")], on_success=callback, on_complete=callback, on_failure=callback))
    shown = invoke("flows", "show", made.id).stdout
    for when in ("success", "complete", "failure"):
        assert f"shop.work  on {when}  blocked" in shown
    assert {row["callback"] for row in records(invoke("flows", "show", made.id, "--json"))} == {
        *(None, "success", "complete", "failure"),
    }


def nothing() -> None: ...


def drawn(app: PgQueue, flow_id: int, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(draw(app.flows.get(flow_id), app.flows.jobs(flow_id), width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_flow_is_cancelled_and_retried(invoke: Invoke, app: PgQueue, work: Task[[str], str]) -> None:
    made = app.flows.enqueue(chain(work.job("bad"), work.job("b")))
    drain(app)
    assert "Redriven: 1 job." in invoke("flows", "retry", made.id).stderr
    assert app.flows.get(made.id).live == 1
    assert "Cancel 1 live job of flow" in invoke("flows", "cancel", made.id, exit_code=2).stderr
    cancelled = invoke("flows", "cancel", made.id, "--yes", "--json")
    assert [record["id"] for record in records(cancelled)] == [made.jobs[0].id]
    assert "Cancelled: 1 job." in cancelled.stderr


def test_a_retry_of_a_flow_in_which_nothing_failed_says_so(
    invoke: Invoke, app: PgQueue, work: Task[[str], str]
) -> None:
    made = app.flows.enqueue(group(work.job("a"), work.job("b")))
    app.flows.cancel(made.id)
    said = invoke("flows", "retry", made.id).stderr
    assert f"Flow {made.id} is cancelled, and none of its jobs has failed" in said
    assert app.flows.get(made.id).live == 0


def test_what_is_not_there_says_so(invoke: Invoke, app: PgQueue, work: Task[[str], str], dsn: str) -> None:
    for verb in ("show", "cancel", "retry"):
        assert "there is no flow 999" in invoke("flows", verb, 999, exit_code=3).stderr
    job = work.enqueue("alone")
    assert f"job {job.id} is in no flow" in invoke("flows", "show", job.id, "--job", exit_code=3).stderr


def test_names_of_others_cannot_move_the_cursor(invoke: Invoke, app: PgQueue, work: Task[[str], str], dsn: str) -> None:
    made = app.flows.enqueue(chain(work.job("a"), work.job("b"), name="fine"))
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.flows set name = E'\\x1b[31mred'")
        conn.execute("update pgqueue.flow_jobs set name = E'\\x1b[2J'")
    assert "\x1b" not in invoke("flows", "show", made.id).stdout
    assert "\x1b" not in invoke("flows", "list").stdout
