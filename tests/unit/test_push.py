"""The parts of a delivery that need no server: addresses, signatures, requests, answers, and hosts that fail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from pgqueue import ArgumentError, Backoff, ConfigurationError, FailJob, Limit, PgQueue
from pgqueue.push import Push
from pgqueue.push.addresses import Allowed
from pgqueue.push.answer import Answer, retry_after
from pgqueue.push.breaker import HostBreaker
from pgqueue.push.network import CheckedNetwork
from pgqueue.push.request import HEADERS_LIMIT, Rules, checked, checked_headers, checked_url, written
from pgqueue.push.signing import Signer, id_of, keys_of, signatures

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OLD = "whsec_ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7"
NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)


def push_app() -> PgQueue:
    return PgQueue("postgresql:///nowhere")


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_an_address_that_is_not_public_is_not_permitted(address: str) -> None:
    assert not Allowed().permits(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::8",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ],
)
def test_a_public_address_is_permitted(address: str) -> None:
    assert Allowed().permits(ip_address(address))


def test_only_the_networks_that_were_allowed_are_permitted_beside_public_ones() -> None:
    allowed = Allowed.of(["10.1.0.0/16", "fd12::/16"])
    assert allowed.permits(ip_address("10.1.2.3"))
    assert allowed.permits(ip_address("::ffff:10.1.2.3"))
    assert allowed.permits(ip_address("fd12::1"))
    assert allowed.permits(ip_address("1.1.1.1"))
    assert not allowed.permits(ip_address("10.2.0.1"))
    assert not allowed.permits(ip_address("169.254.169.254"))
    assert not allowed.permits(ip_address("::ffff:10.2.0.1"))


def test_with_all_addresses_allowed_those_of_no_host_are_still_refused() -> None:
    allowed = Allowed.of(True)
    assert all(allowed.permits(ip_address(one)) for one in ("127.0.0.1", "::1", "10.0.0.1", "169.254.0.1", "fd00::1"))
    none = ("0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1")
    assert not any(allowed.permits(ip_address(one)) for one in none)


@pytest.mark.parametrize("wrong", ["10.0.0.0/8", ["10.0.0.1/8"], ["example.com"], 7, [None]])
def test_networks_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="give True, or a list of networks"):
        Allowed.of(wrong)


# Connections


class Listener:
    """A server on loopback that counts who connects."""

    def __init__(self) -> None:
        self.connections = 0

    async def __aenter__(self) -> Listener:
        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            writer.close()

        self._server = await asyncio.start_server(count, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


class Names:
    """A resolver that answers differently each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked = 0
        self._answers = answers

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self._answers[self.asked - 1]


async def test_a_name_is_resolved_once_and_connected_to_at_the_address_that_was_checked() -> None:
    async with Listener() as listener:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        network = CheckedNetwork(Allowed.of(["127.0.0.0/8"]), names)
        stream = await network.connect_tcp("rebinds.example", listener.port, timeout=5)
        assert stream.get_extra_info("server_addr")[:2] == ("127.0.0.1", listener.port)
        await stream.aclose()
    assert names.asked == 1


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"]])
async def test_nothing_is_connected_to_where_one_address_is_not_permitted(addresses: Sequence[str]) -> None:
    async with Listener() as listener:
        network = CheckedNetwork(Allowed(), Names(addresses))
        with pytest.raises(FailJob, match=r"inside\.example leads to 127\.0\.0\.1, which is no public address"):
            await network.connect_tcp("inside.example", listener.port, timeout=5)
    assert listener.connections == 0


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1"])
async def test_what_the_system_takes_for_loopback_is_refused(host: str) -> None:
    async with Listener() as listener:
        with pytest.raises(FailJob, match="no public address"):
            await CheckedNetwork(Allowed()).connect_tcp(host, listener.port, timeout=5)
    assert listener.connections == 0


