"""Models of pydantic and msgspec, whose own validation is used. Imported only for a type hint that is one."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any

from pgqueue.typed.converter import JSON_TYPES, Converter, Refusal, UnsupportedHint, failure, shown
from pgqueue.typed.records import attributes

_PYDANTIC_METADATA = ("pydantic", "pydantic_core", "annotated_types")


def pydantic_model(kind: Any) -> Converter:
    """A BaseModel, a pydantic dataclass, or a type that brings its own pydantic schema.

    Written by field name, read by name or alias, with computed fields left out, so that what was written is valid.
    """
    if hasattr(kind, "get_secret_value"):
        raise UnsupportedHint(f"{kind.__name__} is secret and would be stored; pass the key under which it is kept")
    adapter = _adapter(kind)
    model = hasattr(kind, "__pydantic_validator__")
    reading: dict[str, Any] = {}
    if "by_name" in inspect.signature(adapter.validate_json).parameters:
        reading = {"by_alias": True, "by_name": True}
    check = attributes(kind, ()) if model else adapter.validate_python

    def dump(value: Any) -> Any:
        checked = _or_refuse(check, value, kind.__name__)
        try:
            return adapter.dump_python(
                value if model else checked, mode="json", by_alias=not reading, round_trip=True, warnings="error"
            )
        except Exception as error:
            raise Refusal(f"is {shown(value)}, which cannot be written as JSON ({failure(error)})") from error

    def load(form: Any) -> Any:
        # Validation knows JSON's rules (text for a datetime, a list for a set) only for JSON text.
        return _or_refuse(lambda text: adapter.validate_json(text, **reading), json.dumps(form), kind.__name__)

    if model:
        return Converter(
            kind.__name__,
            dump,
            load,
            JSON_TYPES if "root" in getattr(kind, "model_fields", ()) else frozenset({dict}),
            kind,
        )
    return Converter(kind.__name__, dump, load, JSON_TYPES)


def constrained(hint: Any, base: Converter) -> Converter:
    """`Annotated` with pydantic's constraints: the base type's JSON, checked by pydantic both ways."""
    if not any(type(one).__module__.partition(".")[0] in _PYDANTIC_METADATA for one in hint.__metadata__):
        return base
    try:
        adapter = _adapter(hint)
    except ImportError:
        return base

    def dump(value: Any) -> Any:
        form = base.dump(value)
        _or_refuse(adapter.validate_python, value, base.name)
        return form

    def load(form: Any) -> Any:
        return _or_refuse(adapter.validate_python, base.load(form), base.name)

    return Converter(base.name, dump, load, base.kinds, base.accepts, loose=base.loose)


def msgspec_struct(kind: Any) -> Converter:
    """A `msgspec.Struct`."""
    msgspec: Any = importlib.import_module("msgspec")

    check = attributes(kind, ())

    def dump(value: Any) -> Any:
        check(value)
        try:
            return msgspec.to_builtins(value, str_keys=True)
        except Exception as error:
            raise Refusal(f"is {shown(value)}, which cannot be written as JSON ({failure(error)})") from error

    def load(form: Any) -> Any:
        return _or_refuse(lambda value: msgspec.convert(value, kind, str_keys=True), form, kind.__name__)

    return Converter(kind.__name__, dump, load, frozenset({dict, list}), kind)


def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(hint)
    except (PydanticUserError, NameError) as error:
        raise UnsupportedHint(f"pydantic cannot build it ({failure(error)})") from error


def _or_refuse(validate: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return validate(value)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"is no valid {name} ({_first_error(error)})") from error


def _first_error(error: Exception) -> str:
    """The place and the message; pydantic's own text goes over several lines and ends in a link."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return failure(error)
    first, *others = errors()
    place = ".".join(str(part) for part in first["loc"])
    more = f", and {len(others)} more" if others else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
