"""What is not for everybody's eyes."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from pgqueue.web.redaction import MASK, Redaction


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "db_password", "api_key", "API-Key", "apiKey", "accessToken", "stripe_secret_key"]
)
def test_a_value_under_a_telling_name_is_hidden_at_any_depth(name: str) -> None:
    shown = Redaction().value({"user": "ann", "with": [{name: {"deep": ["hunter2"]}}]})
    assert shown == {"user": "ann", "with": [{name: MASK}]}


def test_what_is_hidden_in_the_arguments_is_hidden_in_a_text_that_repeats_it() -> None:
    hidden = Redaction().text("no login for ann with hunter22", {"user": "ann", "password": "hunter22"})
    assert hidden == f"no login for ann with {MASK}"


def test_the_longest_of_several_secrets_is_hidden_first() -> None:
    told = {"token": ["abcd", "abcdef"]}
    assert Redaction().text("abcdef abcd", told) == f"{MASK} {MASK}"


def test_what_is_too_short_to_be_known_again_stays_in_a_text() -> None:
    assert Redaction().text("1 of 12 failed", {"password": 1, "secret": True, "token": None}) == "1 of 12 failed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such picture: token=abc123", f"no such picture: token={MASK}"),
        ("{'password': 'a b', 'to': 'x'}", f"{{'password': {MASK}, 'to': 'x'}}"),
        ('{"api_key": "k", "n": 1}', f'{{"api_key": {MASK}, "n": 1}}'),
        ("postgresql://ann:hunter2@db/shop", f"postgresql://ann:{MASK}@db/shop"),
        ("Authorization: Basic", f"Authorization: {MASK}"),
        ("> authorization: Bearer eyJh.eyJz.c2ln\n> accept: a", f"> authorization: {MASK}\n> accept: a"),
        ("{'Authorization': 'Basic dXNlcjpw', 'a': 1}", f"{{'Authorization': {MASK}, 'a': 1}}"),
        ("authorization='Bearer abc' a", f"authorization={MASK} a"),
        ("Proxy-Authorization: Basic dXNlcjpw", f"Proxy-Authorization: {MASK}"),
        ("Cookie: a=b; session=abc; c=d", f"Cookie: {MASK}"),
        ('Cookie: theme="dark"; sessionid=8f3a', f"Cookie: {MASK}"),
        ("Set-Cookie: sid='8f3a'; Path=/\nnext", f"Set-Cookie: {MASK}\nnext"),
        ('Authorization: Digest username="bob", response="6629"', f"Authorization: {MASK}"),
        ("got b'Cookie: a=\"1\"; sid=8f3a' back", f"got b'Cookie: {MASK} back"),
        ("login(password=['h1', ['h2']])", f"login(password={MASK})"),
        ('tokens = ["a]b", "h1"], n=1', f"tokens = {MASK}, n=1"),
        ("with cookies, token=Bearer abc and more", f"with cookies, token={MASK} and more"),
        ("tokens: ['abc', 'def'] of ann", f"tokens: {MASK} of ann"),
        (r'said "{\"password\": \"a, b\", \"n\": 1}"', rf'said "{{\"password\": {MASK}, \"n\": 1}}"'),
        (r"password='it\'s me', to", f"password={MASK}, to"),
        ("the key of the token bucket", "the key of the token bucket"),
    ],
)
def test_a_text_that_names_a_secret_is_hidden_by_itself(text: str, shown: str) -> None:
    assert Redaction().text(text) == shown


def test_names_can_be_added() -> None:
    assert Redaction(["iban_number"]).value({"iban-number": "DE", "password": "x"}) == {
        "iban-number": MASK,
        "password": "x",
    }
    assert Redaction(()).text("password=x") == "password=x"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "token",
        'token="',
        "token=[",
        'token=\\"',
        "cookie: ",
        "'cookie:",
        "token=['",
        "token=[[",
        "a.",
        "http://",
        "secret:",
        " ",
        "token ",
        "://:",
    ],
)
def test_a_long_text_is_read_once(text: str) -> None:
    """What goes over it again and again does not come to an end here."""
    assert len(Redaction().text(text * (300_000 // len(text)))) > 0


@pytest.mark.parametrize("write", [repr, json.dumps, ascii, str, quote, lambda text: json.dumps({"n": text})])
def test_a_secret_is_known_again_as_texts_write_it(write: Callable[[str], str]) -> None:
    for secret in ('it\'s\n"quoted"', "päss wörd", "a\\b/c&d", "x" * 50):
        shown = Redaction().text(f"no login: {write(secret)} was refused", {"password": secret})
        assert MASK in shown
        assert not any(part in shown for part in ("quoted", "rd was", "wörd", "b/c", "c&d", "xxxx"))


@pytest.mark.parametrize("end", ["", "\n… 900 characters left out …\n"])
def test_what_is_left_of_a_secret_where_a_text_was_cut_is_hidden(end: str) -> None:
    secret = "".join(map(str, range(1000)))
    shown = Redaction().text(f"no login with {secret[:500]}{end}", {"token": secret})
    assert shown == f"no login with {MASK}{end}"


def test_what_a_cut_text_goes_on_with_is_hidden() -> None:
    secret = "".join(map(str, range(1000)))
    cut = f"no login with {secret[:500]}\n… 900 characters left out …\n{secret[-500:]}: refused"
    shown = Redaction().text(cut, {"token": secret})
    assert shown == f"no login with {MASK}\n… 900 characters left out …\n{MASK}: refused"


def test_a_value_that_repeats_a_secret_or_names_one_itself_is_hidden_where_it_does() -> None:
    args = {"token": "abcdef12", "url": "https://x.example/?t=abcdef12", "dsn": "postgresql://ann:hunter22@db/shop"}
    shown = Redaction().knowing().json(args)
    assert json.loads(shown) == {
        "token": MASK,
        "url": f"https://x.example/?t={MASK}",
        "dsn": f"postgresql://ann:{MASK}@db/shop",
    }
    assert json.loads(Redaction().knowing(args).json({"sent": "with abcdef12"})) == {"sent": f"with {MASK}"}
    assert json.loads(Redaction().knowing(args).json({"abcdef12": 1})) == {MASK: 1}


def test_numbers_that_are_secrets_are_hidden_wherever_they_stand() -> None:
    assert "987654" not in Redaction().knowing().json({"cvv": 987654, "n": 987654})