async def test_an_address_that_refuses_leaves_the_next_one_to_be_tried() -> None:
    async with Listener() as listener:
        network = CheckedNetwork(Allowed.of(True), Names(["::1", "127.0.0.1"]))
        stream = await network.connect_tcp("two.example", listener.port, timeout=5)
        assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
        await stream.aclose()


async def test_a_name_that_is_not_found_is_a_broken_connection() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(httpcore.ConnectError, match=r"the address of gone\.example was not found: Name or service"):
        await CheckedNetwork(Allowed(), unknown).connect_tcp("gone.example", 443, timeout=5)
    with pytest.raises(httpcore.ConnectTimeout, match="was not found in time"):
        await CheckedNetwork(Allowed(), silent).connect_tcp("slow.example", 443, timeout=0)
    with pytest.raises(httpcore.ConnectError, match="has no address"):
        await CheckedNetwork(Allowed(), Names([])).connect_tcp("empty.example", 443, timeout=5)


# Signatures


def test_a_signature_is_the_one_that_openssl_makes() -> None:
    # printf 'msg_42.1700000000.{"order":7}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f -binary | base64
    made = signatures(keys_of(SECRET), "msg_42", 1_700_000_000, b'{"order":7}')
    assert made == "v1,YPOWv+YLh/lcGHGfyv3EAsjJ770rqOA/6e1Zmi62oNk="


def test_several_secrets_sign_each_for_itself() -> None:
    first, second = signatures(keys_of([SECRET, OLD]), "msg_42", 1_700_000_000, b'{"order":7}').split(" ")
    assert first == "v1,YPOWv+YLh/lcGHGfyv3EAsjJ770rqOA/6e1Zmi62oNk="
    assert second == "v1,/n9cYi+5KN15dYMRGCiXYKlHNxL3H9L93AmhKQxmBd8="


async def test_a_function_chooses_the_secret_by_the_url() -> None:
    async def later(url: str) -> list[str]:
        return [SECRET]

    for secret in (lambda url: {"https://a.example/": SECRET}[url], later):
        signed = await Signer(secret).headers("msg_1", "https://a.example/", b"x")
        message = f"msg_1.{signed['webhook-timestamp']}.x".encode()
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
        assert signed["webhook-signature"] == f"v1,{expected}"
        assert signed["webhook-id"] == "msg_1"


