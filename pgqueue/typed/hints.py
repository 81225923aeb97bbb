"""From a type hint to its converter."""

from __future__ import annotations

import collections.abc as abc
import types
import typing
from enum import Enum
from typing import Any

from pgqueue.typed import foreign, records
from pgqueue.typed.containers import collection, fixed_tuple, mapping
from pgqueue.typed.converter import JSON_TYPES, Converter, UnsupportedHint, failure
from pgqueue.typed.plain import PLAIN
from pgqueue.typed.refusals import mismatch
from pgqueue.typed.scalars import SCALARS, enumeration, literal
from pgqueue.typed.unions import union

# The classes of values that each of them takes.
_LISTS: dict[Any, Any] = {list: (list,), abc.Sequence: (list, tuple), abc.MutableSequence: (list,)}
_ITERABLES: dict[Any, Any] = dict.fromkeys((abc.Iterable, abc.Collection), (list, tuple, set, frozenset))
_SETS: dict[Any, Any] = {set: (set,), abc.MutableSet: (set,), abc.Set: (set, frozenset), frozenset: (frozenset,)}
_MAPPINGS: dict[Any, Any] = {dict: dict, abc.Mapping: abc.Mapping, abc.MutableMapping: abc.Mapping}
_WRAPPERS = {"Required", "NotRequired", "ReadOnly", "Final"}


class Hints:
    """Converts the hints of one signature. Types that contain themselves are tied by the one that is being built."""

    def __init__(self) -> None:
        self._open: dict[Any, Converter] = {}

    def convert(self, hint: Any) -> Converter:
        """The converter of a resolved hint. Raises UnsupportedHint."""
        if hint is Any or hint is object:
            return PLAIN
        if hint is None:
            hint = type(None)
        origin = typing.get_origin(hint)
        if origin is None and isinstance(hint, type) and hint in SCALARS:
            return SCALARS[hint]
        if type(hint).__name__ == "TypeAliasType":
            return self._tied(hint, JSON_TYPES, lambda: self.convert(_alias_value(hint)))
        if isinstance(hint, typing.TypeVar):
            return self._variable(hint)
        if hasattr(hint, "__supertype__"):
            return self.convert(hint.__supertype__)
        if origin is not None:
            return self._generic(hint, origin, typing.get_args(hint))
        if isinstance(hint, type):
            return self._class(hint, ())
        raise UnsupportedHint(
            f"{hint_name(hint)} cannot be read back from JSON; write a type whose values JSON can carry"
        )

    def _generic(self, hint: Any, origin: Any, args: tuple[Any, ...]) -> Converter:
        if origin is typing.Annotated:
            return foreign.constrained(hint, self.convert(args[0]))
        if origin is typing.Union or origin is types.UnionType:
            return union([self.convert(one) for one in args])
        if origin is typing.Literal:
            return literal(args)
        if type(origin).__name__ == "TypeAliasType":
            variables = dict(zip(origin.__type_params__, args, strict=False))
            return self._tied(hint, JSON_TYPES, lambda: self.convert(_substitute(_alias_value(origin), variables)))
        if _wrapper(origin) in _WRAPPERS:
            return self.convert(args[0])
        if isinstance(origin, type):
            return self._class(origin, args, hint)
        raise UnsupportedHint(
            f"{hint_name(hint)} cannot be read back from JSON; write a type whose values JSON can carry"
        )

    def _class(self, kind: Any, args: tuple[Any, ...], hint: Any = None) -> Converter:
        first = self.convert(args[0]) if args and kind in _CONTAINERS and args[0] is not ... else PLAIN
        if kind in _LISTS or kind in _ITERABLES:
            return collection(first, _LISTS.get(kind) or _ITERABLES[kind], list, kind.__name__)
        if kind in _SETS:
            return collection(first, _SETS[kind], _SETS[kind][0], kind.__name__)
        if kind in _MAPPINGS:
            return mapping(first, self.convert(args[1]) if args else PLAIN, _MAPPINGS[kind], kind.__name__)
        if kind is tuple:
            if not args and not hasattr(hint, "__args__"):
                return collection(PLAIN, (tuple,), tuple, "tuple")
            if args[1:] == (...,):
                return collection(first, (tuple,), tuple, "tuple")
            return fixed_tuple([self.convert(one) for one in args])
        if issubclass(kind, Enum):
            return enumeration(kind)
        if hasattr(kind, "__mapper__"):
            return _orm_class(kind)
        if hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__"):
            return foreign.pydantic_model(kind if not args else hint)
        if hasattr(kind, "__struct_config__"):
            return foreign.msgspec_struct(kind if not args else hint)
        return self._record(kind, args, hint or kind)

    def _record(self, kind: Any, args: tuple[Any, ...], hint: Any) -> Converter:
        if hasattr(kind, "__dataclass_fields__"):
            return self._tied(
                hint, frozenset({dict}), lambda: records.dataclass(kind, _fields(kind, args), self.convert), kind
            )
        if issubclass(kind, dict) and hasattr(kind, "__total__"):
            hints = _fields(kind, args)
            required = [name for name, one in hints.items() if is_required(kind, name, one)]
            return self._tied(hint, frozenset({dict}), lambda: records.typed_dict(kind, hints, required, self.convert))
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._tied(
                hint, frozenset({dict}), lambda: records.named_tuple(kind, _fields(kind, args), self.convert), kind
            )
        if kind.__name__ == "Context" and kind.__module__.partition(".")[0] == "pgqueue":
            raise UnsupportedHint("the Context is no argument; declare the task with bind=True and the Context first")
        raise UnsupportedHint(
            f"{hint_name(kind)} cannot be read back from JSON; make it a dataclass, or pass an id or plain values"
        )

    def _variable(self, variable: typing.TypeVar) -> Converter:
        if variable.__constraints__:
            return union([self.convert(one) for one in variable.__constraints__])
        return PLAIN if variable.__bound__ is None else self.convert(variable.__bound__)

    def _tied(
        self, hint: Any, kinds: frozenset[type], build: abc.Callable[[], Converter], accepts: type | None = None
    ) -> Converter:
        """What `build` makes; where its parts need the whole, they get a converter that calls it later."""
        if hint in self._open:
            return self._open[hint]
        whole: list[Converter] = []
        self._open[hint] = Converter(
            hint_name(hint), lambda value: whole[0].dump(value), lambda form: whole[0].load(form), kinds, accepts
        )
        try:
            whole.append(build())
        finally:
            del self._open[hint]
        return whole[0]


