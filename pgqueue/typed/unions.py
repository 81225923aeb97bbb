"""Unions. The rule, the same whatever order the members are declared in:

* Writing takes the member whose class is exactly that of the value, else the first one that accepts it. So True is
  never an int, and 1 stays an int in `float | int`.
* Reading takes the first member that accepts the JSON, those that accept nearly everything last: `dict`, `float`
  (after `int`), then `str`, then `Any`. So a text is a datetime, if it can be, before it is a str.
* A value that would come back as another member is refused when it is written: the text "2026-01-01T00:00:00+00:00"
  for `datetime | str`, or the second of two dataclasses with the same fields.

One thing the text cannot tell: jsonb writes 1e16 as an integer, and `int | float` reads it as one.
"""

from __future__ import annotations

from typing import Any

from pgqueue.typed.converter import Converter, Refusal, shown
from pgqueue.typed.refusals import mismatch
from pgqueue.typed.scalars import NONE_TYPE


def union(members: list[Converter]) -> Converter:
    """One converter for all the members."""
    others = [member for member in members if member.accepts is not NONE_TYPE]
    if len(others) == 1 and len(members) == 2 and NONE_TYPE not in others[0].kinds:
        return _optional(others[0])
    return _several(members)


def _optional(member: Converter) -> Converter:
    dump_member, load_member = member.dump, member.load

    def dump(value: Any) -> Any:
        return None if value is None else dump_member(value)

    def load(value: Any) -> Any:
        return None if value is None else load_member(value)

    return Converter(
        f"{member.name} | None", dump, load, member.kinds | {NONE_TYPE}, exact=member.exact, loose=member.loose
    )


def _several(members: list[Converter]) -> Converter:
    name = " | ".join(member.name for member in members)
    kinds = frozenset().union(*(member.kinds for member in members))
    ordered = sorted(members, key=lambda member: member.loose)
    readers = {kind: [member for member in ordered if kind in member.kinds] for kind in kinds}

    def dump(value: Any) -> Any:
        member, form = write(value)
        if len(readers[type(form)]) > 1:
            reader, back = read(form)
            if reader is not member and not (type(back) is type(value) and back == value):
                raise Refusal(
                    f"is {shown(value)}, which would come back as {shown(back)} (the annotation is {name})",
                    "give the types something that tells them apart, such as kind: Literal['…'], or drop one of them",
                )
        return form

    def write(value: Any) -> tuple[Converter, Any]:
        refused: Refusal | None = None
        kind = type(value)
        for exactly in (True, False):
            for member in members:
                if (member.accepts is kind) is exactly:
                    try:
                        return member, member.dump(value)
                    except Refusal as refusal:
                        if exactly and refused is None:
                            refused = refusal
        raise refused or mismatch(name, value)

    def read(form: Any) -> tuple[Converter, Any]:
        candidates = readers.get(type(form), ())
        for member in candidates:
            try:
                return member, member.load(form)
            except Refusal:
                if len(candidates) == 1:
                    raise
        raise mismatch(name, form)

    def load(form: Any) -> Any:
        return read(form)[1]

    return Converter(name, dump, load, kinds)
