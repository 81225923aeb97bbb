"""What `once` and `step` do, in their order: for functions and coroutines alike, and for every kind of task."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from pgqueue import arguments
from pgqueue.context import Context
from pgqueue.errors import ArgumentError, ConfigurationError, EffectHeld, EffectMismatch
from pgqueue.job import checked_key
from pgqueue.queries import effects, steps
from pgqueue.queries.effects import Begun, Holder
from pgqueue.queries.statement import Operation
from pgqueue.queries.steps import Stored
from pgqueue.task.task import RESULT_LIMIT
from pgqueue.worker.transactional import StaleClaim

REQUEST_LIMIT = arguments.ARGUMENTS_LIMIT
HELD_PAUSES = (0.05, 1.0)
HELD_SECONDS = 60.0
LOCKED_PAUSE = 0.02


class Ask(NamedTuple):
    """A question to the database, in words that a process of its own can send to its worker."""

    verb: str
    params: dict[str, Any]

    def operation(self, schema: str, me: Holder, *, completing: bool = False) -> Operation[Any]:
        """The statements that answer; `completing`: in the transaction in which the job completes.

        Raises LookupError for a verb that there is not.
        """
        match self.verb:
            case "begin":
                return effects.begin(schema, me, **self.params)
            case "record":
                return effects.record(schema, me, **self.params)
            case "give back":
                return effects.give_back(schema, me, **self.params)
            case "steps":
                return steps.committed(schema, me)
            case "store":
                return steps.store(schema, me, **self.params, completing=completing)
        raise LookupError(self.verb)


class Invoke(NamedTuple):
    """The call itself."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Pause(NamedTuple):
    seconds: float


Dialogue: TypeAlias = Generator[Ask | Invoke | Pause, Any, Any]


class Asker(Protocol):
    """Where questions are answered. `check` raises ConfigurationError where that form of the call cannot be."""

    def check(self, *, coroutine: bool) -> None: ...
    def ask(self, question: Ask) -> Any: ...
    async def aask(self, question: Ask) -> Any: ...


class Calls:
    """The calls of one run: which names it has used, what has committed before it."""

    def __init__(self, context: Context) -> None:
        self._job = f"job {context.job_id} ({context.task})"
        self._names: dict[str, Invoke] = {}
        self._keys: dict[str, Invoke] = {}
        self._committed: dict[str, str | None] | None = None

    def step(self, name: str, call: Invoke) -> Dialogue:
        if self._names.setdefault(checked_key(name, "the name of a step"), call) is not call:
            raise ArgumentError(
                f"step {name!r} of {self._job} was called twice in one run: give each its own name, as f'page {{n}}'"
            )
        try:
            if self._committed is None:
                self._committed = yield Ask("steps", {})
            if self._committed is None:
                raise self._stale(f"step {name!r} does not run")
            if name in self._committed:
                return read(self._committed[name])
            value = yield call
            result = dump(value, f"the result of step {name!r} of {self._job}")
            while (stored := Stored(*(yield Ask("store", {"name": name, "result": result})))).verdict == "locked":
                yield Pause(LOCKED_PAUSE)
            if stored.verdict == "stale":
                raise self._stale(f"step {name!r} is not stored")
        except BaseException:
            # The task may try again.
            del self._names[name]
            raise
        return read(stored.result)

    def once(self, key: str, call: Invoke) -> Dialogue:
        request = request_of(checked_key(key, "the key of once"), call)
        if self._keys.setdefault(key, call) is not call:
            raise EffectHeld(f"{self._job} calls once({key!r}) while its own call under that key is under way")
        try:
            begun = yield from self._begin(key, request)
            if begun.verdict == "done":
                return self._known(key, request, begun)
            result, problem = None, None
            try:
                value = yield call
            except Exception as error:
                try:
                    yield Ask("give back", {"key": key})
                except Exception as refused:
                    # A transaction that has failed takes the key with it.
                    error.add_note(f"the key of once({key!r}) was not given back: {refused}")
                raise
            try:
                result = dump(value, f"the result of once({key!r})")
            except ArgumentError as error:
                problem = str(error)
            recorded = yield Ask("record", {"key": key, "result": result, "problem": problem})
            if not recorded:
                raise self._stale(f"what once({key!r}) returned is not stored")
            return self._known(key, request, Begun("done", request, recorded[0], problem))
        finally:
            del self._keys[key]

    def _begin(self, key: str, request: str) -> Generator[Ask | Invoke | Pause, Any, Begun]:
        pause, waited = HELD_PAUSES[0], 0.0
        while True:
            begun = Begun(*(yield Ask("begin", {"key": key, "request": request})))
            if begun.verdict == "stale":
                raise self._stale(f"once({key!r}) does not run")
            if begun.verdict != "held":
                return begun
            if waited >= HELD_SECONDS:
                holder = "a transaction" if begun.held_by is None else f"job {begun.held_by}"
                raise EffectHeld(f"{holder} has been calling once({key!r}) for more than {HELD_SECONDS:g} s: try later")
            yield Pause(pause)
            waited += pause
            pause = min(pause * 1.5, HELD_PAUSES[1])

    def _known(self, key: str, request: str, done: Begun) -> Any:
        if done.request != request:
            raise EffectMismatch(
                f"once({key!r}) was called with other arguments before: a key names one call, "
                "so let it name whatever the arguments depend on"
            )
        if done.problem is not None:
            raise ArgumentError(f"{done.problem}: the call has been made, and is not made again")
        return read(done.result)

    def _stale(self, what: str) -> StaleClaim:
        return StaleClaim(f"{self._job} is no longer held by this worker: {what}")


