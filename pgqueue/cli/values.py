"""What people write: durations, sizes, times, and a task's arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from pgqueue.errors import ArgumentError
from pgqueue.wording import duration_of, moment_of

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


class Duration(click.ParamType[float]):
    """Seconds as a float, from `30`, `1.5`, `250ms`, `5m`, `1h30m`, `2d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return duration_of(str(value))
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    """Bytes, from `512M`, `2G`, `1048576`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size: write bytes or 512M, 2G", param, ctx)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


class Moment(click.ParamType[datetime]):
    """An aware datetime, from ISO 8601 with an offset."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return moment_of(str(value))
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


class Port(click.ParamType[int | None]):
    """A port to listen on; None for `tcp://10.0.0.1:9187`.

    Kubernetes sets PGQUEUE_WORKER_METRICS_PORT to that where a Service is named pgqueue-worker-metrics.
    """

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if str(value).startswith("tcp://"):
            return None
        if not (str(value).isdecimal() and int(value) <= 65_535):
            self.fail(f"{str(value)!r} is no port: write a number up to 65535, or 0 for any that is free", param, ctx)
        return int(value)


DURATION, SIZE, MOMENT, PORT = Duration(), Size(), Moment(), Port()


def parse_arguments(pairs: Iterable[str], texts: frozenset[str] = frozenset()) -> dict[str, Any]:
    """`k=v` as `k: v`, JSON where it is JSON, else text; `k:=v` must be JSON.

    What is in `texts` stays text, but that a JSON string loses its quotes, as it does elsewhere.

    parse_arguments(["to=a@b.c", "copies=2", "ids:=[1,2]"])   # {"to": "a@b.c", "copies": 2, "ids": [1, 2]}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        strict = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise click.UsageError(f"{pair!r} is no argument: write name=value, or name:=JSON")
        if name in found:
            raise click.UsageError(f"{name!r} was given twice")
        try:
            read = json.loads(value, parse_constant=_not_json)
            found[name] = value if name in texts and not strict and not isinstance(read, str) else read
        except ValueError:
            if strict:
                raise click.UsageError(f"{name}:={value} is not JSON: write {name}={value} for text") from None
            found[name] = value
    return found


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
