"""Alert rules: what is wrong when, for how long it must be so, and the one decision about when to say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from pgqueue.errors import ConfigurationError, seconds
from pgqueue.names import data_name
from pgqueue.wording import span

Kind = Literal["failures", "oldest", "depth", "no_worker", "rescues"]
Severity = Literal["info", "warning", "critical"]
Status = Literal["firing", "still_firing", "resolved"]

TOLD = ("alert", "status", "severity", "message", "runbook", "value", "since")
"""What the task of an alert is called with."""

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
MOST = 100_000
LONGEST = 7 * 86_400.0
REPEAT = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class Alert:
    """What is wrong: a figure that is above a threshold, and has been for `lasting` seconds. At it all is well.

    Made by `failures`, `oldest`, `depth`, `no_worker` and `rescues`, which raise ConfigurationError for what cannot be.

        Alert.failures(10, within=timedelta(minutes=5), queue="money")
        Alert.oldest(timedelta(minutes=15), queue="email")
    """

    kind: Kind
    above: float
    within: float | None = None
    lasting: float = 0.0
    queue: str | None = None
    task: str | None = None

    @classmethod
    def failures(
        cls, above: int, *, within: float | timedelta, queue: str | None = None, task: str | None = None
    ) -> Alert:
        """More than so many jobs went to `failed_jobs` in the time `within` (seconds or timedelta), and are there."""
        return cls(
            "failures", _count(above), _time(within, "within", 1), 0.0, _name("queue", queue), _name("task", task)
        )

    @classmethod
    def oldest(cls, age: float | timedelta, *, queue: str, lasting: float | timedelta = 0.0) -> Alert:
        """A job of a queue has waited for longer than `age` (seconds or timedelta) since it could run."""
        return cls("oldest", _time(age, "age", 1), None, _time(lasting, "lasting"), _name("queue", queue))

    @classmethod
    def depth(cls, above: int, *, queue: str, lasting: float | timedelta = 0.0) -> Alert:
        """More than so many jobs of a queue wait that could run, for `lasting` (seconds or timedelta) on end."""
        return cls("depth", _count(above), None, _time(lasting, "lasting"), _name("queue", queue))

    @classmethod
    def no_worker(cls, queue: str | None = None, *, lasting: float | timedelta = 60.0) -> Alert:
        """Jobs of a queue, or of any, wait and no living worker serves it, for `lasting` on end."""
        return cls("no_worker", 0, None, _time(lasting, "lasting"), _name("queue", queue))

    @classmethod
    def rescues(cls, above: int, *, within: float | timedelta, queue: str | None = None) -> Alert:
        """More than so many jobs were taken back from dead workers in the time `within`."""
        return cls("rescues", _count(above), _time(within, "within", 1), 0.0, _name("queue", queue))

    def __str__(self) -> str:
        lasting = f", for {span(self.lasting)}" if self.lasting else ""
        return f"{self.message(self.above, above=True)}{lasting}"

    def message(self, value: float, detail: Sequence[str] = (), *, above: bool) -> str:
        """What a measured `value` means; counts end just above the threshold."""
        count = f"more than {self.above:,.0f}" if above else f"{value:,.0f}"
        of = f" of queue {self.queue}" if self.queue else ""
        match self.kind:
            case "failures":
                task = f" of task {self.task}" if self.task else ""
                return f"jobs{task}{of} that failed in {span(self.within or 0)}: {count}"
            case "depth":
                return f"jobs{of} that could run: {count}"
            case "rescues":
                return f"jobs{of} rescued from dead workers in {span(self.within or 0)}: {count}"
            case "oldest":
                if not value:
                    return f"no job{of} waits"
                waited = f"longer than {span(value)}" if value == self.above else span(value)
                return f"the oldest job{of} that could run has waited {waited}"
            case _:
                if not above:
                    return f"no job{of} waits without a worker"
                named = ", ".join(detail) or self.queue or "a queue"
                return f"jobs wait, and no worker serves {named}"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert as an app declares it: who is to be told (names of tasks), and again after `repeat` seconds."""

    name: str
    alert: Alert
    severity: Severity = "warning"
    runbook: str | None = None
    to: tuple[str, ...] = ()
    repeat: float | None = REPEAT.total_seconds()


def alert_rule(
    name: str,
    alert: object,
    severity: str,
    runbook: str | None,
    to: tuple[str, ...],
    repeat: float | timedelta | None,
) -> AlertRule:
    """What an app declares, checked. Raises ConfigurationError."""
    name = data_name("alert", name)
    if not isinstance(alert, Alert):
        raise ConfigurationError(
            f"alert {name} is {alert!r}: give what is wrong, such as Alert.failures(10, within=300)"
        )
    if severity not in SEVERITIES:
        raise ConfigurationError(f"alert {name}: severity={severity!r} must be one of {', '.join(SEVERITIES)}")
    said: object = runbook
    if said is not None and not (isinstance(said, str) and said.strip()):
        raise ConfigurationError(f"alert {name}: runbook={runbook!r} must be a text or a URL")
    again = None if repeat is None else _time(repeat, "repeat", 1)
    return AlertRule(name, alert, severity, runbook, to, again)


@dataclass(frozen=True, slots=True)
class AlertState:
    """Since when it is so, since when it fires, when that was last said, and since when it is not so any more, while it
    fires: seconds since 1970.
    """

    holds_since: float | None = None
    firing_since: float | None = None
    delivered_at: float | None = None
    clear_since: float | None = None


def decide(
    rule: AlertRule, state: AlertState, value: float, now: float, *, calm: float = 0.0
) -> tuple[AlertState, Status | None]:
    """The state after a measurement, and what is to be said: once when it begins, again every `repeat`, and at its end.

    That is when it has not been so for `calm` seconds: what goes up and down around its bound is one alert.

    decide(rule, AlertState(), 11, now)    # (AlertState(now, now, now), "firing")
    """
    if value <= rule.alert.above:
        if state.firing_since is None:
            return AlertState(), None
        clear = now if state.clear_since is None else state.clear_since
        if now - clear < calm:
            return replace(state, clear_since=clear), None
        return AlertState(), "resolved"
    since = now if state.holds_since is None else state.holds_since
    if state.firing_since is None:
        if now - since < rule.alert.lasting:
            return AlertState(since), None
        return AlertState(since, now, now), "firing"
    said = state.firing_since if state.delivered_at is None else state.delivered_at
    if rule.repeat is not None and now - said >= rule.repeat:
        return AlertState(since, state.firing_since, now), "still_firing"
    return AlertState(since, state.firing_since, said), None


def _count(above: object) -> int:
    if type(above) is not int or not 0 <= above <= MOST:
        raise ConfigurationError(
            f"an Alert above {above!r} cannot be: give a whole number from 0 to {MOST:,}, up to which jobs are counted"
        )
    return above


def _time(given: float | timedelta, what: str, least: float = 0.0) -> float:
    try:
        value = seconds(given, what)
    except ValueError as error:
        raise ConfigurationError(f"Alert: {error}") from None
    if not least <= value <= LONGEST:
        raise ConfigurationError(f"Alert: {what}={given!r} must be between {span(least)} and {span(LONGEST)}")
    return value


def _name(kind: str, name: str | None) -> str | None:
    return None if name is None else data_name(kind, name)
