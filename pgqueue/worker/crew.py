"""The processes of a supervisor, as it asks them: one port answers for all of them.

The supervisor asks, rather than each process writing files that somebody adds up (the multiprocess mode of
prometheus-client): it needs no folder to write to, no variable that must be set before the first import and changes the
user's own metrics too, and it sees which process does not answer.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pgqueue.health import Health, together
from pgqueue.worker.call import pack
from pgqueue.worker.heartbeat import BLOCKED_LIMIT
from pgqueue.worker.link import LINK, messages

WITHIN = 0.5
# A process that stands still answers all of them when it goes on.
MOST_UNANSWERED = 100
LAST_WORDS_SECONDS = 1.0
STARTING = Health(starting=("it is being started",))


class Member:
    """One process of a crew, from its start to its end."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.last_words: dict[str, Any] = {}
        self.has_left = False
        self.silent_since: float | None = None
        self.has_answered = False
        self._connection = connection
        self._changed = threading.Condition()
        self._asked = self._answered = 0
        self._awaited: set[int] = set()
        self._answers: dict[int, Any] = {}
        self._gone = False
        self._reader = threading.Thread(target=self._read, name=f"pgqueue-crew-{number}", daemon=True)
        self._reader.start()

    def ask(self, what: str) -> int | None:
        """The number of the question; None where it cannot be asked."""
        with self._changed:
            if self._gone or self._asked - self._answered >= MOST_UNANSWERED:
                return None
            self._asked += 1
            try:
                self._connection.send(pack({"n": self._asked, "ask": what}), socket.MSG_DONTWAIT)
            except OSError:
                return None
            self._awaited.add(self._asked)
            return self._asked

    def answer(self, question: int | None, deadline: float) -> Any:
        """What it said; None where it did not until then."""
        with self._changed:
            found = None
            if question is not None:
                left = max(0.0, deadline - time.monotonic())
                self._changed.wait_for(lambda: self._gone or question in self._answers, left)
                self._awaited.discard(question)
                found = self._answers.pop(question, None)
            if found is not None:
                self.silent_since, self.has_answered = None, True
            elif self.silent_since is None:
                self.silent_since = time.monotonic()
            return found

    def leave(self) -> None:
        """The process has ended: hear what it said last."""
        self.has_left = True
        self._reader.join(LAST_WORDS_SECONDS)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self) -> None:
        with suppress(OSError, ValueError):
            for message in messages(self._connection):
                if "last" in message:
                    self.last_words = message["last"]
                    continue
                with self._changed:
                    self._answered = message["n"]
                    if message["n"] in self._awaited:
                        self._answers[message["n"]] = message["answer"]
                    self._changed.notify_all()
        with self._changed:
            self._gone = True
            self._changed.notify_all()


class Crew:
    """So many places with a process each, or none while one is being started. `on_left` is told of those that ended."""

    def __init__(self, processes: int) -> None:
        self.on_left: Callable[[Member], None] = lambda member: None
        self._lock = threading.Lock()
        self._places: dict[int, Member | None] = dict.fromkeys(range(1, processes + 1))

    @contextmanager
    def starting(self, number: int) -> Iterator[tuple[int, dict[str, str]]]:
        """Around the start of a process: the descriptor that it inherits, and the variable that names it."""
        ours, theirs = socket.socketpair()
        try:
            yield theirs.fileno(), {LINK: str(theirs.fileno())}
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._places[number] = Member(number, ours)

    def left(self, number: int, *, for_good: bool = False) -> None:
        """The process at this place has ended; `for_good`: no other follows."""
        with self._lock:
            member = self._places.get(number)
            self._places[number] = None
            if for_good:
                del self._places[number]
        if member is not None:
            member.leave()
            self.on_left(member)

    def ask(self, what: str) -> dict[Member, Any]:
        """What each process that there is answers within half a second; None for one that does not."""
        with self._lock:
            members = [member for member in self._places.values() if member is not None]
        deadline = time.monotonic() + WITHIN
        asked = [(member, member.ask(what)) for member in members]
        return {member: member.answer(question, deadline) for member, question in asked}

    def health(self) -> Health:
        """Of all of them together."""
        with self._lock:
            missing = [number for number, member in self._places.items() if member is None]
        found = {member.number: _health(member, answer) for member, answer in self.ask("health").items()}
        found |= dict.fromkeys(missing, STARTING)
        return together(dict(sorted(found.items())))


def _health(member: Member, answer: list[list[str]] | None) -> Health:
    if answer is not None:
        hung, starting, unready = map(tuple, answer)
        return Health(hung, starting, unready)
    if not member.has_answered:
        return STARTING
    silent = 0.0 if member.silent_since is None else time.monotonic() - member.silent_since
    why = (f"it has not answered for {silent:.0f} s" if silent >= 1 else "it does not answer",)
    return Health(hung=why) if silent > BLOCKED_LIMIT else Health(unready=why)
