"""What an answer means for the job, and when a host wants to be asked again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal

from pgqueue.outcome import storable

RETRY_AFTER_LEAST, RETRY_AFTER_LIMIT = 1.0, 3600.0
RESULT_LIMIT = 4096
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")

Verdict = Literal["delivered", "again", "refused"]


@dataclass(slots=True)
class Answer:
    """A status, and as much of the body as was read."""

    status: int
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first one of that name, given in lower case."""
        found = (value for known, value in self.headers if known.lower() == name.encode())
        return next((value.decode("utf-8", "replace") for value in found), None)

    def retry_after(self, now: datetime) -> float | None:
        """Seconds to wait, where the host has said so of a 429 or a 503: from one second to an hour."""
        if self.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            return None
        wished = retry_after(self.header("retry-after") or "", now)
        return None if wished is None else min(max(wished, RETRY_AFTER_LEAST), RETRY_AFTER_LIMIT)

    @property
    def verdict(self) -> Verdict:
        """Whether it came to what was wanted, may at another time, or never will."""
        if 200 <= self.status < 300:
            return "delivered"
        transient = self.status in (
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_EARLY,
            HTTPStatus.TOO_MANY_REQUESTS,
        )
        return "again" if transient or self.status >= 500 else "refused"

    @property
    def text(self) -> str:
        """The beginning of the body, as a job can hold it."""
        return storable(self.body[:RESULT_LIMIT].decode("utf-8", "replace"))

    def __str__(self) -> str:
        try:
            status = f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            status = str(self.status)
        said = " ".join(self.text.split())[:500]
        return f"{status}: {said}" if said else status


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds that a Retry-After asks for, given as such or as the time of HTTP; None for what is neither.

    retry_after("120", now)    # 120.0
    """
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
