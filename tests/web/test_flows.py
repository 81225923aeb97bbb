"""The pages of flows."""

from __future__ import annotations

import re

import pytest

from pgqueue import PgQueue
from pgqueue.flow import Flow, chain
from pgqueue.queries import auditing, flowpages
from pgqueue.testing import adrain
from tests.web.conftest import Browser


@pytest.fixture
def order(app: PgQueue) -> int:
    charge, ship = app.new_job("charge", {"order": 7}, max_attempts=1), app.new_job("ship", {"order": 7})
    return app.flows.enqueue(chain(charge, ship, name="order 7")).id


async def test_a_flow_is_in_the_list_and_drawn_with_its_jobs(viewer: Browser, order: int) -> None:
    assert "order 7" in (await viewer.get("/flows")).text
    assert "No flow matches." in (await viewer.get("/flows?name=other")).text
    page = (await viewer.get(f"/flows/{order}")).text
    assert page.count('<g class="box ') == 2
    assert page.count('<path class="line fail_parent"') == 1
    assert '<span class="state blocked">blocked</span>' in page


async def test_what_a_child_that_fails_does_is_said(app: PgQueue, viewer: Browser) -> None:
    flow = Flow("thumbnails")
    first = flow.add(app.new_job("resize"))
    flow.add(app.new_job("publish"), after=[first], on_failure="ignore")
    page = (await viewer.get(f"/flows/{app.flows.enqueue(flow).id}")).text
    assert '<path class="line ignore"' in page
    assert '<span class="quiet">ignore</span>' in page


async def test_an_operator_cancels_it_after_a_question(app: PgQueue, operator: Browser, order: int) -> None:
    page = (await operator.get(f"/flows/{order}")).text
    assert (f'href="/flows/{order}/cancel"' in page, "Retry failed jobs" in page) == (True, False)
    assert "It has 2 live jobs" in (await operator.get(f"/flows/{order}/cancel")).text
    assert await operator.act(f"/flows/{order}/cancel") == f"Cancelled 2 jobs of flow {order}."
    [charge, ship] = app.flows.jobs(order)
    assert {charge.state, ship.state} == {"cancelled"}
    assert app.jobs.get(charge.job_id).reason == "cancelled by otto"
    [noted] = app.database.fetch(auditing.entries(app.schema, 9))
    assert (noted.action, noted.target) == ("cancel_flow", str(order))
    assert f'href="/flows/{order}/cancel"' not in (await operator.get(f"/flows/{order}")).text


async def test_its_failed_jobs_are_redriven(app: PgQueue, operator: Browser, order: int) -> None:
    assert await operator.act(f"/flows/{order}/retry") == f"No job of flow {order} has failed."

    @app.task(name="charge")
    def charge(order: int) -> None:
        raise ValueError("no money")

    @app.task(name="ship")
    def ship(order: int) -> None: ...

    await adrain(app)
    assert app.flows.get(order).state == "failed"
    assert await operator.act(f"/flows/{order}/retry") == f"Redriven 1 job of flow {order}."
    assert app.flows.get(order).live >= 1


@pytest.mark.parametrize("id_", ["99", "x", "-1", str(2**63), "9" * 30, "1.5"])
async def test_what_is_no_flow_is_not_found(viewer: Browser, id_: str) -> None:
    assert (await viewer.get(f"/flows/{id_}")).status_code == 404


async def test_the_list_goes_on_from_where_a_page_ended(app: PgQueue, viewer: Browser) -> None:
    ids = [app.flows.enqueue(chain(app.new_job("a"), app.new_job("b"))).id for _ in range(51)]
    first = (await viewer.get("/flows")).text
    assert f'id="flow-{ids[0]}"' not in first
    second = (await viewer.get(f"/flows?before={ids[1]}")).text
    assert f"before={ids[1]}" in first
    assert second.count('<tr id="flow-') == 1
    assert (await viewer.get("/flows?before=x")).status_code == 200