async def test_without_a_secret_nothing_is_signed() -> None:
    assert list(await Signer(None).headers("msg_1", "https://a.example/", b"x")) == ["webhook-id", "webhook-timestamp"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("c2VjcmV0", "secret 1 does not begin with 'whsec_'"),
        ("whsec_???", "secret 1 is not base64"),
        ("whsec_c2VjcmV0", "secret 1 has 6 bytes"),
        ([SECRET, "whsec_c2VjcmV0"], "secret 2 has 6 bytes"),
        (b"whsec_c2VjcmV0", "secret is bytes"),
        ([], "secret is list"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        Push(push_app(), secret=wrong)
    assert "c2VjcmV0" not in str(raised.value)


def test_the_id_of_a_message_follows_from_its_job_and_what_is_sent() -> None:
    ids = {id_of(*what) for what in [("7", "u", b"x"), ("7", "u", b"y"), ("7", "v", b"x"), ("8", "u", b"x")]}
    assert len(ids) == 4
    assert id_of("7", "u", b"x") in ids


# Requests


@pytest.mark.parametrize(
    ("url", "stored", "host"),
    [
        ("https://example.com", "https://example.com", "example.com"),
        ("HTTPS://EXAMPLE.com:443/a?b=c#d", "https://example.com/a?b=c", "example.com"),
        ("https://example.com:8443/", "https://example.com:8443/", "example.com:8443"),
        ("https://bücher.example/ü?q=ü", "https://xn--bcher-kva.example/%C3%BC?q=%C3%BC", "xn--bcher-kva.example"),
        ("https://[2606:4700::1111]:8443/x", "https://[2606:4700::1111]:8443/x", "[2606:4700::1111]:8443"),
        ("https://1.1.1.1/", "https://1.1.1.1/", "1.1.1.1"),
        ("https://under_score.example/", "https://under_score.example/", "under_score.example"),
    ],
)
def test_a_url_is_stored_as_it_is_called(url: str, stored: str, host: str) -> None:
    request = checked(Rules(), url, None, "POST", None)
    assert (str(request.url), request.host) == (stored, host)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("example.com/hook", "give an absolute URL that begins with https://"),
        ("//example.com/hook", "give an absolute URL"),
        ("ftp://example.com/", "give an absolute URL"),
        ("file:///etc/passwd", "give an absolute URL"),
        ("http://example.com/", "is not encrypted: use https, or allow it"),
        ("https://user:hunter2@example.com/", "has a user name in it"),
        ("https://good.example\\@evil.example/", "has a user name in it"),
        ("https://example.com:0/", "port 0 is not between"),
        ("https://example.com:99999/", "port 99999 is not between"),
        ("https://example.com:x/", "is no URL"),
        ("https:///hook", "is no host name"),
        ("https://exa mple.com/", "is no host name"),
        ("https://exa%6dple.com/", "is no host name"),
        ("https://a..b/", "is no host name"),
        (f"https://{'a' * 64}.example/", "is no host name"),
        (f"https://{'a.' * 127}b/", "is no host name"),
        ("https://example.com./", "without the dot at its end"),
        ("https://example.com/a\nb", "is no URL"),
        ("https://127.0.0.1/", "127.0.0.1 is no public address"),
        ("https://127。0。0。1/", "127.0.0.1 is no public address"),
        ("https://127.0.0.1./", "without the dot"),
        ("https://[::1]/", "::1 is no public address"),
        ("https://[::ffff:169.254.169.254]/", "no public address"),
        ("https://[fe80::1%25eth0]/", "no public address"),
        ("https://2130706433/", "neither a host name nor an address"),
        ("https://0x7f000001/", "neither a host name nor an address"),
        ("https://127.1/", "neither a host name nor an address"),
        ("https://0177.0.0.1/", "is no URL|neither a host name"),
        ("https://１２７.0.0.1/", "is no URL"),
        ("https://example.com/" + "a" * 8000, "at most 8000 characters"),
        (None, "must be a text"),
        (b"https://example.com/", "must be a text"),
    ],
)
def test_a_url_that_is_not_called_is_refused(url: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as raised:
        checked_url(Rules(), url)
    assert "hunter2" not in str(raised.value)


def test_http_and_private_addresses_can_be_called_where_they_are_allowed() -> None:
    rules = Rules(allow_http=True, allowed=Allowed.of(["127.0.0.0/8"]))
    assert checked_url(rules, "http://127.0.0.1:8080/x").port == 8080
    with pytest.raises(ArgumentError, match="no public address"):
        checked_url(rules, "http://10.0.0.1/")


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-A": "a\r\nX-B: b"}, "value of the header X-A cannot be sent"),
        ({"X-A": "a\x00"}, "cannot be sent"),
        ({"X-A": "ü"}, "cannot be sent"),
        ({"X-A": " a"}, "cannot be sent"),
        ({"X-A": 7}, "cannot be sent"),
        ({"X A": "a"}, "'X A' is no name of a header"),
        ({"": "a"}, "'' is no name"),
        ({"X-A\n": "a"}, "is no name"),
        ({7: "a"}, "is no name"),
        ({"Host": "evil.example"}, "the header Host is set by the delivery itself"),
        ({"Content-Length": "0"}, "is set by the delivery itself"),
        ({"transfer-encoding": "chunked"}, "is set by the delivery itself"),
        ({"Webhook-Signature": "v1,x"}, "is set by the delivery itself"),
        ({"X-A": "a", "x-a": "b"}, "is given twice"),
        ({"X-A": "a" * HEADERS_LIMIT}, "put that into the body"),
        ([("X-A", "a")], "must be a mapping"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        checked_headers(headers)


def test_a_body_is_json_or_what_its_content_type_says() -> None:
    def sent(body: Any, headers: dict[str, str]) -> tuple[bytes | None, str | None]:
        request = checked(Rules(), "https://a.example/", written(body, checked_headers(headers)), "POST", headers)
        return request.content, request.headers.get("content-type")

    csv = {"Content-Type": "text/csv; charset=utf-8"}
    assert sent({"order": 7, "at": NOW}, {}) == (b'{"order":7,"at":"2026-10-21T07:28:00+00:00"}', "application/json")
    assert sent("ü;1", csv) == ("ü;1".encode(), csv["Content-Type"])
    assert sent(b"\x00\xff", {"content-type": "image/png"}) == (b"\x00\xff", "image/png")
    assert sent(None, {}) == (b"", None)
    assert sent(0, {}) == (b"0", "application/json")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("text", "the body is str, and nothing says of what kind"),
        (b"bytes", "the body is bytes, and nothing says of what kind"),
        (float("nan"), "the body of the request"),
        (object(), "the body of the request"),
        ({"x": "a" * 2**20}, "the body of the request"),
    ],
)
def test_a_body_that_cannot_be_sent_is_refused(body: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        written(body, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "CONNECT"}, "method='CONNECT' is not one of POST"),
        ({"method": "post"}, "method='post' is not one of"),
        ({"method": "GET", "body": {}}, "a GET request has no body"),
        ({"id": "a.b"}, "id='a.b' is no id of a message"),
        ({"id": ""}, "is no id"),
        ({"body": b"x" * 2**20, "headers": {"content-type": "image/png"}}, "pass its key|limit|larger"),
    ],
)
def test_a_delivery_that_cannot_be_is_refused_before_it_is_stored(given: dict[str, Any], message: str) -> None:
    push = Push(push_app())
    with pytest.raises(ArgumentError, match=message):
        push.job("https://example.com/", given.pop("body", None), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": Limit(concurrency=1)}, "has none for each host"),
        ({"limit": Limit(concurrency=1, key="{url}")}, "has none for each host"),
        ({"limit": Limit(concurrency=1, key="{customer}")}, "has none for each host"),
        ({"limit": ["10/s"]}, "must be a Limit"),
        ({"timeout": 0}, "must be above 0 seconds"),
        ({"timeout": "1"}, "timeout must be a number of seconds"),
        ({"read_timeout": -1}, "read_timeout must be between 0"),
        ({"patience": -1}, "patience must be between 0"),
        ({"follow_redirects": -1}, "at least 0"),
        ({"follow_redirects": True}, "at least 0"),
        ({"breaker_failures": 0}, "at least 1"),
        ({"allow_private": "10.0.0.0/8"}, "give True, or a list of networks"),
    ],
)
def test_a_push_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Push(push_app(), **options)


