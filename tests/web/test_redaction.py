"""What is not for everybody's eyes."""

from __future__ import annotations

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


@pytest.mark.parametrize("text", ["x", "token", 'token="', "a.", "http://", "secret:", " ", "token ", "://:"])
def test_a_long_text_is_read_once(text: str) -> None:
    """What goes over it again and again does not come to an end here."""
    assert len(Redaction().text(text * (300_000 // len(text)))) > 0
