"""Lists, tuples, sets and mappings of converted items."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from pgqueue.typed.converter import ATOMS, Converter, Refusal, UnsupportedHint, shown
from pgqueue.typed.plain import PLAIN
from pgqueue.typed.refusals import mismatch

_ARRAY = frozenset({list})
_OBJECT = frozenset({dict})


def collection(item: Converter, accepted: tuple[Any, ...], build: Callable[[list[Any]], Any], label: str) -> Converter:
    """An array of like items, read with `build`. Sets are sorted, so that equal sets are equal JSON."""
    name = label if item is PLAIN else f"{label}[{item.name}]"
    exact, dump_item, load_item = item.exact, item.dump, item.load

    def dump(value: Any) -> list[Any]:
        if not isinstance(value, accepted):
            raise mismatch(name, value)
        items = _each(value, exact, dump_item)
        if isinstance(value, (set, frozenset)):
            try:
                items.sort()
            except TypeError:
                items.sort(key=repr)
        return items

    def load(value: Any) -> Any:
        if type(value) is not list:
            raise mismatch(name, value)
        items = _each(value, exact, load_item)
        try:
            return items if build is list else build(items)
        except TypeError as error:
            raise Refusal(f"cannot be read as {name} ({error})") from None

    return Converter(name, dump, load, _ARRAY, accepted[0])


def _each(value: Iterable[Any], exact: type | None, convert: Callable[[Any], Any]) -> list[Any]:
    items: list[Any] = []
    try:
        for item in value:
            items.append(item if type(item) is exact else convert(item))
    except Refusal as refusal:
        refusal.reraise(f"[{len(items)}]", value)
    return items


def fixed_tuple(items: list[Converter]) -> Converter:
    """`tuple[A, B]`: an array of that length."""
    name = f"tuple[{', '.join(item.name for item in items) or '()'}]"

    def convert(value: Any, functions: list[Callable[[Any], Any]]) -> list[Any]:
        if len(value) != len(functions):
            raise Refusal(f"must be {name}, not one of {len(value)} items")
        out: list[Any] = []
        try:
            for item, function in zip(value, functions, strict=True):
                out.append(function(item))
        except Refusal as refusal:
            refusal.reraise(f"[{len(out)}]", value)
        return out

    dumps, loads = [item.dump for item in items], [item.load for item in items]

    def dump(value: Any) -> list[Any]:
        if not isinstance(value, tuple):
            raise mismatch(name, value)
        return convert(value, dumps)

    def load(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise mismatch(name, value)
        return tuple(convert(value, loads))

    return Converter(name, dump, load, _ARRAY, tuple)


def mapping(key: Converter, item: Converter, accepted: Any, label: str) -> Converter:
    """`dict[K, V]`: an object whose keys are K's JSON, as text where it is not text already."""
    if key is not PLAIN and not key.kinds <= ATOMS:
        raise UnsupportedHint(f"keys of type {key.name} cannot be the names of a JSON object; use a list of pairs")
    name = label if key is PLAIN and item is PLAIN else f"{label}[{key.name}, {item.name}]"
    exact = item.exact
    text_only = key is PLAIN or (key.exact is str and len(key.kinds) == 1)

    def dump(value: Any) -> dict[str, Any]:
        if not isinstance(value, accepted):
            raise mismatch(name, value)
        out: dict[str, Any] = {}
        one: Any = None
        try:
            for one, entry in value.items():
                text = one if text_only and type(one) is str else _write_key(key, one)
                if text in out:
                    raise Refusal(f"has two keys that are both written {shown(text)}", "use keys of one type")
                out[text] = entry if type(entry) is exact else item.dump(entry)
        except Refusal as refusal:
            refusal.reraise(_step(one), value)
        return out

    def load(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise mismatch(name, value)
        out: dict[Any, Any] = {}
        text = ""
        try:
            for text, entry in value.items():
                one = text if text_only else _read_key(key, text)
                out[one] = entry if type(entry) is exact else item.load(entry)
        except Refusal as refusal:
            refusal.reraise(_step(text), value)
        return out

    return Converter(name, dump, load, _OBJECT, dict if issubclass(dict, accepted) else accepted, loose=1)


def _step(key: object) -> str:
    return f"[{key!r}]" if type(key) in ATOMS else f"[{shown(key)}]"


def _write_key(key: Converter, value: Any) -> str:
    if key is PLAIN and not isinstance(value, str):
        raise Refusal(
            f"is reached by a key that is {shown(value)}, and JSON has text keys only",
            f"use str keys, or annotate them, such as dict[{type(value).__name__}, …]",
        )
    form = key.dump(value)
    try:
        text = form if type(form) is str else json.dumps(form, allow_nan=False)
    except ValueError:
        raise Refusal(f"has the key {shown(value)}, which JSON cannot write", "use text keys") from None
    if len(key.kinds) > 1 and str in key.kinds:
        back = _read_key(key, text)
        if type(back) is not type(value) or back != value:
            raise Refusal(f"has the key {shown(value)}, which would come back as {shown(back)}", "use keys of one type")
    return text


def _read_key(key: Converter, text: str) -> Any:
    """As text, and where that says no more than `str`, as the number, boolean or null that it may spell."""
    refused: Refusal | None = None
    value: Any = text
    try:
        value = key.load(text)
        if type(value) is not str or len(key.kinds) == 1:
            return value
    except Refusal as refusal:
        refused = refusal
    try:
        form = json.loads(text)
        if type(form) in ATOMS and type(form) is not str:
            return key.load(form)
    except (ValueError, RecursionError, Refusal):
        pass
    if refused is not None:
        raise refused
    return value