def test_two_pushes_of_an_app_need_names_of_their_own() -> None:
    app = push_app()
    Push(app)
    Push(app, name="shop.webhooks", queue="webhooks")
    with pytest.raises(ConfigurationError, match=r"two tasks are named pgqueue\.push"):
        Push(app)


# Answers


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2026 07:30:00 GMT", 120),
        ("Wednesday, 21-Oct-26 07:30:00 GMT", 120),
        ("Wed Oct 21 07:30:00 2026", 120),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("9" * 5000, None),
        ("１２０", None),
        ("Wed, 99 Oct 2026 07:30:00 GMT", None),
        ("nan", None),
        ("1e9", None),
    ],
)
def test_retry_after_is_seconds_or_a_time(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, "30", 30),
        (503, "30", 30),
        (503, "0", 1),
        (429, "999999999999", 3600),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        (429, "soon", None),
        (500, "30", None),
        (200, "30", None),
    ],
)
def test_only_a_429_and_a_503_are_waited_for_within_bounds(status: int, value: str, seconds: float | None) -> None:
    assert Answer(status, [(b"Retry-After", value.encode())]).retry_after(NOW) == seconds
    assert Answer(status).retry_after(NOW) is None


@pytest.mark.parametrize(
    ("verdict", "statuses"),
    [
        ("delivered", [200, 201, 202, 204, 299]),
        ("again", [408, 425, 429, 500, 501, 502, 503, 504, 599]),
        ("refused", [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 409, 410, 413, 422, 451, 499]),
    ],
)
def test_a_status_is_delivered_tried_again_or_refused(verdict: str, statuses: list[int]) -> None:
    assert {Answer(status).verdict for status in statuses} == {verdict}


