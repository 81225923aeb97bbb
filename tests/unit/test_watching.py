"""Events as notifications: what fits into one, and what comes out of those of others."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from pgqueue import ConfigurationError, Event, PgQueue
from pgqueue.journal import Progress
from pgqueue.outcome import AttemptError, Completed, Failed
from pgqueue.queries.watching import PAYLOAD_LIMIT, channel, pack, unpack

FAILED = Event("failed", 7, "send", "email", 3, 0.25, Failed("gave_up", AttemptError("ValueError", "no", "…")))


def test_an_event_comes_out_as_it_was_but_for_its_detail() -> None:
    events = [
        FAILED,
        Event("progress", 8, "export", "default", 1, None, Progress(40.0, "half")),
        Event("completed", 9, "export", "default", 1, 0.1234567, Completed('"x"')),
        Event("rescued", 9, "export", "default", 1, None, UUID(int=1)),
        Event("drained", 0, "", "email"),
    ]
    details = [(event.name, event.job_id, event.duration, event.detail) for event in unpack(pack("wörker", events))]
    assert details == [
        ("failed", 7, 0.25, "ValueError"),
        ("progress", 8, None, 40.0),
        ("completed", 9, 0.123457, None),
        ("rescued", 9, None, None),
        ("drained", 0, None, None),
    ]
    assert unpack(pack("wörker", [FAILED])) == [
        Event("failed", 7, "send", "email", 3, 0.25, "ValueError", worker="wörker")
    ]


def test_where_not_all_fit_the_rare_ones_are_kept_in_their_order() -> None:
    many = [Event("completed", n, "t" * 100, "q" * 100, 1, 0.1, Completed()) for n in range(1000)]
    payload = pack("w", [*many[:500], FAILED, *many[500:]])
    assert len(payload.encode()) <= PAYLOAD_LIMIT + 100
    found = unpack(payload)
    assert [event.name for event in found].count("failed") == 1
    assert 10 < len(found) < 100
    assert found[-1].name == "failed"
    assert [event.job_id for event in found[:-1]] == list(range(len(found) - 1))


@pytest.mark.parametrize(
    "payload",
    ["", "x", "{}", "[]", "7", '["w",7]', '["w",["finished",1,"t","q"]]', '["w",[[],1,"t","q"]]', "[" * 7000],
)
def test_what_is_none_of_ours_is_no_event(payload: str) -> None:
    assert unpack(payload) == []


def test_a_longer_worker_leaves_room_for_fewer_events() -> None:
    payload = pack("é" * 500, [FAILED] * 500)
    assert len(payload.encode()) < 7_999
    assert json.loads(payload)[0] == "é" * 500


def test_schemas_have_channels_of_their_own_that_postgresql_takes() -> None:
    channels = [channel(name) for name in ("pgqueue", "a" * 63, "a" * 62 + "b")]
    assert channels[0] == "pgqueue:events"
    assert len(set(channels)) == 3
    assert max(map(len, channels)) <= 63


def test_what_cannot_be_watched_is_refused_at_once() -> None:
    app = PgQueue("postgresql:///shop")
    with pytest.raises(ConfigurationError, match="there is no event 'finished'"):
        app.watch("finished")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="an enqueue tells no other process"):
        app.watch("enqueued")
    pooled = PgQueue("postgresql:///shop", pooler=True)
    with pytest.raises(ConfigurationError, match="behind a pooler there is no LISTEN"), pooled.watch():
        pass
