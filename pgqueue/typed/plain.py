"""Values without a type hint: what JSON has, and the few other types that have one obvious JSON form.

They come back as that JSON: only an annotation brings a datetime back as a datetime.
"""

from __future__ import annotations

import dataclasses
import sys
from enum import Enum
from typing import Any

from pgqueue.typed.converter import ATOMS, EXACTLY, JSON_TYPES, Converter, Refusal, failure, shown
from pgqueue.typed.refusals import without_json
from pgqueue.typed.scalars import TEXTUAL

DEPTH_LIMIT = 64
DIGITS_LIMIT = 4000
_TOO_LARGE = 10**DIGITS_LIMIT


def plain(value: Any, left: int = DEPTH_LIMIT) -> Any:
    """The value as JSON-able data, at most `left` containers deep."""
    if type(value) in ATOMS:
        return value
    if isinstance(value, (dict, list, tuple)):
        return _container(value, left)
    if isinstance(value, Enum):
        return plain(value.value, left)
    for base, exactly in EXACTLY.items():
        if isinstance(value, base):
            return exactly(value)
    for converter in TEXTUAL:
        if isinstance(value, converter.accepts or ()):
            return converter.dump(value)
    return _container(_object(value), left)


def _container(value: Any, left: int) -> Any:
    if left <= 0:
        raise Refusal(f"nests deeper than {DEPTH_LIMIT} levels", "store the data and pass its key", too_deep=True)
    step: Any = None
    try:
        if not isinstance(value, dict):
            items: list[Any] = []
            for item in value:
                step = len(items)
                items.append(item if type(item) in ATOMS else plain(item, left - 1))
            return items
        entries = {}
        for step, item in value.items():
            if type(step) is not str:
                step = _key(step)
            entries[step] = item if type(item) in ATOMS else plain(item, left - 1)
        return entries
    except Refusal as refusal:
        refusal.reraise(f"[{step!r}]" if type(step) in ATOMS else "", value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key.value if isinstance(key, Enum) and isinstance(key.value, str) else key)
    raise Refusal(
        f"has the key {shown(key)}, and JSON has text keys only",
        "use str keys",
        hint=f"annotate the parameter, such as dict[{type(key).__name__}, …]",
    )


def _object(value: Any) -> Any:
    """The fields of a dataclass, pydantic model or msgspec struct."""
    try:
        if hasattr(type(value), "__pydantic_serializer__"):
            return value.__pydantic_serializer__.to_python(value, mode="json", warnings="error")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
        if hasattr(type(value), "__struct_config__"):
            return sys.modules["msgspec"].to_builtins(value, str_keys=True)
    except Exception as error:
        raise Refusal(f"is {shown(value)}, which cannot be written as JSON ({failure(error)})") from error
    raise without_json(value)


def blame(value: Any) -> Refusal | None:
    """The one string or number in JSON-able data that PostgreSQL's jsonb cannot hold, if there is one."""
    if isinstance(value, str):
        if "\x00" in value:
            return Refusal(f"holds a NUL character ({shown(value)}), which PostgreSQL cannot store", "remove it")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            return Refusal(
                f"holds a lone surrogate ({shown(value)}), which is no text",
                "decode the original bytes with the right encoding, or errors='replace'",
            )
    elif isinstance(value, float):
        if value - value != 0:
            return Refusal(f"is {value}, and JSON has neither NaN nor infinity", "pass None or leave it out")
    elif isinstance(value, int):
        if abs(value) >= _TOO_LARGE:
            return Refusal(f"is an integer of more than {DIGITS_LIMIT} digits", "pass it as text")
    elif isinstance(value, dict):
        for key, item in value.items():
            found = blame(key)
            if found is not None:
                return found
            found = blame(item)
            if found is not None:
                found.add(f"[{key!r}]", value)
                return found
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found = blame(item)
            if found is not None:
                found.add(f"[{index}]", value)
                return found
    return None


def _as_is(value: Any) -> Any:
    return value


PLAIN = Converter("any JSON value", plain, _as_is, JSON_TYPES, loose=3)
