"""What a function says about its own parameters."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from typing import Any

from pgqueue.errors import ConfigurationError


def function_name(function: Callable[..., Any]) -> str:
    named = inspect.unwrap(function)
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}.{named.__qualname__}"


def parameters(function: Callable[..., Any], name: str) -> Iterable[inspect.Parameter]:
    # Python 3.14 evaluates annotations here, where names that come later in the module do not exist yet.
    lazily: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        import annotationlib

        lazily["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        return inspect.signature(function, **lazily).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"task {name} has no signature that Python can tell ({error}): wrap it in a def"
        ) from error


def resolved(function: Callable[..., Any], annotation: Any) -> Any:
    """An annotation with every forward reference replaced, in the namespace of the function that was written."""
    target: Any = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if not inspect.isroutine(target) and not isinstance(target, type):
        target = type(target).__call__
    target = getattr(target, "__func__", target)
    namespace = getattr(target, "__globals__", None) or vars(sys.modules[target.__module__])
    local = {one.__name__: one for one in getattr(target, "__type_params__", ())}

    def holder() -> None: ...

    holder.__annotations__ = {"hint": annotation}
    return typing.get_type_hints(holder, namespace, local, include_extras=True)["hint"]
