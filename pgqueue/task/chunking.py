"""How a chunk task is declared: how many jobs a call gets, and what the arguments of each job are.

The task takes one parameter, the list of its jobs. `ChunkJob[Document]` says what the arguments of a job are: the
fields of a dataclass, a TypedDict, a NamedTuple, a pydantic model or a msgspec struct. A job is enqueued with them by
name or by position, as for any task, and arrives as a Document. `ChunkJob[dict[str, Any]]` takes any arguments.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgqueue.arguments import Signature
from pgqueue.chunk import ChunkJob
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.task.options import TaskOptions
from pgqueue.typed.converter import failure
from pgqueue.typed.functions import parameters, resolved
from pgqueue.typed.hints import hint_name, is_required

MOST = 10_000
WAIT = 1.0
LONGEST_WAIT = 3600.0
LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection)
ABSENT = object()
EXAMPLE = "jobs: list[ChunkJob[Document]], where Document is a dataclass with the arguments of one job"


@dataclass(frozen=True, slots=True)
class Chunking:
    """A call gets `size` jobs at most, gathered for `wait` seconds at most."""

    size: int
    wait: float


def declared(name: str, options: TaskOptions) -> Chunking | None:
    """None for a task without chunks. Raises ConfigurationError."""
    if options.chunk is None:
        if options.wait is not None:
            raise ConfigurationError(
                f"task {name}: wait={options.wait!r} needs chunk=…: it is how long jobs are gathered"
            )
        return None
    size: object = options.chunk
    if type(size) is not int or not 1 <= size <= MOST:
        raise ConfigurationError(f"task {name}: chunk={size!r} must be a whole number from 1 to {MOST:,}")
    try:
        wait = seconds(WAIT if options.wait is None else options.wait, "wait")
    except ArgumentError as error:
        raise ConfigurationError(f"task {name}: {error}") from None
    if wait > LONGEST_WAIT:
        raise ConfigurationError(
            f"task {name}: wait={options.wait!r} must be at most an hour: the jobs are claimed then"
        )
    if options.bind:
        raise ConfigurationError(
            f"task {name}: with chunk=… there is no one Context: each job has its attempt, headers, progress and log. "
            "Leave bind out"
        )
    return Chunking(size, wait)


class ChunkSignature(Signature):
    """What one job of a chunk task takes: the fields of a record. Raises ConfigurationError.

    signature = ChunkSignature(index, name="shop.index")
    text = signature.dump((), {"document_id": 7})              # '{"document_id":7}'
    signature.record(signature.load(text))                     # Document(document_id=7)
    """

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        self._make, taken = _record(_args_hint(function, name), name)

        def record() -> None: ...

        record.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        super().__init__(record, name=name)

    def dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        text = super().dump(args, kwargs)
        # Its own checks, such as those of a model.
        self.record(dict(zip(self._positional, args, strict=False)) | kwargs)
        return text

    def record(self, fields: dict[str, Any]) -> Any:
        """The arguments of a job, as its task gets them. Raises ArgumentError."""
        if self._make is dict:
            return fields
        try:
            return self._make(**fields)
        except Exception as error:
            raise ArgumentError(
                f"the arguments of task {self.name} make no {self._make.__name__} ({failure(error)}): "
                "correct them, or let it accept them"
            ) from error

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        values = super().bound(args, kwargs)
        return {name: value for name, value in values.items() if value is not ABSENT}


def _args_hint(function: Callable[..., Any], name: str) -> Any:
    """What the function's one parameter says of the arguments of a job."""
    found = list(parameters(function, name))
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(found) != 1 or found[0].kind not in named:
        raise ConfigurationError(f"task {name}: with chunk=… it takes one parameter, the list of its jobs: {EXAMPLE}")
    [parameter] = found
    if parameter.annotation is inspect.Parameter.empty:
        return dict[str, Any]
    try:
        hint = resolved(function, parameter.annotation)
    except Exception as error:
        raise ConfigurationError(
            f"task {name}: the annotation {parameter.annotation!r} cannot be resolved ({failure(error)}): import or "
            "define its names above the task, outside `if TYPE_CHECKING` and outside functions"
        ) from error
    if typing.get_origin(hint) in LISTS:
        [job] = typing.get_args(hint)
        if job is ChunkJob:
            return dict[str, Any]
        if typing.get_origin(job) is ChunkJob:
            return typing.get_args(job)[0]
    raise ConfigurationError(
        f"task {name}: with chunk=… the parameter {parameter.name!r} cannot be {hint_name(hint)}: write {EXAMPLE}"
    )


def _record(hint: Any, name: str) -> tuple[Callable[..., Any], list[inspect.Parameter]]:
    """What makes the arguments of a job from their values, and what it takes."""
    if hint is Any or hint is dict or typing.get_origin(hint) is dict:
        key, value = typing.get_args(hint) or (str, Any)
        if key is not str:
            raise ConfigurationError(
                f"task {name}: the arguments of a job have names: {hint_name(hint)} has no str keys"
            )
        return dict, [inspect.Parameter("args", inspect.Parameter.VAR_KEYWORD, annotation=value)]
    if not _is_record(hint):
        raise ConfigurationError(
            f"task {name}: the arguments of a job have names, so ChunkJob[{hint_name(hint)}] cannot be: make it a "
            "dataclass, a TypedDict, a NamedTuple, a model without type parameters, or dict[str, …]"
        )
    try:
        hints = typing.get_type_hints(hint, include_extras=True)
    except Exception as error:
        raise ConfigurationError(
            f"task {name}: the fields of {hint_name(hint)} cannot be resolved ({failure(error)}): their types must be "
            "importable names of its module, not only under TYPE_CHECKING or inside a function"
        ) from error
    if typing.is_typeddict(hint):
        required = {one for one, its in hints.items() if is_required(hint, one, its)}
        return dict, [
            inspect.Parameter(
                one,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one in required else ABSENT,
                annotation=its,
            )
            for one, its in hints.items()
        ]
    taken = []
    for one in inspect.signature(hint).parameters.values():
        made = repr(one.default) == "<factory>"
        annotation = hints.get(one.name, one.annotation)
        taken.append(one.replace(annotation=annotation, default=ABSENT if made else one.default))
    return hint, taken


def _is_record(hint: Any) -> bool:
    """Whether it is a class whose objects are made of named fields."""
    if not isinstance(hint, type) or typing.get_origin(hint) is not None:
        return False
    kinds = ("__dataclass_fields__", "__pydantic_validator__", "__struct_config__")
    is_named_tuple = issubclass(hint, tuple) and hasattr(hint, "_fields")
    return typing.is_typeddict(hint) or is_named_tuple or any(hasattr(hint, kind) for kind in kinds)
