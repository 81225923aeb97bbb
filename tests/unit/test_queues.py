"""Which queues a worker serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pgqueue.errors import ConfigurationError
from pgqueue.worker.queues import QueueSpec, parse_queues

KNOWN = ["email", "slow", "thumbs", "thumbs-large"]


def parsed(specs: Mapping[str, int] | Sequence[str], slots: int = 10) -> QueueSpec:
    found = parse_queues(specs, slots)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["email"], {"email": 10}),
        (["email:20", "thumbs:4"], {"email": 20, "thumbs": 4}),
        (["email:20,thumbs:4", "slow"], {"email": 20, "thumbs": 4, "slow": 10}),
        ([" email : 20".replace(" : ", ":"), "", ","], {"email": 20}),
        ("email:3,slow", {"email": 3, "slow": 10}),
        ({"email": 7}, {"email": 7}),
        (["new"], {"new": 10}),
        (["thumbs*:4"], {"thumbs": 4, "thumbs-large": 4}),
        (["*"], {"email": 10, "slow": 10, "thumbs": 10, "thumbs-large": 10}),
        (["*", "-slow"], {"email": 10, "thumbs": 10, "thumbs-large": 10}),
        (["-slow"], {"email": 10, "thumbs": 10, "thumbs-large": 10}),
        (["*:2", "-thumbs*"], {"email": 2, "slow": 2}),
        (["thumbs:9", "thumbs*:4"], {"thumbs": 9, "thumbs-large": 4}),
        (["thumbs*:4", "thumbs:9"], {"thumbs": 9, "thumbs-large": 4}),
        (["thumbs-*:1", "thumbs*:4"], {"thumbs": 4, "thumbs-large": 1}),
        (["email", "-email"], {}),
    ],
)
def test_names_globs_and_exclusions_give_slots(
    specs: Mapping[str, int] | Sequence[str], expected: dict[str, int]
) -> None:
    assert parsed(specs).resolve(KNOWN) == expected


def test_nothing_said_stays_nothing_said() -> None:
    assert parse_queues(None, 10) is None


def test_a_glob_takes_in_queues_that_come_later() -> None:
    spec = parsed(["thumbs*:2"])
    assert spec.has_globs
    assert spec.resolve(["email"]) == {}
    assert spec.resolve(["email", "thumbs-new"]) == {"thumbs-new": 2}
    assert not parsed(["thumbs"]).has_globs


@pytest.mark.parametrize(
    "specs", [["email:0"], {"email": 0}, {"email": -1}, {"email": True}, {"email": 2.5}, ["x*:10001"], {"email": 10**9}]
)
def test_slots_are_whole_numbers_from_one_to_ten_thousand(specs: Mapping[str, int] | Sequence[str]) -> None:
    with pytest.raises(ConfigurationError, match="whole number from 1 to 10,000"):
        parse_queues(specs, 10)


@pytest.mark.parametrize("spec", ["email:", "email:x", "email:-1", "email:1.5", "a:b:3"])
def test_a_spec_that_cannot_be_read_says_how_to_write_it(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=r"name, name:slots or -name"):
        parse_queues([spec], 10)


@pytest.mark.parametrize("spec", ["e mail", "queue;drop", "ü", "x" * 101, "--x", "?"])
def test_a_name_that_no_queue_can_have_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="is not valid"):
        parse_queues([spec], 10)
