"""Who is let in, from where, and what is refused before anybody is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from pgqueue import ConfigurationError, PgQueue
from pgqueue.web import Dashboard, ProxyHeader, Visitor
from pgqueue.web.access import networks
from pgqueue.web.guard import HEADERS, LARGEST
from pgqueue.web.pages import ENDPOINTS
from pgqueue.web.serving import Behind, listening, wsgi
from tests.web.conftest import ORIGIN, PASSWORD, Browser, browser

NEAR, FAR = ("127.0.0.1", 50000), ("203.0.113.7", 50000)


async def asked(dashboard: Dashboard, path: str = "/queues", *, client: Any = NEAR, **headers: str) -> httpx.Response:
    async with browser(dashboard, client=client) as somebody:
        return await somebody.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


# On this machine


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "jobs.localhost"])
async def test_it_is_open_to_who_asks_from_this_machine_by_a_name_of_it(app: PgQueue, host: str) -> None:
    assert (await asked(Dashboard(app), host=host)).status_code == 200


async def test_it_is_closed_to_who_asks_from_elsewhere(app: PgQueue) -> None:
    answer = await asked(Dashboard(app), client=FAR)
    assert answer.status_code == 403
    assert "closed to you" in answer.text


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"])
async def test_a_proxy_on_this_machine_asks_for_somebody_else(app: PgQueue, name: str) -> None:
    assert (await asked(Dashboard(app), **{name: "203.0.113.7"})).status_code == 403


async def test_a_name_of_elsewhere_is_refused_where_it_is_open(app: PgQueue) -> None:
    answer = await asked(Dashboard(app), host="rebound.example")
    assert (answer.status_code, "--allow-host" in answer.text) == (421, True)
    # By its own name, but from this machine alone.
    assert (await asked(Dashboard(app, hosts=["jobs.example"]), host="jobs.example")).status_code == 403


# By what name


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        (["jobs.example"], "jobs.example", 303),
        (["jobs.example"], "JOBS.example:443", 303),
        (["jobs.example"], "example", 421),
        (["*.example"], "a.jobs.example", 303),
        (["*.example"], "example", 421),
        (["*.example"], "evilexample", 421),
        (["*"], "anything.example", 303),
        ([], "jobs.example", 421),
        ([], "", 421),
        ([], "[::1", 421),
    ],
)
async def test_only_known_names_are_answered(
    app: PgQueue, dashboard: Dashboard, hosts: list[str], host: str, status: int
) -> None:
    users = [user for name in ("ann",) if (user := dashboard.passwords.named(name))]
    assert (await asked(Dashboard(app, users=users, hosts=hosts), host=host)).status_code == status


async def test_a_request_with_two_names_is_refused(dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        answer = await somebody.get("/login", headers=[("Host", "localhost"), ("Host", "evil.example")])
        assert answer.status_code == 421


# Others who ask who somebody is


@pytest.mark.parametrize(
    ("client", "sent", "status"),
    [
        (("10.1.2.3", 1), ["ann"], 200),
        (("10.1.2.3", 1), ["stranger"], 200),
        (("10.1.2.3", 1), [""], 403),
        (("10.1.2.3", 1), [], 403),
        (("10.1.2.3", 1), ["ann", "bob"], 403),
        (FAR, ["ann"], 403),
        (NEAR, ["ann"], 403),
        (("testclient", 1), ["ann"], 403),
        (None, ["ann"], 403),
    ],
)
async def test_a_header_is_believed_of_its_proxy_alone(app: PgQueue, client: Any, sent: list[str], status: int) -> None:
    dashboard = Dashboard(app, header=ProxyHeader("X-User", ["10.0.0.0/8"], roles={"ann": "admin"}))
    async with browser(dashboard, client=client) as somebody:
        answer = await somebody.get("/queues", headers=[("X-User", name) for name in sent])
        assert answer.status_code == status


async def test_a_name_in_the_header_has_its_role_or_the_one_for_all_or_none(app: PgQueue) -> None:
    header = ProxyHeader("X-User", ["10.0.0.1"], roles={"ann": "admin"}, role="operator")
    near = ("10.0.0.1", 1)
    assert (
        'ann <span class="quiet">admin' in (await asked(Dashboard(app, header=header), client=near, X_User="ann")).text
    )
    assert (
        'bob <span class="quiet">operator'
        in (await asked(Dashboard(app, header=header), client=near, X_User="bob")).text
    )
    closed = Dashboard(app, header=ProxyHeader("X-User", ["10.0.0.1"], roles={"ann": "admin"}, role=None))
    assert (await asked(closed, client=near, X_User="bob")).status_code == 403


@pytest.mark.parametrize(
    ("proxies", "roles", "says"),
    [
        (["nowhere"], {}, "does not appear to be"),
        ([], {}, "anybody could send it"),
        (["10.0.0.1"], {"a": "x"}, "no role 'x'"),
    ],
)
def test_a_header_that_protects_nothing_is_refused(proxies: list[str], roles: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ProxyHeader("X-User", proxies, roles)


def by_function(connection: HTTPConnection) -> Visitor | None:
    return Visitor("ann", "viewer") if connection.headers.get("x-key") == "right" else None


async def by_coroutine(connection: HTTPConnection) -> Visitor | None:
    return by_function(connection)


@pytest.mark.parametrize("authenticate", [by_function, by_coroutine])
async def test_the_host_says_who_somebody_is(app: PgQueue, authenticate: Any) -> None:
    dashboard = Dashboard(app, authenticate=authenticate)
    assert (await asked(dashboard, X_Key="right")).status_code == 200
    assert (await asked(dashboard, X_Key="wrong")).status_code == 403


async def test_what_is_no_visitor_lets_nobody_in(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="return a Visitor"):
        await asked(Dashboard(app, authenticate=lambda _: True))  # type: ignore[arg-type, return-value]


# What is sent


def addresses(method: str) -> list[str]:
    """Of all pages, or of all actions."""
    paths = [endpoint.path for endpoint in ENDPOINTS if endpoint.is_action == (method == "POST")]
    return [re.sub(r"{(\w+)}", lambda found: "1" if found[1] == "id" else "email", path) for path in paths]


@pytest.mark.parametrize("path", addresses("GET"))
async def test_no_page_is_shown_to_who_has_not_entered(dashboard: Dashboard, path: str) -> None:
    assert (await asked(dashboard, path)).status_code == 303
    assert (await asked(dashboard, path, HX_Request="true")).status_code == 401


@pytest.mark.parametrize("path", addresses("POST"))
async def test_nothing_is_done_for_who_has_not_entered(dashboard: Dashboard, path: str) -> None:
    async with browser(dashboard) as somebody:
        assert (await somebody.post(path, on="/login")).status_code == 401


@pytest.mark.parametrize("path", addresses("POST"))
async def test_a_viewer_changes_nothing(app: PgQueue, viewer: Browser, path: str) -> None:
    app.enqueue("count", queue="email")
    assert (await viewer.post(path)).status_code == 403


@pytest.mark.parametrize("path", addresses("POST"))
async def test_nothing_is_done_for_a_link_or_another_page(admin: Browser, path: str) -> None:
    assert (await admin.get(path)).status_code in (200, 404, 405)
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert (await admin.post(path, None, **headers)).status_code == 403
    for token in ("", "0" * 64, "ж"):
        assert (await admin.post(path, {"token": token})).status_code == 403
    assert (await admin.client.post(path, data={"token": await admin.token("/queues")})).status_code == 403


async def test_a_token_is_of_one_browser(admin: Browser, operator: Browser) -> None:
    foreign = await operator.token("/queues")
    assert (await admin.post("/queues/email/pause", {"token": foreign})).status_code == 403


async def test_a_browser_that_tells_no_origin_tells_where_it_comes_from(app: PgQueue, admin: Browser) -> None:
    app.enqueue("count", queue="email")
    token = await admin.token("/queues")
    answer = await admin.client.post(
        "/queues/email/pause", data={"token": token}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 303


@pytest.mark.parametrize("path", ["/queues/%00", "/queues?name=%00", "/%00"])
async def test_an_address_with_a_nul_is_refused(viewer: Browser, path: str) -> None:
    assert (await viewer.get(path)).status_code == 400


async def test_a_form_with_a_nul_is_refused(admin: Browser) -> None:
    assert (await admin.post("/queues/email/pause", {"why": "\0"})).status_code == 403


async def test_a_body_that_is_too_large_is_refused(admin: Browser) -> None:
    assert (await admin.post("/queues/email/pause", {"why": "x" * LARGEST})).status_code == 413


async def test_a_form_with_files_is_refused(admin: Browser) -> None:
    answer = await admin.client.post(
        "/queues/email/pause", files={"token": b"x"}, headers={"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/queues", "/nowhere", "/static/dashboard.css", "/login", "/queues/%00", "/live/x"])
async def test_every_answer_has_the_headers_of_the_policy(viewer: Browser, path: str) -> None:
    headers = (await viewer.get(path)).headers
    assert HEADERS.items() <= {name.title(): value for name, value in headers.items()}.items() or all(
        headers[name] == value for name, value in HEADERS.items()
    )
    assert "unsafe" not in headers["Content-Security-Policy"]


async def test_pages_are_not_kept_by_anybody(viewer: Browser) -> None:
    assert (await viewer.get("/queues")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/static/../dashboard.py", "/static/%2e%2e/dashboard.py", "/static/..%2fdashboard.py"]
)
async def test_only_files_that_are_meant_to_be_are_served(viewer: Browser, path: str) -> None:
    assert (await viewer.get(path)).status_code == 404


async def test_a_proxy_of_this_machine_that_says_nothing_of_itself_speaks_old_http(app: PgQueue) -> None:
    dashboard = Dashboard(app)

    async def older(scope: Any, receive: Any, send: Any) -> None:
        await dashboard({**scope, "http_version": "1.0"}, receive, send)

    async with browser(dashboard) as somebody:
        assert (await somebody.get("/queues")).status_code == 200
    async with browser(older) as somebody:  # type: ignore[arg-type]
        assert (await somebody.get("/queues")).status_code == 403


# Where it is mounted


async def test_it_works_below_a_prefix(app: PgQueue, dashboard: Dashboard) -> None:
    app.enqueue("count", queue="email")
    site = Starlette(routes=[Mount("/ops/jobs", dashboard)])
    async with browser(site) as somebody:  # type: ignore[arg-type]
        answer = await somebody.get("/ops/jobs/queues")
        assert answer.headers["location"] == f"/ops/jobs/login?next={quote('/ops/jobs/queues', safe='')}"
        page = (await somebody.get("/ops/jobs/login")).text
        assert 'action="/ops/jobs/login"' in page
        assert 'href="/ops/jobs/static/dashboard.css"' in page
        assert (await somebody.get("/ops/jobs/static/dashboard.css")).status_code == 200
        cookie = (await somebody.get("/ops/jobs/login")).headers["set-cookie"]
        assert "Path=/ops/jobs/" in cookie


def test_it_works_below_a_wsgi_application(app: PgQueue) -> None:
    app.enqueue("count", queue="email")
    application = wsgi(Dashboard(app))
    transport = httpx.WSGITransport(application, script_name="/jobs", remote_addr="127.0.0.1")
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        page = client.get("/queues")
        assert page.status_code == 200
        assert 'id="queue-email"' in page.text
        assert 'href="/jobs/static/dashboard.css"' in page.text


FORKS = """
import io, os, signal, sys
from pgqueue import PgQueue
from pgqueue.web import Dashboard
from pgqueue.web.serving import wsgi

