"""What is wrong with a value that does not fit, told by someone who has seen it before."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from typing import Any

from pgqueue.typed.converter import Refusal, shown


def mismatch(expected: str, value: object) -> Refusal:
    """The refusal of a value that is not of the expected type."""
    return oddity(value) or Refusal(f"must be {expected}, not {shown(value)}")


def oddity(value: object) -> Refusal | None:
    """A refusal that knows better than "wrong type" what to do about this value."""
    kind = type(value)
    if "_sa_instance_state" in getattr(value, "__dict__", ()):
        return _orm_object(value)
    if kind.__name__ == "Context" and kind.__module__.partition(".")[0] == "pgqueue":
        return Refusal("is the Context, which belongs to one run", "leave it out: the worker passes it (bind=True)")
    if inspect.iscoroutine(value) or isinstance(value, Awaitable):
        return Refusal(f"is {shown(value)}, which has not run yet", "await it and pass its result")
    if isinstance(value, Iterator):
        return Refusal(f"is {shown(value)}, which can be read only once", "pass a list of its items")
    return None


def without_json(value: object) -> Refusal:
    """The refusal of an un-annotated value of a type that JSON does not have."""
    if isinstance(value, (set, frozenset)):
        return Refusal(f"is {shown(value)}, and JSON has no sets", "pass a list", hint="annotate it, such as set[int]")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Refusal(
            f"is {shown(value)}, and JSON has no bytes", "base64-encode it or store it", hint="annotate it as bytes"
        )
    return oddity(value) or Refusal(
        f"is {shown(value)}, and {type(value).__name__} has no JSON form",
        "pass plain values",
        hint="annotate the parameter with a type that pgqueue can read back",
    )


def _orm_object(value: Any) -> Refusal:
    """`order.id` where the mapping tells the primary key; the key's value helps to find the row."""
    attribute, fix = "id", " and load it in the task"
    try:
        state = value._sa_instance_state
        keys = [state.mapper.get_property_by_column(column).key for column in state.mapper.primary_key]
        attribute = keys[0]
        if state.identity is None:
            fix += " (it has no identity yet: flush the session first)"
        else:
            named = ", ".join(f"{key}={part!r}" for key, part in zip(keys, state.identity, strict=True))
            fix += f" (here {named})"
        if len(keys) > 1:
            fix = f" and its other keys ({', '.join(keys[1:])})" + fix
    except Exception:  # noqa: S110
        # A half-configured mapper, or another library's: the advice stands without the details.
        pass
    return Refusal(f"is an ORM object ({type(value).__name__}), tied to its session", fix, attribute=attribute)