def shown(page: str) -> list[int]:
    return [int(id_) for id_ in re.findall(r'<tr id="flow-(\d+)"', page)]


@pytest.fixture
async def ended(app: PgQueue) -> dict[str, int]:
    """A flow in each state, by state."""

    @app.task(name="charge", max_attempts=1)
    def charge(order: int) -> None:
        if order == 13:
            raise ValueError("no money")

    def enqueued(state: str, order: int) -> int:
        jobs = [app.new_job("charge", {"order": order}, max_attempts=1), app.new_job(f"ship_{state}")]
        return app.flows.enqueue(chain(*jobs, name=f"of {state}")).id

    made = {"cancelled": enqueued("cancelled", 1), "failed": enqueued("failed", 13)}
    app.flows.cancel(made["cancelled"])
    made["completed"] = app.flows.enqueue(chain(charge.job(2), charge.job(3), name="of completed")).id
    await adrain(app)
    return {**made, "running": enqueued("running", 4)}


async def test_flows_are_filtered_by_state_name_and_task_in_the_address(viewer: Browser, ended: dict[str, int]) -> None:
    assert shown((await viewer.get("/flows")).text) == sorted(ended.values(), reverse=True)
    for state, id_ in ended.items():
        page = (await viewer.get(f"/flows?state={state}")).text
        assert shown(page) == [id_]
        assert f'<a href="/flows?state={state}" aria-current="page">{state}</a>' in page
        assert shown((await viewer.get(f"/flows?name=of+{state}")).text) == [id_]
    assert shown((await viewer.get("/flows?task=ship_failed")).text) == [ended["failed"]]
    assert shown((await viewer.get("/flows?task=charge&state=running&name=of+running")).text) == [ended["running"]]
    for nothing in ("task=charge&state=running&name=of+failed", "task=ship", "state=failed&before=1"):
        assert "No flow matches." in (await viewer.get(f"/flows?{nothing}")).text
    assert shown((await viewer.get("/flows?state=odd&before=x")).text) == sorted(ended.values(), reverse=True)


@pytest.mark.parametrize("query", ["name=rare", "task=rare", "state=cancelled", "task=rare&state=cancelled&name=rare"])
async def test_a_filter_of_flows_looks_back_a_bounded_way_and_the_next_page_further(
    app: PgQueue, viewer: Browser, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(flowpages, "LOOK_BACK", 5)
    rare = app.flows.enqueue(chain(app.new_job("a"), app.new_job("rare"), name="rare")).id
    app.flows.cancel(rare)
    for _ in range(4):
        app.flows.enqueue(chain(app.new_job("a"), app.new_job("b")))
    # One that has more jobs than are looked at is looked at whole.
    app.flows.enqueue(chain(*(app.new_job("a") for _ in range(9))))
    for _ in range(4):
        app.flows.enqueue(chain(app.new_job("a"), app.new_job("b")))
    seen, path, pages = list[int](), f"/flows?{query}", 0
    while path and pages < 10:
        page = (await viewer.get(path)).text
        seen, pages = seen + shown(page), pages + 1
        older = re.search(r'href="([^"]+)" rel="next"', page)
        assert ("looks further back" in page) is (older is not None)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == [rare]
    assert 1 < pages < 10


async def test_pages_of_a_filter_go_on_from_where_one_ended(app: PgQueue, viewer: Browser) -> None:
    ids = [app.flows.enqueue(chain(app.new_job("a"), app.new_job("b"), name="x")).id for _ in range(51)]
    app.flows.enqueue(chain(app.new_job("a"), app.new_job("b")))
    page = (await viewer.get("/flows?name=x&state=running")).text
    assert shown(page) == ids[:0:-1]
    assert f'href="/flows?name=x&amp;state=running&amp;before={ids[1]}" rel="next"' in page
    assert shown((await viewer.get(f"/flows?name=x&state=running&before={ids[1]}")).text) == ids[:1]
