"""What people write into the fields of a form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from pgqueue.errors import ArgumentError
from pgqueue.web.visit import Visit

Value = TypeVar("Value")


def optional(visit: Visit, name: str, read: Callable[[str], Value]) -> Value | None:
    """A field as `read` makes it; None where it is empty. Raises ArgumentError, which names the field."""
    text = visit.field(name)
    if text is None:
        return None
    try:
        return read(text)
    except ArgumentError as error:
        raise ArgumentError(f"{name.replace('_', ' ')}: {error}") from error


def whole(text: str) -> int:
    """A whole number. Raises ArgumentError."""
    try:
        number = int(text) if text.isascii() and len(text) <= 20 else None
    except ValueError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise ArgumentError(f"{text[:40]!r} is no whole number")
    return number


def json_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises ArgumentError, which says where it ends to be one."""
    try:
        value = json.loads(text, parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentError('write a JSON object, such as {"to": "a@b.c"}')
    return value


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a value of JSON")
