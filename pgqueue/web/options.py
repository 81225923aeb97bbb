"""What holds for a job, in words: its own options, and where it has none those of its task, its queue or its app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgqueue.queries.beside import Beside
from pgqueue.web.rendering import duration
from pgqueue.wording import counted

SAYS = {
    "job": "",
    "task": " (as its task says)",
    "queue": " (as its queue says)",
    "app": " (as its app says)",
}


def said(beside: Beside, backoff: str | None) -> Iterator[tuple[str, str]]:
    """(option, value) of those that are stored; `backoff` in words, which only the code knows."""
    if found := beside.option("timeout"):
        yield "Timeout", _time(found[1]["timeout"]) + SAYS[found[0]]
    else:
        yield "Timeout", "none"
    if backoff is not None:
        yield "Backoff", backoff
    for name in ("completed", "failed"):
        if found := beside.option(f"keep_{name}", f"keep_{name}_count"):
            yield f"Kept once {name}", _kept(found[1], f"keep_{name}") + SAYS[found[0]]
    for name, value in beside.options["job"].items():
        # SQL may have stored anything.
        if name not in ("timeout", "children"):
            yield name, str(value)[:200]


def _kept(said: Mapping[str, Any], name: str) -> str:
    age, count = said.get(name), said.get(f"{name}_count")
    if age is None:
        return f"the newest {counted(count, 'job')}" if isinstance(count, int) else str(count)[:200]
    return "not at all" if age == 0 else _time(age)


def _time(value: Any) -> str:
    return duration(value) if isinstance(value, int | float) else str(value)[:200]
