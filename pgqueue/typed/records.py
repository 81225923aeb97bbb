"""Dataclasses, TypedDicts and NamedTuples: JSON objects with a field for each of theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from pgqueue.typed.converter import Converter, Refusal, UnsupportedHint, failure, shown
from pgqueue.typed.refusals import mismatch

Convert = Callable[[Any], Converter]


def dataclass(kind: type, hints: dict[str, Any], convert: Convert) -> Converter:
    """A dataclass by its `__init__`: what `init=False` leaves out is computed again when it is read."""
    for one in vars(kind).get("__dataclass_fields__", {}).values():
        if one._field_type.name == "_FIELD_INITVAR":
            raise UnsupportedHint(
                f"{kind.__name__} takes the InitVar {one.name!r}, which it does not keep; make it a field"
            )
    given = [one for one in dataclasses.fields(kind) if one.init]
    required = {
        one.name for one in given if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    fields = {one.name: convert(hints.get(one.name, Any)) for one in given}
    return _record(kind.__name__, fields, required, attributes(kind, fields), kind)


def named_tuple(kind: Any, hints: dict[str, Any], convert: Convert) -> Converter:
    """A NamedTuple as an object, so that a field can be added later."""
    fields = {name: convert(hints.get(name, Any)) for name in kind._fields}
    required = set(kind._fields) - set(kind._field_defaults)
    return _record(kind.__name__, fields, required, attributes(kind, fields), kind)


def typed_dict(kind: Any, hints: dict[str, Any], required: Iterable[str], convert: Convert) -> Converter:
    """A TypedDict; unlike a type checker, this sees keys that are not its own and refuses them."""

    def read(value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise mismatch(f"a dict that is a {kind.__name__}", value)

    fields = {name: convert(hint) for name, hint in hints.items()}
    return _record(kind.__name__, fields, set(required), read, dict)


def attributes(kind: type, names: Iterable[str]) -> Callable[[Any], dict[str, Any]]:
    names = tuple(names)

    def read(value: Any) -> dict[str, Any]:
        if type(value) is kind:
            return {name: getattr(value, name) for name in names}
        if isinstance(value, kind):
            raise Refusal(
                f"is {shown(value)}, of a subclass of {kind.__name__}, and would come back without what it adds",
                f"annotate it as {type(value).__name__}, or as a union of both",
            )
        raise mismatch(kind.__name__, value)

    return read


def _record(
    name: str,
    fields: dict[str, Converter],
    required: set[str],
    read: Callable[[Any], dict[str, Any]],
    make: Callable[..., Any],
) -> Converter:
    # Cheap fields first: a union of deep records is told apart by its tags before it walks into the children.
    ordered = sorted(fields, key=lambda one: (dict in fields[one].kinds) * 2 + (list in fields[one].kinds))

    def check(value: dict[str, Any]) -> None:
        if not required <= value.keys():
            missing = ", ".join(repr(one) for one in fields if one in required and one not in value)
            raise Refusal(f"lacks {missing} of {name}")
        if not value.keys() <= fields.keys():
            unknown = ", ".join(sorted(shown(one) for one in value if one not in fields)[:4])
            raise Refusal(f"has fields that {name} does not know: {unknown}")

    def dump(value: Any) -> dict[str, Any]:
        values = read(value)
        check(values)
        out: dict[str, Any] = {}
        one = ""
        try:
            for one, item in values.items():
                field = fields[one]
                out[one] = item if type(item) is field.exact else field.dump(item)
        except Refusal as refusal:
            refusal.reraise(_step(make, one), value)
        return out

    def load(form: Any) -> Any:
        if type(form) is not dict:
            raise mismatch(f"an object that is a {name}", form)
        check(form)
        out: dict[str, Any] = {}
        one = ""
        try:
            for one in ordered:
                if one in form:
                    item, field = form[one], fields[one]
                    out[one] = item if type(item) is field.exact else field.load(item)
        except Refusal as refusal:
            refusal.reraise(_step(make, one), form)
        try:
            return out if make is dict else make(**out)
        except Exception as error:
            raise Refusal(f"cannot be made a {name} again ({failure(error)})") from error

    accepts = make if isinstance(make, type) and make is not dict else None
    return Converter(name, dump, load, frozenset({dict}), accepts)


def _step(make: Callable[..., Any], name: str) -> str:
    return f"[{name!r}]" if make is dict else f".{name}"
