"""Watches what the app's alerts are about, and says when one begins, goes on, and ends."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pgqueue.alert import AlertRule, Severity
from pgqueue.queries import alerting
from pgqueue.queries.alerting import Fired
from pgqueue.services.service import Runner, Service, is_everyones, runner_of

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

logger = logging.getLogger("pgqueue.alerts")

INTERVAL = 15.0
# Those of a fleet do not come at the same moment: a little early is due too.
TOLERANCE = 0.8
LEVELS: dict[Severity, int] = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


class Alerter(Service):
    """Each alert is looked at every `INTERVAL` seconds by one of all workers and schedulers that declare it.

    What it says is in the log of that process, and in jobs of the tasks that are to be told.

        await Alerter.of(app).run_once()
    """

    name = "alerter"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        rules: Mapping[str, AlertRule],
        fallback_attempts: int,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(runner, schema)
        self._rules = rules
        self._fallback_attempts = fallback_attempts
        self._interval = interval
        self._declared = False
        self._failing: set[str] = set()

    @classmethod
    def of(cls, app: PgQueue, interval: float = INTERVAL) -> Alerter:
        """One on the app's own pool."""
        return cls(runner_of(app.database), app.schema, app.declared_alerts, app.max_attempts, interval)

    async def run_once(self) -> float:
        if not self._declared:
            await self.runner.fetch(alerting.declare(self.schema, self._rules.values()))
            self._declared = True
        for name, known in await self.runner.fetch(alerting.due(self.schema, list(self._rules), self._least)):
            if not known:
                # Forgotten, while this process was asleep.
                await self.runner.fetch(alerting.declare(self.schema, [self._rules[name]]))
            await self._try(name)
        for name in await self.runner.fetch(alerting.forget(self.schema)):
            logger.info("alert %s is no longer declared: forgotten", name)
        return self._interval * random.uniform(0.9, 1.1)

    @property
    def _least(self) -> float:
        return self._interval * TOLERANCE

    async def _try(self, name: str) -> None:
        """Look at one, or say once why not: the others are to be looked at too."""
        try:
            operation = alerting.evaluate(self.schema, name, self._least, self._fallback_attempts)
            fired = await self.runner.run(operation, atomic=True)
            self._failing.discard(name)
        except Exception as error:
            if is_everyones(error):
                raise
            if name not in self._failing:
                why = str(error).strip().partition("\n")[0] or type(error).__name__
                logger.error("alert %s could not be evaluated, or nobody told: %s; trying again", name, why)
            self._failing.add(name)
        else:
            if fired is not None:
                say(fired)


def say(fired: Fired) -> None:
    """Write it to the log."""
    rule = fired.rule
    level = logging.INFO if fired.status == "resolved" else LEVELS[rule.severity]
    runbook = f" (runbook: {rule.runbook})" if rule.runbook and fired.status != "resolved" else ""
    fields = {"alert": rule.name, "status": fired.status, "severity": rule.severity, "value": fired.value}
    logger.log(
        level,
        "alert %s is %s: %s%s",
        rule.name,
        fired.status.replace("_", " "),
        fired.message,
        runbook,
        extra={"fields": fields},
    )