def request_of(key: str, call: Invoke) -> str:
    """A hash of the arguments, as JSON has them. Raises ArgumentError where it cannot have them."""
    given = {"args": list(call.args), "kwargs": dict(call.kwargs)}
    try:
        text = arguments.dumps(given, what=f"the arguments of once({key!r})", limit=REQUEST_LIMIT)
    except ArgumentError as error:
        raise ArgumentError(f"{error}; what is no part of the request is bound with functools.partial") from error
    plain = json.dumps(arguments.loads(text), sort_keys=True)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def dump(value: Any, what: str) -> str | None:
    """A result as JSON text. Raises ArgumentError."""
    return None if value is None else arguments.dumps(value, what=what, limit=RESULT_LIMIT, returned=True)


def read(text: str | None) -> Any:
    return None if text is None else arguments.loads(text)


def run(dialogue: Dialogue, asker: Asker) -> Any:
    """What a dialogue returns: in a thread."""
    asker.check(coroutine=False)
    advance: Callable[[Any], Ask | Invoke | Pause] = dialogue.send
    given: Any = None
    try:
        while True:
            wanted = advance(given)
            try:
                advance, given = dialogue.send, _done(wanted, asker)
            except BaseException as error:
                advance, given = dialogue.throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        given = None  # An error that goes on refers to this frame, and would not be freed with it.


async def arun(dialogue: Dialogue, asker: Asker) -> Any:
    """As `run`, in a coroutine."""
    asker.check(coroutine=True)
    advance: Callable[[Any], Ask | Invoke | Pause] = dialogue.send
    given: Any = None
    try:
        while True:
            wanted = advance(given)
            try:
                advance, given = dialogue.send, await _adone(wanted, asker)
            except BaseException as error:
                advance, given = dialogue.throw, error
    except StopIteration as stop:
        return stop.value
    finally:
        given = None  # An error that goes on refers to this frame, and would not be freed with it.


def _done(wanted: Ask | Invoke | Pause, asker: Asker) -> Any:
    match wanted:
        case Ask():
            return asker.ask(wanted)
        case Pause(seconds):
            return time.sleep(seconds)
    value = wanted.function(*wanted.args, **wanted.kwargs)
    if inspect.iscoroutine(value):
        value.close()
        name = getattr(wanted.function, "__qualname__", wanted.function)
        raise ConfigurationError(f"{name} is a coroutine function: use `await ctx.aonce(…)` or `await ctx.astep(…)`")
    return value


async def _adone(wanted: Ask | Invoke | Pause, asker: Asker) -> Any:
    match wanted:
        case Ask():
            return await asker.aask(wanted)
        case Pause(seconds):
            return await asyncio.sleep(seconds)
    value = wanted.function(*wanted.args, **wanted.kwargs)
    return await value if inspect.isawaitable(value) else value
