"""JSON text that PostgreSQL's jsonb can hold, within limits, and back.

orjson is not used: on texts the size of a job's arguments the scanner of the standard library is as fast, and orjson
reads integers beyond 64 bits as floats.
"""

from __future__ import annotations

import json
import json.encoder
import re
from collections.abc import Callable, Iterable
from json.scanner import make_scanner
from typing import Any, NoReturn

from pgqueue.typed.converter import Refusal, shown
from pgqueue.typed.plain import DEPTH_LIMIT, DIGITS_LIMIT, blame

_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_MANY_DIGITS = re.compile(rf"(?<!\d)\d{{{DIGITS_LIMIT + 1}}}", re.ASCII)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _make_encoder() -> Callable[[Any, int], Iterable[str]]:
    """What `JSONEncoder.encode` builds anew at every call, which costs more than encoding a job's arguments does.

    It is internal to CPython, so that it is tried before it is trusted. No check for circles: what is encoded here is
    a tree that a converter has just made.
    """
    encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
    try:
        chunks: Callable[[Any, int], Iterable[str]] = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
        )
        if "".join(chunks({"é": [1, "\x00", None]}, 0)) == '{"é":[1,"\\u0000",null]}':
            return chunks
    except (AttributeError, TypeError):
        pass
    return lambda value, _level: encoder.iterencode(value)


_chunks = _make_encoder()
_decoder = json.JSONDecoder(parse_constant=_no_constant)
_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_decoder)  # type: ignore[arg-type]


def encode(value: Any, limit: int, depth: int = DEPTH_LIMIT) -> str:
    """JSON-able data as text of at most `limit` bytes and `depth` levels. Raises Refusal.

    What jsonb cannot hold is looked for in the text, where it costs next to nothing, and only then in the data.
    """
    try:
        text = "".join(_chunks(value, 0))
    except (ValueError, RecursionError) as error:
        raise blame(value) or Refusal(f"cannot be written as JSON ({error})") from None
    if len(text) <= 2 * depth and len(text) <= limit and "\\u0000" not in text and text.isascii():
        return text
    _verify(text, value, limit, depth)
    return text


def _verify(text: str, value: Any, limit: int, depth: int) -> None:
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise blame(value) or Refusal("is not text that UTF-8 can write") from None
    if size > limit:
        raise Refusal(f"is {size:,} bytes as JSON, more than {_bytes(limit)}", "store it, pass its key")
    if _deeper(text, depth):
        raise too_deep(depth)
    # An escaped backslash before "u0000" looks the same, so the data has the last word.
    if "\\u0000" in text or (len(text) > DIGITS_LIMIT and _MANY_DIGITS.search(text)):
        found = blame(value)
        if found is not None:
            raise found


def decode(text: str, depth: int = DEPTH_LIMIT) -> Any:
    """The data of a JSON text of at most `depth` levels. Raises Refusal."""
    # Most texts are too short to be that deep.
    if len(text) > 2 * depth and _deeper(text, depth):
        raise too_deep(depth)
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    except (ValueError, RecursionError) as error:
        raise _unreadable(text, error) from None
    try:
        return _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(text, error) from None


def too_deep(depth: int = DEPTH_LIMIT) -> Refusal:
    return Refusal(f"nests deeper than {depth} levels, or contains itself", "flatten it, or store it and pass its key")


def _unreadable(text: str, error: Exception) -> Refusal:
    return Refusal(f"cannot be read as JSON ({error}): {shown(text)}")


def _deeper(text: str, depth: int) -> bool:
    if len(text) <= 2 * depth or text.count("[") + text.count("{") <= depth:
        return False
    level = 0
    for match in _TOKENS.finditer(text):
        mark = match.group()
        if mark in "[{":
            level += 1
            if level > depth:
                return True
        elif mark in "]}":
            level -= 1
    return False


def _bytes(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 1024:.4g} KiB" if size < 1024 * 1024 else f"{size / 1024 / 1024:.4g} MiB"
