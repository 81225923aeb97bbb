"""One converter for each type that JSON writes as a single value, and for enums and literals."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import Any
from uuid import UUID

from pgqueue.typed.converter import ATOMS, EXACTLY, Converter, Refusal, UnsupportedHint, shown
from pgqueue.typed.refusals import mismatch

NONE_TYPE = type(None)
# Days to seconds of ISO 8601; the sign belongs to each field, which is also how PostgreSQL's interval reads it.
_DURATION = re.compile(
    r"P(?=.)(?:(-?\d+)D)?(?:T(?=.)(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d{1,6}))?S)?)?", re.ASCII
)


def _base(kind: type, loose: int = 0) -> Converter:
    """A type that JSON has. Values of a subclass (StrEnum, IntEnum) are written as the type itself."""
    exactly = EXACTLY[kind]

    def dump(value: Any) -> Any:
        if isinstance(value, kind) and type(value) is not bool:
            return exactly(value)
        raise mismatch(kind.__name__, value)

    def load(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise mismatch(kind.__name__, value)

    return Converter(kind.__name__, dump, load, frozenset({kind}), kind, kind, loose)


def _float() -> Converter:
    """An int is a fine float, as in Python; jsonb itself turns 1e16 into an integer."""

    def number(value: Any) -> float:
        try:
            if isinstance(value, (int, float)) and type(value) is not bool:
                return float(value)
        except OverflowError:
            raise Refusal(f"is {shown(value)}, too large for a float") from None
        raise mismatch("float", value)

    return Converter("float", number, number, frozenset({int, float}), float, float, loose=1)


def _single(kind: type, name: str) -> Converter:
    def same(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise mismatch(name, value)

    return Converter(name, same, same, frozenset({kind}), kind, kind)


def _text(
    kind: type, write: Callable[[Any], str], read: Callable[[str], Any], *, also: type | None = None
) -> Converter:
    """A type that is written as text; `also` is one more JSON type that its `read` understands."""
    kinds = frozenset({str} if also is None else {str, also})

    def dump(value: Any) -> str:
        if isinstance(value, kind):
            return write(value)
        raise mismatch(kind.__name__, value)

    def load(value: Any) -> Any:
        if type(value) not in kinds:
            raise mismatch(f"a {kind.__name__} as text", value)
        try:
            return read(value)
        except (ValueError, ArithmeticError):
            raise Refusal(f"must be a {kind.__name__} as text, not {shown(value)}") from None

    return Converter(kind.__name__, dump, load, kinds, kind)


def _write_datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        raise Refusal(
            f"is the naive datetime {value.isoformat()}, whose moment depends on the machine",
            "add tzinfo, e.g. datetime.now(UTC)",
        )
    return value.isoformat()


def _read_datetime(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.utcoffset() is None:
        raise Refusal(f"is {text!r}, a time without its zone", "add an offset, such as +00:00")
    return value


def _write_date(value: date) -> str:
    if isinstance(value, datetime):
        raise Refusal(f"must be date, not {shown(value)}", "pass its .date()")
    return value.isoformat()


def _write_time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Refusal(f"is {value}, whose offset depends on the day", "pass a datetime, or a time without tzinfo")
    return value.isoformat()


def _write_timedelta(value: timedelta) -> str:
    micros = value // timedelta(microseconds=1)
    seconds, fraction = divmod(abs(micros), 1_000_000)
    decimals = f".{fraction:06}".rstrip("0") if fraction else ""
    return f"PT{'-' if micros < 0 else ''}{seconds}{decimals}S"


def _read_timedelta(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    days, hours, minutes, sign, seconds, fraction = match.groups()
    tail = timedelta(seconds=int(seconds or 0), microseconds=int((fraction or "0").ljust(6, "0")))
    return timedelta(days=int(days or 0), hours=int(hours or 0), minutes=int(minutes or 0)) + (-tail if sign else tail)


def _read_uuid(text: str) -> UUID:
    if len(text) != 36:
        raise ValueError(text)
    return UUID(text)


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise Refusal(f"is {shown(value)}, which is not a number", "pass None or leave it out")
    return str(value)


def _read_decimal(text: str | int) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


STR, INT, FLOAT = _base(str, loose=2), _base(int), _float()
DATETIME = _text(datetime, _write_datetime, _read_datetime)
# datetime before date, whose subclass it is.
TEXTUAL = (
    DATETIME,
    _text(date, _write_date, date.fromisoformat),
    _text(time, _write_time, time.fromisoformat),
    _text(timedelta, _write_timedelta, _read_timedelta),
    _text(UUID, str, _read_uuid),
    _text(Decimal, _write_decimal, _read_decimal, also=int),
)
BYTES = _text(bytes, lambda value: base64.b64encode(value).decode("ascii"), _read_bytes)
SCALARS: dict[Any, Converter] = {
    one.accepts: one for one in (STR, INT, FLOAT, _single(bool, "bool"), _single(NONE_TYPE, "None"), BYTES, *TEXTUAL)
}


def enumeration(kind: type[Enum]) -> Converter:
    """By value; by name where a value is not itself JSON."""
    by_value = all(type(_enum_json(member)) in ATOMS for member in kind) or issubclass(kind, Flag)
    forms = [(_enum_json(member) if by_value else member.name, member) for member in kind]
    members = {(type(form), form): member for form, member in forms}
    kinds = frozenset({int} if issubclass(kind, Flag) else {key[0] for key in members})
    if float in kinds:
        kinds |= {int}

    def dump(value: Any) -> Any:
        if isinstance(value, kind):
            return _enum_json(value) if by_value else value.name
        raise mismatch(f"a member of {kind.__name__}", value)

    def load(value: Any) -> Any:
        if type(value) in kinds:
            member = members.get((type(value), value))
            if member is not None:
                return member
            if by_value:
                try:
                    # `_missing_` may know old values, and a flag's combinations are no members.
                    found = kind(value)
                except (ValueError, TypeError, KeyError):
                    found = None
                # Early releases of Python 3.11 drop the bits of a flag that they do not know.
                if found is not None and not (issubclass(kind, Flag) and found.value != value):
                    return found
        known = ", ".join(repr(key[1]) for key in list(members)[:8])
        raise Refusal(f"must be a member of {kind.__name__} ({known}), not {shown(value)}")

    return Converter(kind.__name__, dump, load, kinds, kind)


def _enum_json(member: Enum) -> Any:
    """A member's value, without the subclass that it may have; the value itself where it is no JSON atom."""
    value = member.value
    for base in (str, int, float):
        if type(value) is not bool and isinstance(value, base):
            return EXACTLY[base](value)
    return value


def literal(values: tuple[Any, ...]) -> Converter:
    """The values of a `Literal`, told apart by type too: True is not 1."""
    forms: dict[tuple[type, Any], Any] = {}
    for value in values:
        form = enumeration(type(value)).dump(value) if isinstance(value, Enum) else value
        if type(form) not in ATOMS:
            raise UnsupportedHint(f"Literal[{value!r}] has no JSON form; use text, integers, booleans or None")
        forms[type(value), value] = form
    back = {(type(form), form): value for (_, value), form in forms.items()}
    name = f"Literal[{', '.join(repr(value) for value in values)}]"

    def dump(value: Any) -> Any:
        try:
            return forms[type(value), value]
        except (KeyError, TypeError):
            raise mismatch(name, value) from None

    def load(value: Any) -> Any:
        try:
            return back[type(value), value]
        except (KeyError, TypeError):
            raise mismatch(name, value) from None

    return Converter(name, dump, load, frozenset(kind for kind, _ in back))
