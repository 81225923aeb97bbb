"""A converter takes a value to JSON and back; a refusal says where in a value, and why, that cannot be done."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

ATOMS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
JSON_TYPES: frozenset[type] = ATOMS | {list, dict}
# Takes a value of a subclass (StrEnum, IntEnum, numpy's float64) to the plain type; `str()` would ask its __str__.
EXACTLY: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = 4
_SHORT.maxlevel = 3


class Refusal(Exception):
    """A value that does not fit. `path` leads to it from the outside in, once every container has added its step.

    `fix` is what to do, in words for an argument; without one the caller says what it knows. `hint` is how an
    annotation would help, where there could be one. `attribute` is the identity to pass in place of an ORM object,
    which can be spelled only where the argument's own name is known.
    """

    def __init__(
        self, reason: str, fix: str = "", *, hint: str = "", attribute: str = "", too_deep: bool = False
    ) -> None:
        super().__init__(reason)
        self._reason = reason
        self._steps: list[str] = []
        self._parents: list[int] = []
        self._fix = fix
        self._hint = hint
        self._attribute = attribute
        self._too_deep = too_deep

    def add(self, step: str, parent: object) -> None:
        self._steps.append(step)
        self._parents.append(id(parent))

    def reraise(self, step: str, parent: object) -> NoReturn:
        self.add(step, parent)
        raise self

    def message(self, what: str, name: str, fix: str = "", *, annotated: bool = False, returned: bool = False) -> str:
        """The whole sentence: `what` names the value, `name` is how the caller calls it, `fix` the last resort.

        `annotated`: a type hint could stand at the value. `returned`: it is a result, not an argument.
        """
        circular = self._too_deep and len(set(self._parents)) < len(self._parents)
        path = "" if self._too_deep else "".join(reversed(self._steps))
        reason, own = self._reason, self._fix
        if circular:
            reason, own = "contains itself, which JSON cannot say", "pass an id in place of the reference back"
        if annotated and self._hint:
            own = f"{own}, or {self._hint}"
        if returned:
            fix = f"return its {self._attribute}" if self._attribute else re.sub(r"\bpass\b", "return", own) or fix
        else:
            fix = f"pass {name}{path}.{self._attribute}{own}" if self._attribute else own or fix
        subject = f"{what}: {name}{path}" if path else what
        return f"{subject} {reason}" + (f": {fix}" if fix else "")


class UnsupportedHint(Exception):
    """A type hint that has no converter. The text says what it is and what to write instead."""


@dataclass(slots=True, eq=False)
class Converter:
    """How the values of one type hint are written as JSON and read back. Both functions raise Refusal.

    `kinds` are the types of JSON values that `load` may accept, `accepts` the class of the values themselves. Values
    whose type is `exact` are their own JSON, so that callers need not call at all. `loose` orders the members of a
    union when they read: what accepts nearly everything comes last.
    """

    name: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]
    kinds: frozenset[type] = field(default=frozenset())
    accepts: type | None = None
    exact: type | None = None
    loose: int = 0


def shown(value: object) -> str:
    """A value's type and its beginning, whatever its `repr` does."""
    if value is None:
        return "None"
    kind = type(value).__name__
    try:
        text = _SHORT.repr(value)
    except Exception:
        return kind
    return text if text.startswith((f"{kind}(", f"<{kind}")) else f"{kind} {text}"


def failure(error: Exception) -> str:
    """What an exception of the user's own classes said, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
