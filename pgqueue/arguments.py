"""The arguments of a job: bound to the task's signature, checked, written as JSON, and read back typed.

What has a type hint comes back as that type: str, int, float, bool, None, datetime (aware, with a fixed offset), date,
time, timedelta (ISO 8601, "PT90.5S"), UUID, Decimal (as text), bytes (base64), enums (by value; by name where the
values are not JSON), Literal, unions, lists, tuples, sets, mappings, dataclasses, TypedDicts, NamedTuples, NewTypes,
type aliases, pydantic models and msgspec structs, in any combination. `Sequence` and `Iterable` come back as lists,
`Mapping` as a dict. Nothing is coerced: "1" is no int and True is no int; an int is a float where a float is asked
for. How a union chooses is told in `pgqueue.typed.unions`.

What has no type hint, or Any, may be JSON, or a datetime, UUID, Decimal, enum, dataclass or model inside it; it comes
back as plain JSON: the datetime as text, the dataclass as a dict, the tuple as a list. PostgreSQL's jsonb keeps no
order of keys and no exponents, so that an un-annotated 1e16 comes back as an integer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any

from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.typed import PLAIN, Converter, Hints, Refusal, UnsupportedHint, plain
from pgqueue.typed.functions import function_name, parameters, resolved
from pgqueue.typed.plain import DEPTH_LIMIT
from pgqueue.typed.text import decode, encode, too_deep

ARGUMENTS_LIMIT = 1024 * 1024
ARGUMENTS_DEPTH = DEPTH_LIMIT + 1

_STORED = "correct the stored arguments, or let the task accept them"
_GIVEN = "pass what the annotation says, or change it"


def dumps(value: Any, *, what: str, limit: int, depth: int = DEPTH_LIMIT, returned: bool = False) -> str:
    """A value without a type hint as compact JSON text.

    `what` names it in messages, `limit` is in bytes, `depth` in nested containers; what is `returned` is a result.
    Raises ArgumentError for what JSON or PostgreSQL's jsonb cannot hold.

        dumps({"at": datetime.now(UTC)}, what="the headers of task shop.send", limit=65536)
    """
    try:
        return encode(plain(value, depth), limit, depth)
    except Refusal as refusal:
        raise ArgumentError(refusal.message(what, "value", returned=returned)) from refusal.__cause__


def loads(text: str, *, depth: int = ARGUMENTS_DEPTH) -> Any:
    """The plain JSON data of a text. Raises ArgumentError for what is not JSON, or deeper than arguments may be.

    loads('{"a":1}')   # {"a": 1}
    """
    try:
        return decode(text, depth)
    except Refusal as refusal:
        raise ArgumentError(refusal.message("the stored JSON", "value")) from None


class Signature:
    """What a task takes: from a call to JSON text, and from JSON text to keyword arguments.

    With `bind` the first parameter is the Context and no argument of the job. `name` is the task's, for messages.
    Raises ConfigurationError for `*args` and positional-only parameters: arguments are stored by name.

        signature = Signature(send_email)
        text = signature.dump(("a@b.c",), {"subject": "hi"})    # '{"to":"a@b.c","subject":"hi"}'
        send_email(**signature.load(text))
    """

    def __init__(self, function: Callable[..., Any], *, bind: bool = False, name: str | None = None) -> None:
        self._function = function
        self.name = name or function_name(function)
        found = list(parameters(function, self.name))
        self.context_name = ""
        if bind:
            if not found or found[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                raise ConfigurationError(
                    f"task {self.name} is declared with bind=True and has no parameter for the Context: "
                    "add one first, such as ctx: Context, or leave bind out"
                )
            if found[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                self.context_name = found.pop(0).name
        named = [one for one in found if one.kind is not inspect.Parameter.VAR_KEYWORD]
        for one in named:
            self._refuse_unnamed(one)
        self._variadic = len(named) < len(found)
        self._names = dict.fromkeys(one.name for one in named)
        self._positional = tuple(one.name for one in named if one.kind is not inspect.Parameter.KEYWORD_ONLY)
        self._required = frozenset(one.name for one in named if one.default is inspect.Parameter.empty)
        self._defaults = {one.name: one.default for one in named if one.name not in self._required}
        self._takes = ", ".join(one.name if one.name in self._required else f"{one.name}=…" for one in named)
        self._fields: dict[str, Converter] | None = None
        self._exact: tuple[type | None, ...] | None = None
        self._extra = PLAIN

    def dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The call's arguments as a JSON object. Defaults are not stored, so that a changed default applies at the run.

        Raises ArgumentError, which names the argument and the fix; ConfigurationError for a type hint that cannot be
        resolved or read back.
        """
        fields = self.resolve() if self._fields is None else self._fields
        # Most calls: every argument by position, of the type that the annotation says.
        if not kwargs and tuple(map(type, args)) == self._exact:
            given = dict(zip(self._names, args))  # noqa: B905 - `strict` costs as much as the rest
            return self._encoded(given)
        given = dict(zip(self._positional, args, strict=False)) | kwargs
        if given.keys() != self._names.keys() or len(given) != len(args) + len(kwargs):
            self._check_call(args, kwargs)
        name = ""
        try:
            for name, value in given.items():
                field = fields.get(name, self._extra)
                if type(value) is not field.exact:
                    given[name] = field.dump(value)
        except Refusal as refusal:
            raise self._refused(name, refusal, _GIVEN) from refusal.__cause__
        except RecursionError:
            raise self._refused(name, too_deep()) from None
        return self._encoded(given)

    def _encoded(self, given: dict[str, Any]) -> str:
        try:
            return encode(given, ARGUMENTS_LIMIT, ARGUMENTS_DEPTH)
        except Refusal as refusal:
            raise self._unwritable(given, refusal) from None

    def load(self, text: str) -> dict[str, Any]:
        """A stored JSON object as keyword arguments. Raises ArgumentError when it does not fit this signature."""
        fields = self.resolve() if self._fields is None else self._fields
        try:
            given = decode(text, ARGUMENTS_DEPTH)
        except Refusal as refusal:
            raise ArgumentError(refusal.message(f"the stored arguments of task {self.name}", "arguments")) from None
        if type(given) is not dict:
            raise ArgumentError(
                f"the stored arguments of task {self.name} must be a JSON object, not {type(given).__name__}: {_STORED}"
            )
        if given.keys() != self._names.keys():
            self._check_names(given, f"the stored arguments of task {self.name}", _STORED)
        name = ""
        try:
            for name, value in given.items():
                field = fields.get(name, self._extra)
                if type(value) is not field.exact:
                    given[name] = field.load(value)
        except Refusal as refusal:
            raise self._refused(name, refusal, _STORED) from refusal.__cause__
        except RecursionError:
            raise self._refused(name, too_deep()) from None
        return given

    def check_names(self, names: Iterable[str], what: str, fix: str) -> None:
        """Raises ArgumentError, which says `what` and the `fix`, where a call with these arguments would not fit."""
        self._check_names(dict.fromkeys(names), what, fix)

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The values of a call by name, as they were given, with the defaults of those that were not."""
        self._check_call(args, kwargs)
        return self._defaults | dict(zip(self._positional, args, strict=False)) | kwargs

    @property
    def names(self) -> Collection[str] | None:
        """Of the arguments that there are; None for a function that takes any."""
        return None if self._variadic else self._names

    def parameters(self) -> Iterable[inspect.Parameter]:
        """As they are declared, the Context too."""
        return parameters(self._function, self.name)

    def resolve(self) -> dict[str, Converter]:
        """Resolves the type hints, which the first dump or load does otherwise. Raises ConfigurationError.

        A name that exists only under TYPE_CHECKING is an error: without it the task would be given text where its
        annotation promises a datetime, and nobody would notice before the run.
        """
        fields: dict[str, Converter] = {}
        for one in parameters(self._function, self.name):
            if one.name == self.context_name:
                continue
            converter = self._converter(one)
            if one.kind is inspect.Parameter.VAR_KEYWORD:
                self._extra = converter
            else:
                fields[one.name] = converter
        if len(self._positional) == len(self._names):
            self._exact = tuple(fields[name].exact for name in self._names)
        self._fields = fields
        return fields

    def _converter(self, parameter: inspect.Parameter) -> Converter:
        if parameter.annotation is inspect.Parameter.empty:
            return PLAIN
        what = f"parameter {parameter.name!r} of task {self.name}"
        written = parameter.annotation
        try:
            hint = resolved(self._function, written)
        except Exception as error:
            raise ConfigurationError(
                f"{what}: the annotation {written!r} cannot be resolved ({type(error).__name__}: {error}): "
                "import or define its names in the task's module, outside `if TYPE_CHECKING` and outside functions"
            ) from error
        try:
            return Hints().convert(hint)
        except UnsupportedHint as error:
            raise ConfigurationError(f"{what}: {error}") from error
        except (TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{what}: the annotation {written!r} cannot be used ({type(error).__name__}: {error}): "
                "annotate it with a simpler type"
            ) from error

    def _refuse_unnamed(self, parameter: inspect.Parameter) -> None:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise ConfigurationError(
                f"task {self.name} takes *{parameter.name}, and a job's arguments are stored by name: "
                f"take a list instead, such as {parameter.name}: list[int]"
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigurationError(
                f"parameter {parameter.name!r} of task {self.name} is positional-only, and a job's arguments are "
                "stored by name: remove the / from the signature"
            )

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        what = f"the call of task {self.name}({self._takes})"
        if len(args) > len(self._positional):
            raise ArgumentError(
                f"{what} has {len(args)} positional arguments and the task takes {len(self._positional)}: "
                "pass the others by name, or leave them out"
            )
        twice = [name for name in self._positional[: len(args)] if name in kwargs]
        if twice:
            raise ArgumentError(f"{what} has argument {twice[0]!r} by position and by name: pass it once")
        self._check_names(dict.fromkeys(self._positional[: len(args)]) | kwargs, what, "correct the call")

    def _check_names(self, given: dict[str, Any], what: str, fix: str) -> None:
        for name in given:
            if name == self.context_name != "":
                raise ArgumentError(f"{what}: {name!r} is the Context, which the worker passes: leave it out")
            if name not in self._names and not self._variadic:
                near = get_close_matches(name, self._names, n=1)
                raise ArgumentError(
                    f"{what}: there is no argument {name!r}, only ({', '.join(self._names) or 'none'}): "
                    + (f"did you mean {near[0]!r}?" if near else fix)
                )
        missing = [name for name in self._names if name in self._required and name not in given]
        if missing:
            raise ArgumentError(f"{what}: argument {missing[0]!r} is missing: {fix}")

    def _refused(self, name: str, refusal: Refusal, fix: str = "") -> ArgumentError:
        return ArgumentError(refusal.message(f"argument {name!r} of task {self.name}", name, fix, annotated=True))

    def _unwritable(self, given: dict[str, Any], refusal: Refusal) -> ArgumentError:
        """Names the argument that is too large, too deep or not storable; all together where none alone is."""
        for name, value in given.items():
            try:
                encode(value, ARGUMENTS_LIMIT)
            except Refusal as culprit:
                return self._refused(name, culprit)
        return ArgumentError(refusal.message(f"what task {self.name} is called with", "arguments"))