def test_an_answer_is_told_in_one_bounded_line() -> None:
    assert str(Answer(410)) == "410 Gone"
    assert str(Answer(599, (), b"a\r\n b")) == "599: a b"
    assert len(str(Answer(500, (), b"x" * 60_000))) < 600
    assert Answer(200, (), b"\x00\xff" + b"y" * 9000).text == "\\x00\ufffd" + "y" * 4094


# Hosts that fail


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_host_is_closed_after_so_many_failures_in_a_row_and_longer_each_time() -> None:
    clock = Clock()
    breaker = HostBreaker(3, Backoff.exponential(10), clock)
    assert [breaker.failed("a"), breaker.failed("a")] == [0, 0]
    breaker.succeeded("a")
    assert [breaker.failed("a"), breaker.failed("a"), breaker.failed("a")] == [0, 0, 10]
    clock.now += 4
    # One that was under way.
    assert breaker.failed("a") == 6
    assert breaker.closed_for("b") == 0
    clock.now += 6
    assert breaker.closed_for("a") == 0
    assert breaker.failed("a") == 20
    breaker.succeeded("a")
    assert breaker.closed_for("a") == 0
    assert breaker.failed("a") == 0


def test_without_a_limit_no_host_is_closed() -> None:
    breaker = HostBreaker(None, Backoff.fixed(10), Clock())
    assert {breaker.failed("a") for _ in range(100)} == {0}


def test_no_more_than_so_many_hosts_are_remembered() -> None:
    breaker = HostBreaker(1, Backoff.fixed(10), Clock())
    for n in range(10_001):
        breaker.failed(f"h{n}")
    assert breaker.closed_for("h0") == 0
    assert breaker.closed_for("h1") == 10


async def test_of_a_host_that_was_closed_one_request_is_let_through_until_it_is_known() -> None:
    clock = Clock()
    breaker = HostBreaker(1, Backoff.fixed(10), clock)
    breaker.failed("a")
    clock.now += 10
    inside: list[int] = []
    entered, leave = asyncio.Event(), asyncio.Event()

    async def request(n: int, *, works: bool = True) -> float:
        async with breaker.turn("a"):
            if closed_for := breaker.closed_for("a"):
                return closed_for
            inside.append(n)
            entered.set()
            await leave.wait()
            if works:
                breaker.succeeded("a")
                return 0.0
            return breaker.failed("a")

    first = asyncio.create_task(request(0, works=False))
    await entered.wait()
    others = [asyncio.create_task(request(n)) for n in (1, 2)]
    await asyncio.sleep(0)
    assert inside == [0]
    leave.set()
    assert [await first, *[await other for other in others]] == [10, 10, 10]
    assert inside == [0]

    clock.now += 10
    leave.clear()
    entered.clear()
    tried = asyncio.create_task(request(3))
    await entered.wait()
    cancelled = asyncio.create_task(request(4))
    others = [asyncio.create_task(request(n)) for n in (5, 6)]
    await asyncio.sleep(0)
    cancelled.cancel()
    tried.cancel()
    entered.clear()
    await entered.wait()
    # Who takes the place of one that was stopped.
    assert inside == [0, 3, 5]
    leave.set()
    assert [await other for other in others] == [0, 0]
    assert inside == [0, 3, 5, 6]


def test_times_can_be_timedeltas() -> None:
    push = Push(push_app(), timeout=timedelta(seconds=5), patience=timedelta(hours=1))
    assert push.task.options.timeout == 40
