"""The health of the server, the tables and the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import errors as pg_errors

from pgqueue.client.part import Part
from pgqueue.queries import checkup, pruning
from pgqueue.queries.checkup import Check, Finding


@dataclass(frozen=True, slots=True)
class Doctor(Part):
    """`app.doctor`: what is well, what will hurt, what hurts now, and what to do."""

    def look(self) -> list[Finding]:
        """Everything that there is to check. Raises SchemaOutOfDate, and what a connection raises.

        for finding in app.doctor.look():
            if finding.level == "problem":
                page(finding.text, finding.fix)
        """
        found: list[Finding] = []
        for check in checkup.CHECKS:
            try:
                found += self.database.run(check(self.schema))
            except pg_errors.InsufficientPrivilege as error:
                found.append(refused(check, error))
        return found

    async def alook(self) -> list[Finding]:
        """As `look`."""
        found: list[Finding] = []
        for check in checkup.CHECKS:
            try:
                found += await self.database.arun(check(self.schema))
            except pg_errors.InsufficientPrivilege as error:
                found.append(refused(check, error))
        return found

    def mend(self) -> list[str]:
        """Do what can be done without harm: make the missing partitions of the history. Says what was done."""
        [(made,)] = self.database.fetch(pruning.make_partitions(self.schema))
        return [f"made {made} partitions of the history"] if made else []


def refused(check: Check, error: Any) -> Finding:
    text = f"this role may not look: {str(error).splitlines()[0]}"
    return Finding(check.__name__, "warning", text, "Ask as the owner of the tables.")
