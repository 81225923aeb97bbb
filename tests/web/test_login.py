"""Entering with a name and a password, and what a browser keeps of it."""

from __future__ import annotations

import pytest
import time_machine

from pgqueue import ConfigurationError, PgQueue
from pgqueue.web import Dashboard, User
from pgqueue.web.access import MEMORY, hashed, matches, read_users
from pgqueue.web.session import COOKIE, LASTS, MESSAGE
from tests.web.conftest import ORIGIN, PASSWORD, TOKEN, Browser, browser, log_in


async def test_a_page_sends_to_the_login_and_back(dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        answer = await somebody.get("/queues?name=a")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fqueues%3Fname%3Da")
        entered = await somebody.post(
            "/login", {"name": "vera", "password": PASSWORD, "next": "/queues?name=a"}, on="/login"
        )
        assert (entered.status_code, entered.headers["location"]) == (303, "/queues?name=a")
        assert "vera" in (await somebody.get("/queues")).text


@pytest.mark.parametrize(("name", "given"), [("vera", "wrong horse"), ("nobody", PASSWORD), ("", ""), ("vera", "")])
async def test_nobody_enters_with_a_wrong_name_or_password(dashboard: Dashboard, name: str, given: str) -> None:
    async with browser(dashboard) as somebody:
        answer = await somebody.post("/login", {"name": name, "password": given}, on="/login")
        assert answer.status_code == 403
        assert "No user has this name and password." in answer.text
        assert (await somebody.get("/queues")).status_code == 303


async def test_who_logs_out_is_out(viewer: Browser) -> None:
    assert (await viewer.post("/logout")).headers["location"] == "/login"
    assert (await viewer.get("/queues")).status_code == 303


async def test_a_session_ends_by_itself(dashboard: Dashboard) -> None:
    with time_machine.travel("2026-12-31T12:00:00Z", tick=False) as clock:
        async with browser(dashboard) as somebody:
            await log_in(somebody, "vera")
            session = somebody.client.cookies[COOKIE]
            clock.shift(LASTS + 1)
            somebody.client.cookies.set(COOKIE, session, domain="localhost.local")
            assert (await somebody.get("/queues")).status_code == 303


@pytest.mark.parametrize("change", ["password", "role", "gone"])
async def test_a_session_ends_with_what_it_was_given_for(app: PgQueue, password: str, change: str) -> None:
    secret = "of both processes, long enough"
    async with browser(Dashboard(app, users=[User("ann", "admin", password)], secret=secret)) as somebody:
        await log_in(somebody, "ann")
        session = somebody.client.cookies[COOKIE]
    users = {
        "password": [User("ann", "admin", hashed("another one"))],
        "role": [User("ann", "viewer", password)],
        "gone": [User("otto", "admin", password)],
    }
    async with browser(Dashboard(app, users=users[change], secret=secret)) as somebody:
        somebody.client.cookies.set(COOKIE, session, domain="localhost.local")
        assert (await somebody.get("/queues")).status_code == 303


async def test_processes_that_share_a_secret_share_who_has_entered(app: PgQueue, password: str) -> None:
    user = User("ann", "admin", password)
    for secret, status in (("of both processes, long enough", 200), (None, 303)):
        async with browser(Dashboard(app, users=[user], secret=secret)) as somebody:
            await log_in(somebody, "ann")
            session = somebody.client.cookies[COOKIE]
        async with browser(Dashboard(app, users=[user], secret=secret)) as somebody:
            somebody.client.cookies.set(COOKIE, session, domain="localhost.local")
            assert (await somebody.get("/queues")).status_code == status


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "WyJ4Il0.Z.Z"])
async def test_a_cookie_that_nobody_signed_is_no_session(dashboard: Dashboard, cookie: str) -> None:
    async with browser(dashboard) as somebody:
        somebody.client.cookies.set(COOKIE, cookie)
        assert (await somebody.get("/queues")).status_code == 303


async def test_a_message_that_nobody_signed_is_not_shown(viewer: Browser) -> None:
    viewer.client.cookies.set(MESSAGE, "you.are.lost")
    answer = await viewer.get("/queues")
    assert answer.status_code == 200
    assert 'class="message' not in answer.text


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://a.example/",
        "//a.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\tx",
        "",
    ],
)
async def test_the_login_sends_nobody_elsewhere(dashboard: Dashboard, elsewhere: str) -> None:
    async with browser(dashboard) as somebody:
        answer = await somebody.post("/login", {"name": "vera", "password": PASSWORD, "next": elsewhere}, on="/login")
        assert answer.headers["location"] == "/"


