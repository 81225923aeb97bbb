"""The line of a task process: answers, and what the worker says by itself, come as they come."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue.errors import PgQueueError
from pgqueue.worker.call import LENGTH, pack
from pgqueue.worker.line import Line, Questions


@pytest.fixture
def ends() -> Iterator[tuple[Line, socket.socket]]:
    """The line of the process, and the socket of its worker."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Line(ours), theirs


def heard(worker: socket.socket) -> dict[str, Any]:
    (size,) = LENGTH.unpack(worker.recv(LENGTH.size, socket.MSG_WAITALL))
    message: dict[str, Any] = json.loads(worker.recv(size, socket.MSG_WAITALL))
    return message


def test_a_question_gets_its_answer(ends: tuple[Line, socket.socket]) -> None:
    line, worker = ends
    worker.sendall(pack({"answer": [1, None]}))
    assert Questions(line).ask("begin", {"key": "k"}) == [1, None]
    assert heard(worker) == {"ask": "begin", "params": {"key": "k"}}


def test_what_is_refused_raises(ends: tuple[Line, socket.socket]) -> None:
    line, worker = ends
    worker.sendall(pack({"refused": "LookupError: begin"}))
    with pytest.raises(PgQueueError, match="LookupError: begin"):
        Questions(line).ask("begin", {})
    worker.close()
    with pytest.raises((PgQueueError, OSError)):
        Questions(line).ask("begin", {})


def test_who_looks_whether_it_is_stopped_takes_no_answer_away(ends: tuple[Line, socket.socket]) -> None:
    line, worker = ends
    worker.sendall(pack({"stop": 7}) + pack({"answer": "mine"}) + pack({"stop": 8}))
    assert line.is_stopped(7)
    assert Questions(line).ask("steps", {}) == "mine"
    assert line.is_stopped(8)
    assert not line.is_stopped(9)


def test_who_looks_whether_it_is_stopped_does_not_wait_for_who_asks(ends: tuple[Line, socket.socket]) -> None:
    line, worker = ends
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(Questions(line).ask("steps", {})))
    asking.start()
    assert heard(worker) == {"ask": "steps", "params": {}}
    assert not line.is_stopped(7)
    worker.sendall(pack({"stop": 7}) + pack({"answer": "mine"}))
    asking.join()
    assert answers == ["mine"]
    assert line.is_stopped(7)


def test_once_the_run_is_over_nothing_is_asked(ends: tuple[Line, socket.socket]) -> None:
    line, _ = ends
    questions = Questions(line)
    questions.close()
    with pytest.raises(PgQueueError, match="the run is over"):
        questions.ask("record", {})
