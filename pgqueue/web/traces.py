"""Where a trace is looked at: an address outside, into which nothing goes but the digits of its id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pgqueue.errors import ConfigurationError

PLACE = "{trace_id}"
# W3C Trace Context, and Sentry's own; an id of zeros is none.
_ID = r"(?!0{32})([0-9a-f]{32})"
_HEADERS = {
    "traceparent": re.compile(rf"[0-9a-f]{{2}}-{_ID}-[0-9a-f]{{16}}-[0-9a-f]{{2}}(?:-.*)?", re.ASCII),
    "sentry-trace": re.compile(rf"{_ID}-[0-9a-f]{{16}}(?:-[01])?", re.ASCII),
}


def checked_trace_url(given: str | None) -> str | None:
    """An address of http or https with {trace_id} in its path, query or fragment. Raises ConfigurationError."""
    if given is None:
        return None
    fix = f"give an address such as https://traces.example.com/trace/{PLACE}"
    try:
        parts = urlsplit(given)
        host = parts.hostname
    except ValueError as error:
        raise ConfigurationError(f"trace_url {given!r} is no address ({error}): {fix}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"trace_url {given!r} is no address of http or https: {fix}")
    if PLACE in parts.netloc or PLACE not in given:
        raise ConfigurationError(f"trace_url {given!r} has no {PLACE} behind its host: {fix}")
    # Browsers leave characters out that urlsplit sees, and take a backslash for a slash.
    if not given.isascii() or not given.isprintable() or " " in given or "\\" in given:
        raise ConfigurationError(f"trace_url {given!r} has a character that no address has: {fix}")
    return given


def trace_of(headers: Mapping[str, Any]) -> str | None:
    """The id of the trace that a job was enqueued in; None where its headers have none.

    Its runs are in it too, but where they are only linked to it (`OpenTelemetry(linked=True)`).
    """
    for name, pattern in _HEADERS.items():
        value = headers.get(name)
        if isinstance(value, str) and (found := pattern.fullmatch(value)):
            return found[1]
    return None