async def test_cookies_are_for_this_server_alone(dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        set_cookie = (await log_in(somebody, "vera")).headers["set-cookie"].lower()
        assert "httponly" in set_cookie
        assert "samesite=lax" in set_cookie
        assert "secure" not in set_cookie
        somebody.client.base_url = "https://localhost"
        assert "secure" in (await somebody.get("/login")).headers["set-cookie"].lower()


async def test_a_login_from_another_page_is_refused(dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        fields = {"name": "vera", "password": PASSWORD}
        foreign = await somebody.post("/login", fields, on="/login", Origin="https://evil.example")
        assert foreign.status_code == 403
        old = await somebody.post("/login", {**fields, "token": "0" * 64}, on="/login")
        assert "too old" in old.text
        assert (await somebody.client.post("/logout", headers={"Origin": ORIGIN})).status_code == 403
        assert (await somebody.get("/queues")).status_code == 303


async def at_once(dashboard: Dashboard, path: str, into: Browser) -> list[str]:
    """The tokens of two pages that a browser without a cookie asks for at once; it has the cookies of both then."""
    tokens = []
    for _ in range(2):
        async with browser(dashboard) as asking:
            [token] = set(TOKEN.findall((await asking.get(path)).text))
            tokens.append(token)
            into.client.cookies.update(asking.client.cookies)
    return tokens


async def test_both_forms_of_a_browser_that_opens_two_pages_at_once_can_be_sent(dashboard: Dashboard) -> None:
    fields = {"name": "vera", "password": PASSWORD}
    for n in range(2):
        async with browser(dashboard) as somebody:
            tokens = await at_once(dashboard, "/login", somebody)
            answer = await somebody.post("/login", {**fields, "token": tokens[n]}, on="/login")
            assert answer.status_code == 303, answer.text


async def test_so_can_those_of_pages_that_ask_for_no_password(app: PgQueue) -> None:
    dashboard = Dashboard(app)
    async with browser(dashboard) as somebody:
        job = app.enqueue("count")
        for token in await at_once(dashboard, f"/jobs/{job.id}", somebody):
            answer = await somebody.post(f"/jobs/{job.id}/repeat", {"token": token}, on="/queues")
            assert answer.status_code == 303, answer.text
    await dashboard.aclose()


async def test_a_token_of_before_the_login_is_good_for_nothing_after_it(dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        token, _ = await at_once(dashboard, "/login", somebody)
        assert (await log_in(somebody, "ann")).status_code == 303
        answer = await somebody.post("/queues/a/pause", {"token": token})
        assert (answer.status_code, answer.text) == (403, "The form is too old: load its page again.\n")


async def test_a_token_of_another_browser_is_good_for_nothing(dashboard: Dashboard) -> None:
    async with browser(dashboard) as other, browser(dashboard) as somebody:
        foreign = await other.token("/login")
        await somebody.get("/login")
        answer = await somebody.post("/login", {"name": "vera", "password": PASSWORD, "token": foreign}, on="/login")
        assert "too old" in answer.text
        assert (await somebody.get("/queues")).status_code == 303


async def test_a_browser_that_has_a_cookie_is_given_no_other(dashboard: Dashboard, app: PgQueue) -> None:
    open_to_all = Dashboard(app)
    for one, path in ((dashboard, "/login"), (open_to_all, "/queues"), (open_to_all, "/")):
        async with browser(one) as somebody:
            await somebody.get(path)
            names = {cookie.name for cookie in somebody.client.cookies.jar}
            await somebody.get(path)
            assert {cookie.name for cookie in somebody.client.cookies.jar} == names
            assert len(names) == 1
    await open_to_all.aclose()


async def test_cookies_of_an_earlier_secret_are_taken_back(app: PgQueue, dashboard: Dashboard) -> None:
    async with browser(dashboard) as somebody:
        await somebody.get("/login")
        restarted = Dashboard(app)
        async with browser(restarted) as same:
            same.client.cookies.update(somebody.client.cookies)
            await same.get("/queues")
            [left] = same.client.cookies.jar
            assert left.name not in {cookie.name for cookie in somebody.client.cookies.jar}
        await restarted.aclose()


def test_a_hash_is_of_one_password_and_has_a_salt_of_its_own() -> None:
    first, second = hashed(PASSWORD), hashed(PASSWORD)
    assert first != second
    assert matches(PASSWORD, first)
    assert matches(PASSWORD, second)
    assert not matches("correct horsf", first)


@pytest.mark.parametrize(
    "known",
    [
        "",
        "secret",
        "scrypt$$$$$",
        "scrypt$3$8$1$AAAA$AAAA",
        "scrypt$32768$8$1$AAAA$AAAA",
        "md5$32768$8$1$" + "A" * 24 + "$" + "A" * 43 + "=",
        f"scrypt${MEMORY}$8$1$" + "A" * 24 + "$" + "A" * 43 + "=",
        "scrypt$32768$-8$1$" + "A" * 24 + "$" + "A" * 43 + "=",
    ],
)
def test_what_is_no_hash_is_no_password(known: str) -> None:
    assert not matches("", known)
    with pytest.raises(ConfigurationError, match="is no hash"):
        User("ann", "admin", known)


def test_a_user_has_a_name_and_a_role(password: str) -> None:
    with pytest.raises(ConfigurationError, match="no space and no colon"):
        User("a b", "admin", password)
    with pytest.raises(ConfigurationError, match="no role 'root'"):
        User("ann", "root", password)  # type: ignore[arg-type]
    assert password not in repr(User("ann", "admin", password))


def test_two_users_have_two_names(app: PgQueue, password: str) -> None:
    with pytest.raises(ConfigurationError, match="two users are named ann"):
        Dashboard(app, users=[User("ann", "admin", password), User("ann", "viewer", password)])


def test_a_short_secret_is_refused(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="has 5 characters"):
        Dashboard(app, secret="short")


def test_users_are_read_from_a_file(tmp_path, password: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "users"
    file.write_text(f"# the team\n\nann:admin:{password}\nvera:viewer:{password}\n")
    assert [(user.name, user.role) for user in read_users(file)] == [("ann", "admin"), ("vera", "viewer")]
    file.write_text(f"ann:admin:{password}\nvera\n")
    with pytest.raises(ConfigurationError, match="line 2: user vera has no role ''"):
        read_users(file)
    file.write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="has no user"):
        read_users(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_users(tmp_path / "nowhere")
