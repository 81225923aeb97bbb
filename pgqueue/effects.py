"""What a task does so that it is not done again: calls under a key, and steps of its job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar

from pgqueue.errors import ConfigurationError

KEEP_EFFECTS = timedelta(days=30)

P = ParamSpec("P")
R = TypeVar("R")


class RunEffects(Protocol):
    """What remembers the calls of one run. `connection` is that of a transaction of the task's own, else None."""

    def once(
        self, connection: Any, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any: ...
    async def aonce(
        self, connection: Any, key: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any: ...
    def step(
        self, connection: Any, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any: ...
    async def astep(
        self, connection: Any, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Effects:
    """Calls that are remembered: `ctx` has them too, this is what `ctx.using(connection)` returns."""

    _run: RunEffects
    _connection: Any = None

    def once(self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Context.once`."""
        value: R = self._run.once(self._connection, key, function, args, kwargs)
        return value

    async def aonce(self, key: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Context.once`, for a coroutine function."""
        value: R = await self._run.aonce(self._connection, key, function, args, kwargs)
        return value

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Context.step`."""
        value: R = self._run.step(self._connection, name, function, args, kwargs)
        return value

    async def astep(self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Context.step`, for a coroutine function."""
        value: R = await self._run.astep(self._connection, name, function, args, kwargs)
        return value


def refuse_in_a_chunk(context: Any) -> RunEffects:
    """What a job of a chunk is told. Raises ConfigurationError."""
    raise ConfigurationError(
        f"job {context.job_id} ({context.task}) is one of a chunk: once and step are for tasks that get one job; "
        "mark each job of a chunk as soon as its part is done, then it is not in a later call"
    )


class Unremembered:
    """Outside of a worker: every call is made."""

    def once(self, _: Any, __: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return function(*args, **kwargs)

    async def aonce(self, _: Any, __: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    step = once
    astep = aonce