_CONTAINERS = {*_LISTS, *_ITERABLES, *_SETS, *_MAPPINGS, tuple}


def _orm_class(kind: type) -> Converter:
    def refuse(value: Any) -> Any:
        raise mismatch(f"an id: an ORM object ({kind.__name__}) cannot be an argument", value)

    return Converter(kind.__name__, refuse, refuse, JSON_TYPES, kind)


def _fields(kind: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """The hints of a class's fields, type variables replaced by what they stand for."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise UnsupportedHint(
            f"the fields of {hint_name(kind)} cannot be resolved ({failure(error)}); their types must be importable "
            "names of its module, not only under TYPE_CHECKING or inside a function"
        ) from error
    variables = _variables(kind, args)
    return {name: _substitute(hint, variables) for name, hint in hints.items()} if variables else hints


def _variables(kind: Any, args: tuple[Any, ...]) -> dict[Any, Any]:
    variables = dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))
    for base in getattr(kind, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and origin is not typing.Generic:
            variables |= _variables(origin, tuple(_substitute(one, variables) for one in typing.get_args(base)))
    return variables


def _substitute(hint: Any, variables: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(variables.get(one, one) for one in parameters)]


def is_required(kind: Any, name: str, hint: Any) -> bool:
    """By the resolved hint: under `from __future__ import annotations` a class does not know its own NotRequired."""
    while typing.get_origin(hint) is not None:
        wrapper = _wrapper(typing.get_origin(hint))
        if wrapper in ("Required", "NotRequired"):
            return wrapper == "Required"
        if wrapper not in _WRAPPERS:
            break
        hint = typing.get_args(hint)[0]
    return name in kind.__required_keys__


def _wrapper(origin: Any) -> str:
    return repr(origin).rpartition(".")[2]


def _alias_value(alias: Any) -> Any:
    try:
        return alias.__value__
    except Exception as error:
        raise UnsupportedHint(f"the alias {alias} cannot be resolved ({failure(error)})") from error


def hint_name(hint: Any) -> str:
    """For messages."""
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint)
