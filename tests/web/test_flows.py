"""The pages of flows."""

from __future__ import annotations

import pytest

from pgqueue import PgQueue
from pgqueue.flow import Flow, chain
from pgqueue.queries import auditing
from pgqueue.testing import adrain
from tests.web.conftest import Browser


@pytest.fixture
def order(app: PgQueue) -> int:
    charge, ship = app.new_job("charge", {"order": 7}, max_attempts=1), app.new_job("ship", {"order": 7})
    return app.flows.enqueue(chain(charge, ship, name="order 7")).id


async def test_a_flow_is_in_the_list_and_drawn_with_its_jobs(viewer: Browser, order: int) -> None:
    assert "order 7" in (await viewer.get("/flows")).text
    assert "No flow has this name." in (await viewer.get("/flows?name=other")).text
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
    assert "It has 2 live jobs" in (await operator.get(f"/flows/{order}/cancel")).text
    assert await operator.act(f"/flows/{order}/cancel") == f"Cancelled 2 jobs of flow {order}."
    [charge, ship] = app.flows.jobs(order)
    assert {charge.state, ship.state} == {"cancelled"}
    assert app.jobs.get(charge.job_id).reason == "cancelled by otto"
    [noted] = app.database.fetch(auditing.entries(app.schema, 9))
    assert (noted.action, noted.target) == ("cancel_flow", str(order))


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