application = wsgi(Dashboard(PgQueue(sys.argv[1])))
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(20)
environ = {
    "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/queues", "QUERY_STRING": "", "CONTENT_LENGTH": "0",
    "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost",
    "REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
}
status = []
body = b"".join(application(environ, lambda said, *_: status.append(said)))
os._exit(0 if status[0].startswith("200") and b"email" in body else 1)
"""


def test_a_server_may_load_it_and_fork_then(app: PgQueue, dsn: str) -> None:
    app.enqueue("count", queue="email")
    assert subprocess.run([sys.executable, "-c", FORKS, dsn], timeout=60, check=False).returncode == 0


def test_it_is_not_served_to_others_without_a_door(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="nobody is asked who they are"):
        listening(Dashboard(app), "0.0.0.0", 0)


def test_a_port_that_is_taken_is_said_before_it_says_where_it_is(app: PgQueue) -> None:
    with listening(Dashboard(app), "127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}: .*choose another --port"):
            listening(Dashboard(app), "127.0.0.1", port)


async def test_whom_the_host_app_refuses_is_not_told_of_other_doors(app: PgQueue) -> None:
    async with browser(Dashboard(app, authenticate=lambda connection: None)) as somebody:
        answer = await somebody.get("/")
    assert (answer.status_code, "not open to you" in answer.text, "localhost" in answer.text) == (403, True, False)


async def test_a_proxy_says_that_a_browser_came_by_https(dashboard: Dashboard) -> None:
    behind = Behind(dashboard, networks(["10.0.0.0/8"], "--proxy"))
    for client, secure in ((("10.1.2.3", 1), True), (FAR, False)):
        async with browser(behind, client=client) as somebody:  # type: ignore[arg-type]
            answer = await somebody.get("/login", headers={"X-Forwarded-Proto": "https"})
            assert ("secure" in answer.headers["set-cookie"].lower()) is secure


# What Prometheus scrapes


async def test_metrics_are_behind_the_same_door(app: PgQueue, dashboard: Dashboard, viewer: Browser) -> None:
    app.enqueue("count", queue="email")
    async with browser(dashboard) as somebody:
        refused = await somebody.get("/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        for name, given in (("vera", "wrong"), ("nobody", PASSWORD)):
            assert (await somebody.get("/metrics", auth=(name, given))).status_code == 401
        for odd in ("Basic", "Basic %%%", "Basic dmVyYQ==", "Bearer x"):
            assert (await somebody.get("/metrics", headers={"Authorization": odd})).status_code == 401
        scraped = await somebody.get("/metrics", auth=("vera", PASSWORD))
        assert scraped.headers["content-type"].startswith("text/plain")
        assert 'pgqueue_queue_depth{queue="email",state="available"} 1.0' in scraped.text
    assert (await viewer.get("/metrics")).status_code == 200
