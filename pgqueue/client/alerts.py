"""Alerts: what each is about, and how it stands."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from pgqueue.client.part import Part
from pgqueue.queries import alerting
from pgqueue.queries.alerting import AlertRow


@dataclass(frozen=True, slots=True)
class Alerts(Part):
    """`app.alerts`: the alerts that apps have declared, as the fleet sees them."""

    def list(self) -> builtins.list[AlertRow]:
        """By name.

        firing = [alert.name for alert in app.alerts.list() if alert.state == "firing"]
        """
        return self.database.fetch(alerting.list_alerts(self.schema))
